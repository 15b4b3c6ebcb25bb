"""The tools of these tests: a proxy that does what it says, and an oracle that finds every kind of damage."""

import asyncio
import copy
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.oracle import Account, Acks, Seen, check
from tests.support.proxy import Flip, Proxy, Way, proxied

HANG_S = 30.0
DATA = bytes(range(256)) * 400


class Echo:
    """Sends back what it gets; counts its connections and how they ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        how = "end of file"
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            how = "reset"
        finally:
            writer.close()
            self.ends.append(how)
            self.ended.set()


@asynccontextmanager
async def echoing(**options: Any) -> AsyncIterator[tuple[Echo, Proxy]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    async with server:
        with proxied(server.sockets[0].getsockname()[1], **options) as proxy:
            yield echo, proxy
            proxy.refuse()
            while len(echo.ends) < proxy.accepted:
                await asyncio.sleep(0.01)


async def echoed(port: int, data: bytes) -> bytes:
    """What comes back of `data`, up to its length or the end. Who is cut off while connecting gets nothing."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionResetError:
        return b""

    async def send() -> None:
        with suppress(OSError):
            writer.write(data)
            await writer.drain()

    async with asyncio.timeout(HANG_S), asyncio.TaskGroup() as group:
        group.create_task(send())
        back = bytearray()
        with suppress(OSError):
            while len(back) < len(data) and (piece := await reader.read(65_536)):
                back += piece
        writer.transport.abort()
    return bytes(back)


async def test_without_a_fault_everything_passes_as_it_was() -> None:
    async with echoing() as (echo, proxy):
        assert await echoed(proxy.port, DATA) == DATA
        assert proxy.passed == {Way.UP: len(DATA), Way.DOWN: len(DATA)}
        await asyncio.wait_for(echo.ended.wait(), HANG_S)


async def test_before_a_unix_socket_too(tmp_path: Path) -> None:
    echo = Echo()
    async with await asyncio.start_unix_server(echo.serve, tmp_path / "echo"):
        with proxied(tmp_path / "echo") as proxy:
            assert await echoed(proxy.port, DATA) == DATA
            await asyncio.wait_for(echo.ended.wait(), HANG_S)


@pytest.mark.parametrize("reset", [True, False])
async def test_a_cut_ends_both_sides(reset: bool) -> None:
    async with echoing() as (echo, proxy):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), HANG_S) == b"hello"
        assert proxy.cut(reset=reset) == proxy.cuts == 1
        if reset:
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), HANG_S)
        else:
            assert await asyncio.wait_for(reader.read(), HANG_S) == b""
        writer.close()
        await asyncio.wait_for(echo.ended.wait(), HANG_S)
        assert echo.ends == ["reset" if reset else "end of file"]


async def test_a_cut_at_a_byte_lets_exactly_that_many_pass() -> None:
    async with echoing() as (_, proxy):
        proxy.cut_after(1_234)
        assert len(await echoed(proxy.port, DATA)) <= 1_234
        assert (proxy.passed[Way.UP], proxy.cuts) == (1_234, 1)
        assert await echoed(proxy.port, DATA) == DATA, "once"


async def test_what_is_stalled_goes_on_when_healed() -> None:
    async with echoing() as (_, proxy):
        proxy.stall(Way.DOWN)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(echoed(proxy.port, DATA))
            async with asyncio.timeout(HANG_S):
                while proxy.passed[Way.UP] < 1:
                    await asyncio.sleep(0.01)
            assert proxy.passed[Way.DOWN] == 0
            assert not waiting.done()
            proxy.heal()
        assert waiting.result() == DATA


async def test_slow_is_slow() -> None:
    async with echoing() as (_, proxy):
        proxy.slow(Way.UP, bytes_per_s=200_000)
        started = asyncio.get_running_loop().time()
        assert await echoed(proxy.port, DATA) == DATA
        assert asyncio.get_running_loop().time() - started >= 0.9 * len(DATA) / 200_000


@pytest.mark.parametrize("flip", Flip)
async def test_corruption_changes_bytes_and_no_lengths(flip: Flip) -> None:
    async with echoing(seed=3) as (_, proxy):
        proxy.corrupt(Way.UP, flip=flip)
        back = await echoed(proxy.port, DATA)
        assert len(back) == len(DATA)
        assert sum(a != b for a, b in zip(back, DATA, strict=True)) == proxy.flips > 0
        proxy.heal()
        assert await echoed(proxy.port, DATA) == DATA


async def test_who_is_refused_comes_back() -> None:
    async with echoing() as (_, proxy):
        proxy.refuse()
        assert await echoed(proxy.port, DATA) == b""
        proxy.heal()
        assert await echoed(proxy.port, DATA) == DATA


async def test_a_server_that_is_not_there_is_a_closed_connection() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with proxied(free.getsockname()[1]) as proxy:
            assert await echoed(proxy.port, DATA) == b""


# --- the oracle -------------------------------------------------------------------------------------------------------
def final(seq: int, text: str) -> dict[str, Any]:
    return {
        "event": "transcript:final",
        "room": "r",
        "seq": seq,
        "ordinal": seq,
        "segment_id": f"s{seq}",
        "text": text,
        "start_ms": seq * 1_000,
    }


def partial(segment: str, stable: str, stream: str = "st") -> tuple[str, dict[str, Any]]:
    return "transcript:partial", {"room": "r", "segment_id": segment, "stream_id": stream, "stable": stable}


def ack(received: int, durable: int) -> dict[str, Any]:
    return {"received_bytes": received, "durable_bytes": durable}


def sound() -> Account:
    """A talk of which nothing is wrong, with a take-over and a watcher that reconnected."""
    finals = [final(1, "one two"), final(2, "three"), final(3, "four five")]
    end = {"event": "recording:ended", "room": "r", "seq": 4, "reason": "stopped", "segment_count": 3}
    log = [*finals, end]
    durable = [(event["event"], event) for event in log]
    first = Seen(0, [partial("s1", ""), partial("s1", "one"), durable[0], partial("s2", "th")])
    second = Seen(1, [partial("s2b", "th", "st2"), *durable[1:]])
    return Account(
        recording_id="rec",
        pcm=b"0123456789",
        texts=["one two", "three", "four five"],
        acks=[Acks("st", 0, [ack(4, 2), ack(6, 4)]), Acks("st2", 4, [ack(10, 10)])],
        watchers=[[first, second]],
        log=log,
        media=b"0123456789",
        transcript=["one two", "three", "four five"],
    )


def test_the_oracle_is_content_with_what_is_right() -> None:
    assert check(sound()) == []


def _swap(account: Account) -> None:
    events = account.watchers[0][1].events
    events[1], events[2] = events[2], events[1]


def _other(account: Account) -> None:
    event = dict(account.log[1])
    event["text"] = "tree"
    account.watchers[0][1].events[1] = ("transcript:final", event)


DAMAGE: dict[str, tuple[Callable[[Account], Any], str]] = {
    "a lost word": (lambda a: a.log[1].update(text=""), "lost ['three']"),
    "a doubled word": (lambda a: a.log[1].update(text="three three"), "too often ['three']"),
    "words out of order": (lambda a: a.log[0].update(text="two one"), "differs from word 0"),
    "another transcript": (lambda a: a.transcript.pop(), "the transcript lost"),
    "a gap in the log": (lambda a: a.log[2].update(seq=9), "seq in the log is 9"),
    "a gap in the ordinals": (lambda a: a.log[2].update(ordinal=9), "ordinal is 9"),
    "no end": (lambda a: a.log.pop(), "the log has 0 ends"),
    "another reason": (lambda a: a.log[-1].update(reason="abandoned"), "it ended as abandoned"),
    "another count": (lambda a: a.log[-1].update(segment_count=2), "with 2 of 3"),
    "back in time": (lambda a: a.log[2].update(start_ms=0), "out of order in time"),
    "an event twice": (lambda a: a.watchers[0][1].events.insert(2, a.watchers[0][1].events[1]), "was told 2 where 3"),
    "an event missing": (lambda a: a.watchers[0][1].events.pop(1), "was told 3 where 2"),
    "events in another order": (_swap, "was told 3 where 2"),
    "another event than the log's": (_other, "another transcript:final 2"),
    "the last event missing": (lambda a: a.watchers[0][1].events.pop(), "up to 3 of 4"),
    "stable text taken back": (lambda a: a.watchers[0][0].events.insert(2, partial("s1", "on")), "was taken back"),
    "a final without its stable text": (
        lambda a: a.watchers[0][0].events.insert(2, partial("s1", "one too")),
        "takes back what was stable",
    ),
    "a partial after its final": (lambda a: a.watchers[0][0].events.append(partial("s1", "one")), "follows its final"),
    "a durable byte asked again": (lambda a: setattr(a.acks[1], "offset", 3), "from byte 3, but 4"),
    "an ack that goes back": (lambda a: a.acks[0].acks.append(ack(5, 4)), "goes back: 5, 4"),
    "durable before received": (lambda a: a.acks[1].acks.append(ack(10, 11)), "11 of 10"),
    "audio lost": (lambda a: setattr(a, "media", a.media[:-1]), "in length: 9 of 10"),
    "audio changed": (lambda a: setattr(a, "media", b"01234x6789"), "from byte 5"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_the_oracle_finds(what: str) -> None:
    account = copy.deepcopy(sound())
    account.watchers = [
        [Seen(s.after_seq, [(n, dict(e)) for n, e in s.events]) for s in watcher] for watcher in sound().watchers
    ]
    damage, complaint = DAMAGE[what]
    damage(account)
    assert any(complaint in found for found in check(account)), check(account)
