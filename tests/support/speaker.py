"""Clients that never give up: one speaks a talk to its end, one watches a room to its end, wherever they must connect.

Both go from node to node whenever their connection is lost, stalls or is sent away, as the SDKs do, but eagerly, so
that thousands of cuts take seconds. All they are told is kept for the oracle.

Invariant: a speaker sends every byte that is not durable again, and stops only when `recording:ended` is certain.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from tests.support.line import Event, Line, Lost
from tests.support.oracle import PAGE, Account, Acks, Seen, complete

PATIENCE_S = 4.0
"""Without any progress a connection is given up; grows with each that was, so that a slow machine is waited for."""
PATIENCE_S_MAX = 60.0
PAUSE_S = (0.01, 0.05)
RATE = 16_000
MOVE = frozenset({"unavailable", "draining", "overloaded", "rate_limited", "slow_consumer"})
"""Refusals after which another node, or the same a little later, is asked."""


class Roamer:
    """Connects to one of `urls` after the other, from the `first` on."""

    def __init__(self, urls: Sequence[str], token: str, *, seed: int = 0, first: int = 0) -> None:
        self.urls = list(urls)
        self.token = token
        self.chance = random.Random(seed)
        self.losses: list[str] = []
        self.streaming = False
        self.line: Line | None = None
        self.hang_s = 150.0
        self._at = first
        self._woken = asyncio.Event()
        self._patience_s = PATIENCE_S

    @property
    def at(self) -> int:
        """The number of the node that it uses or will use."""
        return self._at % len(self.urls)

    def cut(self) -> None:
        """Lose the present connection."""
        if self.line is not None:
            self.line.cut()

    async def run(self) -> None:
        """To the end."""
        try:
            async with asyncio.timeout(self.hang_s):
                while not await self._tried():
                    await asyncio.sleep(self.chance.uniform(*PAUSE_S))
        except TimeoutError:
            raise AssertionError(f"{self!r} hangs: {self.losses[-5:]}") from None

    async def _tried(self) -> bool:
        self.line = Line(self._heard, self._woken.set)
        try:
            await self.line.open(self.urls[self.at], self.token, within_s=self._patience_s)
            await self.session(self.line)
            return True
        except Lost as error:
            self.losses.append(f"node {self.at}: {error}")
            self._at += 1
            return False
        finally:
            self.streaming = False
            await self.line.close()

    def _heard(self, name: str, event: Event) -> None:
        if name in ("server:draining", "server:closing"):
            assert self.line is not None
            self.line.why = self.line.why or name
            self.line.cut()
        self.hear(name, event)
        self._woken.set()

    def progress(self) -> None:
        self._patience_s = PATIENCE_S

    async def woken(self, line: Line) -> None:
        """Wait until something was heard. Raises `Lost` at the end of the connection, or of the patience."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._woken.wait()
        except TimeoutError:
            self._patience_s = min(self._patience_s * 2, PATIENCE_S_MAX)
            raise Lost("no progress") from None
        self._woken.clear()
        if line.closed.is_set():
            raise Lost(line.why or "closed")

    async def asked(self, line: Line, event: str, obj: Event) -> Event:
        """A positive acknowledgement. Raises `Lost` where another try may help, `Refused` otherwise."""
        answer = await line.call(event, obj, within_s=self._patience_s)
        if not answer["ok"]:
            code = answer["error"]["code"]
            raise Lost(code) if code in MOVE else Refused(code, answer)
        return answer

    async def session(self, line: Line) -> None:
        """On one connection, to the end. Raises `Lost`."""
        raise NotImplementedError

    def hear(self, name: str, event: Event) -> None:
        raise NotImplementedError


class Refused(Exception):
    """A refusal that nobody expected."""

    def __init__(self, code: str, answer: Event) -> None:
        super().__init__(code, answer)
        self.code = code


class Speaker(Roamer):
    """Speaks `pcm` (s16le mono, 16 kHz) at `speed` times the pace of talk (0: as fast as the credit allows)."""

    def __init__(
        self,
        urls: Sequence[str],
        token: str,
        pcm: bytes,
        texts: Sequence[str] | None,
        *,
        speed: float = 8.0,
        chunk: tuple[int, int] = (1_000, 6_000),
        seed: int = 0,
        first: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(urls, token, seed=seed, first=first)
        self.account = Account("", pcm, texts)
        self.known = asyncio.Event()
        self.stopping = asyncio.Event()
        self.ended = False
        self._options = {"encoding": "pcm_s16le", "sample_rate": RATE, "channels": 1, **options}
        self._resume_token = ""
        self._speed = speed
        self._chunk = chunk
        self._stream: Acks | None = None
        self._granted = 0
        self._sent = 0
        self._failed = ""

    def __repr__(self) -> str:
        return f"speaker of {self.account.recording_id or 'nothing yet'}, {self._sent} of {len(self.account.pcm)} sent"

    @property
    def recording_id(self) -> str:
        return self.account.recording_id

    @property
    def room(self) -> str:
        return f"recording:{self.account.recording_id}"

    @property
    def sent(self) -> int:
        return self._sent

    async def session(self, line: Line) -> None:
        try:
            await self._start(line)
            self.streaming = True
            await self._send(line)
            self.stopping.set()
            stop = {"stream_id": self._stream.stream_id if self._stream else "", "offset": len(self.account.pcm)}
            await self.asked(line, "voice:recording:stop", stop)
        except Refused as refusal:
            if refusal.code == "stream_ended" and self.stopping.is_set():
                self.ended = True  # an earlier connection's stop had arrived
            elif self._failed:
                raise Lost(self._failed) from refusal  # it was told before that this stream is over
            else:
                raise
        while not self.ended:
            self._check()
            await self.woken(line)

    async def _start(self, line: Line) -> None:
        wanted: Event = dict(self._options)
        if self.recording_id:
            wanted |= {"recording_id": self.recording_id, "resume_token": self._resume_token}
        self._failed = ""
        answer = await self.asked(line, "voice:recording:start", wanted)
        self.account.recording_id, self._resume_token = answer["recording_id"], answer["resume_token"]
        self._sent = answer["offset"]
        self._granted = answer["offset"] + answer["credit_bytes"]
        # Acknowledgements may have come before the answer was seen here: they are this stream's, and none is lost.
        early = self._stream.acks if self._stream and self._stream.stream_id == answer["stream_id"] else []
        self._stream = Acks(answer["stream_id"], answer["offset"], early)
        self.account.acks.append(self._stream)
        self.known.set()

    async def _send(self, line: Line) -> None:
        assert self._stream is not None
        pcm = self.account.pcm
        while self._sent < len(pcm):
            self._check()
            end = min(self._sent + self.chance.randint(*self._chunk), len(pcm))
            if end > self._granted:
                await self.woken(line)
                continue
            await line.chunk(self._stream.stream_id, self._sent, pcm[self._sent : end])
            count, self._sent = end - self._sent, end
            await asyncio.sleep(count / (2 * RATE) / self._speed if self._speed else 0)

    def _check(self) -> None:
        if self._failed:
            raise Lost(self._failed)

    def hear(self, name: str, event: Event) -> None:
        stream = self._stream
        if name == "voice:recording:ack":
            if stream is None or stream.stream_id != event["stream_id"]:
                stream = self._stream = Acks(event["stream_id"], 0)
            stream.acks.append(event)
            self._granted = max(self._granted, event["received_bytes"] + event["credit_bytes"])
            self.progress()
        elif name == "voice:recording:error" and stream is not None and stream.stream_id == event["stream_id"]:
            stream.errors.append(event)
            self._failed = event["error"]["code"]
        elif name == "recording:ended" and event["recording"]["id"] == self.recording_id:
            self.ended = True

    async def judged(self, url: str, *watchers: "Watcher") -> Account:
        """The account with all that the oracle wants to see, read from one node."""
        line = Line(lambda _name, _event: None)
        try:
            await line.open(url, self.token)
            more = True
            while more:
                log = self.account.log
                ask = {"room": self.room, "after_seq": len(log), "limit": PAGE}
                page = await self.asked(line, "events:read", ask)
                log += page["events"]
                more = page["more"]
        finally:
            await line.close()
        self.account.watchers = [watcher.seen for watcher in watchers]
        return await complete(self.account, url, self.token)


class Watcher(Roamer):
    """Follows a recording's room from its beginning to `recording:ended`.

    `wary`: a gap means that the network ate an event; then it joins anew, as the SDKs do."""

    def __init__(
        self, urls: Sequence[str], token: str, room: str, *, seed: int = 0, first: int = 0, wary: bool = False
    ) -> None:
        super().__init__(urls, token, seed=seed, first=first)
        self.room = room
        self._wary = wary
        self.seen: list[Seen] = []
        self.seq = 0
        self._ended = False

    def __repr__(self) -> str:
        return f"watcher of {self.room} at {self.seq}"

    async def session(self, line: Line) -> None:
        if self._ended:
            return
        self.seen.append(Seen(self.seq, []))
        await self.asked(line, "room:join", {"room": self.room, "after_seq": self.seq})
        while not self._ended:
            try:
                await self.woken(line)
            except Lost:
                if line.closed.is_set():
                    raise  # silence alone is no loss: nobody may be speaking

    def hear(self, name: str, event: Event) -> None:
        if event.get("room") != self.room or not self.seen:
            return
        if self._wary and event.get("seq", self.seq + 1) > self.seq + 1:
            self.cut()
            return
        if name == "transcript:partial":
            event = {key: event[key] for key in ("segment_id", "stream_id", "stable")}  # hundreds of thousands of them
        self.seen[-1].events.append((name, event))
        self.seq = max(self.seq, event.get("seq", 0))
        self._ended = self._ended or name == "recording:ended"
