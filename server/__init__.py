"""The server: sockets, HTTP, database, workers; wires streaming, search and auth together."""
