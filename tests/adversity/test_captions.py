"""Captions of many streams at once, by both engines, also of more streams than are served in time: every stream ends as
it should, every final is there, no promise is broken and no second of audio is lost.

`make test` takes three streams of a short talk. `make soak` takes the whole of a folder of recordings (PARLANCE_SPEECH,
with a manifest.json; nothing of it is kept) and a set of talks, one stream at a time and at twice the knee: that of the
newest results of `bench captions`, or PARLANCE_KNEE.
"""

import asyncio
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bench import hour, metrics, speech, tables
from bench.captions import MICRO
from bench.load import speak_all
from bench.metrics import Take
from bench.offline import OfflineSphinx, OfflineWhisper
from bench.setups import SPHINX, WHISPER
from bench.speech import Clip, Cut
from tests.support.espeak import LIBRARY
from tests.support.process import ServerProcess, running

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libespeak-ng is not installed")

TALKS, TALK_S = 8, 40.0
HANG_S = 600.0
"""Finals of streams that are far behind, on a machine that is busy with other things."""
KNEE = 8
"""Where nobody has measured one."""


@pytest.fixture(scope="module", params=[WHISPER, SPHINX])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    settings = {"model": str(MICRO)} if request.param == WHISPER else {}
    with running(tmp_path_factory.mktemp("captions"), engine=request.param, **settings) as started:
        yield started


@pytest.fixture(scope="module")
def speaker() -> speech.Speaker:
    return speech.Speaker()


def engine_of(server: ServerProcess) -> str:
    return server.environ["PARLANCE_ENGINE"]


def with_cuts(server: ServerProcess, clips: list[Clip]) -> list[tuple[Clip, list[Cut]]]:
    """What the server will make of them. PocketSphinx was trained on people: where it hears nothing in a machine's
    voice nothing is missing, so its clips do not know their words."""
    if engine_of(server) == SPHINX:
        clips = [msgspec.structs.replace(clip, words=()) for clip in clips]
    offline = OfflineWhisper(MICRO) if engine_of(server) == WHISPER else OfflineSphinx()
    return [(clip, speech.cuts(clip.audio, offline.capabilities)) for clip in clips]


def complaints(take: Take) -> list[str]:
    found = [*metrics.violations(take), *metrics.incomplete(take)]
    if dropped := metrics.dropped_s(take):
        found.append(f"{dropped} s of audio dropped")
    if take.refused:
        found.append(f"refused: {take.refused}")
    return [f"{take.clip.id}: {what}" for what in found]


def knee_of(engine: str) -> int:
    """Of the tests' model and of PocketSphinx, on this machine as far as anybody knows."""
    if given := os.environ.get("PARLANCE_KNEE"):
        return int(given)
    results = tables.ROOT / "bench" / "results"
    wanted = (engine, "micro", False)
    found = [m.knee for m in tables.load(results) if (m.setup.engine, m.setup.shape, m.setup.padded) == wanted]
    return next(filter(None, found), KNEE)


async def test_captions_keep_their_promises(server: ServerProcess, speaker: speech.Speaker) -> None:
    clips = await asyncio.to_thread(
        lambda: with_cuts(server, [speaker.talk(f"talk-{seed}", 5, seed) for seed in range(3)])
    )
    found = await speak_all(server, clips, seed=1, hang_s=120)
    assert [complaint for take in found.takes for complaint in complaints(take)] == []
    assert all(take.finals for take in found.takes)


@pytest.mark.soak
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("knees", [0, 2], ids=["one-at-a-time", "twice-the-knee"])
async def test_nothing_is_broken_or_lost_over_everything(
    server: ServerProcess, speaker: speech.Speaker, capsys: pytest.CaptureFixture[str], knees: int
) -> None:
    clips = [speaker.talk(f"talk-{seed}", TALK_S, seed) for seed in range(100, 100 + TALKS)]
    if folder := os.environ.get("PARLANCE_SPEECH"):
        clips += speech.recorded(Path(folder), float("inf"))
    prepared = await asyncio.to_thread(with_cuts, server, clips)
    streams = max(1, knees * knee_of(engine_of(server)))
    count = -(-len(prepared) // streams) * streams  # some are spoken again, so that the last ones are not alone
    spoken = list(itertools.islice(itertools.cycle(prepared), count))
    found: list[Take] = []
    for at in range(0, count, streams):
        found += (await speak_all(server, spoken[at : at + streams], seed=at, hang_s=HANG_S)).takes
    finals = sum(len(take.finals) for take in found)
    worst = max(take.lag_ms for take in found)
    audio_s = sum(take.clip.seconds for take in found)
    with capsys.disabled():
        told = f"{audio_s:.0f} s, {finals} finals, {worst} ms behind at worst"
        sys.stderr.write(f"\n{engine_of(server)}, {streams} at once: {told}\n")
    assert [complaint for take in found for complaint in complaints(take)] == []


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_an_hour_of_talk_needs_no_more_memory_than_ten_minutes() -> None:
    result = await hour.benchmark(str(MICRO), 3_600, seed=1)
    assert not result.skipped
    missed = [f"{row.name}: {row.value} {row.unit}, {row.promise}" for row in result.figures if not row.kept]
    assert missed == [], result.raw["missing"]
