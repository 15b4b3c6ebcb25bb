"""What the same model makes of the same audio when it hears every utterance whole: the yardstick of streaming.

Policy: as programs for files do it, each utterance is one window padded to Whisper's 30 s, decoded once; PocketSphinx,
which follows the audio, is fed all of it before it is asked. The utterances are those that the server cuts.

Boundary: the engine in this process, no server.
"""

import time
from pathlib import Path
from typing import Protocol, cast

import msgspec

from bench.speech import Clip, Cut
from streaming.model import Capabilities, Final, UtteranceSpec
from streaming.ports import Pcm16
from streaming.recogniser.card import Padding, card_of
from streaming.recogniser.engine import Engine, Window
from streaming.recogniser.pocketsphinx import PocketSphinxEngine
from streaming.recogniser.whisper import WhisperEngine

PADDED_S = 30.0
"""Whisper's window: what every model was trained on."""


class Decoded(msgspec.Struct, frozen=True):
    """Words of a clip's utterances, and what hearing them took. `load` is not counted."""

    texts: list[str]
    cpu_s: float
    wall_s: float


class Offline(Protocol):
    """An engine without a server."""

    @property
    def capabilities(self) -> Capabilities: ...

    def hear(self, audio: Pcm16, context: bytes) -> Final:
        """The final of a whole utterance."""
        ...


class OfflineWhisper:
    def __init__(self, model: Path) -> None:
        card = msgspec.structs.replace(card_of(model), padding=Padding(min_s=PADDED_S))
        self._engine = WhisperEngine(str(model), card)
        self._engine.load()

    @property
    def capabilities(self) -> Capabilities:
        return self._engine.capabilities

    def hear(self, audio: Pcm16, context: bytes) -> Final:
        heard = self._engine.decode([Window(UtteranceSpec("bench", 0, "en"), audio, is_final=True)])[0]
        return Final(heard.hypothesis)


class OfflineSphinx:
    def __init__(self) -> None:
        self._engine = cast("Engine", PocketSphinxEngine())
        self._engine.load()

    @property
    def capabilities(self) -> Capabilities:
        return self._engine.capabilities

    def hear(self, audio: Pcm16, context: bytes) -> Final:
        utterance = self._engine.begin(UtteranceSpec("bench", 0, "en", context=context))
        utterance.feed(audio)
        return utterance.final()


def decode(engine: Offline, clip: Clip, cuts: list[Cut]) -> Decoded:
    """The clip's utterances in order; the engine's context goes from one to the next, as in a stream."""
    texts, context = [], b""
    cpu, wall = time.process_time(), time.perf_counter()
    for cut in cuts:
        final = engine.hear(clip.audio[cut.begin : cut.end], context)
        context = final.context
        texts.append(" ".join(word.text for word in final.hypothesis.words))
    return Decoded(texts, time.process_time() - cpu, time.perf_counter() - wall)
