"""Which recogniser serves which stream while engines come and go."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from server.config import Config, ConfigError
from server.workers.engines import Choice, Engines, choose
from server.workers.local import LocalRecogniser
from streaming.aio import Scope
from streaming.errors import Overloaded
from streaming.limits import LIMITS
from streaming.model import UtteranceSpec
from streaming.ports import Recogniser
from streaming.recogniser.cadence import Want
from streaming.recogniser.link import Load

TONES = "tests.fakes.tones:ToneEngine"
HANG_S = 30.0


class Remote:
    """Stands for the wrapper of a remote service."""

    def __init__(self, local: Recogniser) -> None:
        self.local = local


def engines(limits: object = LIMITS) -> Engines:
    return Engines(
        Choice(TONES),
        command=None,
        limits=limits,
        remote=Remote,
        remote_tenants=("acme",),  # type: ignore[arg-type]
    )


@pytest.fixture
async def running() -> AsyncIterator[Engines]:
    made = engines()
    async with Scope("test") as scope:
        scope.spawn(made.run(), name="engines")
        async with asyncio.timeout(HANG_S):
            await made.ready()
        yield made


async def works(recogniser: Recogniser) -> bool:
    async with asyncio.timeout(HANG_S):
        decoder = await recogniser.open(UtteranceSpec("u", 0, "en"))
        await decoder.discard()
    return True


def alive(pid: int | None) -> bool:
    assert pid is not None
    return os.path.exists(f"/proc/{pid}")


async def test_a_stream_keeps_its_engine_and_the_old_worker_ends_with_its_last_stream(running: Engines) -> None:
    older = running.lease(remote="")
    old = running._current.recogniser
    (pid,) = old.pids
    assert await running.switch(Choice(TONES, Path("new")))
    newer = running.lease(remote="")
    assert newer.recogniser is not older.recogniser
    assert await works(older.recogniser)
    assert await works(newer.recogniser)
    assert alive(pid)
    older.release()
    older.release()  # twice does no harm
    async with asyncio.timeout(HANG_S):
        while alive(pid):
            await asyncio.sleep(0.02)
    assert await works(newer.recogniser)


async def test_an_engine_that_nobody_used_ends_at_once(running: Engines) -> None:
    (pid,) = running._current.recogniser.pids
    assert await running.switch(Choice(TONES, Path("new")))
    async with asyncio.timeout(HANG_S):
        while alive(pid):
            await asyncio.sleep(0.02)


async def test_an_engine_that_does_not_start_is_given_up() -> None:
    quick = msgspec.structs.replace(LIMITS, worker_hello_ms_max=1_500)
    made = engines(quick)
    async with Scope("test") as scope:
        scope.spawn(made.run(), name="engines")
        async with asyncio.timeout(HANG_S):
            await made.ready()
            assert not await made.switch(Choice("tests.fakes.tones:NoSuchEngine"))
        assert await works(made.lease(remote="").recogniser)
        assert made.info().name == "tones"


async def test_the_same_choice_changes_nothing(running: Engines) -> None:
    before = running.lease(remote="").recogniser
    assert await running.switch(Choice(TONES))
    assert running.lease(remote="").recogniser is before


async def test_the_first_stream_is_taken_however_slow_the_recogniser_was(
    running: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Load(each=2.0, wants={"a": Want(1.0)})
    monkeypatch.setattr(LocalRecogniser, "load", property(lambda _: slow))
    running.admit("a")
    held = running.lease(remote="")
    with pytest.raises(Overloaded):
        running.admit("a")
    held.release()
    running.admit("a")


async def test_only_tenants_that_allow_it_get_the_remote_service(running: Engines) -> None:
    assert running.remote_allowed("acme")
    assert not running.remote_allowed("other")
    assert isinstance(running.lease(remote="acme").recogniser, Remote)
    assert not isinstance(running.lease(remote="").recogniser, Remote)
    assert not isinstance(running.lease(remote="was allowed once").recogniser, Remote)


class TestChoice:
    def test_auto_takes_whisper_when_weights_are_here(self, tmp_path: Path) -> None:
        assert choose(Config(), None) == Choice("pocketsphinx")
        assert choose(Config(), tmp_path) == Choice("whisperx", tmp_path)

    def test_pocketsphinx_stays_pocketsphinx(self, tmp_path: Path) -> None:
        assert choose(Config(engine="pocketsphinx"), tmp_path) == Choice("pocketsphinx")

    def test_whisperx_without_weights_is_refused_with_what_to_do(self, tmp_path: Path) -> None:
        assert choose(Config(engine="whisperx"), tmp_path) == Choice("whisperx", tmp_path)
        with pytest.raises(ConfigError, match=r"no Whisper weights are here; run `parlance models pull default`"):
            choose(Config(engine="whisperx"), None)
        with pytest.raises(ConfigError, match=r"no Whisper called base.en"):
            choose(Config(engine="whisperx", model="base.en"), None)
