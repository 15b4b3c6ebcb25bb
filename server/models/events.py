"""What the program `server.models.fetch` says while it works, one JSON object a line, and the error it ends with.

Pure: values and their text.
"""

from typing import Literal

import msgspec

from streaming.errors import Unavailable

Reason = Literal["unreachable", "offline", "not_found", "checksum", "no_room", "failed"]


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """`file`: the one that is under way, "" between files."""

    done_bytes: int
    total_bytes: int
    file: str

    @property
    def fraction(self) -> float:
        return min(1.0, self.done_bytes / self.total_bytes) if self.total_bytes else 0.0


class Note(msgspec.Struct, frozen=True, tag="note"):
    """One sentence about something unusual: a connection that broke, a file that is fetched again."""

    text: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    """`fetched_bytes`: by this run; 0 when everything was here and only checked."""

    path: str
    fetched_bytes: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    reason: Reason
    message: str


Event = Progress | Note | Done | Failed
_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


class FetchFailed(Unavailable):
    """A model cannot be fetched. `message` is one sentence; "unreachable" is worth another try later."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def line(event: Event) -> str:
    return msgspec.json.encode(event).decode()


def parse(text: str) -> Event | None:
    """None for a line that is no event: a library's warning."""
    try:
        return _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
