-- The first schema. Runs as the database's owner; the server works as the role parlance_app, which can neither bypass
-- row-level security nor own a table. Every table with a tenant_id has a policy on parlance.tenant, which
-- server.store.pool.tenant_tx sets for one transaction.

CREATE FUNCTION parlance_tenant() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('parlance.tenant', true), '');

-- Identity ------------------------------------------------------------------------------------------------------
CREATE TABLE tenants (
    tenant_id  text PRIMARY KEY,
    name       text NOT NULL UNIQUE CHECK (char_length(name) BETWEEN 1 AND 100),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE users (
    tenant_id  text NOT NULL REFERENCES tenants ON DELETE CASCADE,
    user_id    text NOT NULL,
    name       text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id),
    UNIQUE (tenant_id, name)
);
CREATE TABLE memberships (
    tenant_id  text NOT NULL,
    user_id    text NOT NULL,
    role       text NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
);
CREATE TABLE login_links (
    tenant_id  text NOT NULL,
    code_hash  bytea NOT NULL,
    user_id    text NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, code_hash),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
);

-- Recordings and their streams ----------------------------------------------------------------------------------
CREATE TABLE recordings (
    tenant_id     text NOT NULL REFERENCES tenants ON DELETE CASCADE,
    recording_id  text NOT NULL,
    owner_id      text NOT NULL,
    title         text NOT NULL,
    visibility    text NOT NULL CHECK (visibility IN ('tenant', 'private')),
    language      text NOT NULL,
    state         text NOT NULL CHECK (state IN ('live', 'ended')),
    end_reason    text CHECK (end_reason IN ('stopped', 'abandoned', 'failed')),
    engine        text NOT NULL,
    encoding      text NOT NULL,
    sample_rate   integer NOT NULL,
    channels      integer NOT NULL,
    options       jsonb NOT NULL DEFAULT '{}',
    started_at    timestamptz NOT NULL DEFAULT now(),
    ended_at      timestamptz,
    duration_ms   bigint NOT NULL DEFAULT 0,
    segment_count integer NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, recording_id),
    FOREIGN KEY (tenant_id, owner_id) REFERENCES users (tenant_id, user_id)
);
CREATE INDEX recordings_newest ON recordings (tenant_id, started_at DESC, recording_id);

-- The fencing row: whoever holds the epoch may write; a takeover increments it.
CREATE TABLE streams (
    tenant_id         text NOT NULL,
    recording_id      text NOT NULL,
    stream_id         text NOT NULL,
    epoch             integer NOT NULL,
    node              text NOT NULL,
    lease_until       timestamptz NOT NULL,
    client_seen_at    timestamptz NOT NULL DEFAULT now(),
    resume_token_hash bytea NOT NULL,
    committed_sample  bigint NOT NULL DEFAULT 0,
    next_ordinal      integer NOT NULL DEFAULT 1,
    ended             boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, recording_id),
    FOREIGN KEY (tenant_id, recording_id) REFERENCES recordings ON DELETE CASCADE
);
CREATE INDEX streams_live ON streams (lease_until) WHERE NOT ended;

CREATE TABLE segments (
    tenant_id    text NOT NULL,
    recording_id text NOT NULL,
    segment_id   text NOT NULL,
    ordinal      integer NOT NULL,
    rev          integer NOT NULL,
    start_ms     bigint NOT NULL,
    end_ms       bigint NOT NULL,
    text         text NOT NULL,
    words        jsonb NOT NULL,
    speaker      text,
    language     text NOT NULL,
    confidence   real NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, segment_id),
    UNIQUE (tenant_id, recording_id, ordinal),
    FOREIGN KEY (tenant_id, recording_id) REFERENCES recordings ON DELETE CASCADE
);

-- The event log: a counter row per room, never a sequence, so that numbers have no gaps ---------------------------
CREATE TABLE rooms (
    tenant_id text NOT NULL REFERENCES tenants ON DELETE CASCADE,
    room      text NOT NULL,
    seq       bigint NOT NULL DEFAULT 0,
    first_seq bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (tenant_id, room)
);
CREATE TABLE events (
    tenant_id text NOT NULL,
    room      text NOT NULL,
    seq       bigint NOT NULL,
    at        timestamptz NOT NULL,
    event     text NOT NULL,
    body      jsonb NOT NULL,
    PRIMARY KEY (tenant_id, room, seq),
    FOREIGN KEY (tenant_id, room) REFERENCES rooms ON DELETE CASCADE
);

-- The text index, filled by the job index_segments ----------------------------------------------------------------
CREATE TABLE segment_index (
    tenant_id    text NOT NULL,
    segment_id   text NOT NULL,
    recording_id text NOT NULL,
    owner_id     text NOT NULL,
    private      boolean NOT NULL,
    spoken_at    timestamptz NOT NULL,
    rev          integer NOT NULL,
    tsv          tsvector NOT NULL,
    PRIMARY KEY (tenant_id, segment_id),
    FOREIGN KEY (tenant_id, segment_id) REFERENCES segments ON DELETE CASCADE
);
CREATE INDEX segment_index_tsv ON segment_index USING gin (tsv);
CREATE INDEX segment_index_newest ON segment_index (tenant_id, spoken_at DESC, segment_id);

-- Streams of all tenants whose node stopped renewing: the only cross-tenant read, and it returns names only --------
CREATE FUNCTION expired_streams(max_rows integer) RETURNS TABLE (tenant_id text, recording_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT s.tenant_id, s.recording_id FROM streams s
    WHERE NOT s.ended AND s.lease_until < now() ORDER BY s.lease_until LIMIT max_rows
$$;
REVOKE ALL ON FUNCTION expired_streams FROM public;

-- A tenant's id by its name, for signing in; returns nothing else about it -----------------------------------------
CREATE FUNCTION tenant_by_name(wanted text) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT t.tenant_id FROM tenants t WHERE t.name = wanted
$$;
REVOKE ALL ON FUNCTION tenant_by_name FROM public;

-- Row-level security ------------------------------------------------------------------------------------------------
DO $$
DECLARE
    t text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'parlance_app') THEN
        CREATE ROLE parlance_app NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOINHERIT;
    END IF;
    FOREACH t IN ARRAY ARRAY['tenants', 'users', 'memberships', 'login_links', 'recordings', 'streams', 'segments',
                             'rooms', 'events', 'segment_index'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON %I TO parlance_app USING (tenant_id = parlance_tenant()) '
                       'WITH CHECK (tenant_id = parlance_tenant())', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO parlance_app', t);
    END LOOP;
    -- An owner who made the role may give it to himself; where an administrator made both, he already did.
    IF NOT pg_has_role(current_user, 'parlance_app', 'SET') THEN
        EXECUTE format('GRANT parlance_app TO %I', current_user);
    END IF;
END
$$;
GRANT EXECUTE ON FUNCTION expired_streams, tenant_by_name TO parlance_app;
