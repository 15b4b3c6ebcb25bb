-- How far the logs of named rooms go, of all tenants at once: a node compares what it told its members once a second.
-- Who asks must know tenant and room, and learns nothing but the number of the last event, where it is greater.
CREATE FUNCTION rooms_behind(tenants text[], names text[], seqs bigint[]) RETURNS TABLE (place integer, seq bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT known.place::integer, r.seq
    FROM unnest(tenants, names, seqs) WITH ORDINALITY AS known(tenant_id, room, seq, place)
    JOIN rooms r ON r.tenant_id = known.tenant_id AND r.room = known.room
    WHERE r.seq > known.seq
$$;
REVOKE ALL ON FUNCTION rooms_behind FROM public;
GRANT EXECUTE ON FUNCTION rooms_behind TO parlance_app;
