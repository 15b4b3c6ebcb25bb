"""One end of a socket in a worker: frames in, frames out, never waiting.

Policy: what the kernel does not take at once waits here. The queue has no bound of its own: the rules that decide what
is put into it (`streaming.recogniser.router`, `streaming.recogniser.windows`) bound it, and a worker reads nothing more
while `REPLIES_BYTES_MAX` wait for the server.
"""

import collections
import socket

from streaming.limits import KIB, LIMITS
from streaming.protocol.frames import FrameReader, Oversized
from streaming.recogniser import link

READ_BYTES = 64 * KIB
REPLIES_BYTES_MAX = LIMITS.worker_replies_bytes_max


class Peer:
    """A non-blocking socket with a reader of frames and a queue of what waits to be sent."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.reader = FrameReader(link.FRAME_BYTES_MAX)
        self.waiting_bytes = 0
        self._waiting: collections.deque[memoryview] = collections.deque()
        self._head_begun = False

    def put(self, payload: bytes, *, urgent: bool = False) -> None:
        """Queue a payload and send what the kernel takes; `urgent` drops queued frames of which no byte was sent."""
        if urgent:
            keep = [self._waiting[0]] if self._head_begun else []
            self._waiting = collections.deque(keep)
            self.waiting_bytes = sum(map(len, keep))
        self._waiting.append(memoryview(link.frame_payload(payload)))
        self.waiting_bytes += len(self._waiting[-1])
        self.flush()

    def flush(self) -> None:
        """Send what the kernel takes now. A broken socket is noticed by the next read."""
        while self._waiting:
            head = self._waiting[0]
            try:
                sent = self.sock.send(head)
            except BlockingIOError:
                return
            except OSError:
                self._waiting.clear()
                self.waiting_bytes = 0
                return
            self.waiting_bytes -= sent
            self._head_begun = sent < len(head)
            if self._head_begun:
                self._waiting[0] = head[sent:]
            else:
                self._waiting.popleft()

    def read(self) -> list[bytes | Oversized] | None:
        """Frames that arrived, None at the end."""
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return self.reader.feed(data) if data else None
