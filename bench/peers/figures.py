"""What came of so many streams through one server, ours or another: delays, words, cost.

Pure. Every server is measured by the same rule, ours too: its words on the screen over time (`Shown`), as if the whole
stream were one segment, put through `bench.metrics`.
"""

from collections.abc import Mapping, Sequence

import msgspec

from bench import metrics
from bench.cells import KNEE_P95_MS, Latency, latency_of
from bench.knee import knee_of
from bench.metrics import FINAL, PARTIAL, Heard, Take
from bench.peers.wire import Shown, words
from bench.speech import Clip

CLOSING_MS = 1_000
"""A word that nothing follows for so long is the last of what was said: its reader waits for it to be confirmed."""


class Stream(msgspec.Struct, frozen=True):
    """One stream's clip and what was seen of it."""

    clip: Clip
    shown: list[Shown]
    refused: str = ""
    lost: str = ""
    unfinished: bool = False


class Measured(msgspec.Struct, frozen=True):
    """`streams` at once. `closings`: words that end what is said, `unclosed`: those of them that were never confirmed;
    `errors`, `confirmed_errors` of `said` words: in all that was on the screen at the end, in what was confirmed then;
    `changed`: confirmed texts that were changed; `refused`, `lost`, `unfinished`: streams; `cpu_s`: of the server's
    processes, to the end, `speaking_cpu_s`: in the `speaking_s` until the last word was sent; `failed`: why there are
    no figures."""

    streams: int
    audio_s: float = 0.0
    wall_s: float = 0.0
    word: Latency | None = None
    confirmed: Latency | None = None
    closing: Latency | None = None
    closings: int = 0
    unclosed: int = 0
    said: int = 0
    errors: int = 0
    confirmed_errors: int = 0
    changed: int = 0
    refused: int = 0
    lost: int = 0
    unfinished: int = 0
    cpu_s: float = 0.0
    speaking_cpu_s: float = 0.0
    speaking_s: float = 0.0
    load_cpu_s: float = 0.0
    memory_mib: float = 0.0
    failed: str = ""

    @property
    def whole(self) -> bool:
        return not self.failed and not self.refused and not self.lost

    @property
    def kept(self) -> bool:
        """Whether words are on the screen in time."""
        return self.whole and self.word is not None and self.word.at(95) <= KNEE_P95_MS

    @property
    def kept_confirmed(self) -> bool:
        """Whether they are confirmed in time: the bound of our own knee."""
        return self.whole and self.confirmed is not None and self.confirmed.at(95) <= KNEE_P95_MS

    @property
    def wer(self) -> float | None:
        return self.errors / self.said if self.said else None

    @property
    def confirmed_wer(self) -> float | None:
        return self.confirmed_errors / self.said if self.said else None

    @property
    def per_second(self) -> float:
        """CPU seconds for a second of one stream."""
        return self.cpu_s / self.audio_s if self.audio_s else 0.0

    @property
    def cores(self) -> float:
        """In use while the streams speak."""
        return self.speaking_cpu_s / self.speaking_s if self.speaking_s else 0.0

    @property
    def per_core(self) -> float:
        """Streams to a core in use."""
        return self.streams / self.cores if self.cores else 0.0


class Cost(msgspec.Struct, frozen=True):
    """What the server took, see `Measured`."""

    wall_s: float
    cpu_s: float
    speaking_cpu_s: float
    speaking_s: float
    load_cpu_s: float
    memory_mib: float


def flattened(heard: Sequence[Heard]) -> list[Shown]:
    """Our events as the words on the screen: those of finals and of what is stable are confirmed, in the order in which
    their segments began."""
    segments: dict[str, tuple[str, str]] = {}
    shown: list[Shown] = []
    for event in heard:
        if event.name == FINAL:
            segments[event.body["segment_id"]] = event.stable, ""
        elif event.name == PARTIAL:
            segments[event.body["segment_id"]] = event.stable, str(event.body["unstable"])
        else:
            continue
        confirmed = ""
        tentative = ""
        for stable, unstable in segments.values():
            if tentative:  # what follows words that may change is not confirmed either
                tentative = f"{tentative} {stable} {unstable}"
            else:
                confirmed, tentative = f"{confirmed} {stable}", unstable
        now = Shown(event.at_ms, words(confirmed), words(tentative))
        if not shown or (shown[-1].confirmed, shown[-1].tentative) != (now.confirmed, now.tentative):
            shown.append(now)
    return shown


def take_of(stream: Stream, *, confirmed: bool) -> Take:
    """The stream as one segment, that ends with all that was confirmed, or all that was on the screen."""
    last = stream.shown[-1] if stream.shown else Shown(0.0, "", "")
    heard = [
        Heard(s.at_ms, PARTIAL, {"segment_id": "all", "stable": s.confirmed, "unstable": f" {s.tentative}"})
        for s in stream.shown
    ]
    text = last.confirmed if confirmed else last.text
    body = {"segment_id": "all", "start_ms": 0, "end_ms": 1_000 * stream.clip.seconds, "text": text, "words": []}
    return Take(stream.clip, [], [*heard, Heard(last.at_ms, FINAL, body)])


def closing_ends(clip: Clip) -> list[float]:
    """Where the words end that nothing follows for `CLOSING_MS`."""
    after = [word.start_ms for word in clip.words[1:]] + [float("inf")]
    return [word.end_ms for word, next_ms in zip(clip.words, after, strict=True) if next_ms - word.end_ms >= CLOSING_MS]


def changed(shown: Sequence[Shown]) -> int:
    """How often words that were confirmed are no longer there, or others."""
    count, before = 0, ""
    for now in shown:
        count += not metrics.continues(now.confirmed, before)
        before = now.confirmed
    return count


def measured_of(streams: Sequence[Stream], cost: Cost) -> Measured:
    """The figures of streams that ran at once."""
    taken = [stream for stream in streams if not stream.refused]
    whole = [take_of(stream, confirmed=False) for stream in taken]
    confirmed = [take_of(stream, confirmed=True) for stream in taken]
    errors, said = metrics.word_errors(whole)
    closing: list[float] = []
    closings = 0
    for take in confirmed:
        ends = closing_ends(take.clip)
        found = dict(zip((w.end_ms for w in metrics.correct_words(take)), metrics.commit_delays(take), strict=True))
        closings += len(ends)
        closing += [found[end] for end in ends if end in found]
    return Measured(
        streams=len(streams),
        audio_s=round(sum(stream.clip.seconds for stream in taken), 2),
        wall_s=round(cost.wall_s, 2),
        word=latency_of(metrics.flat(metrics.word_delays, whole)),
        confirmed=latency_of(metrics.flat(metrics.commit_delays, confirmed)),
        closing=latency_of(closing),
        closings=closings,
        unclosed=closings - len(closing),
        said=said,
        errors=errors,
        confirmed_errors=metrics.word_errors(confirmed)[0],
        changed=sum(changed(stream.shown) for stream in taken),
        refused=len(streams) - len(taken),
        lost=sum(bool(stream.lost) for stream in taken),
        unfinished=sum(stream.unfinished for stream in taken),
        cpu_s=round(cost.cpu_s, 2),
        speaking_cpu_s=round(cost.speaking_cpu_s, 2),
        speaking_s=round(cost.speaking_s, 2),
        load_cpu_s=round(cost.load_cpu_s, 2),
        memory_mib=round(cost.memory_mib, 1),
    )


def knee(found: Mapping[int, Measured], *, confirmed: bool = False) -> int:
    """Of the words on the screen, or of those that are confirmed."""
    return knee_of({count: (one.kept_confirmed if confirmed else one.kept) for count, one in found.items()})
