-- Whether the present owner of a stream took it by itself, because its lease had run out, and not for a client: then
-- the client of the node that was away may have it back.
ALTER TABLE streams ADD COLUMN adopted boolean NOT NULL DEFAULT false;
