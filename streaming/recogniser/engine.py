"""What a speech engine implements inside a worker process.

An engine is plain blocking code that knows no sockets, no event loop and no other utterance. There are two kinds:

- `Engine`: a decoder with state that follows the audio. The worker loads it once in a single-threaded process, forks,
  and drives one utterance at a time in each fork.
- `WindowEngine`: one model for all, asked about a window of audio at a time. It is never forked; one thread asks it.

Boundary: `streaming.recogniser.worker` is the only caller in production; nothing here runs in the server process.
Invariant: an utterance depends on its `UtteranceSpec` and its audio alone, never on the utterance before it in the
same process (streams of different tenants share a process).
"""

import importlib
import os
from collections.abc import Sequence
from typing import Protocol, TypeGuard, cast

import msgspec

from streaming.model import Capabilities, Final, Hypothesis, UtteranceSpec
from streaming.ports import Pcm16


class EngineUnavailable(Exception):
    """The engine cannot work here, and trying again will not help. The text is one sentence for the operator."""


class EngineUtterance(Protocol):
    """One utterance inside an engine. Calls come from one thread, in order, none after `final` or `discard`."""

    def feed(self, audio: Pcm16) -> None:
        """Append `audio`, any number of samples; decodes what it can."""
        ...

    def partial(self) -> Hypothesis:
        """Hypothesis over all audio fed so far."""
        ...

    def final(self) -> Final:
        """End the utterance: the best hypothesis over all of its audio, and the stream's next context."""
        ...

    def discard(self) -> None:
        """End the utterance without a result."""
        ...


class Engine(Protocol):
    """A recogniser's model. The constructor takes no argument and is cheap; `load` does the work and raises
    `EngineUnavailable`.

    An exception out of any method ends the process it happened in: the caller offers the audio again."""

    @property
    def capabilities(self) -> Capabilities: ...

    def load(self) -> None:
        """Read the model into memory. Runs once, before any fork, and must leave no thread behind."""
        ...

    def begin(self, spec: UtteranceSpec) -> EngineUtterance:
        """Begin an utterance; the previous one has ended. A `context` it does not understand is ignored."""
        ...


class Window(msgspec.Struct, frozen=True):
    """All audio of an utterance so far. `is_final`: no more will come; `memory`: what the engine returned with the
    utterance's window before, None with the first one and after a restart."""

    spec: UtteranceSpec
    audio: Pcm16
    is_final: bool
    memory: object = None


class Heard(msgspec.Struct, frozen=True):
    """What an engine makes of a window. `context`: for the stream's next utterance, of a final window; `memory`: for
    this utterance's next window."""

    hypothesis: Hypothesis
    context: bytes = b""
    memory: object = None


class WindowEngine(Protocol):
    """A recogniser whose one model serves all utterances, window by window. The constructor takes no argument and is
    cheap; `load` does the work and raises `EngineUnavailable`."""

    @property
    def capabilities(self) -> Capabilities: ...

    def load(self) -> None: ...

    def frames(self, window: Window) -> int:
        """Length of what the model would be given for `window`, padding included, in any unit: windows of one call
        have equal lengths. Pure and quick."""
        ...

    def decode(self, windows: Sequence[Window]) -> list[Heard]:
        """What was heard in each window: at most `Capabilities.batch_max`, of different utterances and equal `frames`.

        Called from one thread that is not the one of `load`. An exception says nothing of any of them: the caller
        tries them one by one, and loses the utterance that fails alone. Releases the interpreter while it computes, or
        the worker cannot move frames."""
        ...


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_window_engine(engine: Engine | WindowEngine) -> TypeGuard[WindowEngine]:
    """Which kind: a window engine has `decode`, the other kind `begin`."""
    return hasattr(type(engine), "decode")


def load_class(reference: str) -> type[Engine] | type[WindowEngine]:
    """Resolve `package.module:Class`. Raises ValueError for a malformed or unknown reference; what the module
    itself raises while it is imported comes through unchanged."""
    module_name, _, class_name = reference.partition(":")
    if not module_name or not class_name:
        raise ValueError(f"engine {reference!r} is not of the form package.module:Class")
    found = getattr(importlib.import_module(module_name), class_name, None)
    if not isinstance(found, type):
        raise ValueError(f"engine {reference!r}: the module has no such class")  # noqa: TRY004 - a wrong name
    return cast("type[Engine] | type[WindowEngine]", found)
