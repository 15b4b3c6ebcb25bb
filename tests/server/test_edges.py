"""At the edge of limits that stand inside the server: the committer, the database's connections, HTTP, late chunks."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from server.app import enqueue_finals
from server.edge.library import _limit
from server.store import feed
from server.store.commits import Committer
from server.store.pool import Connection, Database
from server.store.segments import FinalWrite
from streaming.aio import Scope, cancel_and_wait
from streaming.errors import BadRequest, Unavailable
from streaming.limits import LIMITS
from streaming.model import Segment, Word
from tests.fakes.recogniser import ToneRecogniser
from tests.support.door import open_door
from tests.support.node import HANG_S, QUICK, Peer, log_of, node, somebody
from tests.support.process import ServerProcess
from tests.support.wire import Talk, wired


class Deaf:
    """An announcer to whom nobody listens."""

    def announce(self, _events: Any) -> None:
        pass

    def resync(self, _tenant_id: str, _room: str) -> None:
        pass


def finals(tenant_id: str, recording_id: str, n: int) -> list[FinalWrite]:
    """Of one stream, in order."""
    made = []
    for ordinal in range(1, n + 1):
        word = Word(f"w{ordinal}", ordinal * 1_000, ordinal * 1_000 + 500, 0.9)
        segment = Segment(
            f"{recording_id}.{ordinal}", ordinal, 1, word.start_ms, word.end_ms, word.text, (word,), None, "en", 0.9
        )
        made.append(FinalWrite(tenant_id, recording_id, 1, segment, ordinal * 16_000))
    return made


async def test_a_batch_of_commits_has_a_size(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    small = msgspec.structs.replace(QUICK, commit_batch_items_max=4, commit_queue_items_max=6)
    batches: list[int] = []

    async def enqueue(connection: Connection, tenant_id: str, written: Any) -> None:
        batches.append(len(written))
        await enqueue_finals(connection, tenant_id, written)

    async with node(database, tmp_path, ToneRecogniser(), limits=small) as one, Scope("commits") as scope:
        row = (await one.start(Peer(), who)).stream.row
        committer = Committer(database, Deaf(), enqueue, small)
        waiting = [
            scope.spawn(committer.commit(item), name=item.segment.segment_id)
            for item in finals(who.tenant_id, row.recording_id, 10)
        ]
        while not committer._queue.full():
            await asyncio.sleep(0)
        assert committer._queue.qsize() == 6, "the other four wait for a place"
        running = scope.spawn(committer.run(), name="committer")
        async with asyncio.timeout(HANG_S):
            await asyncio.wait(waiting)
        await cancel_and_wait(running)
        assert sum(batches) == 10
        assert max(batches) == 4
        texts = [e.body["text"] for e in await log_of(database, who, row.room) if e.event == "transcript:final"]
        assert texts == [f"w{n}" for n in range(1, 11)], "in the order in which they came"


async def test_the_database_has_so_many_connections_and_who_gets_none_hears_it(database: Database) -> None:
    who = await somebody(database)
    async with AsyncExitStack() as held:
        for _ in range(LIMITS.database_connections_max):
            await held.enter_async_context(database.tenant_tx(who.tenant_id))
        with pytest.raises(Unavailable) as refused:  # after `database_acquire_ms_max`
            async with database.tenant_tx(who.tenant_id):
                pass
        assert refused.value.retry_after_ms
    async with database.tenant_tx(who.tenant_id) as connection:
        assert (await feed.head(connection, who.tenant_id, "user:x")).seq == 0


@pytest.mark.parametrize(("asked", "given"), [("1", 1), ("100", 100), ("101", 100), ("9" * 30, 100)])
def test_a_page_of_the_library_has_a_size(asked: str, given: int) -> None:
    assert LIMITS.http_page_items_max == 100
    assert _limit(asked) == given


@pytest.mark.parametrize("asked", ["0", "-1", "x", "1.0", "", "\N{ARABIC-INDIC DIGIT THREE}x"])
def test_what_is_no_size_of_a_page(asked: str) -> None:
    with pytest.raises(BadRequest):
        _limit(asked)


async def test_a_body_has_a_size(parlance: ServerProcess) -> None:
    async with aiohttp.ClientSession(parlance.url) as http:
        for n_bytes, status, code in (
            (LIMITS.http_body_bytes_max, 400, "bad_request"),
            (LIMITS.http_body_bytes_max + 1, 413, "payload_too_large"),
        ):
            async with http.post("/v1/auth/link", data=b"x" * n_bytes) as response:
                assert (response.status, response.content_type) == (status, "application/problem+json")
                assert (await response.json())["code"] == code


async def test_streams_that_ended_are_known_for_a_while(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    small = msgspec.structs.replace(QUICK, past_streams_max=2)
    async with (
        node(database, tmp_path, ToneRecogniser(), limits=small) as one,
        open_door(one, {"t": who}, small) as door,
        wired(door.url, "t") as wire,
    ):
        talks = [Talk(wire, bytes(3_200)) for _ in range(3)]
        for live in talks:
            await live.start()
            await live.send()
            await live.stop()
        codes = []
        for live in talks:
            await wire.emit("voice:recording:chunk", {"stream_id": live.stream_id, "offset": 3_200, "audio": b"\0\0"})
            told = await wire.wait("voice:recording:error", lambda e, live=live: e["stream_id"] == live.stream_id)  # type: ignore[misc]
            codes.append(told["error"]["code"])
        assert codes == ["not_found", "stream_ended", "stream_ended"]
