-- Bytes of a stream at which containers begin: a client whose recorder began anew sends another one after what is there.
ALTER TABLE streams ADD COLUMN containers bigint[] NOT NULL DEFAULT '{0}' CHECK (cardinality(containers) > 0);
