"""Frames on a byte stream: 4 bytes little-endian length, then so many bytes of payload.

Policy: a frame above its reader's limit is skipped without being held and reported as `Oversized`; it does not harm the
frames behind it.

Pure: bytes in, values out. Invariant: a reader holds at most one frame and one read of its caller.
"""

import msgspec

HEADER_BYTES = 4


class Oversized(msgspec.Struct, frozen=True):
    """A frame of `n_bytes` was announced and is being skipped."""

    n_bytes: int


def framed(payload: bytes, bytes_max: int) -> bytes:
    """Put the header before a payload. Raises ValueError above `bytes_max`."""
    if len(payload) > bytes_max:
        raise ValueError(f"a message of {len(payload)} bytes does not fit into a frame")
    return len(payload).to_bytes(HEADER_BYTES, "little") + payload


class FrameReader:
    """Cut a byte stream into frames, whatever the sizes in which it arrives."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: bytes) -> list[bytes | Oversized]:
        """Take `data`; returns the payloads that it completed, with `Oversized` where one is skipped."""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        self._buffer += data
        out: list[bytes | Oversized] = []
        at = 0
        while len(self._buffer) - at >= HEADER_BYTES:
            n_bytes = int.from_bytes(self._buffer[at : at + HEADER_BYTES], "little")
            body = at + HEADER_BYTES
            if n_bytes > self._bytes_max:
                out.append(Oversized(n_bytes))
                self._skip = max(0, n_bytes - (len(self._buffer) - body))
                at = min(len(self._buffer), body + n_bytes)
            elif len(self._buffer) - body < n_bytes:
                break
            else:
                out.append(bytes(self._buffer[body : body + n_bytes]))
                at = body + n_bytes
        del self._buffer[:at]
        return out
