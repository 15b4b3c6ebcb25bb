"""Audio that the server may still ask for again: the bytes [start, end) of one encoded stream.

Bytes enter at the end and leave at the start; nothing is dropped to make room. They lie in blocks of a fixed size under
their number (offset // BLOCK_BYTES), so appending, reading and freeing cost what they touch, however much waits: one
`bytearray` of 60 MB was copied whole now and then, 34 ms at a time.

Pure. Invariant: `end - start` bytes are held, never more than `bytes_max`, in at most two blocks more than they fill.
"""

BLOCK_BYTES = 64 * 1024
"""As large as the largest chunk, which so lies in two blocks at most."""


class Ring:
    """`origin`: the offset of the first byte that will be appended."""

    def __init__(self, bytes_max: int, *, origin: int = 0) -> None:
        self._bytes_max = bytes_max
        self._start = self._end = origin
        self._blocks: dict[int, bytearray] = {}

    @property
    def start(self) -> int:
        return self._start

    @property
    def end(self) -> int:
        return self._end

    @property
    def room(self) -> int:
        """Bytes that can be appended now."""
        return self._bytes_max - (self._end - self._start)

    @property
    def held_bytes(self) -> int:
        """Memory that the blocks take."""
        return len(self._blocks) * BLOCK_BYTES

    def append(self, audio: bytes | bytearray | memoryview) -> None:
        """Add audio at the end. Raises ValueError beyond `room`."""
        if len(audio) > self.room:
            raise ValueError("the ring is full")
        rest = memoryview(audio)
        while rest:
            number, at = divmod(self._end, BLOCK_BYTES)
            if number not in self._blocks:
                self._blocks[number] = bytearray(BLOCK_BYTES)
            count = min(len(rest), BLOCK_BYTES - at)
            self._blocks[number][at : at + count] = rest[:count]
            self._end += count
            rest = rest[count:]

    def read(self, start: int, end: int) -> bytes:
        """The bytes [start, end), which are held. Raises ValueError for others."""
        if not self._start <= start <= end <= self._end:
            raise ValueError(f"[{start}, {end}) is outside of [{self._start}, {self._end})")
        pieces = []
        while start < end:
            number, at = divmod(start, BLOCK_BYTES)
            count = min(end - start, BLOCK_BYTES - at)
            pieces.append(memoryview(self._blocks[number])[at : at + count])
            start += count
        return b"".join(pieces)

    def free(self, offset: int) -> None:
        """The server will not ask for bytes before `offset` again."""
        offset = max(self._start, min(offset, self._end))
        for number in range(self._start // BLOCK_BYTES, offset // BLOCK_BYTES):
            self._blocks.pop(number, None)
        self._start = offset
