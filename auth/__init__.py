"""Who may do what: identities, tokens, the access policy."""
