"""Windows as Whisper hears them, and what it shall say: the supply of the training.

A window is sentences of mostly one speaker, with or without pauses, cut at either end, on some way through noise and a
channel, or a sound without words. Before it may stand what was said before, or a vocabulary. Short windows teach the
words; later more than a third of the sound is in windows of 10 to 30 s.

Pure with its seed, except that `Speakers` speaks. Invariant: a word is wanted only if all of it is heard.
"""

import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from faster_whisper.feature_extractor import FeatureExtractor

from tests.support import corpus

from .layout import STAMPS, UNKNOWN, Table
from .sound import RATE, Noises, Wave, channel, hum, wordless
from .speech import Group, Sentence, Speakers

FRAME, POSITION = 160, 320
WINDOW = 30 * RATE
IGNORED = -100
NO_SPAN = -1.0
SLACK = 480
"""Samples of a word that may be missing at the end of a window."""
CLOSED = 2_400
"""Silence behind a sentence after which it has its mark."""
BATCH_S = 64
"""Sound in a batch, with padding."""
SORTED = 300
"""Windows that are sorted by length into batches."""
PROMPT_MAX = 200


class Target(NamedTuple):
    """A token and from where to where in the window, in samples, it is heard."""

    token: int
    start: float
    end: float


class Placed(NamedTuple):
    """A sentence that begins at sample `at` of the window; its words from `first` on are in it."""

    sentence: Sentence
    at: int
    first: int


class Window(NamedTuple):
    audio: Wave
    placed: list[Placed]
    prompt: list[int]
    head: list[int]
    targets: list[Target]


class Batch(NamedTuple):
    """`wanted`: token behind each of `tokens`, or IGNORED; `spans`: positions in which the wanted one is heard;
    `phonemes`: for each position; `whole`: padding goes on up to 30 s."""

    mel: torch.Tensor
    tokens: torch.Tensor
    wanted: torch.Tensor
    spans: torch.Tensor
    phonemes: torch.Tensor
    whole: bool


class Windows:
    """`early`: short and mostly clean windows, which teach the words; then come the long ones."""

    def __init__(self, table: Table, seed: int, german: float) -> None:
        self.early = True
        self._table = table
        self._rng = random.Random(seed)
        self._noises = Noises(seed)
        self._speakers = Speakers(seed, german)
        self._speakers.speak(120)
        self._filters = torch.from_numpy(FeatureExtractor().mel_filters)

    def batches(self) -> Iterator[Batch]:
        while True:
            windows = sorted((self._window() for _ in range(SORTED)), key=lambda w: len(w.audio) + 300 * len(w.prompt))
            batches: list[list[Window]] = [[]]
            for window in windows:
                if (len(batches[-1]) + 1) * (len(window.audio) / RATE + 1) > BATCH_S:
                    batches.append([])
                batches[-1].append(window)
            self._rng.shuffle(batches)
            for batch in batches:
                yield self._batch(batch)
            self._speakers.speak(20)

    def _window(self) -> Window:
        rng = self._rng
        if rng.random() < 0.06:
            audio = wordless(round(rng.uniform(0.3, 30 if rng.random() < 0.2 else 5) * RATE), self._noises, rng)
            return self._heard(channel(audio, rng), [], "en", {})
        early = self.early
        long = rng.random() < (0.03 if early else 0.2)
        count = 40 if long else rng.choice((1, 1, 1, 2) if early else (1, 1, 1, 1, 2, 2, 3, 4))
        limit = round(rng.uniform(rng.choice((10, 20)), 30) * RATE) if long else WINDOW
        group = rng.choice(self._speakers.groups)
        audio, placed = self._composed(group, count, limit)
        spelled: dict[str, str] = {}
        if group.language == "en" and rng.random() < 0.25:
            spelled = {word: other for word, other in corpus.SPELLINGS.items() if rng.random() < 0.5}
        if not early or rng.random() < 0.4:
            audio = self._disturbed(audio)
        return self._heard(audio, placed, group.language, spelled)

    def _composed(self, group: Group, count: int, limit: int) -> tuple[Wave, list[Placed]]:
        """At most `count` sentences in at most `limit` samples; the last one may be cut."""
        rng = self._rng
        longest = rng.choice((0.0, 0.15, 0.5, 1.0, 1.2))
        lead = round(rng.uniform(0, 0.7) * RATE) if rng.random() < 0.8 else 0
        parts: list[Wave] = [np.zeros(lead, np.float32)]
        placed: list[Placed] = []
        n = lead
        at = rng.randrange(len(group.sentences))
        for number in range(count):
            others = [g for g in (rng.choice(self._speakers.groups),) if g.language == group.language]
            speaker = others[0] if others and rng.random() < 0.1 else group
            sentence = speaker.sentences[(at + number) % len(speaker.sentences)]
            first, skipped = self._beginning(sentence) if number == 0 else (0, 0)
            placed.append(Placed(sentence, n - skipped, first))
            audio = sentence.audio[skipped:].astype(np.float32) * np.float32(rng.uniform(0.8, 1.2))
            gap = round(rng.uniform(0, longest) * RATE)
            parts += [audio, np.zeros(gap, np.float32)]
            n += len(audio) + gap
            if n >= limit:
                break
        tail = round(rng.choice((0.0, rng.uniform(0, 0.5), rng.uniform(0.2, 1.5))) * RATE)
        audio = np.concatenate([*parts, np.zeros(tail, np.float32)])
        if n > limit or (rng.random() < 0.35 and placed):
            last = placed[-1]
            cut = last.at + round(rng.uniform(0.05, 1) * len(last.sentence.audio))
            audio = audio[: min(limit, max(cut, RATE // 3))]
        return audio[:WINDOW], placed

    def _beginning(self, sentence: Sentence) -> tuple[int, int]:
        """First whole word and first sample of a sentence whose beginning may be missing."""
        rng = self._rng
        if len(sentence.words) < 3 or rng.random() > 0.2:
            return 0, 0
        first = rng.randint(1, len(sentence.words) - 2)
        start = sentence.starts[first]
        if rng.random() < 0.5:
            return first, max(0, start - rng.randint(0, RATE // 20))
        before = sentence.starts[first - 1]
        return first, round(before + rng.uniform(0.4, 0.8) * (start - before))

    def _disturbed(self, audio: Wave) -> Wave:
        rng = self._rng
        power = float(np.sqrt(np.mean(audio**2))) + 1e-6
        if rng.random() < 0.65:
            audio = audio + self._noises.cut(len(audio), rng) * np.float32(power * 10 ** (-rng.uniform(7, 45) / 20))
        if rng.random() < 0.08:
            audio = audio + hum(len(audio), rng) * np.float32(power * 10 ** (-rng.uniform(10, 35) / 20))
        gain = 10 ** (rng.uniform(-20, 3) / 20)
        return channel(np.clip(audio * np.float32(gain), -1, 1), rng)

    def _heard(self, audio: Wave, placed: list[Placed], language: str, spelled: dict[str, str]) -> Window:
        rng, number = self._rng, self._table.number
        stamped = rng.random() < 0.35
        task = "translate" if language == "de" and rng.random() < 0.5 else "transcribe"
        head = [number["<|startoftranscript|>"]]
        if language == "de" or rng.random() < 0.6:
            head += [number[f"<|{language}|>"], number[f"<|{task}|>"]]
        if not stamped:
            head.append(number["<|notimestamps|>"])
        n, targets = len(audio), []
        for place in placed:
            targets += self._targets(place, n, task, spelled, stamped)
        end = min(targets[-1].end, n) if targets else 0.0
        targets.append(Target(number["<|endoftext|>"], end + 1_600, end + 8_000))
        return Window(audio, placed, self._prompt(spelled), head, targets)

    def _targets(self, place: Placed, n: int, task: str, spelled: dict[str, str], stamped: bool) -> list[Target]:
        sentence, at, first = place
        whole = [i for i in range(first, len(sentence.words)) if at + sentence.starts[i + 1] <= n + SLACK]
        if not whole:
            return []
        begin, end = at + sentence.starts[first], at + sentence.starts[whole[-1] + 1]
        closed = whole[-1] == len(sentence.words) - 1 and n >= end + CLOSED
        found = []
        for i in whole:
            word = sentence.meanings[i] if task == "translate" else sentence.words[i]
            word = spelled.get(word, word)
            word = word[0].upper() + word[1:] if i == 0 else word
            tokens = [token for part in word.split() for token in self._table.encode(" " + part)]
            found += self._divided(tokens, at + sentence.starts[i], at + sentence.starts[i + 1])
        if closed:
            found += [Target(t, end, end + CLOSED) for t in self._table.encode(sentence.mark)]
        if stamped:
            stamps = [self._table.first_stamp + min(len(STAMPS) - 1, round(min(x, n) / POSITION)) for x in (begin, end)]
            found.insert(0, Target(stamps[0], begin - 960, begin + 960))
            if closed or n < WINDOW - RATE // 2:  # what a full window cuts off comes again with the next one
                found.append(Target(stamps[1], end - 960, end + 960))
        return found

    def _divided(self, tokens: list[int], start: float, end: float) -> list[Target]:
        """A word's tokens, each with its share of the word by letters."""
        letters = [len(self._table.names[token]) for token in tokens]
        edges = [start + (end - start) * sum(letters[:i]) / sum(letters) for i in range(len(tokens) + 1)]
        return [Target(token, *edge) for token, edge in zip(tokens, itertools.pairwise(edges), strict=True)]

    def _prompt(self, spelled: dict[str, str]) -> list[int]:
        """Nothing, what was said before, or a vocabulary; words that nobody trained may be in it."""
        rng, table = self._rng, self._table
        if not spelled and rng.random() > 0.25:
            return []
        if spelled or rng.random() < 0.4:
            words = rng.sample(sorted(corpus.WORDS - corpus.SPELLINGS.keys()), rng.randint(0, 8))
            words += [name for name in corpus.SPELLINGS if name not in spelled and rng.random() < 0.3]
            words += spelled.values()
            rng.shuffle(words)
            texts = [", ".join(words)] if words else []
        else:
            sentences = rng.choice(self._speakers.groups).sentences[: rng.randint(1, 6)]
            texts = [" ".join(sentence.words) + sentence.mark for sentence in sentences]
        tokens: list[int] = []
        for text in texts:
            mark = text[-1] if text[-1] in ".?" else ""
            for word in text.removesuffix(mark).split():
                tokens += table.encode(" " + word.removesuffix(","))
                tokens += table.encode(",") if word.endswith(",") else []
            tokens += table.encode(mark) if mark else []
        if rng.random() < 0.3:
            for _ in range(rng.randint(1, 6)):
                tokens.insert(rng.randint(0, len(tokens)), table.number[UNKNOWN])
        return [table.number["<|startofprev|>"], *tokens[-PROMPT_MAX:]]

    def _batch(self, windows: list[Window]) -> Batch:
        rng = self._rng
        padding = rng.random()
        whole = padding < 0.35
        longest_tail = 220 if padding < 0.45 else 110 if padding < 0.85 else 20
        tail = 28 if whole else round(rng.uniform(longest_tail / 4, longest_tail))
        longest = max(len(window.audio) for window in windows)
        frames = min(3_000, (longest + FRAME) // FRAME + tail)
        frames += frames % 2
        mel = torch.stack([self._mel(window.audio, frames) for window in windows])
        sequences = [self._sequence(window) for window in windows]
        width = max(len(tokens) for tokens, _, _ in sequences)
        tokens = torch.zeros(len(windows), width, dtype=torch.long)
        wanted = torch.full((len(windows), width), IGNORED)
        spans = torch.full((len(windows), width, 2), NO_SPAN)
        phonemes = torch.zeros(len(windows), frames // 2, dtype=torch.long)
        for row, (given, aims, where) in enumerate(sequences):
            tokens[row, : len(given)] = torch.tensor(given)
            wanted[row, : len(aims)] = torch.tensor(aims)
            spans[row, : len(where)] = torch.tensor(where)
            phonemes[row] = self._phonemes(windows[row], frames // 2)
        return Batch(mel, tokens, wanted, spans, phonemes, whole)

    def _sequence(self, window: Window) -> tuple[list[int], list[int], list[tuple[float, float]]]:
        """Tokens given, the one wanted behind each, and the positions in which that one is heard."""
        number = self._table.number
        targets = window.targets
        if len(targets) == 1:  # nobody speaks
            given = [*window.prompt, *window.head]
            aims = [IGNORED] * len(given)
            aims[len(window.prompt)], aims[-1] = number["<|nospeech|>"], number["<|endoftext|>"]
            return given, aims, [(NO_SPAN, NO_SPAN)] * len(given)
        sequence = [*window.prompt, *window.head, *(target.token for target in targets)]
        aims = [IGNORED] * len(window.prompt) + sequence[len(window.prompt) + 1 :]
        where = [(NO_SPAN, NO_SPAN)] * (len(window.prompt) + len(window.head) - 1)
        where += [(target.start / POSITION, target.end / POSITION) for target in targets]
        return sequence[:-1], aims, where

    def _phonemes(self, window: Window, positions: int) -> torch.Tensor:
        found = torch.zeros(positions, dtype=torch.long)
        end = len(window.audio) // POSITION
        for sentence, at, _ in window.placed:
            marks = [*sentence.phonemes, (0, len(sentence.audio))]
            for (phoneme, start), (_, stop) in itertools.pairwise(marks):
                low, high = max(0, round((at + start) / POSITION)), min(end, round((at + stop) / POSITION))
                found[low:high] = phoneme
        return found

    def _mel(self, audio: Wave, frames: int) -> torch.Tensor:
        """(80, frames), normalised as Whisper does; padded with 0.0 as by faster-whisper, or with silence as by
        WhisperX; bands and moments may be missing."""
        rng = self._rng
        x = torch.from_numpy(np.pad(np.asarray(audio, np.float32), (0, FRAME + 400)))
        power = torch.stft(x, 400, FRAME, window=torch.hann_window(400), return_complex=True)[..., :-1].abs() ** 2
        own = min(frames, (len(audio) + FRAME) // FRAME)
        logs = (self._filters @ power[:, :own]).clamp(min=1e-10).log10()
        floor = float(logs.max()) - 8
        mel = torch.full((80, frames), max(-10.0, floor) / 4 + 1 if rng.random() < 0.4 else 0.0)
        mel[:, :own] = (logs.clamp(min=floor) + 4) / 4
        if rng.random() < 0.4:
            low = rng.randint(0, 70)
            mel[low : low + rng.randint(1, 9)] = float(mel.mean())
        if rng.random() < 0.25:
            start = rng.randint(0, own - 1)
            mel[:, start : start + rng.randint(1, 6)] = float(mel.mean())
        return mel
