-- The second pass over kept audio (server.jobs.second_pass). A recording has one row from its beginning; rows of older
-- recordings are made when somebody asks for a pass. `due_at` says when to look at it, `held_until` that a node is at it.

CREATE TABLE passes (
    tenant_id     text NOT NULL,
    recording_id  text NOT NULL,
    state         text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done', 'none', 'failed')),
    round         integer NOT NULL DEFAULT 1,    -- how often the whole recording was asked for
    merges        integer NOT NULL DEFAULT 0,    -- how often it went into the transcript: whoever writes says after which
    merged_pieces integer NOT NULL DEFAULT 0,    -- pieces of this round whose words are in the transcript
    tries         integer NOT NULL DEFAULT 0,    -- of the present piece, each may have cost a worker
    due_at        timestamptz NOT NULL DEFAULT now() + interval '1 minute',
    held_until    timestamptz NOT NULL DEFAULT '-infinity',
    held_by       text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, recording_id),
    FOREIGN KEY (tenant_id, recording_id) REFERENCES recordings ON DELETE CASCADE
);
CREATE INDEX passes_due_at ON passes (due_at) WHERE state = 'waiting';

-- What was heard, piece by piece: the second pass goes on behind the last one. `words`: what was read, `windows`: of voices,
-- where there was a diariser; packed by server.store.passes.
CREATE TABLE pass_pieces (
    tenant_id    text NOT NULL,
    recording_id text NOT NULL,
    round        integer NOT NULL,
    number       integer NOT NULL,
    start_sample bigint NOT NULL,
    end_sample   bigint NOT NULL CHECK (end_sample > start_sample),
    words        bytea NOT NULL,
    windows      bytea,
    PRIMARY KEY (tenant_id, recording_id, round, number),
    FOREIGN KEY (tenant_id, recording_id) REFERENCES passes ON DELETE CASCADE
);

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['passes', 'pass_pieces'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON %I TO parlance_app USING (tenant_id = parlance_tenant()) '
                       'WITH CHECK (tenant_id = parlance_tenant())', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO parlance_app', t);
    END LOOP;
END
$$;

-- Recordings of all tenants that this node may look at now, the longest due first: names only.
CREATE FUNCTION passes_due(node text, max_rows integer) RETURNS TABLE (tenant_id text, recording_id text, behind_s double precision)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT p.tenant_id, p.recording_id, extract(epoch FROM now() - p.due_at)::double precision FROM passes p
    WHERE p.state = 'waiting' AND p.due_at <= now() AND (p.held_until <= now() OR p.held_by = node)
    ORDER BY p.due_at LIMIT max_rows
$$;
REVOKE ALL ON FUNCTION passes_due FROM public;
GRANT EXECUTE ON FUNCTION passes_due TO parlance_app;
