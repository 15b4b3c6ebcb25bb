"""Several workers behind one recogniser, and one bad utterance among many good ones. Real processes."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from server.config import Config, ConfigError, load
from server.hardware import gpus as gpus_of
from server.workers.devices import found
from server.workers.engines import Choice, Engines
from server.workers.load import Starts, has_room
from server.workers.local import LocalRecogniser, _Places, engine_ref
from server.workers.pool import Pool
from server.workers.program import Program
from streaming.aio import Scope
from streaming.errors import Overloaded, WorkerLost
from streaming.limits import LIMITS
from streaming.model import Final, UtteranceSpec
from streaming.ports import Pcm16, UtteranceDecoder
from streaming.recogniser.cadence import Want
from streaming.recogniser.link import Load
from streaming.utterance import Utterance
from tests.fakes import tones
from tests.fakes.windows import POISON
from tests.support.synth import needs_espeak, say
from tests.support.waiting import until

HANG_S = 60.0
WORDS = ("alpha", "bravo", "charlie", "delta", "echo")
AUDIO = tones.talk([WORDS], silence_ms=300).audio
QUICK = msgspec.structs.replace(LIMITS, worker_restart_ms_max=100)
"""A worker that dies is back at once, also the eighth time."""


def pool_of(*engines: str) -> Pool:
    workers = [
        LocalRecogniser(engine, command=None, limits=QUICK, device="cpu", name=f"cpu ({number})")
        for number, engine in enumerate(engines)
    ]
    return Pool(workers, QUICK)


@contextlib.asynccontextmanager
async def running(pool: Pool) -> AsyncIterator[Pool]:
    async with asyncio.timeout(HANG_S), Scope("test") as scope:
        scope.spawn(pool.run(), name="pool")
        await pool.ready()
        yield pool


class Speaker:
    """An utterance that is fed hop by hop, each when the one before was heard, so that it is under way while others
    die; its last word comes after `end`."""

    def __init__(self, pool: Pool, language: str = "en", tenant: str = "a", audio: Pcm16 = AUDIO) -> None:
        spec = UtteranceSpec("u", 0, language, tenant=tenant)
        self.audio = audio
        self.shown = 0
        self.end = asyncio.Event()
        self.end.set()
        self._hop = pool.capabilities.hop_ms * 16
        self.utterance = Utterance(spec, recogniser=pool, on_partial=self._count, limits=QUICK)

    def _count(self, _partial: object) -> None:
        self.shown += 1

    async def speak(self) -> Final | None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.utterance.run())
            for at in range(0, len(self.audio), self._hop):
                if at + self._hop >= len(self.audio):
                    await self.end.wait()
                self.utterance.feed(self.audio[at : at + self._hop])
                whole = self.utterance.samples // self._hop * self._hop
                await until(lambda fed=whole: task.done() or not self.utterance._is_due(fed))  # type: ignore[misc]
            self.utterance.end(len(self.audio))
        return task.result()

    async def say_at_once(self) -> Final | None:
        """All of it, and then the end."""
        self.utterance.feed(self.audio)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.utterance.run())
            await self.end.wait()
            self.utterance.end(len(self.audio))
        return task.result()


def words_of(final: Final | None) -> tuple[str, ...]:
    assert final is not None
    return tuple(word.text for word in final.hypothesis.words)


async def _forever(decoder: UtteranceDecoder) -> None:
    while True:
        await decoder.partial()


class TestPoison:
    async def test_an_utterance_that_kills_its_worker_costs_ten_others_nothing(self) -> None:
        """The eleventh is set aside after its attempts; each of the ten has its words, and none of them was blamed."""
        async with running(pool_of("tests.fakes.windows:DyingEngine")) as pool:
            speakers = [Speaker(pool, tenant=f"tenant {number % 3}") for number in range(10)]
            for speaker in speakers:
                speaker.end.clear()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(speaker.speak()) for speaker in speakers]
                await until(lambda: all(speaker.shown for speaker in speakers))
                assert await Speaker(pool, POISON).say_at_once() is None
                for speaker in speakers:
                    speaker.end.set()
            assert [words_of(task.result()) for task in tasks] == [WORDS] * 10
            deaths = pool.workers[0].restarts + (pool.state != "ready")
            assert LIMITS.utterance_attempts_max <= deaths <= LIMITS.utterance_attempts_max + 2

    async def test_only_who_was_being_decoded_is_a_suspect(self) -> None:
        async with running(pool_of("tests.fakes.windows:DyingEngine")) as pool:
            innocent = await pool.open(UtteranceSpec("u", 0, "en"))
            await innocent.feed(AUDIO)
            bad = await pool.open(UtteranceSpec("u", 0, POISON))
            await bad.feed(AUDIO)
            with pytest.raises(WorkerLost) as suspected:
                await bad.final()
            with pytest.raises(WorkerLost) as cleared:
                await innocent.final()
            assert (suspected.value.suspect, cleared.value.suspect) == (True, False)

    async def test_of_a_worker_that_says_nothing_all_are_suspects(self) -> None:
        async with running(pool_of("tests.fakes.tones:NarrowToneEngine")) as pool:
            decoder = await pool.open(UtteranceSpec("u", 0, "en"))
            os.kill(pool.pids[0], signal.SIGKILL)
            with pytest.raises(WorkerLost) as error:
                await _forever(decoder)
            assert error.value.suspect


async def test_what_a_program_said_last_is_read_although_writing_to_it_fails(tmp_path: Path) -> None:
    program = tmp_path / "last_words.py"
    program.write_text("import os, sys\nos.write(int(sys.argv[-1]), b'last words')\n")
    subject = Program("test", [sys.executable, str(program)], limits=LIMITS)
    heard: list[bytes] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while Path(f"/proc/{subject.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            os.sched_yield()  # the loop stands still until the program is dead, so that the write comes before any read
        writer.write(b"more audio")
        with contextlib.suppress(OSError):
            await writer.drain()
        heard.append(await reader.read(64))

    async with asyncio.timeout(HANG_S), Scope("test") as scope:
        scope.spawn(subject.run(converse), name="program")
        await until(lambda: bool(heard))
    assert heard[0] == b"last words"


class TestPool:
    async def test_utterances_are_spread_and_a_dead_worker_leaves_its_own_to_the_other(self) -> None:
        engine = "tests.fakes.windows:BatchToneEngine"
        pool = pool_of(engine, engine)
        assert pool.state == "down"
        with pytest.raises(WorkerLost):
            await pool.open(UtteranceSpec("u", 0, "en"))
        async with running(pool):
            await until(lambda: pool.whole)
            assert len(pool.pids) == 2
            speakers = [Speaker(pool) for _ in range(6)]
            for speaker in speakers:
                speaker.end.clear()
            async with asyncio.TaskGroup() as group:
                finals = [group.create_task(speaker.speak()) for speaker in speakers]
                await until(lambda: all(speaker.shown for speaker in speakers))
                assert [worker.utterances for worker in pool.workers] == [3, 3]
                os.kill(pool.pids[0], signal.SIGKILL)
                await until(lambda: not pool.whole)
                assert pool.state == "ready", "the other one goes on"
                for speaker in speakers:
                    speaker.end.set()
            assert [words_of(final.result()) for final in finals] == [WORDS] * 6
            await until(lambda: pool.whole)
            assert [worker.restarts for worker in pool.workers] == [1, 0]

    async def test_a_worker_that_never_starts_keeps_nobody_waiting(self) -> None:
        async with running(pool_of("tests.fakes.windows:AbsentEngine", "tests.fakes.windows:BatchToneEngine")) as pool:
            assert pool.capabilities.batch_max == 8
            assert words_of(await Speaker(pool).speak()) == WORDS
            assert not pool.whole

    async def test_an_engine_runs_on_every_device_that_is_named(self) -> None:
        engines = Engines(
            Choice("tests.fakes.windows:BatchToneEngine"), command=None, limits=LIMITS, devices=("cpu", "cpu")
        )
        names = [worker.name for worker in engines._current.recogniser.workers]
        assert names == ["cpu (1)", "cpu (2)"]
        assert [w._program._settings["PARLANCE_DEVICE"] for w in engines._current.recogniser.workers] == ["cpu", "cpu"]
        modest = Engines(Choice("pocketsphinx"), command=None, limits=LIMITS, devices=("cuda:0", "cuda:1"))
        assert len(modest._current.recogniser.workers) == 1


@needs_espeak
async def test_pocketsphinx_at_twice_its_places_loses_nothing_and_takes_no_more_streams_of_who_has_them() -> None:
    """A process for each utterance: the others wait for one, and admission is told that there is none."""
    speech = say("Thank you Bob.")
    pool = pool_of(engine_ref("pocketsphinx"))
    async with running(pool):
        said = words_of(await Speaker(pool, audio=speech).say_at_once())
        places = pool.capabilities.utterances_max
        speakers = [Speaker(pool, tenant="many", audio=speech) for _ in range(2 * places)]
        for speaker in speakers:
            speaker.end.clear()
        async with asyncio.TaskGroup() as group:
            finals = [group.create_task(speaker.say_at_once()) for speaker in speakers]
            worker = pool.workers[0]
            await until(lambda: (worker.load.utterances, worker.utterances) == (places, 2 * places))
            await until(lambda: is_refused(pool, "many"))
            pool.admit("one")
            for speaker in speakers:
                speaker.end.set()
        assert [words_of(final.result()) for final in finals] == [said] * len(speakers)
        assert said
        assert worker.restarts == 0


def is_refused(pool: Pool, tenant: str) -> bool:
    now = asyncio.get_running_loop().time()
    return not has_room(tenant, [worker.load for worker in pool.workers], pool._starts.of(tenant, now))


class TestPlaces:
    async def test_a_free_place_goes_to_the_tenant_with_the_fewest(self) -> None:
        places = _Places(3)
        for _ in range(3):
            await places.take("many")
        got: list[str] = []

        async def wait(tenant: str) -> None:
            await places.take(tenant)
            got.append(tenant)

        async with asyncio.TaskGroup() as group:
            for tenant in ("many", "many", "one"):
                group.create_task(wait(tenant))
            await asyncio.sleep(0)
            assert places.wanted == 6
            for _ in range(3):
                places.give("many")
        assert got == ["one", "many", "many"]


class TestRoom:
    FULL = Load(each=0.1, wants={"many": Want(3.0, 0.2)})

    def test_who_makes_the_load_is_refused_and_others_are_not(self) -> None:
        assert not has_room("many", [self.FULL], 0)
        assert has_room("one", [self.FULL], 0)
        assert has_room("many", [self.FULL, Load(each=0.1)], 0), "another worker has time"
        assert has_room("many", [], 0), "streams wait for a worker that starts"

    def test_nobody_is_refused_for_what_was_measured_long_ago(self) -> None:
        """Each stream would want twice the worker's time, and nobody is there to want it."""
        idle = Load(each=2.0, wants={"many": Want(0.0, 0.01)})
        assert has_room("one", [idle], 0)
        assert has_room("many", [idle], 0)
        assert not has_room("one", [idle], 1), "the one that was just taken is not measured yet"
        assert not has_room("one", [Load(each=2.0, wants={"many": Want(2.0)})], 0), "somebody speaks"

    def test_streams_that_have_just_been_taken_count(self) -> None:
        loaded = Load(each=0.3, wants={"a": Want(1.0)})
        assert has_room("a", [loaded], 1)
        assert not has_room("a", [loaded], 2)
        assert has_room("a", [loaded, loaded], 2), "they are spread"

    def test_starts_are_forgotten(self) -> None:
        starts = Starts(5_000)
        starts.add("a", 0.0)
        starts.add("b", 1.0)
        assert (starts.of("a", 5.0), starts.of("a", 5.1), starts.of("b", 5.1)) == (1, 0, 1)

    async def test_a_pool_says_when_to_come_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pool = pool_of("any:Engine")
        monkeypatch.setattr(LocalRecogniser, "load", property(lambda _: self.FULL))
        monkeypatch.setattr(LocalRecogniser, "state", property(lambda _: "ready"))
        with pytest.raises(Overloaded) as refused:
            pool.admit("many")
        assert refused.value.retry_after_ms == LIMITS.overloaded_retry_ms
        pool.admit("one")
        pool.admit("many", first=True)
        assert not pool.is_thinned("many")


class TestDevices:
    def test_what_is_named_is_taken(self) -> None:
        assert found("cpu", 2) == ("cpu",)
        assert found("cuda:0,cuda:1", 0) == ("cuda:0", "cuda:1")

    @pytest.mark.parametrize(
        ("gpus", "visible", "devices"),
        [
            (0, None, ("auto",)),
            (1, None, ("auto",)),
            (2, None, ("cuda:0", "cuda:1")),
            (2, "1", ("auto",)),
            (4, "2,3", ("cuda:0", "cuda:1")),
            (2, "-1", ("auto",)),
            (2, "", ("auto",)),
        ],
    )
    def test_auto_is_a_worker_for_each_of_several_gpus(
        self, tmp_path: Path, gpus: int, visible: str | None, devices: tuple[str, ...]
    ) -> None:
        for name in ("nvidiactl", "nvidia-uvm", "null", *(f"nvidia{number}" for number in range(gpus))):
            (tmp_path / name).touch()
        environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        assert found("auto", gpus_of(tmp_path, environ)) == devices

    @pytest.mark.parametrize(
        ("gpus", "cores", "memory_mib", "devices"),
        [
            (0, 2, 7_000, ("cpu", "cpu")),
            (0, 64, 100_000, ("cpu", "cpu")),
            (0, 1, 100_000, ("auto",)),
            (0, 64, 6_999, ("auto",)),
            (1, 64, 100_000, ("auto",)),
            (2, 64, 100_000, ("cuda:0", "cuda:1")),
        ],
    )
    def test_without_gpus_two_workers_share_the_cores_where_there_is_room(
        self, gpus: int, cores: int, memory_mib: int, devices: tuple[str, ...]
    ) -> None:
        assert found("auto", gpus, cores=cores, memory_mib=memory_mib) == devices
        assert found("cpu", gpus, cores=cores, memory_mib=memory_mib) == ("cpu",)

    @pytest.mark.parametrize("wrong", ["gpu", "cuda:", "cpu,", "auto,cpu", ",".join(["cpu"] * 33), "cuda:0, cpu"])
    def test_other_settings_are_refused(self, wrong: str) -> None:
        with pytest.raises(ConfigError, match="PARLANCE_DEVICES"):
            load({"PARLANCE_DEVICES": wrong})
        assert load({"PARLANCE_DEVICES": ",".join(["cuda:1"] * 32)}).devices
        assert Config().devices == "auto"
