"""Engines that hear `tests.fakes.tones` window by window, to drive the worker's way of sharing one model."""

import os
import signal
import threading
from collections.abc import Sequence

import msgspec

from streaming.model import Capabilities
from streaming.recogniser.engine import EngineUnavailable, Heard, Window
from tests.fakes.tones import NarrowToneEngine, ToneUtterance

POISON = "poison"
"""A language that `WindowToneEngine` cannot bear."""


class WindowToneEngine:
    """A `streaming.recogniser.engine.WindowEngine`. Its memory counts the windows of an utterance."""

    @property
    def capabilities(self) -> Capabilities:
        return NarrowToneEngine().capabilities

    def load(self) -> None:
        pass

    def frames(self, window: Window) -> int:
        return len(window.audio)

    def decode(self, windows: Sequence[Window]) -> list[Heard]:
        return [self._decode(window) for window in windows]

    def _decode(self, window: Window) -> Heard:
        if window.spec.language == POISON:
            raise ValueError("something that was said")
        utterance = ToneUtterance(window.spec)
        utterance.feed(window.audio)
        before = window.memory if isinstance(window.memory, int) else 0
        return Heard(utterance.partial(), context=utterance.final().context, memory=before + 1)


class BatchToneEngine(WindowToneEngine):
    """Hears several windows of about equal length in one call."""

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities, utterances_max=64, batch_max=8)

    def frames(self, window: Window) -> int:
        return len(window.audio) // 16_000


class DyingEngine(BatchToneEngine):
    """Takes its process with it when it hears `POISON`."""

    def _decode(self, window: Window) -> Heard:
        if window.spec.language == POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._decode(window)


class HangingEngine(WindowToneEngine):
    """Does not come back from a decode until the test ends."""

    began = threading.Event()
    go_on = threading.Event()

    def decode(self, windows: Sequence[Window]) -> list[Heard]:
        self.began.set()
        self.go_on.wait()
        return super().decode(windows)


class AbsentEngine(WindowToneEngine):
    """Has no model."""

    def load(self) -> None:
        raise EngineUnavailable("there is no model")
