"""What clients of the other servers send and hear, and what the words on the screen are then.

Pure: bytes and messages in, values out; `bench.peers.load` moves them. Every reader follows the client that comes with
the server, in its package: WhisperLiveKit's `test_client.py`, WhisperLive's `client.py`.

Policy: what a server says it will not change is confirmed (WhisperLiveKit: `lines`; WhisperLive: segments that are
`completed`), whatever else it sends is tentative. It is not held to it here: `bench.peers.figures` counts the changes.
"""

import json
from typing import Any, Protocol

import msgspec
import numpy as np

from streaming.ports import Pcm16

FULL = "WAIT"
"""WhisperLive's word for: later."""


class Shown(msgspec.Struct, frozen=True, array_like=True):
    """The words on the screen from `at_ms` of the stream's clock on: all that are confirmed, and what follows them."""

    at_ms: float
    confirmed: str
    tentative: str

    @property
    def text(self) -> str:
        return " ".join([*self.confirmed.split(), *self.tentative.split()])


class Dialect(Protocol):
    """One connection. `ready`: audio may be sent; `refused`: why there will be no stream; `settled`: all that is on
    the screen is confirmed; `over`: nothing will come any more. `farewell` is sent when all was said, or, where
    `hangs_up`, when the words have come to rest: that server stops at once when it hears it."""

    ready: bool
    refused: str
    settled: bool
    over: bool
    farewell: bytes
    hangs_up: bool

    def opening(self) -> str | None: ...

    def piece(self, audio: Pcm16) -> bytes: ...

    def read(self, message: str) -> tuple[str, str] | None:
        """The confirmed and the tentative words after this message; None when it is about something else."""


class WhisperLiveKit:
    """`/asr` of a server with --pcm-input: 16 bit samples; the whole text with every message."""

    farewell = b""
    hangs_up = False

    def __init__(self) -> None:
        self.ready = self.settled = self.over = False
        self.refused = ""

    def opening(self) -> str | None:
        return None

    def piece(self, audio: Pcm16) -> bytes:
        return audio.tobytes()

    def read(self, message: str) -> tuple[str, str] | None:
        told: dict[str, Any] = json.loads(message)
        if told.get("type") == "config":
            self.ready = True
            return None
        if told.get("type") == "ready_to_stop":
            self.over = True
            return None
        if told.get("error"):
            self.refused = self.refused or str(told["error"])
        if "lines" not in told:
            return None
        lines = [line.get("text") or "" for line in told["lines"]]  # a silence is a line without
        tentative = words(str(told.get("buffer_transcription") or ""))
        self.settled = not tentative
        return words(" ".join(lines)), tentative


class WhisperLive:
    """float32 samples; every message has the last segments: those that are completed never change, and stay on the
    screen when they are no longer sent."""

    farewell = b"END_OF_AUDIO"
    hangs_up = True

    def __init__(self, uid: str, model: str, options: dict[str, Any]) -> None:
        self.ready = self.settled = self.over = False
        self.refused = ""
        self._hello = {"uid": uid, "language": "en", "task": "transcribe", "model": model, "use_vad": True, **options}
        self._completed: dict[tuple[str, str, str], None] = {}

    def opening(self) -> str | None:
        return json.dumps(self._hello)

    def piece(self, audio: Pcm16) -> bytes:
        return (audio.astype(np.float32) / 32_768).tobytes()

    def read(self, message: str) -> tuple[str, str] | None:
        told: dict[str, Any] = json.loads(message)
        if told.get("status") in (FULL, "ERROR"):
            self.refused = f"{told['status']}: {told.get('message')}"
        if told.get("message") == "SERVER_READY":
            self.ready = True
        if told.get("message") == "DISCONNECT":
            self.over = True
        if "segments" not in told:
            return None
        open_texts = []
        for segment in told["segments"]:
            if segment.get("completed"):
                self._completed[segment["start"], segment["end"], segment["text"]] = None
            else:
                open_texts.append(str(segment["text"]))
        tentative = words(" ".join(open_texts))
        self.settled = not tentative
        return words(" ".join(text for _, _, text in self._completed)), tentative


def words(text: str) -> str:
    """With one space between them."""
    return " ".join(text.split())
