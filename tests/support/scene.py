"""Talks and their audience on some nodes: run them, disturb them from outside, and let the oracle judge in the end.

async with Scene(cluster.urls, alice.token, seed=7) as scene:
    speaker = scene.speak(sentences=6)
    scene.watch(speaker, first=1)
    await scene.spoken(speaker, 0.5)
    ...
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any

import aiohttp

from streaming.model import SAMPLE_RATE
from tests.fakes import tones
from tests.support.oracle import Account, judge
from tests.support.speaker import Speaker, Watcher
from tests.support.wire import HANG_S

POLL_S = 0.002
BYTES_PER_MS = 2 * SAMPLE_RATE // 1_000
SILENCE_MS = (600, 1_000)


class Scene:
    """`speak` and `watch` start clients; leaving the block waits for all of them and judges every talk."""

    def __init__(self, urls: Sequence[str], token: str, *, seed: int, hang_s: float = 150.0) -> None:
        self.chance = random.Random(seed)
        self.speakers: list[Speaker] = []
        self.watchers: dict[str, list[Watcher]] = {}
        self.past: dict[str, Account] = {}
        self.talks: dict[int, tones.Talk] = {}
        self._urls = urls
        self._token = token
        self._hang_s = hang_s
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> "Scene":
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._group.__aexit__(kind, error, trace)
        for speaker in self.speakers:
            await speaker.judged(self._urls[0], *self.watchers.get(speaker.recording_id, []))
        judge(speaker.account for speaker in self.speakers)
        for account in self.past.values():
            account.watchers = [watcher.seen for watcher in self.watchers[account.recording_id]]
        judge(self.past.values())

    # --- clients ----------------------------------------------------------------------------------------------
    def speak(
        self,
        sentences: int = 6,
        *,
        first: int = 0,
        words: tuple[int, int] = (2, 6),
        urls: Sequence[str] | None = None,
        **options: Any,
    ) -> Speaker:
        """A talk that begins now, at node `first`."""
        number = self.chance.randrange(2**31)
        said = tones.talk(tones.random_sentences(number, sentences, words=words), silence_ms=self.silence_ms())
        urls = urls or self._urls
        speaker = Speaker(urls, self._token, said.audio.tobytes(), said.texts, seed=number, first=first, **options)
        self.talks[id(speaker)] = said
        return self.say(speaker)

    def say(self, speaker: Speaker) -> Speaker:
        """Any other talk, which begins now."""
        speaker.hang_s = self._hang_s
        self.speakers.append(speaker)
        self._group.create_task(speaker.run())
        return speaker

    def silence_ms(self) -> int:
        return self.chance.randint(*SILENCE_MS)

    async def watch(
        self, speaker: Speaker, *, first: int = 0, urls: Sequence[str] | None = None, wary: bool = False
    ) -> Watcher:
        """Somebody who follows the talk's room from its beginning."""
        async with asyncio.timeout(HANG_S):
            await speaker.known.wait()
        return self._follow(speaker.room, urls or self._urls, first, wary=wary)

    def replay(self, account: Account, *, first: int = 0) -> Watcher:
        """Somebody who reads the log of a talk that was judged before."""
        self.past[account.recording_id] = account
        return self._follow(f"recording:{account.recording_id}", self._urls, first)

    def _follow(self, room: str, urls: Sequence[str], first: int, *, wary: bool = False) -> Watcher:
        watcher = Watcher(urls, self._token, room, seed=self.chance.randrange(2**31), first=first, wary=wary)
        watcher.hang_s = self._hang_s
        self.watchers.setdefault(room.partition(":")[2], []).append(watcher)
        self._group.create_task(watcher.run())
        return watcher

    def also(self, work: Any) -> "asyncio.Task[Any]":
        """Run something beside, which ends before the scene does."""
        return self._group.create_task(work)

    # --- moments ----------------------------------------------------------------------------------------------
    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(self._hang_s):
            while not condition():
                await asyncio.sleep(POLL_S)

    async def spoken(self, speaker: Speaker, share: float) -> None:
        """So much of the talk was sent (or it is over)."""
        wanted = share * len(speaker.account.pcm)
        await self.until(lambda: speaker.sent >= wanted or speaker.ended)

    async def due(self, speaker: Speaker, sentence: int, after_ms: float) -> None:
        """`after_ms` of audio behind the end of a sentence were sent: its final is on the way."""
        end_ms = self.talks[id(speaker)].sentences[sentence][-1].end_ms
        await self.until(lambda: speaker.sent >= (end_ms + after_ms) * BYTES_PER_MS or speaker.ended)


async def readiness(url: str) -> tuple[int, list[str]]:
    """Status and degraded parts of `/readyz`; (0, []) when nobody answers."""
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with (
            aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=5)) as http,
            http.get("/readyz") as response,
        ):
            return response.status, (await response.json()).get("degraded") or []
    return 0, []


async def until_ready(urls: Sequence[str], *, degraded: Sequence[str] = ()) -> None:
    """Wait until every node serves with exactly these parts lost."""
    try:
        async with asyncio.timeout(2 * HANG_S):
            for url in urls:
                while await readiness(url) != (200, list(degraded)):
                    await asyncio.sleep(0.05)
    except TimeoutError:
        now = {url: await readiness(url) for url in urls}
        raise AssertionError(f"not ready with {list(degraded)} lost: {now}") from None


@contextlib.asynccontextmanager
async def rerun_told(nodeid: str) -> AsyncIterator[None]:
    """On failure, the command that runs this cell alone."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"run it alone: .venv/bin/python -m pytest -m '' '{nodeid}'")
        raise
