"""Finding what was said: queries, ranking, the index behind a port."""
