-- Who spoke. A final whose words belong to several speakers is split by a revision: the pieces after the first are
-- inserted, with the ordinal of the segment that they come from, so that ordinals count what streams commit.
ALTER TABLE segments
    ADD COLUMN inserted boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT segments_tenant_id_recording_id_ordinal_key;
CREATE UNIQUE INDEX segments_committed ON segments (tenant_id, recording_id, ordinal) WHERE NOT inserted;
-- Transcripts and neighbours are read in the order of start.
CREATE INDEX segments_order ON segments (tenant_id, recording_id, start_ms, ordinal, segment_id);

-- What tells this stream's speakers apart (streaming.diariser.track), so that labels go on being the same elsewhere.
ALTER TABLE streams ADD COLUMN speakers bytea NOT NULL DEFAULT '';
