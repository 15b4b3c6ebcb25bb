-- What all nodes of an installation share and nobody but its owner may read: the secret that signs tokens.
-- The application role gets no grant: the server reads it once, as the owner, while it starts.
CREATE TABLE installation (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    secret   text NOT NULL CHECK (length(secret) >= 32)
);
