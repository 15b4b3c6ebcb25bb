-- What an engine carries from one utterance to the next, so that a stream goes on elsewhere as it would have here.

ALTER TABLE streams ADD COLUMN context bytea NOT NULL DEFAULT '';
