-- Which finals still want exact word times. NULL: not tried yet, or tried in vain so far; 'done': the words carry them;
-- 'none': they are not to be had (no audio, words not found in it); 'failed': set aside after tries that killed workers.

ALTER TABLE segments
    ADD COLUMN alignment       text CHECK (alignment IN ('done', 'none', 'failed')),
    ADD COLUMN alignment_tries integer NOT NULL DEFAULT 0,
    ADD COLUMN alignment_due   timestamptz NOT NULL DEFAULT now();  -- a try under way puts it off

CREATE INDEX segments_unaligned ON segments (split_part(lower(language), '-', 1), created_at DESC)
    WHERE alignment IS NULL;

-- The newest finals of all tenants that may be tried now, in these languages: names only. Each language walks its own
-- part of the index, so finals in languages that nobody can align are never looked at.
CREATE FUNCTION unaligned_segments(spoken text[], age_s_max integer, tries_max integer, max_rows integer)
    RETURNS TABLE (tenant_id text, recording_id text, segment_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT s.tenant_id, s.recording_id, s.segment_id
    FROM unnest(spoken) AS l (language) CROSS JOIN LATERAL (
        SELECT c.tenant_id, c.recording_id, c.segment_id, c.created_at FROM segments c
        WHERE c.alignment IS NULL AND split_part(lower(c.language), '-', 1) = l.language
          AND c.created_at > now() - make_interval(secs => age_s_max)
          AND c.alignment_due <= now() AND c.alignment_tries < tries_max
        ORDER BY c.created_at DESC LIMIT max_rows) s
    ORDER BY s.created_at DESC, s.segment_id LIMIT max_rows
$$;
REVOKE ALL ON FUNCTION unaligned_segments FROM public;
GRANT EXECUTE ON FUNCTION unaligned_segments TO parlance_app;
