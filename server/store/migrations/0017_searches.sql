-- What people searched for: one's own history, and the tenant's analytics. A row is a query that settled, not a
-- keystroke; who types on replaces it (same `search_id`). `folded`: its words as they are compared; `hits`: of its first
-- page; `clicks`: hits that were opened. Whoever clears their history deletes their rows.
CREATE TABLE searches (
    tenant_id text NOT NULL,
    search_id text NOT NULL,
    user_id   text NOT NULL,
    text      text NOT NULL CHECK (char_length(text) BETWEEN 1 AND 500),
    folded    text COLLATE "C" NOT NULL,
    asked_at  timestamptz NOT NULL,
    hits      integer NOT NULL CHECK (hits >= 0),
    clicks    integer NOT NULL DEFAULT 0 CHECK (clicks >= 0),
    PRIMARY KEY (tenant_id, search_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
);
CREATE INDEX searches_user ON searches (tenant_id, user_id, asked_at DESC);
CREATE INDEX searches_asked ON searches (tenant_id, asked_at);
CREATE INDEX searches_age ON searches (asked_at);

ALTER TABLE searches ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON searches TO parlance_app USING (tenant_id = parlance_tenant())
    WITH CHECK (tenant_id = parlance_tenant());
GRANT SELECT, INSERT, UPDATE, DELETE ON searches TO parlance_app;

-- Of all tenants, the oldest first, at most max_rows.
CREATE FUNCTION expire_searches(age_s double precision, max_rows integer) RETURNS integer
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH old AS (
        SELECT tenant_id, search_id FROM searches WHERE asked_at < now() - make_interval(secs => age_s)
        ORDER BY asked_at LIMIT max_rows FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM searches s USING old o WHERE s.tenant_id = o.tenant_id AND s.search_id = o.search_id RETURNING 1
    )
    SELECT count(*)::integer FROM gone
$$;
REVOKE ALL ON FUNCTION expire_searches FROM public;
GRANT EXECUTE ON FUNCTION expire_searches TO parlance_app;
