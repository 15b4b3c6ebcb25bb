"""One Whisper by CTranslate2, asked about many windows at once: encode, say the language, write, align.

Policy: windows of equal frames share one encoding and one greedy search; the results are those of each window alone, to
the last bit (measured on the CPU, and tested). CTranslate2 wants the same number of tokens before <|startoftranscript|>
in every window of a search, so windows with longer and shorter prompts are searched one group after the other; words
behind it may differ in number. Texts of unequal length are aligned one after the other: together the shorter one's
times move by a position, and nothing is gained. Measured with random weights of tiny.en, int8, one thread, CPU of
a window of 5 s: encoding 25 ms, alone or in a batch; each token, given or new, 4.3 ms alone, 1.5 ms among four, 1.0 ms
among eight; alignment 14 ms; asking for the probability that nobody speaks 2.5 ms. So alignment and that question are
asked for what needs them.

Nothing is drawn at random: CTranslate2 seeds its numbers once per thread, a second search after `set_random_seed` gave
another text (measured). Where Whisper's reference raises the temperature, beams are searched instead.

Boundary: imported in worker processes only.
"""

import re
from collections.abc import Hashable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import ctranslate2
import msgspec
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import _LANGUAGE_CODES, Tokenizer
from numpy.typing import NDArray

from streaming.recogniser.card import MEL_FRAMES_MAX, ModelCard
from streaming.recogniser.features import FRAME_SAMPLES, frames_of, log_mel
from streaming.recogniser.guards import loop_start
from streaming.recogniser.pieces import SPACELESS, Heard, placed
from streaming.recogniser.policy import Piece

TOKENS_MAX = 448
"""Places of Whisper's decoder, prompt included."""
TOKENS_PER_S, TOKENS_PER_S_MULTILINGUAL, TOKENS_SPARE = 10, 25, 8
"""Fast English needs 6 tokens a second; scripts that Whisper spells byte by byte three times as many."""
GIVEN_TOKENS_MAX, VOCABULARY_TOKENS_MAX, CARRY_TOKENS_MAX = 240, 100, 64
"""At least 40 places of the decoder are left for what is new; `PREFIX_TOKENS_MAX` keeps the given words below."""
CARRY_TOKENS_STEP = 16
"""Prompts of streams in one batch get equal lengths more often."""
ENDLESS_LOGPROB = -5.0
"""Of a text that did not end: as improbable as noise."""
GREEDY: dict[str, Any] = {"beam_size": 1}
SEARCHED: dict[str, Any] = {"beam_size": 5, "no_repeat_ngram_size": 3}
_LANGUAGE_TOKEN = re.compile(r"<\|(\w+)\|>")


class Ask(msgspec.Struct, frozen=True):
    """What is wanted of a window. `row`: its place in the encoding; `n_samples`: of audio; `before`: tokens of the
    prompt; `given`: tokens of the words that the text begins with."""

    row: int
    n_samples: int
    language: str
    task: str = "transcribe"
    before: tuple[int, ...] = ()
    given: tuple[int, ...] = ()


class Text(msgspec.Struct, frozen=True):
    """`tokens` behind the given ones; `logprob`: their mean log probability, with the end's; `is_cut`: the decoder did
    not come to an end by itself, or repeated itself."""

    tokens: tuple[int, ...]
    logprob: float
    is_cut: bool = False


class Encoded(msgspec.Struct, frozen=True):
    """Encoder output of a batch, on the model's device."""

    view: Any
    n_windows: int

    def rows(self, rows: Sequence[int]) -> Any:
        if list(rows) == list(range(self.n_windows)):
            return self.view
        view = self.view if self.view.device == "cpu" else self.view.to_device(ctranslate2.Device.cpu)
        return ctranslate2.StorageView.from_array(np.ascontiguousarray(np.asarray(view)[list(rows)]))


class Decoder:
    """A loaded model. Raises what CTranslate2 and the tokenizer raise. Use from one thread at a time."""

    def __init__(
        self, folder: Path, card: ModelCard, *, device: str, device_index: int, compute_type: str, threads: int
    ) -> None:
        whisper = WhisperModel(
            str(folder),
            device=device,
            device_index=device_index,
            compute_type=compute_type,
            cpu_threads=threads,
            local_files_only=True,
        )
        self.card = card
        self._model: Any = whisper.model
        self._filters: NDArray[np.float32] = np.asarray(whisper.feature_extractor.mel_filters, np.float32)
        self._tokenizer = whisper.hf_tokenizer
        self.is_multilingual = bool(self._model.is_multilingual)
        self.languages: tuple[str, ...] = ("en",)
        if self.is_multilingual:
            known = (code for code in _LANGUAGE_CODES if self._tokenizer.token_to_id(f"<|{code}|>") is not None)
            self.languages = tuple(known)
        self._end = self.tokenizer("en" if "en" in self.languages else self.languages[0]).eot

    def frames(self, n_samples: int) -> int:
        """Mel frames of a window with so much audio, padding included."""
        return self.card.padding.frames(min(MEL_FRAMES_MAX, frames_of(n_samples)))

    @cache  # noqa: B019 - one model a process, and a hundred languages
    def tokenizer(self, language: str, task: str = "transcribe") -> Tokenizer:
        return Tokenizer(self._tokenizer, self.is_multilingual, task=task, language=language)

    def encode(self, audios: Sequence[NDArray[np.float32]], n_frames: int) -> Encoded:
        """`audios`: (n_samples,) float32 in -1..1, none longer than `n_frames`."""
        pictures = np.zeros((len(audios), len(self._filters), n_frames), np.float32)
        for picture, audio in zip(pictures, audios, strict=True):
            mel = log_mel(audio, self._filters)[:, :n_frames]
            picture[:, : mel.shape[1]] = mel
        return Encoded(self._model.encode(ctranslate2.StorageView.from_array(pictures)), len(audios))

    def languages_of(self, encoded: Encoded, rows: Sequence[int]) -> list[list[tuple[str, float]]]:
        """The languages that each window may be in, the likeliest first, with their probabilities."""
        ranked = []
        for found in self._model.detect_language(encoded.rows(rows)):
            named = ((_LANGUAGE_TOKEN.fullmatch(token), p) for token, p in found)
            ranked.append([(match.group(1), p) for match, p in named if match and match.group(1) in self.languages])
        return ranked

    def spelled(self, piece: Piece, language: str) -> Piece:
        """A word of another model, in the tokens of this one."""
        space = "" if language in SPACELESS else " "
        tokens = self.tokenizer(language).encode(space + piece.text)
        return msgspec.structs.replace(piece, tokens=tuple(tokens))

    def prompt(self, language: str, terms: Sequence[str], text: str) -> tuple[int, ...]:
        """What stands before the text: the client's terms and the text before, as if they had been said just now. Real
        Whisper then spells the terms so, and goes on in the manner of the text."""
        tokenizer = self.tokenizer(language)
        vocabulary: list[int] = []
        if terms and self.card.vocabulary:
            vocabulary = tokenizer.encode(" " + ", ".join(terms))[:VOCABULARY_TOKENS_MAX]
        carried: list[int] = []
        if text and self.card.carry:
            carried = tokenizer.encode(" " + text)[-CARRY_TOKENS_MAX:]
            if len(carried) > CARRY_TOKENS_STEP:
                carried = carried[len(carried) % CARRY_TOKENS_STEP :]
        return (tokenizer.sot_prev, *vocabulary, *carried) if vocabulary or carried else ()

    def write(self, encoded: Encoded, asks: Sequence[Ask], search: dict[str, Any]) -> list[Text]:
        """What is said in each window behind the given words."""
        texts: dict[int, Text] = {}
        for group in _groups([(len(ask.before), bool(ask.given)) for ask in asks]):
            wanted = [asks[n] for n in group]
            texts.update(zip(group, self._write(encoded, wanted, search), strict=True))
        return [texts[n] for n in range(len(asks))]

    def _write(self, encoded: Encoded, asks: Sequence[Ask], search: dict[str, Any]) -> list[Text]:
        prompts = [self._prompt_of(ask) for ask in asks]
        forwarded = len(prompts[0]) - len(asks[0].given) - 1
        caps = [self._tokens_max(ask) for ask in asks]
        length = max(len(ask.given) + cap for ask, cap in zip(asks, caps, strict=True))
        results = self._model.generate(
            encoded.rows([ask.row for ask in asks]),
            prompts,
            return_scores=True,
            sampling_temperature=0.0,
            # CTranslate2 writes at most half of max_length, and not beyond it with what is forwarded.
            max_length=max(2 * length, forwarded + length),
            # A sentence may end right behind the given words: then the end is no blank.
            suppress_blank=not asks[0].given,
            **search,
        )
        return [self._text(ask, cap, result) for ask, cap, result in zip(asks, caps, results, strict=True)]

    def _text(self, ask: Ask, cap: int, result: Any) -> Text:
        ids = result.sequences_ids[0]
        tokens = [token for token in ids[len(ask.given) :] if token < self._end]
        # Scores are sums over what was not given, divided by the length of all.
        logprob = result.scores[0] * len(ids) / (len(tokens) + 1)
        loop = loop_start(tokens[:cap])
        if len(tokens) >= cap:  # how much further it went depends on the other windows
            logprob = ENDLESS_LOGPROB
        return Text(tuple(tokens[: cap if loop is None else loop]), logprob, len(tokens) >= cap or loop is not None)

    def _tokens_max(self, ask: Ask) -> int:
        rate = TOKENS_PER_S_MULTILINGUAL if self.is_multilingual else TOKENS_PER_S
        cap = TOKENS_SPARE + rate * ask.n_samples // (FRAME_SAMPLES * 100)
        return min(cap, TOKENS_MAX - len(self._prompt_of(ask)) - 1)

    def _prompt_of(self, ask: Ask) -> list[int]:
        tokenizer = self.tokenizer(ask.language, ask.task)
        return [*ask.before, *tokenizer.sot_sequence, tokenizer.no_timestamps, *ask.given]

    def no_speech(self, encoded: Encoded, ask: Ask) -> float:
        """The probability that nobody speaks in the window."""
        prompt = self._prompt_of(ask)[: -len(ask.given) or None]
        return float(
            self._model.generate(
                encoded.rows([ask.row]), [prompt], beam_size=1, max_length=len(prompt) + 2, return_no_speech_prob=True
            )[0].no_speech_prob
        )

    def align(self, encoded: Encoded, asks: Sequence[Ask], texts: Sequence[Sequence[int]]) -> list[Heard]:
        """Where in its window each token begins, given ones first."""
        found: dict[int, Heard] = {}
        whole = [[*ask.given, *text] for ask, text in zip(asks, texts, strict=True)]
        for group in _groups([(ask.language, ask.task, len(ids)) for ask, ids in zip(asks, whole, strict=True)]):
            wanted, tokens = [asks[n] for n in group], [whole[n] for n in group]
            results = self._model.align(
                encoded.rows([ask.row for ask in wanted]),
                self.tokenizer(wanted[0].language, wanted[0].task).sot_sequence,
                tokens,
                [max(1, ask.n_samples // FRAME_SAMPLES) for ask in wanted],
            )
            for n, ids, result in zip(group, tokens, results, strict=True):
                found[n] = placed(ids, result)
        return [found[n] for n in range(len(asks))]


def _groups(keys: Sequence[Hashable]) -> Iterable[list[int]]:
    """Numbers of the places with equal keys."""
    groups: dict[Hashable, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return groups.values()
