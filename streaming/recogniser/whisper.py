"""Whisper by CTranslate2, the engine that WhisperX and faster-whisper stand on, called directly.

The windows of a call become log-mel pictures, are encoded once, decoded greedily without timestamps behind the words
that are fixed already (`streaming.recogniser.rolling`), and aligned where the times of words are needed: in finals, in
partials whose stream wants them, and where a window is cut. Elsewhere a partial's times are a guess.

Measured with the micro Whisper on 150 sentences and left out: beam 5 (WER 0.011 instead of 0.004 padded, no difference
behind given words) and timestamps (0.010 instead of 0.011, twice the tokens). Zeros behind a window, as faster-whisper
pads, did as well as silence or better. How often windows come and when their words are fixed: `cadence`, `policy`.

Guards (`streaming.recogniser.guards`): the number of tokens grows with the duration; marks without a word are no text;
improbable text, or what Whisper is known to write over silence, is none where nobody speaks; in a final what is
improbable, repeats itself or did not end is searched again with beams and without repeated trigrams, and is no prompt
for what follows; a text that only repeats its prompt is written again without one. Nothing is drawn at random, so equal
audio gives equal text and a run can be replayed.

Two guards more were measured and left out. Fixing no word of an improbable partial: 45 words invented instead of 71 in
three minutes of a synthesiser that passes for a voice, nothing changed in talk down to 5 dB above noise; but of what a
model hardly understands only 41% instead of 82% of the words were stable before their final (recordings), and
whispering came later and worse (WER 0.54 instead of 0.48). Fixing no word while three words come twice in a row, as a
decoder writes that has lost its place: 16 errors instead of 2 in one talk.

Boundary: imported in worker processes only. Finds its model by PARLANCE_MODEL, on this machine alone.
Invariant: what a window says does not depend on the other windows of the call.
"""

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from streaming.limits import LIMITS
from streaming.model import FRAME_SAMPLES, SAMPLE_RATE, Capabilities, ms_of, samples_of
from streaming.ports import Pcm16
from streaming.recogniser import rolling
from streaming.recogniser.cadence import PARTS
from streaming.recogniser.card import ModelCard, card_of
from streaming.recogniser.carry import Carry, packed, unpacked
from streaming.recogniser.decoding import GIVEN_TOKENS_MAX, GREEDY, SEARCHED, Ask, Decoder, Encoded, Text
from streaming.recogniser.devices import Device, batch_max, devices
from streaming.recogniser.engine import EngineUnavailable, Heard, Window
from streaming.recogniser.guards import (
    DOUBTFUL_LOGPROB,
    NO_SPEECH,
    UNLIKELY_LOGPROB,
    VOICED_MS_MIN,
    is_repetitive,
    is_silence_text,
    is_word,
    repeats,
)
from streaming.recogniser.languages import choose, known
from streaming.recogniser.pieces import Heard as Aligned
from streaming.recogniser.pieces import given_again, hypothesis_of, joined, pieces_of, unplaced
from streaming.recogniser.place import find, name_of
from streaming.recogniser.policy import HypothesisPolicy, LocalAgreement, Piece, Tail
from streaming.recogniser.rolling import Progress

HOP_MS = 480
"""Whole frames of the voice detector, and so are its parts (`cadence.PARTS`)."""
UTTERANCES_MAX = LIMITS.worker_utterances_max
"""An open utterance costs its audio and a place in the schedule."""
THREADS_MAX = 4
"""Of one decode; more hardly shorten it. Half of the cores, so that the server keeps some."""
WINDOW_SAMPLES_MIN = samples_of(100)
"""Nothing that shorter audio says is a word."""
TRANSLATE = "translate"
_UNIT = np.float32(1 / 32_768)

log = logging.getLogger("parlance.worker")


class _Hearing:
    """One window on its way through the model."""

    def __init__(self, window: Window) -> None:
        memory = window.memory
        self.window = window
        self.progress = memory if isinstance(memory, Progress) else Progress()
        self.carry = unpacked(window.spec.context)
        self.audio: Pcm16 = window.audio[self.progress.cut :]
        self.loud = rolling.loud_steps(self.audio)
        self.is_trusted = True
        """The text may be the prompt of what follows."""
        self.ask = Ask(0, len(self.audio), "en")
        self.text = Text((), 0.0)
        self.tail: tuple[Piece, ...] = ()
        self.is_aligned = False

    @property
    def until(self) -> int:
        return len(self.window.audio)

    @property
    def text_language(self) -> str:
        return "en" if self.window.spec.task == TRANSLATE else self.progress.language or "en"

    def respell(self, decoder: Decoder) -> None:
        """Give the fixed words of the window to another model than the one that heard them."""
        given = [decoder.spelled(piece, self.text_language) for piece in self.progress.given]
        fixed = self.progress.fixed[: self.progress.cut_words] + tuple(given)
        self.progress = msgspec.structs.replace(self.progress, fixed=fixed)

    def before(self) -> str:
        """The text before the window, of this utterance and the one before."""
        cut = joined([piece.text for piece in self.progress.fixed[: self.progress.cut_words]], self.text_language)
        return joined([text for text in (self.carry.text, cut) if text], self.text_language)

    def advanced(self, policy: HypothesisPolicy) -> Progress:
        """After a partial that heard `tail`."""
        if not self.progress.settled:
            return rolling.heard(self.progress, self.tail, self.until)
        at_rest = rolling.is_at_rest(self.loud)
        if self.is_aligned and self.tail:
            at_rest = self.tail[-1].end + rolling.REST_SAMPLES <= self.until
        return rolling.advance(self.progress, self.tail, policy, until=self.until, at_rest=at_rest)


class WhisperEngine:
    """See the module and `streaming.recogniser.engine.WindowEngine`. `model`: folder or name, default PARLANCE_MODEL;
    `card`: instead of the one in the folder, for measuring."""

    def __init__(
        self, model: str | None = None, card: ModelCard | None = None, policy: HypothesisPolicy | None = None
    ) -> None:
        self._wanted = model
        self._card = card
        self._policy = policy or LocalAgreement()
        self._name = ""
        self._live: Decoder | None = None
        self._final: Decoder | None = None
        self._batch_max = 1
        self._voice: Any = None

    @property
    def capabilities(self) -> Capabilities:
        """Complete once the model is loaded. Words come `fixed`: agreement is found here."""
        live = self._live
        several = live is not None and live.is_multilingual
        return Capabilities(
            name="whisperx",
            model=self._name,
            languages=live.languages if live is not None else ("en",),
            hop_ms=HOP_MS,
            agreement=0,
            holdback_words=0,
            activity="speech",
            utterances_max=UTTERANCES_MAX,
            utterance_ms_max=LIMITS.utterance_ms_max,
            notice=live.card.notice if live is not None else None,
            in_order=live is not None and (several or live.card.carry),
            batch_max=self._batch_max,
            tasks=("transcribe", TRANSLATE) if several else ("transcribe",),
            parts=PARTS,
        )

    def load(self) -> None:
        wanted = self._wanted or os.environ.get("PARLANCE_MODEL", "")
        folder = find(wanted)
        card = self._card or card_of(folder)
        self._name = card.name or name_of(wanted, folder)
        asked = devices(os.environ.get("PARLANCE_DEVICE", "auto"), os.environ.get("PARLANCE_COMPUTE_TYPE", "auto"))
        self._live, device = _open(folder, card, asked)
        better = os.environ.get("PARLANCE_FINAL_MODEL", "")
        if better:
            place = find(better)
            self._final, _ = _open(place, card_of(place), [device])
            if not set(self._live.languages) <= set(self._final.languages):
                raise EngineUnavailable(f"{place}, the model of finals, knows fewer languages than the one in {folder}")
            self._name = f"{self._name} + {card_of(place).name or name_of(better, place)}"
        self._batch_max = batch_max(device)

    def frames(self, window: Window) -> int:
        """Mel frames, padding included."""
        progress = window.memory if isinstance(window.memory, Progress) else Progress()
        return self._decoder_of(window).frames(len(window.audio) - progress.cut)

    def decode(self, windows: Sequence[Window]) -> list[Heard]:
        hearings = [_Hearing(window) for window in windows]
        audible = [hearing for hearing in hearings if len(hearing.audio) >= WINDOW_SAMPLES_MIN]
        for decoder in (self._live, self._final):
            of_decoder = [hearing for hearing in audible if self._decoder_of(hearing.window) is decoder]
            if of_decoder and decoder is not None:
                self._hear(decoder, of_decoder)
        return [self._heard(hearing) for hearing in hearings]

    def _decoder_of(self, window: Window) -> Decoder:
        assert self._live is not None, "load comes first"
        return self._final if window.is_final and self._final is not None else self._live

    def _hear(self, decoder: Decoder, hearings: Sequence[_Hearing]) -> None:
        audios = [hearing.audio.astype(np.float32) * _UNIT for hearing in hearings]
        encoded = decoder.encode(audios, max(decoder.frames(len(audio)) for audio in audios))
        self._settle(decoder, encoded, hearings)
        if decoder is self._final:
            for hearing in hearings:
                hearing.respell(decoder)
        for row, hearing in enumerate(hearings):
            hearing.ask = _ask(decoder, row, hearing)
        texts = decoder.write(encoded, [hearing.ask for hearing in hearings], GREEDY)
        for hearing, text in zip(hearings, texts, strict=True):
            hearing.text = self._checked(decoder, encoded, hearing, text)
            hearing.tail = rolling.spread(
                _pieces(decoder, hearing, unplaced(hearing.text.tokens, math.exp(hearing.text.logprob))),
                hearing.loud,
                hearing.progress.cut,
                hearing.progress.given[-1].end if hearing.progress.given else hearing.progress.cut,
            )
        self._align(decoder, encoded, [hearing for hearing in hearings if self._wants_times(decoder, hearing)])
        for hearing in hearings:
            self._go_on(decoder, hearing)

    def _settle(self, decoder: Decoder, encoded: Encoded, hearings: Sequence[_Hearing]) -> None:
        """Find each window's language."""
        unknown = []
        for row, hearing in enumerate(hearings):
            spec, progress = hearing.window.spec, hearing.progress
            # Another model may have found a language that this one does not know.
            wish = known(spec.language, decoder.languages) or known(hearing.carry.language or "", decoder.languages)
            settled = progress.language if progress.settled else None
            language = settled or wish or (None if decoder.is_multilingual else "en")
            if language in decoder.languages:
                hearing.progress = msgspec.structs.replace(progress, language=language, settled=True)
            else:
                unknown.append((row, hearing))
        if not unknown:
            return
        found = decoder.languages_of(encoded, [row for row, _ in unknown])
        for (_, hearing), ranked in zip(unknown, found, strict=True):
            choice = choose(ranked, len(hearing.audio))
            same = choice.language == hearing.progress.language
            hearing.progress = msgspec.structs.replace(
                hearing.progress,
                language=choice.language,
                settled=choice.settled,
                certain=choice.certain,
                tails=hearing.progress.tails if same else (),
            )

    def _checked(self, decoder: Decoder, encoded: Encoded, hearing: _Hearing, text: Text) -> Text:
        """`text`, or what shall stand for it."""
        if self._is_invented(decoder, encoded, hearing, text):
            return Text((), 0.0)
        if hearing.window.is_final and _is_suspicious(decoder, hearing, text):
            hearing.is_trusted = False
            (other,) = decoder.write(encoded, [hearing.ask], SEARCHED)
            if text.is_cut or other.logprob > text.logprob:
                text = other
        elif hearing.ask.before and repeats(_words(decoder, hearing, text), hearing.before()):
            hearing.ask = msgspec.structs.replace(hearing.ask, before=())
            (text,) = decoder.write(encoded, [hearing.ask], GREEDY)
        return text

    def _is_invented(self, decoder: Decoder, encoded: Encoded, hearing: _Hearing, text: Text) -> bool:
        """There is text, and hardly anybody speaks."""
        words = _words(decoder, hearing, text)
        if not any(map(is_word, words)):
            return True
        known_text = is_silence_text(words)
        if text.logprob >= DOUBTFUL_LOGPROB and not known_text:
            return False
        if self._voiced_ms(hearing.audio) < VOICED_MS_MIN:
            return True
        doubt = known_text or text.logprob < UNLIKELY_LOGPROB
        return doubt and decoder.no_speech(encoded, hearing.ask) > NO_SPEECH

    def _voiced_ms(self, audio: Pcm16) -> int:
        if self._voice is None:
            from streaming.audio.vad import VoiceDetector  # only what is doubtful needs it

            self._voice = VoiceDetector()
        self._voice.reset()
        frames = [audio[at : at + FRAME_SAMPLES] for at in range(0, len(audio) - FRAME_SAMPLES + 1, FRAME_SAMPLES)]
        return ms_of(FRAME_SAMPLES * sum(self._voice.is_speech(frame, in_speech=True) for frame in frames))

    def _wants_times(self, decoder: Decoder, hearing: _Hearing) -> bool:
        if hearing.window.is_final:
            return bool(hearing.progress.given or hearing.text.tokens)
        if not hearing.text.tokens:
            return False
        if hearing.window.spec.words or self._policy.aligned or rolling.echo_words(hearing.progress, hearing.tail):
            return True
        # A sentence is fixed whole, or the window is cut: words that a decoder invents stand where it is silent.
        advanced = hearing.advanced(self._policy)
        is_whole = advanced.settled and not advanced.tails[-1].words
        return is_whole or bool(rolling.cut_words(advanced, hearing.until, _window_samples(decoder)))

    def _align(self, decoder: Decoder, encoded: Encoded, hearings: Sequence[_Hearing]) -> None:
        if not hearings:
            return
        asks = [hearing.ask for hearing in hearings]
        found = decoder.align(encoded, asks, [hearing.text.tokens for hearing in hearings])
        for hearing, aligned in zip(hearings, found, strict=True):
            origin, n_given = hearing.progress.cut, len(hearing.ask.given)
            starts = [origin + start for start in aligned.starts]
            given = Aligned(aligned.tokens[:n_given], starts[: n_given + 1], aligned.odds[:n_given])
            new = Aligned(aligned.tokens[n_given:], starts[n_given:], aligned.odds[n_given:])
            again = given_again(hearing.progress.given, given)
            pieces = rolling.tightened([*again, *_pieces(decoder, hearing, new)], hearing.loud, origin)
            hearing.progress, hearing.tail = rolling.placed(hearing.progress, pieces)
            hearing.is_aligned = True

    def _go_on(self, decoder: Decoder, hearing: _Hearing) -> None:
        """What is known of the utterance after this window."""
        hearing.progress, hearing.tail = rolling.without_echo(hearing.progress, hearing.tail)
        if hearing.window.is_final:
            hearing.progress = msgspec.structs.replace(hearing.progress, tails=(Tail(hearing.tail, hearing.until),))
        else:
            hearing.progress = rolling.trimmed(hearing.advanced(self._policy), hearing.until, _window_samples(decoder))

    def _heard(self, hearing: _Hearing) -> Heard:
        spec, progress = hearing.window.spec, hearing.progress
        language = hearing.text_language
        hypothesis = hypothesis_of(progress, spec.start_sample, hearing.until, language=language)
        context = b""
        if hearing.window.is_final and self.capabilities.in_order:
            said = joined([piece.text for piece in progress.words], language) if hearing.is_trusted else ""
            found = progress.language if progress.certain else hearing.carry.language
            context = packed(Carry(language=found, text=said))
        return Heard(hypothesis, context=context, memory=progress)


def _open(folder: Path, card: ModelCard, asked: Sequence[Device]) -> tuple[Decoder, Device]:
    """The model on the first of the devices that can have it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for device in asked:
        try:
            decoder = Decoder(
                folder,
                card,
                device=device.kind,
                device_index=device.index,
                compute_type=device.compute_type,
                threads=max(1, min(THREADS_MAX, cores // 2)),
            )
            # What is missing on this machine shows now.
            decoder.encode([np.zeros(SAMPLE_RATE, np.float32)], decoder.frames(SAMPLE_RATE))
        except Exception as error:  # the component boundary: tokenizers raise plain exceptions
            reason = " ".join(str(error).split())[:200]
            if device is asked[-1]:
                raise EngineUnavailable(
                    f"the Whisper model in {folder} cannot be loaded on {device}: {reason}"
                ) from error
            log.warning("%s cannot be used: %s", device, reason)
        else:
            return decoder, device
    raise EngineUnavailable("no device is configured")


def _ask(decoder: Decoder, row: int, hearing: _Hearing) -> Ask:
    spec, progress = hearing.window.spec, hearing.progress
    language = progress.language or "en"
    task = spec.task if decoder.is_multilingual else "transcribe"
    given = tuple(token for piece in progress.given for token in piece.tokens)
    return Ask(
        row=row,
        n_samples=len(hearing.audio),
        language=language,
        task=task,
        before=decoder.prompt(language, spec.vocabulary, hearing.before()),
        given=given[-GIVEN_TOKENS_MAX:],
    )


def _pieces(decoder: Decoder, hearing: _Hearing, aligned: Aligned) -> tuple[Piece, ...]:
    return pieces_of(aligned, decoder.tokenizer(hearing.text_language), first=not hearing.progress.given)


def _text(decoder: Decoder, hearing: _Hearing, text: Text) -> str:
    return str(decoder.tokenizer(hearing.text_language).decode(list(text.tokens)))


def _words(decoder: Decoder, hearing: _Hearing, text: Text) -> list[str]:
    return _text(decoder, hearing, text).split()


def _is_suspicious(decoder: Decoder, hearing: _Hearing, text: Text) -> bool:
    return text.is_cut or text.logprob < UNLIKELY_LOGPROB or is_repetitive(_text(decoder, hearing, text))


def _window_samples(decoder: Decoder) -> int:
    return samples_of(int(decoder.card.window_s * 1000))
