"""Whisper by CTranslate2, the engine that WhisperX and faster-whisper stand on, called directly.

A window of audio becomes a log-mel picture, is encoded once, decoded greedily without timestamps behind the words that
are fixed already (`streaming.recogniser.rolling`), and aligned for word times; all from one encoding.

Padding is a policy of the model (`parlance.json` in its folder, `ModelCard`): real Whisper was trained on 30 s windows
and may degrade or loop on shorter ones, so 30 s is the rule and less has to be measured. Measured on the micro Whisper
(150 spoken sentences): 30 s WER 0.004 at 95 ms of CPU; unpadded 0.130 at 3 ms; 0.5 s behind the audio 0.011; 1 s 0.006;
2 s 0.005 to 0.006 at 4 ms. Zeros, as faster-whisper pads, did as well as silence or better.

Measured and left out, on the same sentences: beam 5 (WER 0.011 instead of 0.004 padded, no difference behind given
words), timestamps (0.010 instead of 0.011, twice the tokens), the text before a window as its prompt (0.020 instead of
0.010), partials every 300 ms (0.015 instead of 0.009: the same mistake is made twice in a row, and fixed) and agreement
of three windows (no better than two that lie 480 ms apart).

Guards: the number of tokens grows with the duration; a decoder that repeats itself is cut off, in a final after a
second try with beams and without repeated trigrams; improbable text over likely silence is none. Nothing is drawn at
random (CTranslate2 seeds its numbers once per thread), so equal audio gives equal text and a run can be replayed.

Boundary: imported in worker processes only. Finds its model by PARLANCE_MODEL, on this machine alone.
"""

import logging
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import ctranslate2
import msgspec
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.utils import download_model
from numpy.typing import NDArray

from streaming.limits import LIMITS
from streaming.model import SAMPLE_RATE, Capabilities, Hypothesis, Word, ms_of, samples_of
from streaming.ports import Pcm16
from streaming.recogniser.engine import EngineUnavailable, Heard, Window
from streaming.recogniser.rolling import Piece, Progress, advance, loop_start, tightened, trimmed, without_echo

HOP_MS = 480
"""Whole frames of the voice detector. 640 ms lost words' freshness for little (WER 0.007 instead of 0.009)."""
UTTERANCES_MAX = 64
"""An open utterance costs its audio, at most 1.9 MB, and a place in the schedule."""
THREADS_MAX = 4
"""Of one decode; more hardly shorten it. Half of the cores, so that the server keeps some."""

FILES = ("model.bin", "config.json", "tokenizer.json")
CARD = "parlance.json"
MEL_FRAMES_MAX = 3_000
"""30 s, Whisper's window."""
MEL_SAMPLES = 160
ENCODED_SAMPLES = 2 * MEL_SAMPLES
"""One position of the encoder, 20 ms: the unit of word times."""
_UNIT = np.float32(1 / 32_768)
WINDOW_SAMPLES_MIN = samples_of(100)
"""Nothing that shorter audio says is a word."""
TOKENS_MAX = 448
TOKENS_PER_S, TOKENS_PER_S_MULTILINGUAL, TOKENS_SPARE = 10, 25, 8
"""Fast English needs 6 tokens a second; scripts that Whisper spells byte by byte three times as many."""
GIVEN_TOKENS_MAX, VOCABULARY_TOKENS_MAX = 300, 100
"""So that at least 40 places of the decoder are left; `PREFIX_TOKENS_MAX` keeps the given words well below."""
UNLIKELY_LOGPROB, NO_SPEECH = -1.0, 0.6
"""Whisper's own thresholds (openai/whisper, `transcribe.py`)."""
RETRY = {"beam_size": 5, "no_repeat_ngram_size": 3}

SPACELESS = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces: their words are the pieces between punctuation marks."""
CLAUSE_END = re.compile(r"[。，、！？；：…,.!?;:]$")
_LANGUAGE_TOKEN = re.compile(r"<\|(\w+)\|>")

log = logging.getLogger("parlance.worker")


class Padding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A window is padded to at least `min_s`, and by at least `tail_s`, seconds."""

    min_s: float = 30.0
    tail_s: float = 0.0


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured about a model. `window_s`: longer windows lose their finished sentences; `vocabulary`: it
    profits from a client's vocabulary as a prompt; `name`, `notice`: for `Capabilities`."""

    padding: Padding = Padding()
    window_s: float = 15.0
    vocabulary: bool = True
    name: str | None = None
    notice: str | None = None


class WhisperEngine:
    """See the module and `streaming.recogniser.engine.WindowEngine`. `model`: folder or name, default PARLANCE_MODEL;
    `card`: instead of the one in the folder, for measuring."""

    def __init__(self, model: str | None = None, card: ModelCard | None = None) -> None:
        self._wanted = model
        self._card = card or ModelCard()
        self._card_given = card is not None
        self._name = ""
        self._model: Any = None
        self._features: Any = None
        self._tokenizer: Any = None

    @property
    def capabilities(self) -> Capabilities:
        """Complete once the model is loaded. Words come `fixed`: agreement is found here."""
        return Capabilities(
            name="whisperx",
            model=self._name,
            languages=() if self._multilingual else ("en",),
            hop_ms=HOP_MS,
            agreement=0,
            holdback_words=0,
            activity="speech",
            utterances_max=UTTERANCES_MAX,
            utterance_ms_max=LIMITS.utterance_ms_max,
            notice=self._card.notice,
        )

    @property
    def _multilingual(self) -> bool:
        return bool(self._model is not None and self._model.is_multilingual)

    def load(self) -> None:
        wanted = self._wanted or os.environ.get("PARLANCE_MODEL", "")
        folder = find(wanted)
        if not self._card_given:
            self._card = card_of(folder)
        self._name = self._card.name or name_of(wanted, folder)
        devices = ["cuda", "cpu"] if ctranslate2.get_cuda_device_count() > 0 else ["cpu"]
        for device in devices:
            try:
                self._open(folder, device)
            except Exception as error:  # the component boundary: tokenizers raise plain exceptions
                reason = " ".join(str(error).split())[:200]
                if device == devices[-1]:
                    raise EngineUnavailable(f"the Whisper model in {folder} cannot be loaded: {reason}") from error
                log.warning("the GPU cannot be used: %s", reason)
            else:
                return

    def _open(self, folder: Path, device: str) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        whisper = WhisperModel(
            str(folder),
            device=device,
            compute_type="float16" if device == "cuda" else "int8",
            cpu_threads=max(1, min(THREADS_MAX, cores // 2)),
            local_files_only=True,
        )
        self._model, self._features = whisper.model, whisper.feature_extractor
        self._tokenizer = whisper.hf_tokenizer
        self._encode(np.zeros(SAMPLE_RATE, np.float32))  # what is missing on this machine shows now

    def frames(self, window: Window) -> int:
        """Mel frames, padding included."""
        progress = window.memory if isinstance(window.memory, Progress) else Progress()
        return self._padded(-(-max(0, len(window.audio) - progress.cut) // MEL_SAMPLES))

    def decode(self, windows: Sequence[Window]) -> list[Heard]:
        return [self._decode(window) for window in windows]

    def _decode(self, window: Window) -> Heard:
        memory = window.memory
        progress = memory if isinstance(memory, Progress) else Progress()
        audio = window.audio[progress.cut :]
        until = len(window.audio)
        if len(audio) >= WINDOW_SAMPLES_MIN:
            encoded = self._encode(audio.astype(np.float32) * _UNIT)
            language = progress.language if progress.fixed else None
            language = language or self._language(window.spec.language, encoded)
            progress, tail = without_echo(progress, self._hear(encoded, audio, progress, window, language))
            if window.is_final:
                progress = msgspec.structs.replace(progress, tails=(tail,), language=language)
            else:
                progress = trimmed(
                    advance(progress, tail, until, language), until, samples_of(int(self._card.window_s * 1000))
                )
        return Heard(hypothesis_of(progress, window.spec.start_sample, until), memory=progress)

    def _encode(self, audio: NDArray[np.float32]) -> Any:
        """Encoder output of `audio`, (n_samples,) float32, padded as the model wants it."""
        mel = self._features(audio)[:, :MEL_FRAMES_MAX]
        wanted = self._padded(mel.shape[1])
        mel = np.pad(mel, ((0, 0), (0, max(0, wanted - mel.shape[1]))))
        return self._model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None], np.float32)))

    def _padded(self, n_frames: int) -> int:
        padding = self._card.padding
        wanted = max(round(padding.min_s * 100), n_frames + round(padding.tail_s * 100))
        return min(MEL_FRAMES_MAX, wanted + wanted % 2)

    def _language(self, wanted: str, encoded: Any) -> str:
        """The language to decode in: the wanted one if the model knows it, else what it hears."""
        if not self._multilingual:
            return "en"
        code = wanted.lower().partition("-")[0]
        if self._tokenizer.token_to_id(f"<|{code}|>") is not None:
            return code
        found = _LANGUAGE_TOKEN.fullmatch(self._model.detect_language(encoded)[0][0][0])
        return found.group(1) if found else "en"

    def _hear(self, encoded: Any, audio: Pcm16, progress: Progress, window: Window, language: str) -> tuple[Piece, ...]:
        """What follows the given words."""
        tokenizer = self._tokenizer_of(language)
        given = [token for piece in progress.given for token in piece.tokens][-GIVEN_TOKENS_MAX:]
        prompt = [*self._vocabulary(window, tokenizer), *tokenizer.sot_sequence, tokenizer.no_timestamps, *given]
        rate = TOKENS_PER_S_MULTILINGUAL if self._multilingual else TOKENS_PER_S
        room = len(prompt) + TOKENS_SPARE + rate * len(audio) // SAMPLE_RATE
        # A sentence may end right behind the given words: then the end is no blank.
        options = {"max_length": min(TOKENS_MAX, room), "suppress_blank": not given}
        tokens, logprob, no_speech = self._generate(encoded, prompt, len(given), {"beam_size": 1, **options})
        loop = loop_start(tokens)
        if no_speech > NO_SPEECH and logprob < UNLIKELY_LOGPROB:
            return ()
        if window.is_final and (loop is not None or logprob < UNLIKELY_LOGPROB):
            other, other_logprob, _ = self._generate(encoded, prompt, len(given), {**RETRY, **options})
            if loop is not None or other_logprob > logprob:
                tokens, loop = other, loop_start(other)
        tokens = tokens[:loop]
        if not tokens:
            return ()
        times, odds = self._align(encoded, tokenizer, [*given, *tokens], len(audio) // MEL_SAMPLES)
        starts = [progress.cut + time * ENCODED_SAMPLES for time in times[len(given) :]]
        pieces = pieces_of(tokens, starts, odds[len(given) :], tokenizer, first=not progress.fixed)
        return tightened(pieces, audio, progress.cut)

    def _generate(
        self, encoded: Any, prompt: list[int], n_given: int, options: dict[str, Any]
    ) -> tuple[list[int], float, float]:
        """Tokens behind the given ones, their mean log probability, and the probability that nobody speaks."""
        result = self._model.generate(
            encoded, [prompt], return_scores=True, return_no_speech_prob=True, sampling_temperature=0.0, **options
        )[0]
        end = self._tokenizer_of("en").eot
        tokens = [token for token in result.sequences_ids[0] if token < end]
        logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
        return tokens[n_given:], logprob, result.no_speech_prob

    def _align(
        self, encoded: Any, tokenizer: Tokenizer, tokens: list[int], n_frames: int
    ) -> tuple[list[int], list[float]]:
        """Encoder position at which each token begins, and one more for the end; probability of each token."""
        result = self._model.align(encoded, tokenizer.sot_sequence, [tokens], n_frames)[0]
        positions: dict[int, int] = {}
        for token, position in result.alignments:
            positions.setdefault(token, position)
        times: list[int] = []
        for index in range(len(tokens) + 1):
            times.append(positions.get(index, times[-1] if times else 0))
        return times, list(result.text_token_probs)

    def _vocabulary(self, window: Window, tokenizer: Tokenizer) -> list[int]:
        """The client's terms as if they had been said before; real Whisper then spells them so."""
        if not window.spec.vocabulary or not self._card.vocabulary:
            return []
        tokens = tokenizer.encode(" " + ", ".join(window.spec.vocabulary))
        return [tokenizer.sot_prev, *tokens[:VOCABULARY_TOKENS_MAX]]

    @cache  # noqa: B019 - one engine a process
    def _tokenizer_of(self, language: str) -> Tokenizer:
        return Tokenizer(self._tokenizer, self._multilingual, task="transcribe", language=language)


def find(wanted: str) -> Path:
    """The model's folder: `wanted` itself, or what the local Hugging Face cache holds under that name. Raises
    `EngineUnavailable`."""
    if not wanted:
        raise EngineUnavailable("PARLANCE_MODEL names no Whisper model")
    folder = Path(wanted)
    if not folder.is_dir():
        if folder.is_absolute() or wanted.startswith("."):
            raise EngineUnavailable(f"there is no folder {wanted} with a Whisper model")
        try:
            folder = Path(download_model(wanted, local_files_only=True))
        except (ValueError, OSError) as error:
            raise EngineUnavailable(f"no Whisper model called {wanted} is on this machine") from error
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise EngineUnavailable(f"{folder} holds no Whisper model for CTranslate2: {', '.join(missing)} missing")
    return folder


def name_of(wanted: str, folder: Path) -> str:
    """What people call the model: the name it was found by, its repository in a cache, or its folder."""
    if not Path(wanted).is_dir():
        return wanted
    for part in reversed(folder.parts):
        if part.startswith("models--"):
            return part.rpartition("--")[2].removeprefix("faster-whisper-")
    return folder.resolve().name


def card_of(folder: Path) -> ModelCard:
    """The model's `parlance.json`, or the safe defaults. Raises `EngineUnavailable` when it makes no sense."""
    try:
        return msgspec.json.decode((folder / CARD).read_bytes(), type=ModelCard)
    except FileNotFoundError:
        return ModelCard()
    except (OSError, msgspec.DecodeError) as error:
        raise EngineUnavailable(f"{folder / CARD} is no model card: {error}") from error


def pieces_of(
    tokens: list[int], starts: list[int], odds: list[float], tokenizer: Tokenizer, *, first: bool
) -> tuple[Piece, ...]:
    """The words of `tokens`: pieces that begin with a space, or, where nobody writes spaces, end with a clause.

    `starts`: sample at which each token begins, and where the last one ends. Unless `first`, what is glued to the word
    before is left out: that word is fixed."""
    spaceless = tokenizer.language_code in SPACELESS
    groups: list[tuple[str, list[int]]] = []
    parts, part_tokens = tokenizer.split_tokens_on_unicode(tokens)
    for part, ids in zip(parts, part_tokens, strict=True):
        glued = not CLAUSE_END.search(groups[-1][0]) if spaceless and groups else not part.startswith(" ")
        if groups and glued:
            text, before = groups[-1]
            groups[-1] = (text + part, before + ids)
        else:
            groups.append((part, list(ids)))
    pieces = []
    at = 0
    for text, ids in groups:
        begin, at = at, at + len(ids)
        skipped = not first and not spaceless and begin == 0 and not text.startswith(" ")
        text = text.strip()
        if text and "\ufffd" not in text and not skipped:
            p = float(np.mean(odds[begin:at])) if odds[begin:at] else 0.0
            pieces.append(Piece(text, tuple(ids), starts[begin], starts[at], p))
    return tuple(pieces)


def hypothesis_of(progress: Progress, start_sample: int, until: int) -> Hypothesis:
    """The words on the recording's clock: in order, inside the audio, each at least one position long."""
    words = []
    earliest = 0
    for piece in progress.words:
        earliest = max(0, min(max(piece.start, earliest), until - ENCODED_SAMPLES))
        end = min(max(piece.end, earliest + ENCODED_SAMPLES), until)
        words.append(Word(piece.text, ms_of(start_sample + earliest), ms_of(start_sample + end), min(1.0, piece.p)))
    return Hypothesis(
        tuple(words),
        until_sample=start_sample + until,
        language=progress.language or "en",
        confidence=sum(word.p for word in words) / len(words) if words else 1.0,
        fixed=len(progress.fixed),
    )
