-- Search by meaning: a vector for every indexed segment, made by server.jobs.vectors when an embedding model is there.
--
-- A row without a vector, or with one of another model, is due. `model` is '' until then, so both are found by ranges of
-- one index, however many rows are done. A vector belongs to a text, not to a revision: `text_key` is the text's hash,
-- and a revision that only moves times keeps its vector. model set and embedding NULL: this model cannot embed it.
-- Half precision: the same neighbours at half the size, and 1,024 dimensions still fit beside the row.

DO $$
BEGIN
    CREATE EXTENSION IF NOT EXISTS vector;
EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR undefined_file THEN
    RAISE EXCEPTION 'this database has no pgvector: let an administrator install it on the server and run CREATE EXTENSION vector in this database';
END
$$;

CREATE TABLE segment_vectors (
    tenant_id  text NOT NULL,
    segment_id text NOT NULL,
    spoken_at  timestamptz NOT NULL,
    text_key   bigint NOT NULL,
    model      text NOT NULL DEFAULT '',
    embedding  halfvec,
    PRIMARY KEY (tenant_id, segment_id),
    FOREIGN KEY (tenant_id, segment_id) REFERENCES segment_index ON DELETE CASCADE
);
ALTER TABLE segment_vectors ALTER COLUMN embedding SET STORAGE main;
CREATE INDEX segment_vectors_due ON segment_vectors (model, spoken_at DESC);
-- An index of neighbours needs its number of dimensions, and the application role owns nothing that it could index: so
-- the sizes that open models have are indexed from the start (an index without rows costs nothing), and vectors of any
-- other size are compared one by one, the newest only.
CREATE INDEX segment_vectors_384 ON segment_vectors USING hnsw ((embedding::halfvec(384)) halfvec_cosine_ops)
    WHERE vector_dims(embedding) = 384;
CREATE INDEX segment_vectors_768 ON segment_vectors USING hnsw ((embedding::halfvec(768)) halfvec_cosine_ops)
    WHERE vector_dims(embedding) = 768;
CREATE INDEX segment_vectors_1024 ON segment_vectors USING hnsw ((embedding::halfvec(1024)) halfvec_cosine_ops)
    WHERE vector_dims(embedding) = 1024;

ALTER TABLE segment_vectors ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON segment_vectors TO parlance_app USING (tenant_id = parlance_tenant())
    WITH CHECK (tenant_id = parlance_tenant());
GRANT SELECT, INSERT, UPDATE, DELETE ON segment_vectors TO parlance_app;

-- What was said before is due too
INSERT INTO segment_vectors (tenant_id, segment_id, spoken_at, text_key)
SELECT tenant_id, segment_id, i.spoken_at, hashtextextended(s.text, 0)
FROM segment_index i JOIN segments s USING (tenant_id, segment_id);

-- Names of due segments of all tenants, the newest first, those of other models last; and how many there are ----------
CREATE FUNCTION vectors_due(wanted_model text, max_rows integer) RETURNS TABLE (tenant_id text, segment_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    (SELECT v.tenant_id, v.segment_id FROM segment_vectors v
     WHERE v.model = '' ORDER BY v.spoken_at DESC LIMIT max_rows)
    UNION ALL
    (SELECT v.tenant_id, v.segment_id FROM segment_vectors v
     WHERE v.model > '' AND v.model < wanted_model ORDER BY v.model, v.spoken_at DESC LIMIT max_rows)
    UNION ALL
    (SELECT v.tenant_id, v.segment_id FROM segment_vectors v
     WHERE v.model > wanted_model ORDER BY v.model, v.spoken_at DESC LIMIT max_rows)
    LIMIT max_rows
$$;
CREATE FUNCTION vectors_due_count(wanted_model text) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT (SELECT count(*) FROM segment_vectors v WHERE v.model < wanted_model)
         + (SELECT count(*) FROM segment_vectors v WHERE v.model > wanted_model)
$$;

-- The tenant's segments that `viewer` may find, under a query's filters. Inlined into its callers' plans --------------
CREATE FUNCTION search_visible(
    tenant text, viewer text, recording_ids text[], speakers text[], languages text[], from_at timestamptz,
    to_at timestamptz, newest_at timestamptz
) RETURNS TABLE (segment_id text, spoken_at timestamptz) LANGUAGE sql STABLE AS $$
    SELECT i.segment_id, i.spoken_at FROM segment_index i
    WHERE i.tenant_id = tenant AND (NOT i.private OR i.owner_id = viewer)
      AND (recording_ids IS NULL OR i.recording_id = ANY (recording_ids))
      AND (speakers IS NULL OR i.speaker = ANY (speakers))
      AND (languages IS NULL OR i.language = ANY (languages) OR split_part(i.language, '-', 1) = ANY (languages))
      AND (from_at IS NULL OR i.spoken_at >= from_at)
      AND (to_at IS NULL OR i.spoken_at < to_at)
      AND (newest_at IS NULL OR i.spoken_at <= newest_at)
$$;

-- The segments nearest to `target`, in no order; `similarity` is the cosine. Up to exact_max candidates are compared one
-- by one: in the shared index of neighbours the other tenants' rows would crowd out a small tenant's (recall 0.04 to
-- 0.72, measured). Above, the index is asked first, and where it ends before max_rows the newest are compared as well.
CREATE FUNCTION search_nearest(
    tenant text, viewer text, wanted_model text, target real[], similarity_min double precision, recording_ids text[],
    speakers text[], languages text[], from_at timestamptz, to_at timestamptz, newest_at timestamptz,
    max_rows integer, exact_max integer
) RETURNS TABLE (segment_id text, spoken_at timestamptz, similarity double precision)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = public, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off
    SET enable_seqscan = off SET hnsw.iterative_scan = relaxed_order SET hnsw.ef_search = 100 AS $$
#variable_conflict use_column
DECLARE
    wanted  halfvec := target::halfvec;
    dims    integer := cardinality(target);
    ids     text[] := '{}';
    times   timestamptz[];
    cosines double precision[];
BEGIN
    IF tenant IS NULL OR tenant IS DISTINCT FROM parlance_tenant() THEN
        RAISE insufficient_privilege USING MESSAGE = 'search_nearest: not the tenant of this transaction';
    END IF;
    IF dims IN (384, 768, 1024) AND (
        SELECT count(*) > exact_max
        FROM (SELECT FROM search_visible(tenant, viewer, recording_ids, speakers, languages, from_at, to_at, newest_at)
              LIMIT exact_max + 1) candidate
    ) THEN
        EXECUTE format(
            'SELECT coalesce(array_agg(n.segment_id), ''{}''), array_agg(n.spoken_at), array_agg(n.similarity)
             FROM (SELECT v.segment_id, i.spoken_at, 1 - (v.embedding::halfvec(%1$s) <=> $9) AS similarity
                   FROM segment_vectors v
                   JOIN search_visible($1, $2, $3, $4, $5, $6, $7, $8) i ON i.segment_id = v.segment_id
                   WHERE v.tenant_id = $1 AND v.model = $10 AND vector_dims(v.embedding) = %1$s
                   ORDER BY v.embedding::halfvec(%1$s) <=> $9 LIMIT $11) n', dims)
        INTO ids, times, cosines
        USING tenant, viewer, recording_ids, speakers, languages, from_at, to_at, newest_at, wanted, wanted_model,
              max_rows;
        RETURN QUERY SELECT u.id, u.at, u.cosine FROM unnest(ids, times, cosines) AS u (id, at, cosine)
                     WHERE u.cosine >= similarity_min;
        IF cardinality(ids) >= max_rows THEN
            RETURN;
        END IF;
    END IF;
    RETURN QUERY
    SELECT n.segment_id, n.spoken_at, n.similarity
    FROM (SELECT i.segment_id, i.spoken_at,
                 CASE vector_dims(v.embedding) WHEN dims THEN 1 - (v.embedding <=> wanted) END AS similarity
          FROM (SELECT * FROM search_visible(tenant, viewer, recording_ids, speakers, languages, from_at, to_at,
                                             newest_at) c
                ORDER BY c.spoken_at DESC, c.segment_id LIMIT exact_max) i
          JOIN segment_vectors v ON v.tenant_id = tenant AND v.segment_id = i.segment_id
          WHERE v.model = wanted_model) n
    WHERE n.similarity >= similarity_min AND NOT n.segment_id = ANY (ids)
    ORDER BY n.similarity DESC, n.spoken_at DESC, n.segment_id
    LIMIT max_rows;
END
$$;

REVOKE ALL ON FUNCTION vectors_due, vectors_due_count, search_visible, search_nearest FROM public;
GRANT EXECUTE ON FUNCTION vectors_due, vectors_due_count, search_nearest TO parlance_app;
