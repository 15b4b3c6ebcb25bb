-- Names of speakers, enrolled voices, and what people corrected.
--
-- `edited`: a person wrote the text or said who spoke, and no machine changes the row any more.
ALTER TABLE segments ADD COLUMN edited boolean NOT NULL DEFAULT false;

-- A voice that somebody enrolled: what it sounds like (`vector`, of one model: others are never compared with it) and who
-- agreed to it when. No audio.
CREATE TABLE voices (
    tenant_id   text NOT NULL REFERENCES tenants ON DELETE CASCADE,
    voice_id    text NOT NULL,
    name        text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
    model       text NOT NULL,
    vector      bytea NOT NULL,
    clean_ms    bigint NOT NULL,
    enrolled_by text NOT NULL,
    enrolled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, voice_id)
);
CREATE UNIQUE INDEX voices_name ON voices (tenant_id, lower(name));

-- Who speaks in a recording. Segments carry the label; the name stands here. `vector`, `model`, `clean_ms`: what the
-- label sounds like there, and from how much speech without others that was taken. `named_by_hand`: no machine renames
-- it. `enrolled`: its vector is part of the voice's. `merged_into`: the label is that other speaker, whoever says it.
CREATE TABLE recording_speakers (
    tenant_id     text NOT NULL,
    recording_id  text NOT NULL,
    label         text NOT NULL CHECK (char_length(label) BETWEEN 1 AND 100),
    name          text CHECK (char_length(name) BETWEEN 1 AND 100),
    named_by_hand boolean NOT NULL DEFAULT false,
    voice_id      text,
    enrolled      boolean NOT NULL DEFAULT false,
    merged_into   text,
    vector        bytea,
    model         text NOT NULL DEFAULT '',
    clean_ms      bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, recording_id, label),
    FOREIGN KEY (tenant_id, recording_id) REFERENCES recordings ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, voice_id) REFERENCES voices ON DELETE SET NULL (voice_id)
);
CREATE INDEX recording_speakers_name ON recording_speakers (tenant_id, lower(name)) WHERE name IS NOT NULL;
CREATE INDEX recording_speakers_voice ON recording_speakers (tenant_id, voice_id) WHERE voice_id IS NOT NULL;

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['voices', 'recording_speakers'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON %I TO parlance_app USING (tenant_id = parlance_tenant()) '
                       'WITH CHECK (tenant_id = parlance_tenant())', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO parlance_app', t);
    END LOOP;
END
$$;

-- A search among speakers takes labels, and names whatever their case. The places of the names are looked up once for
-- each search; without that filter the condition is constant and nothing of this is in the plan.
CREATE FUNCTION search_spoken_by(tenant text, speakers text[]) RETURNS TABLE (recording_id text, label text)
    LANGUAGE sql STABLE AS $$
    SELECT n.recording_id, n.label FROM recording_speakers n
    WHERE n.tenant_id = tenant AND lower(n.name) = ANY (SELECT lower(s) FROM unnest(speakers) s)
$$;
CREATE OR REPLACE FUNCTION search_candidates(
    tenant text, viewer text, query tsquery, recording_ids text[], speakers text[], languages text[],
    from_at timestamptz, to_at timestamptz, upto_at timestamptz, upto_id text, floor_at timestamptz, max_rows integer
) RETURNS TABLE (segment_id text, recording_id text, spoken_at timestamptz, tsv tsvector) LANGUAGE sql STABLE AS $$
    SELECT i.segment_id, i.recording_id, i.spoken_at, i.tsv FROM segment_index i
    WHERE i.tenant_id = tenant AND i.tsv @@ query AND (NOT i.private OR i.owner_id = viewer)
      AND (recording_ids IS NULL OR i.recording_id = ANY (recording_ids))
      AND (speakers IS NULL OR i.speaker = ANY (speakers)
           OR (i.recording_id, i.speaker) IN (SELECT n.recording_id, n.label FROM search_spoken_by(tenant, speakers) n))
      AND (languages IS NULL OR i.language = ANY (languages) OR split_part(i.language, '-', 1) = ANY (languages))
      AND (from_at IS NULL OR i.spoken_at >= from_at)
      AND (to_at IS NULL OR i.spoken_at < to_at)
      AND (upto_at IS NULL OR (i.spoken_at <= upto_at AND (i.spoken_at < upto_at OR i.segment_id > upto_id)))
      AND (floor_at IS NULL OR i.spoken_at >= floor_at)
    ORDER BY i.spoken_at DESC, i.segment_id
    LIMIT max_rows
$$;
CREATE OR REPLACE FUNCTION search_visible(
    tenant text, viewer text, recording_ids text[], speakers text[], languages text[], from_at timestamptz,
    to_at timestamptz, newest_at timestamptz
) RETURNS TABLE (segment_id text, spoken_at timestamptz) LANGUAGE sql STABLE AS $$
    SELECT i.segment_id, i.spoken_at FROM segment_index i
    WHERE i.tenant_id = tenant AND (NOT i.private OR i.owner_id = viewer)
      AND (recording_ids IS NULL OR i.recording_id = ANY (recording_ids))
      AND (speakers IS NULL OR i.speaker = ANY (speakers)
           OR (i.recording_id, i.speaker) IN (SELECT n.recording_id, n.label FROM search_spoken_by(tenant, speakers) n))
      AND (languages IS NULL OR i.language = ANY (languages) OR split_part(i.language, '-', 1) = ANY (languages))
      AND (from_at IS NULL OR i.spoken_at >= from_at)
      AND (to_at IS NULL OR i.spoken_at < to_at)
      AND (newest_at IS NULL OR i.spoken_at <= newest_at)
$$;

REVOKE ALL ON FUNCTION search_spoken_by FROM public;
