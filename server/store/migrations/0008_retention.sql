-- Event logs that reach back for a limited time (PARLANCE_EVENTS_DAYS, server.jobs.retention).
--
-- `oldest_at` says when to look at a room again: no event that it still has was logged before. It is written when the room
-- is made, by expire_events, and by the first event after an empty log; so an index on it costs the log's writers nothing,
-- where an index on events would cost every event an entry. Rooms of today are all to be looked at.

ALTER TABLE rooms ADD COLUMN oldest_at timestamptz NOT NULL DEFAULT '-infinity';
ALTER TABLE rooms ALTER COLUMN oldest_at SET DEFAULT now();
CREATE INDEX rooms_oldest ON rooms (oldest_at);

-- Deletes at most max_rows events of all tenants that are older than age_s; says how many, and whether it stopped because
-- of max_rows. Of each log only a beginning goes, and first_seq moves with it: the rest has no gap, and seq stays, also
-- when the log is empty. A room that somebody is writing to, or another node is at, is left for the next time: nobody
-- waits for this, and it waits for nobody.
CREATE FUNCTION expire_events(age_s double precision, max_rows integer, OUT deleted bigint, OUT more boolean)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    cutoff timestamptz := now() - make_interval(secs => age_s);
    looked integer := 0;
    rest   integer;
    upto   bigint;
    gone   bigint;
    place  record;
BEGIN
    deleted := 0;
    FOR place IN
        SELECT r.tenant_id, r.room, r.seq, r.first_seq FROM rooms r
        WHERE r.oldest_at < cutoff ORDER BY r.oldest_at LIMIT max_rows FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        rest := max_rows - deleted;
        SELECT min(e.seq) INTO upto FROM events e
        WHERE e.tenant_id = place.tenant_id AND e.room = place.room
          AND e.seq >= place.first_seq AND e.seq < place.first_seq + rest AND e.at >= cutoff;
        upto := coalesce(upto, least(place.first_seq + rest, place.seq + 1));
        DELETE FROM events e
        WHERE e.tenant_id = place.tenant_id AND e.room = place.room AND e.seq >= place.first_seq AND e.seq < upto;
        GET DIAGNOSTICS gone = ROW_COUNT;
        UPDATE rooms r
        SET first_seq = upto,
            oldest_at = coalesce((SELECT least(e.at, now()) FROM events e
                                  WHERE e.tenant_id = place.tenant_id AND e.room = place.room AND e.seq = upto),
                                 'infinity')
        WHERE r.tenant_id = place.tenant_id AND r.room = place.room;
        deleted := deleted + gone;
        looked := looked + 1;
        EXIT WHEN deleted >= max_rows;
    END LOOP;
    more := deleted >= max_rows OR looked >= max_rows;
END
$$;
REVOKE ALL ON FUNCTION expire_events FROM public;
GRANT EXECUTE ON FUNCTION expire_events TO parlance_app;
