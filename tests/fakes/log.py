"""Kept audio in memory."""


class MemoryLog:
    """`streaming.ports.AudioReader` with the appending side of `server.media.audiolog.AudioLog`."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)

    @property
    def end(self) -> int:
        return len(self.data)

    def append(self, data: bytes) -> int:
        self.data += data
        return len(self.data)

    def read_range(self, start: int, end: int) -> bytes:
        return bytes(self.data[start:end])
