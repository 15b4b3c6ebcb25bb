"""Worker processes die, hang, lie and get lied to; the server and everybody else's utterance go on."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from server.config import ConfigError
from server.workers.local import ENGINES, LocalRecogniser, engine_ref
from server.workers.program import worker_environment
from streaming.aio import Scope
from streaming.errors import WorkerLost
from streaming.limits import LIMITS
from streaming.model import UtteranceSpec
from streaming.ports import UtteranceDecoder
from streaming.protocol.frames import FrameReader
from streaming.recogniser import link
from streaming.recogniser.engine import load_class
from tests.fakes import tones
from tests.support.waiting import until

HANG_S = 60.0
ENGINE = "tests.fakes.tones:NarrowToneEngine"
PLACES = tones.NarrowToneEngine.utterances_max
WORDS = ("alpha", "bravo", "charlie")
TALK = tones.talk([WORDS], silence_ms=300)
ROOT = Path(__file__).parent.parent.parent


def spec() -> UtteranceSpec:
    return UtteranceSpec("utterance", 0, "en")


def alive(pid: int) -> bool:
    """Runs, or sleeps, or is stopped; an ended process that its parent has not reaped yet is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int | None) -> list[int]:
    assert pid is not None
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@pytest.fixture
async def recogniser() -> AsyncIterator[LocalRecogniser]:
    subject = LocalRecogniser(ENGINE, command=None, limits=LIMITS)
    async with asyncio.timeout(HANG_S), Scope("test") as scope:
        scope.spawn(subject.run(), name="recogniser")
        await subject.ready()
        yield subject


async def heard(decoder: UtteranceDecoder) -> tuple[str, ...]:
    await decoder.feed(TALK.audio)
    return tuple(word.text for word in (await decoder.final()).hypothesis.words)


async def works(recogniser: LocalRecogniser) -> bool:
    return await heard(await recogniser.open(spec())) == WORDS


async def kill_main(recogniser: LocalRecogniser) -> None:
    assert recogniser.pid is not None
    os.kill(recogniser.pid, signal.SIGKILL)
    await until(lambda: recogniser.state != "ready")


class TestDeath:
    async def test_a_killed_decoder_loses_its_utterance_only(self, recogniser: LocalRecogniser) -> None:
        victim = children(recogniser.pid)[0]  # decoders are taken in the order of their forks
        first, second = await recogniser.open(spec()), await recogniser.open(spec())
        await second.feed(TALK.audio)
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(WorkerLost):
            await asyncio.wait_for(_forever(first), HANG_S)
        with pytest.raises(WorkerLost):
            await first.final()
        await first.discard()
        assert tuple(w.text for w in (await second.final()).hypothesis.words) == WORDS
        assert recogniser.restarts == 0
        for _ in range(PLACES + 1):
            assert await works(recogniser)
        await until(lambda: not alive(victim))

    async def test_killing_the_worker_fails_everybody_and_it_comes_back(self, recogniser: LocalRecogniser) -> None:
        decoders = [await recogniser.open(spec()) for _ in range(PLACES)]
        family = [recogniser.pid, *children(recogniser.pid)]
        waiting = asyncio.gather(*(recogniser.open(spec()) for _ in range(2)), return_exceptions=True)
        asking = asyncio.gather(*(_forever(decoder) for decoder in decoders), return_exceptions=True)
        await asyncio.sleep(0)
        await kill_main(recogniser)
        errors = [*await waiting, *await asking]
        assert [type(error) for error in errors] == [WorkerLost] * (PLACES + 2)
        with pytest.raises(WorkerLost) as refused:
            await recogniser.open(spec())
        assert refused.value.retryable
        assert refused.value.retry_after_ms
        for decoder in decoders:
            await decoder.discard()
        await until(lambda: recogniser.state == "ready")
        assert recogniser.restarts == 1
        assert await works(recogniser)
        await until(lambda: not any(alive(pid) for pid in family if pid))

    async def test_nothing_is_left_when_it_stops(self) -> None:
        subject = LocalRecogniser(ENGINE, command=None, limits=LIMITS)
        async with Scope("test") as scope:
            scope.spawn(subject.run(), name="recogniser")
            await subject.ready()
            decoder = await subject.open(spec())
            await decoder.feed(TALK.audio)
            await decoder.partial()
            family = [subject.pid, *children(subject.pid)]
            assert len(family) == 1 + PLACES
        assert not any(Path(f"/proc/{pid}").exists() for pid in family)
        assert subject.state == "down"
        with pytest.raises(WorkerLost):
            await decoder.partial()

    async def test_nothing_is_left_when_the_server_is_killed(self) -> None:
        program = (
            "import asyncio\n"
            "from server.workers.local import LocalRecogniser\n"
            "from streaming.limits import LIMITS\n"
            f"subject = LocalRecogniser({ENGINE!r}, command=None, limits=LIMITS)\n"
            "async def main():\n"
            "    running = asyncio.ensure_future(subject.run())\n"
            "    await subject.ready()\n"
            "    print(subject.pid, flush=True)\n"
            "    await running\n"
            "asyncio.run(main())\n"
        )
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        assert server.stdout is not None
        async with asyncio.timeout(HANG_S):
            worker = int(await server.stdout.readline())
        family = [worker, *children(worker)]
        assert all(alive(pid) for pid in family)
        assert len(family) > 1
        server.kill()
        await server.wait()
        await until(lambda: not any(alive(pid) for pid in family))

    async def test_a_worker_that_cannot_start_is_tried_again_with_pauses(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        subject = LocalRecogniser("tests.fakes.tones:NoSuchEngine", command=None, limits=LIMITS)
        async with Scope("test") as scope:
            scope.spawn(subject.run(), name="recogniser")
            await until(lambda: subject.restarts >= 2)
            assert len(scope) == 1
        pauses = [r.restart_in_ms for r in caplog.records if hasattr(r, "restart_in_ms")]
        assert pauses[:2] == [100, 200]
        assert any("no such class" in str(getattr(r, "line", "")) for r in caplog.records)

    async def test_a_program_that_does_not_exist_is_a_failure_not_a_crash(self) -> None:
        subject = LocalRecogniser(ENGINE, command="/nowhere/python -m worker", limits=LIMITS)
        async with Scope("test") as scope:
            scope.spawn(subject.run(), name="recogniser")
            await until(lambda: subject.restarts >= 1)
            assert len(scope) == 1


async def _forever(decoder: UtteranceDecoder) -> None:
    """Ask for partials until the decoder raises."""
    while True:
        await decoder.partial()


class TestPlaces:
    async def test_places_are_given_in_order_of_arrival(self, recogniser: LocalRecogniser) -> None:
        taken = [await recogniser.open(spec()) for _ in range(PLACES)]
        order: list[int] = []

        async def wait(number: int) -> None:
            decoder = await recogniser.open(spec())
            order.append(number)
            await decoder.discard()

        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(wait(number))
            await asyncio.sleep(0)
            assert order == []
            for decoder in taken:
                await decoder.discard()
        assert order == [0, 1, 2, 3]

    async def test_a_cancelled_caller_gives_its_place_back(self, recogniser: LocalRecogniser) -> None:
        for _ in range(PLACES + 1):
            decoder = await recogniser.open(spec())
            await decoder.feed(TALK.audio)
            ending = asyncio.ensure_future(decoder.final())
            await asyncio.sleep(0)
            ending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await ending
            await decoder.discard()
        assert await works(recogniser)

    async def test_a_caller_cancelled_in_the_queue_does_not_keep_a_place(self, recogniser: LocalRecogniser) -> None:
        taken = [await recogniser.open(spec()) for _ in range(PLACES)]
        for moment in ("waiting", "granted"):
            queued = asyncio.ensure_future(recogniser.open(spec()))
            await asyncio.sleep(0)
            if moment == "granted":
                await taken.pop().final()  # its place goes to the queue in the same turn of the loop
            queued.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await queued).discard()
        for decoder in taken:
            await decoder.discard()
        for _ in range(PLACES + 1):
            assert await works(recogniser)

    async def test_a_partial_given_up_does_not_answer_the_next_one(self, recogniser: LocalRecogniser) -> None:
        decoder = await recogniser.open(spec())
        given_up = asyncio.ensure_future(decoder.partial())
        await asyncio.sleep(0)
        given_up.cancel()
        await decoder.feed(TALK.audio)
        assert (await decoder.partial()).until_sample == len(TALK.audio)
        await decoder.discard()

    async def test_feed_waits_while_the_decoder_does_not_take_its_audio(self, recogniser: LocalRecogniser) -> None:
        stopped = children(recogniser.pid)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        decoder = await recogniser.open(spec())
        audio = np.zeros(LIMITS.worker_inflight_bytes_max // 2, np.int16)
        await decoder.feed(audio)
        feeding = asyncio.ensure_future(decoder.feed(audio[:1]))
        other = await recogniser.open(spec())  # the worker itself goes on
        await other.discard()
        assert not feeding.done()
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        await feeding
        assert (await decoder.final()).hypothesis.until_sample == len(audio) + 1


class TestLies:
    """A worker without a server: whatever comes down its socket, it answers and lives."""

    async def test_garbage_is_refused_and_the_next_request_served(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "streaming.recogniser.worker", "--engine", ENGINE,
                "--fd", str(theirs.fileno()), pass_fds=(theirs.fileno(),), env=worker_environment(os.environ, {}),
                stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        reader, writer = await asyncio.open_connection(sock=ours)
        frames, waiting = FrameReader(link.FRAME_BYTES_MAX), list[link.Answer]()

        async def answer() -> link.Answer:
            while not waiting:
                data = await reader.read(4_096)
                assert data, "the worker died"
                waiting.extend(link.decode_answer(p) for p in frames.feed(data) if isinstance(p, bytes))
            return waiting.pop(0)

        async with asyncio.timeout(HANG_S):
            assert isinstance(await answer(), link.Hello)
            oversized = (link.FRAME_BYTES_MAX + 1).to_bytes(4, "little") + bytes(link.FRAME_BYTES_MAX + 1)
            for garbage in (link.frame_payload(b"secret words"), link.frame_payload(b""), oversized):
                writer.write(garbage)
                assert isinstance(await answer(), link.Refused)
            writer.write(link.frame(link.AskPartial(5, 1)))
            assert isinstance(await answer(), link.Lost)
            writer.write(link.frame(link.Open(6, spec())))
            for pcm in link.pcm_pieces(TALK.audio):
                writer.write(link.frame(link.Audio(6, pcm)))
            writer.write(link.frame(link.AskFinal(6)))
            while not isinstance(final := await answer(), link.FinalReady):
                assert isinstance(final, link.Taken)
            assert tuple(word.text for word in final.final.hypothesis.words) == WORDS
            writer.write(link.frame(link.AskPartial(6, 1))[:-1])  # a frame that never ends
            writer.close()
            await writer.wait_closed()
            assert process.stderr is not None
            log = await process.stderr.read()
            assert await process.wait() == 0
        assert b"refused a frame" in log
        for said in (b"secret", *(word.encode() for word in WORDS)):
            assert said not in log

    async def test_a_program_that_speaks_another_language_is_stopped(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        program = tmp_path / "liar.py"
        program.write_text("import os, sys, time\nos.write(int(sys.argv[-1]), b'\\x02\\0\\0\\0hi')\ntime.sleep(600)\n")
        subject = LocalRecogniser(ENGINE, command=f"{sys.executable} {program}", limits=LIMITS)
        async with Scope("test") as scope:
            scope.spawn(subject.run(), name="recogniser")
            await until(lambda: subject.restarts >= 1)
        assert subject.state == "down"
        assert any("nonsense" in str(getattr(record, "reason", "")) for record in caplog.records)


class TestSurroundings:
    def test_the_worker_sees_no_secret_and_one_thread(self) -> None:
        environment = worker_environment(
            {"PATH": "/bin", "PYTHONPATH": "/elsewhere", "PARLANCE_SECRET": "s", "PARLANCE_MODEL": "theirs"},
            {"PARLANCE_MODEL": "m"},
        )
        assert environment["PATH"] == "/bin"
        assert environment["PARLANCE_MODEL"] == "m"
        assert "PARLANCE_SECRET" not in environment
        assert environment["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/elsewhere"]
        assert environment["OMP_NUM_THREADS"] == "1"

    def test_engine_names(self) -> None:
        assert engine_ref("pocketsphinx") == ENGINES["pocketsphinx"]
        assert engine_ref(ENGINE) == ENGINE
        assert load_class(engine_ref("pocketsphinx")).__name__ == "PocketSphinxEngine"
        with pytest.raises(ConfigError, match="whisper9000"):
            engine_ref("whisper9000")

    async def test_the_main_process_has_one_thread(self, recogniser: LocalRecogniser) -> None:
        assert await works(recogniser)
        assert len(list(Path(f"/proc/{recogniser.pid}/task").iterdir())) == 1

    async def test_a_decoder_holds_no_socket_but_its_own(self, recogniser: LocalRecogniser) -> None:
        decoders = [await recogniser.open(spec()) for _ in range(PLACES)]
        for decoder in decoders:
            await decoder.partial()
        family = children(recogniser.pid)
        assert len(family) == PLACES
        for pid in family:
            targets = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
            assert sum(target.startswith("socket:") for target in targets) == 1

    async def test_an_engine_that_leaves_threads_is_not_forked(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        subject = LocalRecogniser("tests.fakes.tones:ThreadedToneEngine", command=None, limits=LIMITS)
        async with Scope("test") as scope:
            scope.spawn(subject.run(), name="recogniser")
            await until(lambda: subject.restarts >= 1)
        assert any("cannot be forked" in str(getattr(record, "line", "")) for record in caplog.records)
