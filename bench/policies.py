"""When may a word be fixed? The engine alone, with each `HypothesisPolicy` over the same talk, on a virtual clock.

What a window says is known at the moment its last sample was spoken, as on a machine of endless speed: the delays are
the policy's alone, and CPU is told beside them. Utterances are those that the server cuts, the captions are built as
the server builds them, and the figures are those of docs/metrics.md.

The policies that the engine does not have stand here: they were measured and earned no place.
"""

import time
from collections.abc import Iterator, Sequence
from random import Random

import msgspec
import numpy as np

from bench import metrics
from bench.engines import normalise
from bench.metrics import FINAL, PARTIAL, Heard, Take, edits, ms
from bench.report import Figure, Result, percentiles
from bench.speech import Clip, Cut, Speaker, cuts
from streaming.model import UtteranceSpec, samples_of
from streaming.ports import Pcm16
from streaming.recogniser.cadence import PARTS
from streaming.recogniser.engine import EngineUnavailable, Window
from streaming.recogniser.policy import HypothesisPolicy, LocalAgreement, Tail, ends_sentence
from streaming.recogniser.whisper import HOP_MS, WhisperEngine
from streaming.transcript.agreement import Agreement, agreed
from streaming.transcript.segments import SegmentBuilder
from tests.support.synth import Voice

PART_MS = HOP_MS // PARTS
STABLE_LEAST = 0.7
WORD_P50_MS_MOST, WORD_P95_MS_MOST = 500, 1_000


class HoldBack(msgspec.Struct, frozen=True):
    """All but the last `words` of one window (hold-n, Liu et al. 2020; wait-k's cousin), whole at a sentence's end."""

    words: int
    span: int = 0
    aligned: bool = False

    def fixed(self, tails: Sequence[Tail], *, at_rest: bool) -> int:
        tail = tails[-1].words
        return len(tail) if at_rest and tail and ends_sentence(tail[-1].text) else max(0, len(tail) - self.words)


class HoldTime(msgspec.Struct, frozen=True):
    """Words of one window that end `ms` or more before its end, by its attention (AlignAtt, Papi et al. 2023)."""

    ms: int
    span: int = 0
    aligned: bool = True

    def fixed(self, tails: Sequence[Tail], *, at_rest: bool) -> int:
        words, limit = tails[-1].words, tails[-1].until - samples_of(self.ms)
        return next((n for n, piece in enumerate(words) if piece.end > limit), len(words))


class Confident(msgspec.Struct, frozen=True):
    """LocalAgreement-2; before it, words of one window that are at least so probable and end `ms` before its end."""

    p: float
    ms: int
    span: int = LocalAgreement().span
    aligned: bool = True

    def fixed(self, tails: Sequence[Tail], *, at_rest: bool) -> int:
        words, limit = tails[-1].words, tails[-1].until - samples_of(self.ms)
        sure = next((n for n, w in enumerate(words) if w.p < self.p or w.end > limit), len(words))
        return max(sure, LocalAgreement(self.span).fixed(tails, at_rest=at_rest))


class Open(msgspec.Struct, frozen=True):
    """LocalAgreement without holding the last word back: it is fixed when the windows agree on it."""

    span: int = LocalAgreement().span
    aligned: bool = False

    def fixed(self, tails: Sequence[Tail], *, at_rest: bool) -> int:
        if len(tails) < 2 or tails[-1].until - tails[0].until < self.span:
            return 0
        return agreed([[piece.text for piece in tail.words] for tail in tails])


class Nothing(msgspec.Struct, frozen=True):
    """Fixes nothing: what flicker and final errors are without a policy."""

    span: int = 0
    aligned: bool = False

    def fixed(self, tails: Sequence[Tail], *, at_rest: bool) -> int:
        return 0


class Way(msgspec.Struct, frozen=True):
    """A policy at a hop."""

    name: str
    policy: HypothesisPolicy
    hop_ms: int = HOP_MS


WAYS = (
    Way("agreement", LocalAgreement()),
    *(Way(f"agreement, hop {hop_ms} ms", LocalAgreement(), hop_ms) for hop_ms in (PART_MS, 3 * PART_MS, 640)),
    *(
        Way(f"agreement over {ms} ms, hop {PART_MS} ms", LocalAgreement(samples_of(ms)), PART_MS)
        for ms in (96, 192, 480)
    ),
    Way("agreement over 960 ms", LocalAgreement(samples_of(960))),
    Way("agreement, last word not held", Open()),
    *(Way(f"all but {n} of one window", HoldBack(n)) for n in (1, 2)),
    Way("what ended 300 ms before", HoldTime(300)),
    *(Way(f"agreement, or p >= {p:g} and 300 ms", Confident(p, 300)) for p in (0.9, 0.97)),
    Way("nothing", Nothing()),
)
VOICES = {
    "120 words a minute": Voice("en-us+m1", 120),
    "240 words a minute": Voice("en-us+f2", 240),
    "a Scottish voice": Voice("en-gb-scotland", 165),
    "a Caribbean voice": Voice("en-029", 165),
    "another synthesiser": Voice("en-us+klatt2", 160),
}
PENALTY_MOST = 0.01
RECORDINGS = "recordings"
"""The tests' model does not understand people: no promise holds for what it makes of them."""


class Followed(msgspec.Struct, frozen=True):
    """Clips as one policy gave them. `cpu_s`: of the engine."""

    takes: list[Take]
    cpu_s: float
    decodes: int

    @property
    def audio_s(self) -> float:
        return sum(take.clip.seconds for take in self.takes)


def follow(engine: WhisperEngine, hop_ms: int, clips: Sequence[Clip]) -> Followed:
    """Hear the clips hop by hop, as a server with time to spare does."""
    takes: list[Take] = []
    cpu_s, decodes = 0.0, 0
    for clip in clips:
        heard: list[Heard] = []
        found = cuts(clip.audio, engine.capabilities)
        began = time.process_time()
        for number, cut in enumerate(found):
            spec = UtteranceSpec(f"u{number}", cut.begin, "en")
            builder = SegmentBuilder(spec.utterance_id, cut.begin, Agreement(0, 0))
            audio = audio_of(clip, cut)
            memory: object = None
            hop = samples_of(hop_ms)
            for end in range(hop, len(audio), hop):
                (one,) = engine.decode([Window(spec, audio[:end], is_final=False, memory=memory)])
                memory = one.memory
                partial = builder.update(one.hypothesis)
                if partial is not None:
                    heard.append(Heard(ms(cut.begin + end), PARTIAL, msgspec.to_builtins(partial)))
            (one,) = engine.decode([Window(spec, audio, is_final=True, memory=memory)])
            decodes += len(audio) // hop + 1
            final = builder.finish(one.hypothesis, ordinal=number + 1, end_sample=cut.end)
            if final is not None:
                heard.append(Heard(ms(cut.begin + len(audio)), FINAL, msgspec.to_builtins(final)))
        cpu_s += time.process_time() - began
        takes.append(Take(clip, found, heard))
    return Followed(takes, cpu_s, decodes)


def audio_of(clip: Clip, cut: Cut) -> Pcm16:
    """What the engine gets of an utterance: the silence that proved its end too."""
    return clip.audio[cut.begin : max(cut.end, cut.decided)]


def whole_errors(engine: WhisperEngine, clips: Sequence[Clip]) -> int:
    """Word errors of the same model, of the same utterances, that hears each of them at once."""
    errors = 0
    for clip in clips:
        words: list[str] = []
        for cut in cuts(clip.audio, engine.capabilities):
            spec = UtteranceSpec("whole", cut.begin, "en")
            (one,) = engine.decode([Window(spec, audio_of(clip, cut), is_final=True)])
            words += [word.text for word in one.hypothesis.words]
        errors += edits(normalise(clip.text), normalise(" ".join(words)))
    return errors


def early_errors(take: Take) -> tuple[int, int]:
    """Words of the finals that were stable before, and how many of them have no equal in what was said."""
    said, texts, early = normalise(take.clip.text), [], []
    for final in take.finals:
        partials = [h for h in metrics.captions_of(take, final) if h is not final]
        count = len(partials[-1].stable.split()) if partials else 0
        for index, text in enumerate(final.words):
            texts.append(text)
            early.append(index < count)
    right = {theirs for _, theirs in metrics.matches(said, texts)}
    return sum(early), sum(flag and n not in right for n, flag in enumerate(early))


def rows_of(name: str, found: Followed, *, promised: bool) -> list[Figure]:
    """`promised`: the promises of captions are held against it."""
    takes = found.takes
    rows = []
    errors, said = metrics.word_errors(takes)
    if said:
        early, wrong = (sum(pair) for pair in zip(*map(early_errors, takes), strict=True))
        rows.append(Figure(f"{name}: word error rate", round(errors / said, 4), "share", said))
        rows.append(Figure(f"{name}: wrong among words fixed early", round(wrong / max(1, early), 4), "share", early))
        rows += percentiles(
            f"{name}: word after it was spoken", metrics.flat(metrics.word_delays, takes), "ms",
            p50_most=WORD_P50_MS_MOST if promised else None, p95_most=WORD_P95_MS_MOST if promised else None,
        )  # fmt: skip
        rows += percentiles(f"{name}: word until it is stable", metrics.flat(metrics.commit_delays, takes), "ms")
    finals = sum(len(final.words) for take in takes for final in take.finals)
    changed = sum(metrics.unstable_words(take)[0] for take in takes)
    stable, words = (sum(pair) for pair in zip(*map(metrics.stable_words, takes), strict=True))
    rows.append(Figure(f"{name}: unstable partial word ratio", round(changed / max(1, finals), 4), "share", finals))
    if words:
        share = round(stable / words, 3)
        rows.append(
            Figure(f"{name}: stable before the final", share, "share", words, least=STABLE_LEAST if promised else None)
        )
    broken = sum(len(metrics.violations(take)) for take in takes)
    rows.append(Figure(f"{name}: captions against the rules", broken, "events", finals, 0))
    rows.append(Figure(f"{name}: CPU", round(found.cpu_s / found.audio_s, 4), "s/audio s", found.decodes))
    return rows


def noisy(clip: Clip, snr_db: float, seed: int) -> Clip:
    """White noise so far below the clip's loud parts."""
    audio = clip.audio.astype(np.float64)
    steps = audio[: len(audio) // 320 * 320].reshape(-1, 320)
    level = float(np.quantile(np.sqrt((steps**2).mean(axis=1)), 0.9))
    noise = np.random.default_rng(seed).normal(0, level * 10 ** (-snr_db / 20), len(audio))
    sound = np.clip(np.rint(audio + noise), -32_768, 32_767).astype(np.int16)
    return msgspec.structs.replace(clip, id=f"{clip.id}, {snr_db:g} dB", audio=sound)


def quieter(clip: Clip, db: float) -> Clip:
    audio = np.rint(clip.audio * 10 ** (-db / 20)).astype(np.int16)
    return msgspec.structs.replace(clip, id=f"{clip.id}, -{db:g} dB", audio=audio)


def materials(seconds: float, talks: int, seed: int, recordings: Sequence[Clip]) -> Iterator[tuple[str, list[Clip]]]:
    """What is said, by name."""
    speaker, draw = Speaker(), Random(seed)
    plain = [speaker.talk(f"talk-{n}", seconds, draw.randrange(1 << 30)) for n in range(talks)]
    yield "talk", plain
    yield "noise at 15 dB", [noisy(clip, 15, n) for n, clip in enumerate(plain)]
    long = [speaker.talk(f"long-{n}", seconds, draw.randrange(1 << 30), pauses=False) for n in range(talks)]
    yield "20 to 28 s without a pause", long
    if recordings:
        yield RECORDINGS, list(recordings)


def conditions(seconds: float, seed: int) -> Iterator[tuple[str, Clip]]:
    """Talk of other voices, far away and in noise, by name."""
    speaker = Speaker()
    for name, voice in VOICES.items():
        yield name, speaker.talk(name, seconds, seed, voice=voice)
    plain = speaker.talk("plain", seconds, seed)
    yield "30 dB quieter", quieter(plain, 30)
    for snr_db in (20, 10):
        yield f"noise at {snr_db} dB", noisy(plain, snr_db, seed)


def penalties(engine: WhisperEngine, seconds: float, seed: int) -> list[Figure]:
    """Word error rates of the default policy, and what streaming costs of each."""
    rows = []
    for name, clip in conditions(seconds, seed):
        errors, said = metrics.word_errors(follow(engine, HOP_MS, [clip]).takes)
        cost = (errors - whole_errors(engine, [clip])) / said
        rows.append(Figure(f"{name}: word error rate", round(errors / said, 4), "share", said))
        rows.append(Figure(f"{name}: what streaming costs of it", round(cost, 4), "share", said, PENALTY_MOST))
    return rows


async def benchmark(model: str, seconds: float, talks: int, seed: int, recordings: Sequence[Clip]) -> Result:
    """`seconds`: of each of so many talks."""
    try:
        engine = WhisperEngine(model)
        engine.load()
        said = list(materials(seconds, talks, seed, recordings))
        rows = penalties(engine, seconds, seed)
    except (EngineUnavailable, FileNotFoundError) as error:
        return Result("policies", [], {}, {}, skipped=" ".join(str(error).split()))
    for material, clips in said:
        if n_words := sum(len(normalise(clip.text)) for clip in clips):
            whole = round(whole_errors(engine, [clip for clip in clips if clip.text]) / n_words, 4)
            rows.append(Figure(f"{material}, heard whole: word error rate", whole, "share", n_words))
        for way in WAYS:
            following = WhisperEngine(model, policy=way.policy)
            following.load()
            found = follow(following, way.hop_ms, clips)
            rows += rows_of(f"{material}, {way.name}", found, promised=way == WAYS[0] and material != RECORDINGS)
    return Result("policies", rows, {"model": model, "seconds": seconds, "talks": talks}, {})
