"""The two servers that the benchmarks compare do the same work: real processes, told alike."""

import shutil
from pathlib import Path

import pytest

from bench import beside, fanout, intake
from bench.beside import NODE, OURS
from bench.crowd import Crowd

INSTALLED = shutil.which("node") is not None and (beside.NODE_FOLDER / "node_modules" / "socket.io").is_dir()
SIDES = [OURS, pytest.param(NODE, marks=pytest.mark.skipif(not INSTALLED, reason="bench/node is not installed"))]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("durable", [False, True])
async def test_every_member_gets_every_event_once_in_order(side: str, durable: bool, tmp_path: Path) -> None:
    async with beside.peer(side, folder=tmp_path) as server:
        crowd = Crowd("bench", subject=fanout.DURABLE if durable else fanout.EVENT, deflate=True)
        await crowd.connect(server.url, 3)
        sender = fanout.Sender(server, side, fanout.EVENT_BYTES, durable=durable)
        await fanout.until_members(crowd, sender)
        found = await fanout.phase(crowd, [server], 40, sender.emit(40, 200))
        crowd.close()
    assert (found.delivered, found.disorder, found.lost) == (120, 0, 0)
    assert 200 < found.bytes_each < 400
    assert not any(link.compressed for link in crowd.links)


@pytest.mark.parametrize("side", SIDES)
async def test_what_is_sent_is_in_the_files(side: str) -> None:
    run = await intake.alike(side, 3, 0.2, seed=1)
    assert (run["wrong"], run["refused"], run["lost"]) == (0, 0, 0)
    assert run["audio_s"] == pytest.approx(3 * 0.2 * intake.SPEED)
