-- Text is analysed in Python (search.analysis), for every index alike: the database gets tokens with their positions and
-- queries made of tokens, and no text configuration of the server matters any more.
--
-- `analysis`: which analysis the row's tokens are of (0: from before this migration; its words are still found as they
-- were typed, its stems are not until it is put again).
ALTER TABLE segment_index ADD COLUMN analysis integer NOT NULL DEFAULT 0;

-- Languages of a tenant's texts that have stems (search.analysis.language_key), so that a query is stemmed in these.
CREATE TABLE search_languages (
    tenant_id text NOT NULL REFERENCES tenants ON DELETE CASCADE,
    language  text NOT NULL,
    PRIMARY KEY (tenant_id, language)
);
ALTER TABLE search_languages ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON search_languages TO parlance_app USING (tenant_id = parlance_tenant())
    WITH CHECK (tenant_id = parlance_tenant());
GRANT SELECT, INSERT, UPDATE, DELETE ON search_languages TO parlance_app;
INSERT INTO search_languages (tenant_id, language)
SELECT DISTINCT i.tenant_id, CASE k.key WHEN 'nb' THEN 'no' WHEN 'nn' THEN 'no' ELSE k.key END
FROM segment_index i CROSS JOIN LATERAL (SELECT split_part(i.language, '-', 1) AS key) k
WHERE k.key IN ('ar', 'ca', 'cs', 'da', 'de', 'el', 'en', 'eo', 'es', 'et', 'eu', 'fa', 'fi', 'fr', 'ga', 'hi', 'hu',
                'hy', 'id', 'it', 'lt', 'nb', 'ne', 'nl', 'nn', 'no', 'pl', 'pt', 'ro', 'ru', 'sr', 'st', 'sv', 'ta',
                'tr', 'yi');

DROP FUNCTION search_segments, search_marked, search_tsquery, search_vector, search_config, search_candidates,
    search_nearest, search_visible, search_spoken_by;
DROP TABLE search_configs;

-- What of a tenant's index `viewer` may find under a query's filters. `named_recordings`, `named_labels`: pairs of where
-- somebody of `speakers` is named so. Inlined into its callers' plans; a filter that is NULL is not in them.
CREATE FUNCTION search_visible(
    tenant text, viewer text, recording_ids text[], speakers text[], named_recordings text[], named_labels text[],
    languages text[], from_at timestamptz, to_at timestamptz, newest_at timestamptz
) RETURNS TABLE (segment_id text, recording_id text, spoken_at timestamptz, tsv tsvector) LANGUAGE sql STABLE AS $$
    SELECT i.segment_id, i.recording_id, i.spoken_at, i.tsv FROM segment_index i
    WHERE i.tenant_id = tenant AND (NOT i.private OR i.owner_id = viewer)
      AND (recording_ids IS NULL OR i.recording_id = ANY (recording_ids))
      AND (speakers IS NULL OR i.speaker = ANY (speakers)
           OR (i.recording_id, i.speaker) IN (SELECT * FROM unnest(named_recordings, named_labels)))
      AND (languages IS NULL OR i.language = ANY (languages) OR split_part(i.language, '-', 1) = ANY (languages))
      AND (from_at IS NULL OR i.spoken_at >= from_at)
      AND (to_at IS NULL OR i.spoken_at < to_at)
      AND (newest_at IS NULL OR i.spoken_at <= newest_at)
$$;

-- The newest matches after (after_at, after_id). The plan is either the GIN index and a sort (rare words), or the newest
-- index until max_rows are found (frequent ones). Inlined into its caller's plan.
CREATE FUNCTION search_candidates(
    tenant text, viewer text, query tsquery, recording_ids text[], speakers text[], named_recordings text[],
    named_labels text[], languages text[], from_at timestamptz, to_at timestamptz, newest_at timestamptz,
    after_at timestamptz, after_id text, max_rows integer
) RETURNS TABLE (segment_id text, recording_id text, spoken_at timestamptz, tsv tsvector) LANGUAGE sql STABLE AS $$
    SELECT i.segment_id, i.recording_id, i.spoken_at, i.tsv
    FROM search_visible(tenant, viewer, recording_ids, speakers, named_recordings, named_labels, languages, from_at,
                        to_at, newest_at) i
    WHERE i.tsv @@ query
      AND (after_at IS NULL OR (i.spoken_at <= after_at AND (i.spoken_at < after_at OR i.segment_id > after_id)))
    ORDER BY i.spoken_at DESC, i.segment_id
    LIMIT max_rows
$$;

-- What `viewer` may find in `tenant` by words: newest first (score 0), or, of the newest candidates_max, those that cover
-- the query most densely first.
CREATE FUNCTION search_match(
    tenant text, viewer text, query tsquery, recording_ids text[], speakers text[], named_recordings text[],
    named_labels text[], languages text[], from_at timestamptz, to_at timestamptz, newest_at timestamptz,
    after_at timestamptz, after_id text, by_newest boolean, max_rows integer, candidates_max integer
) RETURNS TABLE (segment_id text, recording_id text, spoken_at timestamptz, score double precision)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = public, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off AS $$
#variable_conflict use_column
BEGIN
    IF tenant IS NULL OR tenant IS DISTINCT FROM parlance_tenant() THEN
        RAISE insufficient_privilege USING MESSAGE = 'search_match: not the tenant of this transaction';
    END IF;
    IF by_newest THEN
        RETURN QUERY
        SELECT c.segment_id, c.recording_id, c.spoken_at, 0::double precision
        FROM search_candidates(tenant, viewer, query, recording_ids, speakers, named_recordings, named_labels,
                               languages, from_at, to_at, newest_at, after_at, after_id, max_rows) c;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT c.segment_id, c.recording_id, c.spoken_at, ts_rank_cd(c.tsv, query, 1)::double precision AS score
    FROM search_candidates(tenant, viewer, query, recording_ids, speakers, named_recordings, named_labels, languages,
                           from_at, to_at, newest_at, NULL, NULL, candidates_max) c
    ORDER BY score DESC, c.spoken_at DESC, c.segment_id
    LIMIT max_rows;
END
$$;

-- The segments nearest to `target`, in no order; `similarity` is the cosine. Up to exact_max candidates are compared one
-- by one: in the shared index of neighbours the other tenants' rows would crowd out a small tenant's (recall 0.04 to
-- 0.72, measured). Above, the index is asked first, and where it ends before max_rows the newest are compared as well.
-- Without filters the tenant's rows are counted in an index alone (1 ms; 7 ms with the rows themselves).
CREATE FUNCTION search_nearest(
    tenant text, viewer text, wanted_model text, target real[], similarity_min double precision, recording_ids text[],
    speakers text[], named_recordings text[], named_labels text[], languages text[], from_at timestamptz,
    to_at timestamptz, newest_at timestamptz, max_rows integer, exact_max integer
) RETURNS TABLE (segment_id text, recording_id text, spoken_at timestamptz, similarity double precision)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = public, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off
    SET enable_seqscan = off SET hnsw.iterative_scan = relaxed_order SET hnsw.ef_search = 1000
    SET hnsw.max_scan_tuples = 100000 AS $$
#variable_conflict use_column
DECLARE
    wanted  halfvec := target::halfvec;
    dims    integer := cardinality(target);
    ids     text[] := '{}';
    places  text[];
    times   timestamptz[];
    cosines double precision[];
BEGIN
    IF tenant IS NULL OR tenant IS DISTINCT FROM parlance_tenant() THEN
        RAISE insufficient_privilege USING MESSAGE = 'search_nearest: not the tenant of this transaction';
    END IF;
    IF dims IN (384, 768, 1024) AND (
        SELECT count(*) > exact_max
        FROM (SELECT FROM segment_index i WHERE i.tenant_id = tenant LIMIT exact_max + 1) held
    ) AND (
        coalesce(recording_ids, speakers, languages) IS NULL AND from_at IS NULL AND to_at IS NULL
        OR (SELECT count(*) > exact_max
            FROM (SELECT FROM search_visible(tenant, viewer, recording_ids, speakers, named_recordings, named_labels,
                                             languages, from_at, to_at, newest_at)
                  LIMIT exact_max + 1) candidate)
    ) THEN
        EXECUTE format(
            'SELECT coalesce(array_agg(n.segment_id), ''{}''), array_agg(n.recording_id), array_agg(n.spoken_at),
                    array_agg(n.similarity)
             FROM (SELECT v.segment_id, i.recording_id, i.spoken_at,
                          1 - (v.embedding::halfvec(%1$s) <=> $11) AS similarity
                   FROM segment_vectors v
                   JOIN search_visible($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) i ON i.segment_id = v.segment_id
                   WHERE v.tenant_id = $1 AND v.model = $12 AND v.searched AND vector_dims(v.embedding) = %1$s
                   ORDER BY v.embedding::halfvec(%1$s) <=> $11 LIMIT $13) n', dims)
        INTO ids, places, times, cosines
        USING tenant, viewer, recording_ids, speakers, named_recordings, named_labels, languages, from_at, to_at,
              newest_at, wanted, wanted_model, max_rows;
        RETURN QUERY SELECT u.id, u.place, u.at, u.cosine
                     FROM unnest(ids, places, times, cosines) AS u (id, place, at, cosine)
                     WHERE u.cosine >= similarity_min;
        IF cardinality(ids) >= max_rows THEN
            RETURN;
        END IF;
    END IF;
    RETURN QUERY
    SELECT n.segment_id, n.recording_id, n.spoken_at, n.similarity
    FROM (SELECT i.segment_id, i.recording_id, i.spoken_at,
                 CASE vector_dims(v.embedding) WHEN dims THEN 1 - (v.embedding <=> wanted) END AS similarity
          FROM (SELECT c.segment_id, c.recording_id, c.spoken_at
                FROM search_visible(tenant, viewer, recording_ids, speakers, named_recordings, named_labels, languages,
                                    from_at, to_at, newest_at) c
                ORDER BY c.spoken_at DESC, c.segment_id LIMIT exact_max) i
          JOIN segment_vectors v ON v.tenant_id = tenant AND v.segment_id = i.segment_id AND v.model = wanted_model
          WHERE v.searched) n
    WHERE n.similarity >= similarity_min AND NOT n.segment_id = ANY (ids)
    ORDER BY n.similarity DESC, n.spoken_at DESC, n.segment_id
    LIMIT max_rows;
END
$$;

-- All tenants that have something in the index, by their names only ---------------------------------------------------
CREATE FUNCTION index_tenants() RETURNS TABLE (tenant_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT t.tenant_id FROM tenants t
    WHERE EXISTS (SELECT FROM segment_index i WHERE i.tenant_id = t.tenant_id)
    ORDER BY t.tenant_id
$$;

-- Frees the index when no edition is in it any more, so many rows of it and so many vectors at once; how many it were.
CREATE FUNCTION index_expire(max_rows integer) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH unused AS (
        SELECT WHERE NOT EXISTS (
            SELECT FROM index_editions e WHERE e.adapter = 'postgres' AND e.state IN ('building', 'current'))
    ), gone AS (
        DELETE FROM segment_index i USING unused
        WHERE i.ctid = ANY (ARRAY(SELECT o.ctid FROM segment_index o LIMIT max_rows)) RETURNING 1
    ), unsearched AS (
        UPDATE segment_vectors v SET searched = false FROM unused
        WHERE v.ctid = ANY (ARRAY(SELECT o.ctid FROM segment_vectors o WHERE o.searched LIMIT max_rows)) RETURNING 1
    )
    SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM unsearched)
$$;

REVOKE ALL ON FUNCTION search_visible, search_candidates, search_match, search_nearest, index_tenants, index_expire
    FROM public;
GRANT EXECUTE ON FUNCTION search_match, search_nearest, index_tenants, index_expire TO parlance_app;
