-- Text search. The application role reaches the index through search_segments only: row-level security would turn the
-- text condition into a filter after the tenant's scan (1,240 buffers against 108, measured).
-- All text and query words arrive folded by search.query: letters, digits and marks between single spaces.

ALTER TABLE segment_index ADD COLUMN speaker text, ADD COLUMN language text NOT NULL;
-- Without it, a search reads the list of entries not yet merged (up to 4 MB) from end to end.
ALTER INDEX segment_index_tsv SET (fastupdate = off);
CREATE INDEX segment_index_recording ON segment_index (tenant_id, recording_id, spoken_at DESC, segment_id);

-- Which text configurations a tenant's segments use, so that a query is stemmed in these languages and no others ----
CREATE TABLE search_configs (
    tenant_id text NOT NULL REFERENCES tenants ON DELETE CASCADE,
    config    text NOT NULL,
    PRIMARY KEY (tenant_id, config)
);
ALTER TABLE search_configs ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON search_configs TO parlance_app USING (tenant_id = parlance_tenant())
    WITH CHECK (tenant_id = parlance_tenant());
GRANT SELECT, INSERT, UPDATE, DELETE ON search_configs TO parlance_app;

-- BCP 47 to the text configurations that every Postgres since 14 has; other languages are searched unstemmed ---------
CREATE FUNCTION search_config(language text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    CASE split_part(lower(language), '-', 1)
        WHEN 'ar' THEN 'arabic'     WHEN 'hy' THEN 'armenian'   WHEN 'eu' THEN 'basque'     WHEN 'ca' THEN 'catalan'
        WHEN 'da' THEN 'danish'     WHEN 'nl' THEN 'dutch'      WHEN 'en' THEN 'english'    WHEN 'fi' THEN 'finnish'
        WHEN 'fr' THEN 'french'     WHEN 'de' THEN 'german'     WHEN 'el' THEN 'greek'      WHEN 'hi' THEN 'hindi'
        WHEN 'hu' THEN 'hungarian'  WHEN 'id' THEN 'indonesian' WHEN 'ga' THEN 'irish'      WHEN 'it' THEN 'italian'
        WHEN 'lt' THEN 'lithuanian' WHEN 'ne' THEN 'nepali'     WHEN 'no' THEN 'norwegian'  WHEN 'nb' THEN 'norwegian'
        WHEN 'nn' THEN 'norwegian'  WHEN 'pt' THEN 'portuguese' WHEN 'ro' THEN 'romanian'   WHEN 'ru' THEN 'russian'
        WHEN 'sr' THEN 'serbian'    WHEN 'es' THEN 'spanish'    WHEN 'sv' THEN 'swedish'    WHEN 'ta' THEN 'tamil'
        WHEN 'tr' THEN 'turkish'    WHEN 'yi' THEN 'yiddish'    ELSE 'simple'
    END;

-- The words as they were said, and their stems ------------------------------------------------------------------------
CREATE FUNCTION search_vector(folded text, language text) RETURNS tsvector LANGUAGE sql STABLE PARALLEL SAFE RETURN
    to_tsvector('pg_catalog.simple', folded)
    || CASE search_config(language) WHEN 'simple' THEN ''::tsvector
       ELSE to_tsvector(('pg_catalog.' || search_config(language))::regconfig, folded) END;

-- What matches the words under any of the configurations: each word as typed (the last as a prefix) or by its stem.
-- A configuration's stop words need not occur, unless there is nothing else. `words` are operands, already quoted.
CREATE FUNCTION search_tsquery(words text[], prefix boolean, configs text[]) RETURNS tsquery
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET client_min_messages = error AS $$
DECLARE
    n      integer := cardinality(words);
    config text;
    typed  tsquery;
    stem   tsquery;
    every  tsquery;
    vital  tsquery;
    result tsquery;
BEGIN
    FOREACH config IN ARRAY configs LOOP
        every := NULL;
        vital := NULL;
        FOR i IN 1 .. n LOOP
            typed := to_tsquery('pg_catalog.simple', words[i] || CASE WHEN prefix AND i = n THEN ':*' ELSE '' END);
            stem := to_tsquery(('pg_catalog.' || config)::regconfig, words[i]);
            IF numnode(stem) > 0 THEN
                typed := CASE WHEN stem = typed THEN typed ELSE typed || stem END;
            END IF;
            every := CASE WHEN every IS NULL THEN typed ELSE every && typed END;
            IF numnode(stem) > 0 OR (prefix AND i = n) THEN
                vital := CASE WHEN vital IS NULL THEN typed ELSE vital && typed END;
            END IF;
        END LOOP;
        every := coalesce(vital, every);
        result := CASE WHEN result IS NULL OR result = every THEN every ELSE result || every END;
    END LOOP;
    RETURN result;
END
$$;

-- The newest matches at or before (upto_at, upto_id), not older than floor_at. Inlined into its caller's plan: either
-- the GIN index and a sort (rare words), or the newest index until max_rows are found (frequent ones).
CREATE FUNCTION search_candidates(
    tenant text, viewer text, query tsquery, recording_ids text[], speakers text[], languages text[],
    from_at timestamptz, to_at timestamptz, upto_at timestamptz, upto_id text, floor_at timestamptz, max_rows integer
) RETURNS TABLE (segment_id text, recording_id text, spoken_at timestamptz, tsv tsvector) LANGUAGE sql STABLE AS $$
    SELECT i.segment_id, i.recording_id, i.spoken_at, i.tsv FROM segment_index i
    WHERE i.tenant_id = tenant AND i.tsv @@ query AND (NOT i.private OR i.owner_id = viewer)
      AND (recording_ids IS NULL OR i.recording_id = ANY (recording_ids))
      AND (speakers IS NULL OR i.speaker = ANY (speakers))
      AND (languages IS NULL OR i.language = ANY (languages) OR split_part(i.language, '-', 1) = ANY (languages))
      AND (from_at IS NULL OR i.spoken_at >= from_at)
      AND (to_at IS NULL OR i.spoken_at < to_at)
      AND (upto_at IS NULL OR (i.spoken_at <= upto_at AND (i.spoken_at < upto_at OR i.segment_id > upto_id)))
      AND (floor_at IS NULL OR i.spoken_at >= floor_at)
    ORDER BY i.spoken_at DESC, i.segment_id
    LIMIT max_rows
$$;

-- One page of what `viewer` may see in `tenant`, in order, and one row more when there is another page.
-- By relevance: cover density of the newest candidates_max matches, up to a fifth less for age (half of that after 30
-- days), measured from the newest match so that all pages of a query score alike. The cursor's window (newest_at,
-- oldest_at) keeps later segments out. A row whose recording turned private since it was indexed has visible = false.
CREATE FUNCTION search_segments(
    tenant text, viewer text, words text[], prefix boolean, recording_ids text[], speakers text[], languages text[],
    from_at timestamptz, to_at timestamptz, by_newest boolean, page_size integer, candidates_max integer,
    after_score double precision, after_at timestamptz, after_id text, window_newest timestamptz,
    window_oldest timestamptz
) RETURNS TABLE (
    segment_id text, recording_id text, title text, speaker text, start_ms bigint, end_ms bigint, rev integer,
    text text, language text, visible boolean, score double precision, spoken_at timestamptz, newest_at timestamptz,
    oldest_at timestamptz
) LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = public, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off AS $$
#variable_conflict use_column
DECLARE
    configs  text[];
    query    tsquery;
    max_rows integer := candidates_max;
    upto_at  timestamptz := window_newest;
    upto_id  text := '';
BEGIN
    IF tenant IS NULL OR tenant IS DISTINCT FROM parlance_tenant() THEN
        RAISE insufficient_privilege USING MESSAGE = 'search_segments: not the tenant of this transaction';
    END IF;
    SELECT array_agg(c.config ORDER BY c.config) INTO configs FROM search_configs c WHERE c.tenant_id = tenant;
    IF configs IS NULL THEN
        RETURN;
    END IF;
    query := search_tsquery(words, prefix, configs);
    IF by_newest THEN
        max_rows := page_size + 1;
        upto_at := after_at;
        upto_id := after_id;
    ELSIF window_newest IS NOT NULL THEN
        max_rows := 2 * candidates_max;  -- late segments inside the window must not push its oldest out
    END IF;
    RETURN QUERY
    WITH candidate AS MATERIALIZED (
        SELECT * FROM search_candidates(tenant, viewer, query, recording_ids, speakers, languages, from_at, to_at,
                                        upto_at, upto_id, window_oldest, max_rows)
    ), frame AS MATERIALIZED (
        SELECT coalesce(window_newest, max(c.spoken_at)) AS newest_at,
               coalesce(window_oldest, CASE WHEN count(*) >= max_rows THEN min(c.spoken_at) END) AS oldest_at
        FROM candidate c
    ), ranked AS (
        SELECT c.segment_id, c.recording_id, c.spoken_at,
               CASE WHEN by_newest THEN 0 ELSE ts_rank_cd(c.tsv, query, 1)::double precision
                   * (0.8 + 0.2 / (1 + extract(epoch FROM f.newest_at - c.spoken_at)::double precision / 2592000))
               END AS score
        FROM candidate c CROSS JOIN frame f
    ), page AS (
        SELECT r.* FROM ranked r
        WHERE by_newest OR after_score IS NULL OR r.score < after_score
           OR (r.score = after_score AND (r.spoken_at < after_at
                                          OR (r.spoken_at = after_at AND r.segment_id > after_id)))
        ORDER BY r.score DESC, r.spoken_at DESC, r.segment_id
        LIMIT page_size + 1
    )
    SELECT p.segment_id, p.recording_id, r.title, s.speaker, s.start_ms, s.end_ms, s.rev, s.text, s.language,
           r.recording_id IS NOT NULL AND s.segment_id IS NOT NULL, p.score, p.spoken_at, f.newest_at, f.oldest_at
    FROM page p CROSS JOIN frame f
    LEFT JOIN recordings r ON r.tenant_id = tenant AND r.recording_id = p.recording_id
        AND (r.visibility = 'tenant' OR r.owner_id = viewer)
    LEFT JOIN segments s ON s.tenant_id = tenant AND s.segment_id = p.segment_id AND r.recording_id IS NOT NULL
    ORDER BY p.score DESC, p.spoken_at DESC, p.segment_id;
END
$$;

-- The folded texts with chr(2) and chr(3) around matching words, as typed and by stem. Touches no table ---------------
CREATE FUNCTION search_marked(words text[], prefix boolean, texts text[], languages text[])
    RETURNS TABLE (typed text, stemmed text) LANGUAGE sql STABLE AS $$
    SELECT ts_headline('pg_catalog.simple', t.folded, q.query, o.options),
           CASE t.config WHEN 'simple' THEN ''
           ELSE ts_headline(('pg_catalog.' || t.config)::regconfig, t.folded, q.query, o.options) END
    FROM (SELECT folded, search_config(language) AS config, ordinal
          FROM unnest(texts, languages) WITH ORDINALITY AS u (folded, language, ordinal)) t
    JOIN (SELECT c.config, search_tsquery(words, prefix, ARRAY[c.config]) AS query
          FROM (SELECT DISTINCT search_config(l) AS config FROM unnest(languages) l) c) q USING (config)
    CROSS JOIN (SELECT 'HighlightAll=true, StartSel=' || chr(2) || ', StopSel=' || chr(3) AS options) o
    ORDER BY t.ordinal
$$;

REVOKE ALL ON FUNCTION search_config, search_vector, search_tsquery, search_candidates, search_segments, search_marked
    FROM public;
GRANT EXECUTE ON FUNCTION search_config, search_vector, search_tsquery, search_segments, search_marked TO parlance_app;
