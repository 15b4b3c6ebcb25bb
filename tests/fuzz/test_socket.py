"""A stranger at the door of a real server: random frames, random events, random requests.

Whatever comes: the server lives, writes no traceback, answers or hangs up, serves its other clients meanwhile, and has
no socket and no more memory left over. A failure names the stranger: put "7-42" into `STRANGERS` to run it alone, and
`python -m tests.fuzz.frames 7-42` prints what it sends.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.fakes.tones import random_sentences, talk
from tests.fuzz.frames import mischief
from tests.fuzz.requests import LAST, request
from tests.support.process import Account, ServerProcess, running
from tests.support.raw import HANG_S, raw_socket, text
from tests.support.wire import Talk, Wire, wired

SEEDS = [1]
STRANGERS: list[str] = ["1-0"]
"""Single ones to run again."""
SOAK_SEEDS = list(range(101, 111))
AT_ONCE = 8
RSS_GROWTH_MAX_KIB = 48 * 1024
PROBE = text('4299999["room:leave",{"room":"recording:probe"}]')


@pytest.fixture(scope="module")
def parlance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of these tests' own: what it logs and holds is theirs alone. Its orphans end after a second."""
    with running(tmp_path_factory.mktemp("fuzz") / "data", abandon_ms="1000") as server:
        yield server


@pytest.fixture
async def alice(parlance: ServerProcess) -> Account:
    return await parlance.account("strangers")


@pytest.fixture
async def bob(parlance: ServerProcess) -> Account:
    return await parlance.account("neighbours")


@asynccontextmanager
async def undisturbed(parlance: ServerProcess, bob: Account) -> AsyncIterator[None]:
    """A neighbour asks all the time and gets each answer, then talks and gets every word; and the server is well."""
    before, logged = parlance.pid, len(parlance.output)
    async with wired(parlance.url, bob.token) as wire, asyncio.TaskGroup() as tasks:
        enough = asyncio.Event()  # a cancellation can get lost in wait_for of Python 3.11
        asking = tasks.create_task(ask(wire, bob, enough))
        try:
            yield
        finally:
            enough.set()
        await asking
        said = talk(random_sentences(9, 1))
        live = Talk(wire, said.audio.tobytes())
        await live.start()
        await live.send()
        await live.stop()
        assert [event["text"] for event in await live.log() if event["event"] == "transcript:final"] == said.texts
        assert not wire.closed.is_set()
    await nobody_left(parlance.url)
    assert parlance.pid == before
    assert parlance.running
    written = "".join(parlance.output[logged:])
    assert "Traceback" not in written, written[-4_000:]
    assert written.count("\n") < 100, f"a line for each frame is a way to fill a disk:\n{written[-4_000:]}"


async def ask(wire: Wire, bob: Account, enough: asyncio.Event) -> None:
    while not enough.is_set():
        await wire.ok("events:read", {"room": f"user:{bob.user_id}", "after_seq": 0})
        await asyncio.sleep(0.02)


async def nobody_left(url: str) -> None:
    """The server knows of no socket any more, not even for a minute."""
    async with asyncio.timeout(HANG_S), aiohttp.ClientSession(url) as http:
        while True:
            async with http.get("/metrics") as response:
                if "parlance_sockets 0.0" in await response.text():
                    return
            await asyncio.sleep(0.05)


def rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


async def visit(url: str, token: str, seed: str) -> int:
    """One stranger; returns how many frames it sent. Raises when it is neither answered nor hung up on."""
    plan = mischief(seed)
    async with raw_socket(url) as sock:
        auth = {"token": token} if plan.signs_in else plan.auth
        answer = None if plan.silent else await sock.connect(auth)
        signed_in = plan.signs_in and answer is not None
        await sock.send(b"".join(plan.frames))
        if signed_in and not plan.swallows:
            await sock.send(PROBE)
            await sock.until("4399999[")  # or the end
        elif plan.ends_politely:
            sock.half_close()
            await asyncio.wait_for(sock.closed.wait(), HANG_S)
    return len(plan.frames)


async def visits(url: str, token: str, seed: int, n_frames: int) -> None:
    """Strangers, `AT_ONCE` of them, until they have sent so many frames."""
    numbers = iter(range(n_frames))
    sent = 0

    async def stranger() -> None:
        nonlocal sent
        while sent < n_frames:
            name = f"{seed}-{next(numbers)}"
            try:
                sent += await visit(url, token, name)
            except Exception as error:
                error.add_note(f"stranger {name!r}")
                raise

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(stranger())


async def frames_harm_nobody(parlance: ServerProcess, alice: Account, bob: Account, seed: int, n_frames: int) -> None:
    async with undisturbed(parlance, bob):
        await visits(parlance.url, alice.token, seed, n_frames // 4)
        warm = rss_kib(parlance.pid)
        await visits(parlance.url, alice.token, seed + 1_000_000, n_frames - n_frames // 4)
        grown = rss_kib(parlance.pid) - warm
    assert grown < RSS_GROWTH_MAX_KIB, f"seed {seed}: {grown} KiB"


@pytest.mark.parametrize("name", STRANGERS)
async def test_one_stranger(parlance: ServerProcess, alice: Account, bob: Account, name: str) -> None:
    async with undisturbed(parlance, bob):
        await visit(parlance.url, alice.token, name)


@pytest.mark.parametrize("seed", SEEDS)
async def test_random_frames_harm_nobody(parlance: ServerProcess, alice: Account, bob: Account, seed: int) -> None:
    await frames_harm_nobody(parlance, alice, bob, seed, 3_000)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("seed", SOAK_SEEDS)
async def test_many_random_frames_harm_nobody(parlance: ServerProcess, alice: Account, bob: Account, seed: int) -> None:
    await frames_harm_nobody(parlance, alice, bob, seed, 10_000)


# --- requests ---------------------------------------------------------------------------------------------------------
async def answers(url: str, sent: bytes, *, swallows: bool) -> list[int]:
    """The statuses that one connection gets for these bytes, until the server closes it: after a last request, or after
    the end of what is sent, where a last request could be taken for a part of it."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    got = b""
    try:
        writer.write(sent if swallows else sent + LAST)
        if swallows:
            writer.write_eof()
        async with asyncio.timeout(HANG_S):
            while piece := await reader.read(65_536):
                got += piece
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return [int(status) for status in re.findall(rb"^HTTP/1\.[01] (\d{3})", got, re.MULTILINE)]


async def requests_harm_nobody(parlance: ServerProcess, alice: Account, bob: Account, seed: int, n: int) -> None:
    names = iter([f"{seed}-{number}" for number in range(n)])

    async def stranger() -> None:
        for name in names:
            sent, swallows = request(name, alice.token)
            try:
                statuses = await answers(parlance.url, sent, swallows=swallows)
            except TimeoutError as error:
                error.add_note(f"request {name!r}: {sent[:500]!r}")
                raise
            assert swallows or statuses, f"request {name!r} has no answer"
            assert max(statuses, default=0) < 500, f"request {name!r}: {statuses}"

    async with undisturbed(parlance, bob), asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(stranger())


@pytest.mark.parametrize("seed", SEEDS)
async def test_random_requests_harm_nobody(parlance: ServerProcess, alice: Account, bob: Account, seed: int) -> None:
    await requests_harm_nobody(parlance, alice, bob, seed, 600)


@pytest.mark.soak
@pytest.mark.parametrize("seed", SOAK_SEEDS)
async def test_many_random_requests_harm_nobody(
    parlance: ServerProcess, alice: Account, bob: Account, seed: int
) -> None:
    await requests_harm_nobody(parlance, alice, bob, seed, 5_000)
