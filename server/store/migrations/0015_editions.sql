-- The index as something that is derived: versions of it (editions), what was told of each segment (the ledger), the words
-- that were said (for suggestions and spelling), and vectors of several models side by side.

-- Editions: one is searched ('current'), one may be built beside it, 'retired' ones are about to be dropped. Not a
-- tenant's: names, numbers and how far it is filled. `spec`: how the model was named in the configuration. `place`: the
-- tenant and the segment up to which it is filled, `filled` that it is whole but for vectors.
CREATE TABLE index_editions (
    number         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    adapter        text NOT NULL,
    schema         integer NOT NULL,
    analysis       integer NOT NULL,
    model          text NOT NULL DEFAULT '',
    spec           text NOT NULL DEFAULT '',
    dimensions     integer NOT NULL DEFAULT 0,
    similarity_min double precision NOT NULL DEFAULT 0,
    state          text NOT NULL CHECK (state IN ('building', 'current', 'retired')),
    filled         boolean NOT NULL DEFAULT false,
    place          text[] NOT NULL DEFAULT '{"",""}' CHECK (cardinality(place) = 2),
    done           bigint NOT NULL DEFAULT 0,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX index_editions_current ON index_editions (state) WHERE state IN ('current', 'building');
GRANT SELECT, INSERT, UPDATE, DELETE ON index_editions TO parlance_app;

-- Vectors: a row for every segment and every open edition's model. `due`: it needs a vector; not due and without one: the
-- model cannot embed its text. `searched`: it is part of the index in Postgres. A vector belongs to a text, not to a
-- revision (`text_key`). Half precision: the same neighbours at half the size.
CREATE TABLE model_vectors (
    tenant_id  text NOT NULL,
    segment_id text NOT NULL,
    model      text NOT NULL CHECK (model <> ''),
    spoken_at  timestamptz NOT NULL,
    text_key   bigint NOT NULL,
    due        boolean NOT NULL DEFAULT true,
    searched   boolean NOT NULL DEFAULT false,
    embedding  halfvec,
    PRIMARY KEY (tenant_id, segment_id, model),
    FOREIGN KEY (tenant_id, segment_id) REFERENCES segments ON DELETE CASCADE,
    CHECK (NOT searched OR embedding IS NOT NULL),
    CHECK (NOT due OR embedding IS NULL)
);
ALTER TABLE model_vectors ALTER COLUMN embedding SET STORAGE main;
INSERT INTO model_vectors (tenant_id, segment_id, model, spoken_at, text_key, due, searched, embedding)
SELECT tenant_id, segment_id, model, spoken_at, text_key, false, embedding IS NOT NULL, embedding
FROM segment_vectors WHERE model <> '';
INSERT INTO index_editions (adapter, schema, analysis, model, state, filled)
SELECT 'postgres', 0, 0,
       coalesce((SELECT model FROM model_vectors GROUP BY model ORDER BY count(*) DESC, model LIMIT 1), ''),
       'current', true
WHERE EXISTS (SELECT FROM segment_index);
DROP TABLE segment_vectors;
ALTER TABLE model_vectors RENAME TO segment_vectors;
ALTER TABLE segment_vectors RENAME CONSTRAINT model_vectors_pkey TO segment_vectors_pkey;
CREATE INDEX segment_vectors_due ON segment_vectors (model, spoken_at DESC) WHERE due;
-- Vectors of any other size are compared one by one, the newest only (see 0005_vectors.sql).
CREATE INDEX segment_vectors_384 ON segment_vectors USING hnsw ((embedding::halfvec(384)) halfvec_cosine_ops)
    WHERE searched AND vector_dims(embedding) = 384;
CREATE INDEX segment_vectors_768 ON segment_vectors USING hnsw ((embedding::halfvec(768)) halfvec_cosine_ops)
    WHERE searched AND vector_dims(embedding) = 768;
CREATE INDEX segment_vectors_1024 ON segment_vectors USING hnsw ((embedding::halfvec(1024)) halfvec_cosine_ops)
    WHERE searched AND vector_dims(embedding) = 1024;

-- The ledger: what the index was given of each segment, and what was told of it. `rev`: the last revision whose words
-- were told of as searchable (0: none), `meaning`: its vector too; `words`: those that are counted in search_words. No
-- reference to segments: a segment that is gone has its words still counted here until its index job takes them back.
CREATE TABLE segment_ledger (
    tenant_id    text NOT NULL,
    segment_id   text NOT NULL,
    recording_id text NOT NULL,
    rev          integer NOT NULL DEFAULT 0,
    meaning      boolean NOT NULL DEFAULT false,
    words        text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant_id, segment_id),
    FOREIGN KEY (tenant_id, recording_id) REFERENCES recordings ON DELETE CASCADE
);
CREATE INDEX segment_ledger_recording ON segment_ledger (tenant_id, recording_id);
-- What was searchable before this version was told of to whoever asked; its words are counted by a rebuild.
INSERT INTO segment_ledger (tenant_id, segment_id, recording_id, rev, meaning)
SELECT i.tenant_id, i.segment_id, i.recording_id, i.rev,
       EXISTS (SELECT FROM segment_vectors v
               WHERE v.tenant_id = i.tenant_id AND v.segment_id = i.segment_id AND v.searched)
FROM segment_index i;

-- Words, in how many segments of a recording each occurs. COLLATE "C": prefixes are ranges, and its comparisons may be
-- used by an index under row-level security.
CREATE TABLE search_words (
    tenant_id    text NOT NULL,
    word         text COLLATE "C" NOT NULL,
    recording_id text NOT NULL,
    uses         integer NOT NULL CHECK (uses >= 0),
    PRIMARY KEY (tenant_id, word, recording_id),
    FOREIGN KEY (tenant_id, recording_id) REFERENCES recordings ON DELETE CASCADE
);
CREATE INDEX search_words_recording ON search_words (tenant_id, recording_id);
-- Both follow search_words by its trigger: each word once, and the keys by which misspelled ones are found.
CREATE TABLE search_vocabulary (
    tenant_id text NOT NULL REFERENCES tenants ON DELETE CASCADE,
    word      text COLLATE "C" NOT NULL,
    uses      bigint NOT NULL CHECK (uses >= 0),
    PRIMARY KEY (tenant_id, word)
);
CREATE TABLE search_word_keys (
    tenant_id text NOT NULL REFERENCES tenants ON DELETE CASCADE,
    key       text COLLATE "C" NOT NULL,
    word      text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, key, word)
);

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['segment_vectors', 'segment_ledger', 'search_words', 'search_vocabulary',
                             'search_word_keys'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON %I TO parlance_app USING (tenant_id = parlance_tenant()) '
                       'WITH CHECK (tenant_id = parlance_tenant())', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO parlance_app', t);
    END LOOP;
END
$$;

-- Who changes a tenant's words does it alone, so that a word that goes and comes at once keeps its keys, and two who
-- change the same words never wait for each other in a ring. Taken first in a transaction.
CREATE FUNCTION search_lock(tenant text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('search words of ' || tenant, 0))
$$;
-- The first 5 letters, and these with any one left out. search.spelling leaves out up to two of what was typed.
CREATE FUNCTION search_keys(word text) RETURNS TABLE (key text) LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT left(word, 5) WHERE char_length(word) >= 4
    UNION
    SELECT left(word, n - 1) || substr(left(word, 5), n + 1)
    FROM generate_series(1, least(5, char_length(word))) n WHERE char_length(word) >= 4
$$;
-- Takes a tenant's words up into the vocabulary, or out of it.
CREATE FUNCTION search_count(tenants text[], words text[], changes bigint[]) RETURNS void
    LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
#variable_conflict use_column
BEGIN
    WITH counted AS (
        INSERT INTO search_vocabulary AS v (tenant_id, word, uses)
        SELECT c.tenant_id, c.word, sum(c.change)
        FROM unnest(tenants, words, changes) AS c (tenant_id, word, change)
        GROUP BY c.tenant_id, c.word HAVING sum(c.change) > 0
        ON CONFLICT (tenant_id, word) DO UPDATE SET uses = v.uses + excluded.uses
        RETURNING v.tenant_id, v.word, v.xmax = 0 AS is_new
    )
    INSERT INTO search_word_keys (tenant_id, key, word)
    SELECT c.tenant_id, k.key, c.word FROM counted c CROSS JOIN LATERAL search_keys(c.word) k WHERE c.is_new
    ON CONFLICT DO NOTHING;
    UPDATE search_vocabulary v SET uses = v.uses + c.change
    FROM (SELECT tenant_id, word, sum(change) AS change
          FROM unnest(tenants, words, changes) AS u (tenant_id, word, change)
          GROUP BY tenant_id, word HAVING sum(change) < 0) c
    WHERE v.tenant_id = c.tenant_id AND v.word = c.word;
    WITH gone AS (
        DELETE FROM search_vocabulary v USING (SELECT DISTINCT * FROM unnest(tenants, words)) AS c (tenant_id, word)
        WHERE v.tenant_id = c.tenant_id AND v.word = c.word AND v.uses = 0
        RETURNING v.tenant_id, v.word
    )
    DELETE FROM search_word_keys k USING gone g CROSS JOIN LATERAL search_keys(g.word) s
    WHERE k.tenant_id = g.tenant_id AND k.key = s.key AND k.word = g.word;
END
$$;
CREATE FUNCTION search_words_changed() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    tenants text[];
    words   text[];
    changes bigint[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(n.tenant_id), array_agg(n.word), array_agg(n.uses) INTO tenants, words, changes
        FROM new_rows n;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(o.tenant_id), array_agg(o.word), array_agg(-o.uses) INTO tenants, words, changes
        FROM old_rows o;
    ELSE
        SELECT array_agg(c.tenant_id), array_agg(c.word), array_agg(c.uses) INTO tenants, words, changes
        FROM (SELECT n.tenant_id, n.word, n.uses FROM new_rows n
              UNION ALL SELECT o.tenant_id, o.word, -o.uses FROM old_rows o) c;
    END IF;
    IF tenants IS NOT NULL THEN
        PERFORM search_lock(t.tenant) FROM (SELECT DISTINCT unnest(tenants) AS tenant ORDER BY 1) t;
        PERFORM search_count(tenants, words, changes);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER search_words_said AFTER INSERT ON search_words REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION search_words_changed();
CREATE TRIGGER search_words_counted AFTER UPDATE ON search_words
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION search_words_changed();
CREATE TRIGGER search_words_gone AFTER DELETE ON search_words REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION search_words_changed();

-- Names of due segments of all tenants, the newest first, and how many there are -----------------------------------------
DROP FUNCTION vectors_due, vectors_due_count;
CREATE FUNCTION vectors_due(wanted_model text, max_rows integer) RETURNS TABLE (tenant_id text, segment_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT v.tenant_id, v.segment_id FROM segment_vectors v
    WHERE v.model = wanted_model AND v.due ORDER BY v.spoken_at DESC LIMIT max_rows
$$;
CREATE FUNCTION vectors_due_count(wanted_model text) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT count(*) FROM segment_vectors v WHERE v.model = wanted_model AND v.due
$$;
-- Whether what was said longer ago still lacks its vector.
CREATE FUNCTION vectors_behind(wanted_model text, age_s double precision) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT EXISTS (SELECT FROM segment_vectors v
                   WHERE v.model = wanted_model AND v.due AND v.spoken_at < now() - make_interval(secs => age_s))
$$;
-- Vectors of models that no edition has any more; how many went.
CREATE FUNCTION vectors_expire(max_rows integer) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH gone AS (
        DELETE FROM segment_vectors v WHERE v.ctid = ANY (ARRAY(
            SELECT o.ctid FROM segment_vectors o
            WHERE NOT EXISTS (SELECT FROM index_editions e WHERE e.model = o.model AND e.state <> 'retired')
            LIMIT max_rows))
        RETURNING 1)
    SELECT count(*) FROM gone
$$;
-- Whom and how much there is to index: names of tenants, in order, and one number.
CREATE FUNCTION search_tenants(after_id text, max_rows integer) RETURNS TABLE (tenant_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT t.tenant_id FROM tenants t WHERE t.tenant_id > after_id ORDER BY t.tenant_id LIMIT max_rows
$$;
CREATE FUNCTION search_segments_count() RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT count(*) FROM segments
$$;

REVOKE ALL ON FUNCTION search_lock, search_keys, search_count, search_words_changed, vectors_due, vectors_due_count,
    vectors_behind, vectors_expire, search_tenants, search_segments_count FROM public;
GRANT EXECUTE ON FUNCTION search_lock, search_keys, search_count, vectors_due, vectors_due_count, vectors_behind,
    vectors_expire, search_tenants, search_segments_count TO parlance_app;
