"""The benchmark: ours and the others, with the same model, clips, machine and measure, in turns.

For each shape of compute (`SHAPES`) every contender gets one server; then one contender after the other is measured
with its next number of streams, round by round, until each one's knee is known: doubled until the p95 of a word's way
to the screen passes 2 s, then once in between (`NEAR`).

Policy: every measurement is written down as soon as it is there, and taken from there by `--resume`. What fails is a
figure too: the server's last words, and a new server for the next. An environment that cannot be made leaves its
settings out, and says so.
"""

import asyncio
import contextlib
import subprocess
import tempfile
import time
import wave
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bench import shapes, speech
from bench.captions import MICRO, TALKS_MAX, Store, padded, passed_on, say
from bench.compute import reference
from bench.knee import next_count
from bench.live import HANG_S
from bench.load import STAGGER_S, Orders, Report, processes, shares_of
from bench.peers import checkpoint, environments, load
from bench.peers.figures import Cost, Measured, Stream, flattened, measured_of
from bench.peers.results import Found, rows_of
from bench.peers.servers import Ours, Server, Theirs, free_port, rests
from bench.peers.settings import Place, Setting, chosen
from bench.report import ROOT, Result
from bench.setups import WHISPER
from bench.speech import Clip
from streaming.model import SAMPLE_RATE
from streaming.recogniser.card import card_of
from tests.support.models import unpacked
from tests.support.process import ServerProcess

SHAPES = ("micro", "tiny.en")
SECONDS, QUICK_S = 20.0, 8.0
"""Of each stream. A talk ends with a sentence, so clips are a little longer."""
WARM_UP_S = 6.0
"""Of the first stream of a server: WhisperLive loads its model with it."""
MOST = 128
NEAR = 0.25
"""Of the least number that is too many: the knee is known to within so much."""
THEIR_HANG_S = 30.0
"""What a server owes its streams after the last word, at most; the rest is missing, and counted."""
GRACE_S = 120.0
PARTIAL_FILE = "peers.tmp"
FAILURES = (OSError, RuntimeError, AssertionError, TimeoutError, ExceptionGroup)


class Contender(Protocol):
    """Who is measured. `start` raises what `FAILURES` holds."""

    name: str
    title: str

    async def start(self, folder: Path) -> Server: ...

    async def orders(self, server: Server, shares: Sequence[Any]) -> tuple[str, list[bytes]]:
        """The module whose processes speak, and what each of them is told."""

    def streams(self, told: Sequence[bytes], clips: Sequence[Clip]) -> tuple[list[Stream], float]:
        """What they tell, and what they took."""


class OurServer:
    """From this checkout. `padded`: every window to 30 s, as models without measurements of their own are run."""

    def __init__(self, shape: str, *, is_padded: bool = False) -> None:
        self.name = "parlance-padded" if is_padded else "parlance"
        self.title = "Parlance, padded to 30 s" if is_padded else "Parlance"
        self._engine = reference(shape) if shape in shapes.SHAPES else WHISPER
        self._padded = is_padded

    async def start(self, folder: Path) -> Server:
        model = padded(MICRO, folder / "model") if self._padded else MICRO
        process = ServerProcess(folder / "data", engine=self._engine, port=0, model=str(model), **passed_on())
        try:
            await asyncio.to_thread(process.start)
        except BaseException:
            await asyncio.to_thread(process.stop)
            raise
        return Ours(process)

    async def orders(self, server: Server, shares: Sequence[Any]) -> tuple[str, list[bytes]]:
        assert isinstance(server, Ours)
        account = await server.process.account("bench")
        orders = [Orders(server.process.url, account.token, share, 1.0, HANG_S) for share in shares]
        return "bench.load", [msgspec.json.encode(order) for order in orders]

    def streams(self, told: Sequence[bytes], clips: Sequence[Clip]) -> tuple[list[Stream], float]:
        reports = [msgspec.json.decode(one, type=Report) for one in told]
        briefs = [brief for report in reports for brief in report.takes]
        streams = [
            Stream(clip, flattened(brief.heard), brief.refused) for clip, brief in zip(clips, briefs, strict=True)
        ]
        return streams, sum(report.cpu_s for report in reports)


class TheirServer:
    def __init__(self, setting: Setting, python: Path, shape: str, warm_up: Clip) -> None:
        self.name = setting.name
        self.title = setting.title
        self._setting = setting
        self._python = python
        self._shape = shapes.folder_of(shape) if shape in shapes.SHAPES else None
        self._warm_up = warm_up

    async def start(self, folder: Path) -> Server:
        place = await asyncio.to_thread(self._place, folder)
        server = Theirs(self._setting, self._python, place, self._shape, folder)
        try:
            await server.start()
        except BaseException:
            await server.stop()
            raise
        return server

    def _place(self, folder: Path) -> Place:
        spoken = folder / "warm-up.wav"
        with wave.open(str(spoken), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(self._warm_up.audio.tobytes())
        place = Place(free_port(), MICRO, spoken)
        if not self._setting.own_decoder:
            return place
        encoder, target = unpacked("multilingual"), folder / "micro.pt"
        made = subprocess.run(
            [str(self._python), "-m", "bench.peers.checkpoint", str(encoder), str(target)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode != 0:
            raise RuntimeError(f"the model cannot be made for PyTorch: {made.stderr[-200:]}")
        heads = checkpoint.alignment_heads(encoder)
        return msgspec.structs.replace(place, checkpoint=target, encoder=encoder, heads=heads)

    async def orders(self, server: Server, shares: Sequence[Any]) -> tuple[str, list[bytes]]:
        assert isinstance(server, Theirs)
        setting = self._setting
        orders = [
            load.Orders(setting.kind, server.url, share, THEIR_HANG_S, str(MICRO), setting.hello) for share in shares
        ]
        return "bench.peers.load", [msgspec.json.encode(order) for order in orders]

    def streams(self, told: Sequence[bytes], clips: Sequence[Clip]) -> tuple[list[Stream], float]:
        reports = [msgspec.json.decode(one, type=load.Report) for one in told]
        briefs = [brief for report in reports for brief in report.briefs]
        streams = [
            Stream(clip, brief.shown, brief.refused, brief.lost, brief.unfinished)
            for clip, brief in zip(clips, briefs, strict=True)
        ]
        return streams, sum(report.cpu_s for report in reports)


class Talks:
    """What is spoken; every contender hears the same."""

    def __init__(self, seconds: float, seed: int) -> None:
        self.seconds = seconds
        self.seed = seed
        self._speaker = speech.Speaker()
        self._clips: dict[int, Clip] = {}

    def of(self, count: int) -> list[Clip]:
        return [self._talk(n % min(count, TALKS_MAX), self.seconds) for n in range(count)]

    def warm_up(self) -> Clip:
        return self._talk(1_000, WARM_UP_S)

    def _talk(self, number: int, seconds: float) -> Clip:
        if number not in self._clips:
            self._clips[number] = self._speaker.talk(f"talk-{number}", seconds, self.seed * 10_000 + number)
        return self._clips[number]


class Bench:
    """One contender at one shape: its server, started when something has to be measured, and its figures."""

    def __init__(self, contender: Contender, shape: str, talks: Talks, store: Store, counts: Sequence[int]) -> None:
        self.found = Found(contender.name, contender.title, shape, [])
        self._contender = contender
        self._talks = talks
        self._store = store
        self._wanted = list(counts)
        self._looks_for_knee = not counts
        self._server: Server | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def next(self) -> int | None:
        """How many streams to measure now; None when all is known."""
        if not self._looks_for_knee:
            return next((count for count in self._wanted if count not in self.found.by_count), None)
        kept = {count: one.kept for count, one in self.found.by_count.items()}
        return next_count(kept, MOST, NEAR)

    async def prepare(self) -> None:
        """Take what is in the store, and start what will be measured; what fails now is told when it is measured."""
        while (count := self.next()) is not None:
            known: Measured | None = self._store.get(self._key(count), Measured)
            if known is None:
                break
            self.found.cells.append(known)
        if count is not None:
            try:
                await self._ready()
            except FAILURES:
                await self.stop()

    async def measure(self, count: int) -> None:
        try:
            measured = await self._measure(self._talks.of(count))
        except FAILURES as error:
            words = self._server.last_words() if isinstance(self._server, Theirs) else ""
            told_ = " ".join(f"{error} {words}".split())[-300:]
            measured = Measured(count, failed=f"{type(error).__name__}: {told_}")
            await self.stop()
        self._store.put(self._key(count), measured)
        say(f"{self.found.shape}, {self.found.title}, {count}: {told(measured)}")
        self.found.cells.append(measured)

    def _key(self, count: int) -> str:
        return f"{self.found.shape}: {self.found.name}, {count} of {self._talks.seconds:g} s, seed {self._talks.seed}"

    async def _measure(self, clips: list[Clip]) -> Measured:
        server = await self._ready()
        measured = await self._speak(server, clips)
        if not server.alive:
            raise RuntimeError("the server ended")
        if not await rests(server):
            await self.stop()
        return measured

    async def _ready(self) -> Server:
        """A server that has spoken once and is at rest."""
        if self._server is not None and not self._server.alive:
            await self.stop()
        if self._server is None:
            self._folder = tempfile.TemporaryDirectory(prefix="parlance-bench-")
            self._server = await self._contender.start(Path(self._folder.name))
            await self._speak(self._server, [self._talks.warm_up()])
            await rests(self._server)
        return self._server

    async def _speak(self, server: Server, clips: list[Clip]) -> Measured:
        speaking_s = max(clip.seconds for clip in clips) + STAGGER_S
        with tempfile.TemporaryDirectory(prefix="parlance-bench-") as folder:
            shares = await asyncio.to_thread(shares_of, clips, Path(folder), self._talks.seed)
            module, orders = await self._contender.orders(server, shares)
            async with processes(module, orders) as speak:
                began, before = time.perf_counter(), server.cpu()
                async with asyncio.timeout(speaking_s + HANG_S + GRACE_S), _later(speaking_s, server) as spoken:
                    told_ = await speak()
                wall_s, after = time.perf_counter() - began, server.cpu()
        streams, load_cpu_s = self._contender.streams(told_, clips)
        speaking_cpu_s = (spoken[0] if spoken else after) - before
        cost = Cost(wall_s, after - before, speaking_cpu_s, min(speaking_s, wall_s), load_cpu_s, server.memory_mib())
        return measured_of(streams, cost)

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


@contextlib.asynccontextmanager
async def _later(after_s: float, server: Server) -> AsyncIterator[list[float]]:
    """Holds the CPU that the server took by then, once it is then."""
    found: list[float] = []

    async def look() -> None:
        await asyncio.sleep(after_s)
        found.append(server.cpu())

    task = asyncio.create_task(look())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def told(found: Measured) -> str:
    """A measurement in a line."""
    if found.failed:
        return f"failed: {found.failed}"
    parts = [
        f"{name} {latency.at(50):.0f}/{latency.at(95):.0f} ms"
        for name, latency in (("word", found.word), ("confirmed", found.confirmed), ("closing", found.closing))
        if latency is not None
    ]
    parts += [f"WER {found.wer or 0:.3f}", f"CPU {found.per_second:.3f}", f"{found.cores:.2f} cores"]
    for name in ("unclosed", "changed", "refused", "lost", "unfinished"):
        parts += [f"{getattr(found, name)} {name}"] * bool(getattr(found, name))
    return ", ".join(parts)


async def benchmark(
    folder: Path,
    kinds: Sequence[str],
    *,
    quick: bool,
    seed: int,
    counts: Sequence[int],
    shape: str | None,
    resume: bool,
) -> Result:
    """`kinds`: of `settings.chosen`; `counts`: numbers of streams, empty to look for the knees."""
    wanted = chosen(kinds)
    try:
        talks = Talks(QUICK_S if quick else SECONDS, seed)
    except FileNotFoundError as error:
        return Result("peers", [], {}, {}, skipped=" ".join(str(error).split()))
    counts = counts or ((1,) if quick else ())
    pythons, skipped = await _installed(wanted)
    if not pythons:
        return Result("peers", [], {}, {}, skipped="; ".join(skipped))
    store = Store(folder / PARTIAL_FILE, resume=resume)
    found: list[Found] = []
    for name in (shape,) if shape else SHAPES:
        if name in shapes.SHAPES:
            await asyncio.to_thread(shapes.make, name)
        contenders: list[Contender] = [OurServer(name)]
        contenders += [OurServer(name, is_padded=True)] * (name in shapes.SHAPES)
        contenders += [
            TheirServer(setting, pythons[setting.environment.package], name, talks.warm_up())
            for setting in wanted
            if setting.environment.package in pythons and name in (setting.shapes or (name,))
        ]
        found += await _in_turns([Bench(one, name, talks, store, counts) for one in contenders])
    store.done()
    used = [setting for setting in wanted if setting.environment.package in pythons]
    settings = {
        "model": card_of(MICRO).name,
        "model of SimulStreaming": "multilingual, the same weights in Whisper's own vocabulary; decoder in PyTorch",
        "voice": speech.VOICE,
        "seconds": talks.seconds,
        "ours": passed_on(),
        "settings": [msgspec.to_builtins(setting) for setting in used],
        "environments": {s.environment.package: s.environment.pins for s in used},
    }
    raw = {"measured": msgspec.to_builtins(found)}
    return Result("peers", rows_of(found), settings, raw, skipped="; ".join(skipped))


async def _installed(wanted: Sequence[Setting]) -> tuple[dict[str, Path], list[str]]:
    """The environments' Pythons by package, and what cannot be had."""
    pythons: dict[str, Path] = {}
    skipped = []
    for environment in dict.fromkeys(setting.environment for setting in wanted):
        try:
            pythons[environment.package] = await asyncio.to_thread(environments.make, environment)
        except environments.Unavailable as error:
            skipped.append(f"{environment.package} {environment.version} cannot be installed: {error}")
    return pythons, skipped


async def _in_turns(benches: Sequence[Bench]) -> list[Found]:
    """Each measures its next number, then the next one, until nobody has any."""
    try:
        await asyncio.gather(*(bench.prepare() for bench in benches))
        while pending := [(bench, count) for bench in benches if (count := bench.next()) is not None]:
            for bench, count in pending:
                await bench.measure(count)
    finally:
        for bench in benches:
            await bench.stop()
    return [bench.found for bench in benches]
