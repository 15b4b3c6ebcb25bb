"""Captions of many streams at once through a real server: how soon, how stable, how right, at what cost, and how many.

For each `Setup` (an engine, the compute of a model's shape, a padding) one server; the number of streams is doubled
until the p95 of a word's way to stable text passes `KNEE_P95_MS`, then halved towards the knee. Half the knee is where
the promises about time hold; at twice the knee nothing may be lost or broken. Beside it the loop that others run
(`bench.baseline`).

Policy: every measurement is written down as soon as it is there and taken from there by `--resume`; one that fails is
a figure too, and the next one gets a new server. Boundary: `bench.load` speaks, `bench.offline` is the yardstick.
"""

import asyncio
import contextlib
import os
import re
import sys
import tempfile
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from bench import baseline, shapes, speech
from bench.baseline import Baseline
from bench.cells import Cell, Whole, cell_of
from bench.engines import normalise
from bench.knee import knee_of, next_count
from bench.live import PIECE_MS
from bench.load import Loaded, speak_all
from bench.meter import Cpu, memory_of
from bench.metrics import edits
from bench.offline import PADDED_S, Offline, OfflineSphinx, OfflineWhisper, decode
from bench.report import ROOT, Result
from bench.setups import QUICK_S, SPHINX, WHISPER, Measured, Setup, rows_of
from bench.speech import Clip, Cut
from server import hardware
from server.config import Config
from server.workers.devices import AUTO
from server.workers.devices import found as found_devices
from streaming.recogniser.card import CARD, Padding, card_of
from streaming.recogniser.engine import EngineUnavailable
from streaming.recogniser.place import find, name_of
from tests.support.process import ServerProcess, running

MICRO = ROOT / "tests" / "models" / "micro-whisper" / "en"
TALKS_MAX = 24
"""Different talks; more streams than that share them, each at its own moment."""
SPHINX_TALKS_MAX = 4
"""Hearing them offline takes a tenth of their length."""
WARM_UP_S = 12.0
"""Windows of full length: what grows with them has grown before a stream's memory is measured."""
SKIPPED = re.compile(r"^parlance_hypotheses_skipped_total (\S+)$", re.MULTILINE)
PARTIAL_FILE = "captions.tmp"
PASSED = ("devices", "compute_type", "final_model")


class Talks:
    """What is spoken, how the server will cut it, and what the model hears in it offline; made once for all setups."""

    def __init__(self, model: Path, seed: int) -> None:
        self._model = model
        self._seed = seed
        self._speaker = speech.Speaker()
        self._engines: dict[str, Offline] = {}
        self._clips: dict[tuple[str, str], tuple[Clip, list[Cut]]] = {}
        self._wholes: dict[tuple[str, str], Whole] = {}

    def engine(self, name: str) -> Offline:
        if name not in self._engines:
            self._engines[name] = OfflineSphinx() if name == SPHINX else OfflineWhisper(self._model)
        return self._engines[name]

    def talk(self, engine: str, number: int, seconds: float, *, pauses: bool = True) -> tuple[Clip, list[Cut]]:
        name = f"{'talk' if pauses else 'long'}-{seconds:g}-{number}"
        if (engine, name) not in self._clips:
            self.add(engine, self._speaker.talk(name, seconds, self._seed * 10_000 + number, pauses=pauses))
        return self._clips[engine, name]

    def add(self, engine: str, clip: Clip) -> tuple[Clip, list[Cut]]:
        """Any clip; cut, and heard offline where its text is known."""
        cuts = speech.cuts(clip.audio, self.engine(engine).capabilities)
        self._clips[engine, clip.id] = clip, cuts
        if clip.text:
            heard = decode(self.engine(engine), clip, cuts)
            errors = edits(normalise(clip.text), normalise(" ".join(heard.texts)))
            self._wholes[engine, clip.id] = Whole(errors, [bool(text) for text in heard.texts])
        return clip, cuts

    def wholes(self, engine: str) -> dict[str, Whole]:
        return {clip: whole for (whose, clip), whole in self._wholes.items() if whose == engine}


class Store:
    """Measurements that are done, in a file that survives the run."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if resume and path.is_file():
            for line in path.read_bytes().splitlines():
                with contextlib.suppress(msgspec.DecodeError):  # half a line of a run that was killed
                    key, value = msgspec.json.decode(line)
                    self._known[key] = value
        path.write_bytes(b"".join(map(_line, self._known.items())))

    def get(self, key: str, kind: type[Any]) -> Any:
        return msgspec.convert(self._known[key], kind) if key in self._known else None

    def put(self, key: str, value: Any) -> None:
        self._known[key] = msgspec.to_builtins(value)
        with self._path.open("ab") as file:
            file.write(_line((key, value)))

    def done(self) -> None:
        self._path.unlink(missing_ok=True)


def _line(entry: tuple[str, Any]) -> bytes:
    return msgspec.json.encode(entry) + b"\n"


class Bench:
    """One setup: its server, started when something has to be measured, and its figures."""

    def __init__(self, setup: Setup, model: Path, talks: Talks, store: Store, seed: int) -> None:
        self._setup = setup
        self._model = model
        self._talks = talks
        self._store = store
        self._seed = seed
        self._stack = ExitStack()
        self._server: ServerProcess | None = None

    async def run(self, recordings: list[Clip]) -> Measured:
        setup = self._setup
        cells: dict[int, Cell] = {}
        try:
            for count in setup.counts:
                cells[count] = await self._of_talks(count)
            while not setup.counts and (wanted := next_count(self._kept(cells), setup.most)) is not None:
                cells[wanted] = await self._of_talks(wanted)
            knee = knee_of(self._kept(cells))
            beside = set() if setup.counts or not knee else {max(1, knee // 2), 2 * knee} - cells.keys()
            for count in sorted(beside):
                cells[count] = await self._of_talks(count)
            long = recorded = None
            if setup.shape == "micro" and setup.engine == WHISPER and setup.seconds > QUICK_S:
                pauseless = self._talks.talk(setup.engine, 0, 3 * setup.seconds, pauses=False)
                long = await self._cell("long", [pauseless])
            if recordings and not setup.padded and setup.shape == "micro":
                recorded = await self._one_by_one(recordings)
            against = await self._baseline() if setup.engine == WHISPER and not setup.padded else None
        finally:
            self._stop()
        loaded = self._store.get(f"{setup.label}: loaded", float) or 0.0
        return Measured(setup, list(cells.values()), loaded, long, recorded, against)

    @staticmethod
    def _kept(cells: dict[int, Cell]) -> dict[int, bool]:
        return {count: cell.kept for count, cell in cells.items()}

    async def _of_talks(self, count: int) -> Cell:
        setup = self._setup
        different = SPHINX_TALKS_MAX if setup.engine == SPHINX else TALKS_MAX
        seconds = setup.seconds * (1.5 if count < 4 and setup.seconds > QUICK_S else 1)
        numbers = [n % min(count, different) for n in range(count)]
        return await self._cell(f"{count}", [self._talks.talk(setup.engine, n, seconds) for n in numbers])

    async def _cell(self, name: str, clips: list[tuple[Clip, list[Cut]]]) -> Cell:
        return await self._once(f"{name} of {self._setup.seconds:g} s", len(clips), lambda: self._measure(clips))

    async def _one_by_one(self, recordings: list[Clip]) -> Cell:
        """Recordings one after the other, as one cell."""

        async def measure() -> Cell:
            clips = [self._talks.add(self._setup.engine, clip) for clip in recordings]
            server = await self._started()
            return self._made_of([await speak_all(server, [clip], seed=self._seed) for clip in clips])

        return await self._once(f"{len(recordings)} recordings", 1, measure)

    async def _once(self, name: str, streams: int, measure: Callable[[], Awaitable[Cell]]) -> Cell:
        """From the store, or measured. What fails is a cell as well, and ends the server."""
        key = f"{self._setup.label}: {name}, seed {self._seed}"
        known: Cell | None = self._store.get(key, Cell)
        if known is not None:
            return known
        try:
            cell = await measure()
        except (OSError, RuntimeError, AssertionError, ExceptionGroup) as error:
            self._stop()
            cell = Cell(streams, failed=f"{type(error).__name__}: {error}"[:200])
        self._store.put(key, cell)
        say(f"{self._setup.label}, {name}: {told(cell)}")
        return cell

    async def _measure(self, clips: list[tuple[Clip, list[Cut]]]) -> Cell:
        server = await self._started()
        before = await asyncio.to_thread(hops_skipped, server)
        found = await speak_all(server, clips, seed=self._seed)
        return self._made_of([found], await asyncio.to_thread(hops_skipped, server) - before)

    def _made_of(self, runs: list[Loaded], skipped: int = 0) -> Cell:
        cpus = [run.meter.cpu for run in runs]
        return cell_of(
            [take for run in runs for take in run.takes],
            self._talks.wholes(self._setup.engine),
            cpu=Cpu(sum(c.server_s for c in cpus), sum(c.workers_s for c in cpus), sum(c.database_s for c in cpus)),
            memory=runs[-1].meter.peak,
            load_cpu_s=sum(run.load_cpu_s for run in runs),
            wall_s=sum(run.wall_s for run in runs),
            skipped=skipped,
        )

    async def _baseline(self) -> Baseline:
        key = f"{self._setup.label}: baseline of {self._setup.seconds:g} s"
        known: Baseline | None = self._store.get(key, Baseline)
        if known is not None:
            return known
        self._stop()
        clip, _ = self._talks.talk(self._setup.engine, 0, self._setup.seconds)
        shape = self._setup.shape if self._setup.shape in shapes.SHAPES else None
        with tempfile.TemporaryDirectory(prefix="parlance-bench-") as folder:
            found = await baseline.measure(clip, self._model, shape, Path(folder))
        self._store.put(key, found)
        say(f"{self._setup.label}, the loop: {found.cpu_per_second:.3f} CPU s per second of a stream")
        return found

    async def _started(self) -> ServerProcess:
        if self._server is None:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="parlance-bench-")))
            settings = passed_on()
            if self._setup.engine == WHISPER:
                model = padded(self._model, folder / "padded") if self._setup.padded else self._model
                settings["model"] = str(model)
            self._server = self._stack.enter_context(running(folder / "data", engine=self._setup.reference, **settings))
            await speak_all(self._server, [self._talks.talk(self._setup.engine, 1_000, WARM_UP_S)], seed=self._seed)
            if self._store.get(f"{self._setup.label}: loaded", float) is None:
                self._store.put(f"{self._setup.label}: loaded", round(memory_of(self._server).workers_mib, 1))
        return self._server

    def _stop(self) -> None:
        self._server = None
        self._stack.close()


def passed_on() -> dict[str, str]:
    """Settings of the recogniser that the servers of a benchmark take from this process' environment. PARLANCE_DEVICE,
    as a worker calls it, is one of PARLANCE_DEVICES. The devices are named, because a shape is an engine of its own,
    for which the server would start one worker."""
    given = {name: os.environ.get(f"PARLANCE_{name.upper()}", "") for name in PASSED}
    machine = hardware.look()
    usual = found_devices(AUTO, len(machine.gpus_mib), cores=machine.cores, memory_mib=machine.memory_mib)
    given["devices"] = given["devices"] or os.environ.get("PARLANCE_DEVICE", "") or ",".join(usual)
    return {name: value for name, value in given.items() if value and name in Config.__struct_fields__}


def say(line: str) -> None:
    """Progress."""
    print(f"  {line}", file=sys.stderr, flush=True)


def told(cell: Cell) -> str:
    """A cell in a line."""
    if cell.failed:
        return f"failed: {cell.failed}"
    parts = [f"{name} {found.at(50):.0f}/{found.at(95):.0f} ms" for name, found in cell.latencies.items()]
    parts.append(f"CPU {cell.per_second(cell.cpu.workers_s):.3f}")
    broken = sum(cell.violations.values()) + len(cell.missing) + (cell.dropped_s > 0)
    parts += [] if cell.wer is None else [f"WER {cell.wer:.3f}"]
    parts += [f"{broken} broken"] * bool(broken) + [f"{cell.refused} refused"] * bool(cell.refused)
    return ", ".join(parts)


def hops_skipped(server: ServerProcess) -> int:
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
        found = SKIPPED.search(answer.read().decode())
    return int(float(found.group(1))) if found else 0


def padded(model: Path, folder: Path) -> Path:
    """The same model in `folder`, with a card that pads every window as real Whisper needs it."""
    folder.mkdir()
    for path in model.iterdir():
        if path.name != CARD:
            (folder / path.name).symlink_to(path.resolve())
    card = msgspec.structs.replace(card_of(model), padding=Padding(min_s=PADDED_S))
    (folder / CARD).write_bytes(msgspec.json.encode(card))
    return folder


async def benchmark(
    wanted: list[Setup], model_name: str, recordings: list[Clip], folder: Path, *, seed: int, resume: bool
) -> Result:
    """`model_name`: folder or name of a Whisper on this machine; `folder`: where the results go."""
    try:
        model = find(model_name)
        talks = Talks(model, seed)
    except (EngineUnavailable, FileNotFoundError) as error:
        return Result("captions", [], {}, {}, skipped=" ".join(str(error).split()))
    store = Store(folder / PARTIAL_FILE, resume=resume)
    found = []
    for setup in wanted:
        if setup.shape in shapes.SHAPES:
            await asyncio.to_thread(shapes.make, setup.shape)
        found.append(await Bench(setup, model, talks, store, seed).run(recordings))
    store.done()
    card = card_of(model)
    settings = {
        "model": card.name or name_of(model_name, model),
        "model_mib": round((model / "model.bin").stat().st_size / 2**20, 1),
        "card": msgspec.to_builtins(card),
        "voice": speech.VOICE,
        "piece_ms": PIECE_MS,
        "device": passed_on().get("devices", "auto"),
    }
    rows = [row for measured in found for row in rows_of(measured)]
    return Result("captions", rows, settings, {"measured": msgspec.to_builtins(found)})
