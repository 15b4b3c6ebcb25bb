"""Live speech: audio in, captions out. Knows no sockets and no database."""
