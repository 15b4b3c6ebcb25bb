"""Kept audio in memory."""

from collections.abc import Iterable

from streaming.model import Part


class MemoryLog:
    """`streaming.ports.AudioReader` with the appending side of `server.media.ports.AudioLog`."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.parts: list[Part] = []

    @property
    def end(self) -> int:
        return len(self.data)

    def append(self, data: bytes) -> int:
        self.data += data
        return len(self.data)

    def read_range(self, start: int, end: int) -> bytes:
        return bytes(self.data[start:end])

    def keep_parts(self, parts: Iterable[Part]) -> None:
        """As `server.media.parts.PartLog.append`."""
        self.parts += [part for part in parts if not self.parts or part.offset > self.parts[-1].offset]

    def cut(self, end: int) -> None:
        """A power cut: what was not synced is gone."""
        del self.data[end:]
        self.parts = [part for part in self.parts if part.offset < end]
