"""Everything around the live core, in memory and on virtual time: a database, disks, servers, workers and clients.

Real are the pipeline, the tape, the offset machine, the session's states and the hub. The store does what the SQL does:
fencing by epoch, ordinals that follow one another, a gapless log per room, commits whose answer is lost. A `World` is
driven by one `random.Random`: the same seed gives the same history.
"""

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from server.rooms.hub import Hub, RoomKey
from server.store.feed import Event, Head
from streaming.aio import Scope, cancel_and_wait
from streaming.audio.decode import DecodeStart, begin_at
from streaming.audio.endpoint import CONVERSATION
from streaming.audio.parts import OPUS_PER_SAMPLE
from streaming.audio.vad import SoundDetector
from streaming.errors import Fenced, StreamEnded, Unavailable, WorkerLost
from streaming.limits import LIMITS
from streaming.model import AudioFormat, Encoding, Part, Partial, Segment, UtteranceSpec
from streaming.pipeline import Pipeline, StreamPlan
from streaming.protocol.offsets import OffsetLedger
from streaming.protocol.session import Input, State, advance
from streaming.tape import MarkKind, Tape
from tests.fakes.log import MemoryLog
from tests.fakes.recogniser import Call, ToneRecogniser
from tests.fakes.sink import MemorySink

TENANT = "t"
LIMITS_SMALL = msgspec.structs.replace(LIMITS, replay_page_events=2, credit_ms=5_000, lease_renew_ms=700)


class StreamRow(msgspec.Struct):
    """The fencing row."""

    epoch: int = 0
    committed_sample: int = 0
    next_ordinal: int = 1
    ended: bool = False


class Trouble(msgspec.Struct, frozen=True):
    """How often what goes wrong, as probabilities per occasion."""

    worker: float = 0.0
    commit: float = 0.0
    answer: float = 0.0
    cut: float = 0.0
    crash: float = 0.0
    power: float = 0.0
    leave: float = 0.0


class Store:
    """Postgres. Also the hub's `LogReader`."""

    def __init__(self, rng: random.Random, trouble: Trouble) -> None:
        self._rng = rng
        self._trouble = trouble
        self.streams: dict[str, StreamRow] = defaultdict(StreamRow)
        self.segments: dict[str, list[Segment]] = defaultdict(list)
        self.events: dict[str, list[Event]] = defaultdict(list)

    async def _round_trip(self) -> None:
        await asyncio.sleep(self._rng.choice([0.0, 0.001, 0.01, 0.3]))
        if self._rng.random() < self._trouble.commit:
            raise Unavailable("away")

    async def take_over(self, name: str) -> StreamRow:
        await self._round_trip()
        row = self.streams[name]
        if row.ended:
            raise StreamEnded("over")
        row.epoch += 1
        return msgspec.structs.replace(row)

    async def write(self, name: str, epoch: int, segment: Segment, committed_sample: int) -> Event | None:
        """The logged event; None when this ordinal is there already. Raises `Fenced`, `Unavailable`."""
        await self._round_trip()
        row = self.streams[name]
        if row.ended or row.epoch != epoch:
            raise Fenced("taken over")
        if segment.ordinal < row.next_ordinal:
            return None
        assert segment.ordinal == row.next_ordinal, "finals of a stream come in order"
        assert all(segment.segment_id != known.segment_id for known in self.segments[name]), "ids are unique"
        self.segments[name].append(segment)
        row.next_ordinal += 1
        row.committed_sample = max(row.committed_sample, committed_sample)
        event = self._log(name, "transcript:final", segment.text)
        await self._answer()
        return event

    async def renew(self, name: str, epoch: int, settled_sample: int) -> None:
        await self._round_trip()
        row = self.streams[name]
        if row.ended or row.epoch != epoch:
            raise Fenced("taken over")
        row.committed_sample = max(row.committed_sample, settled_sample)

    async def end(self, name: str, epoch: int) -> Event:
        await self._round_trip()
        row = self.streams[name]
        if row.ended or row.epoch != epoch:
            raise Fenced("taken over")
        row.ended = True
        return self._log(name, "recording:ended", "")

    def _log(self, name: str, event: str, text: str) -> Event:
        log = self.events[name]
        log.append(Event(TENANT, name, len(log) + 1, 0, event, {"text": text}))
        return log[-1]

    async def _answer(self) -> None:
        await asyncio.sleep(self._rng.choice([0.0, 0.001, 0.01]))
        if self._rng.random() < self._trouble.answer:
            raise Unavailable("written, but nobody hears of it")

    async def head(self, _tenant: str, room: str) -> Head:
        await self._round_trip()
        return Head(len(self.events[room]), 1)

    async def read(self, _tenant: str, room: str, after_seq: int, limit: int) -> list[Event]:
        await self._round_trip()
        found = self.events[room][after_seq:][:limit]
        await self._answer()
        return found


class Sink(MemorySink):
    """Commits to the store until it is through, then announces: `server.store.commits` for one stream."""

    def __init__(self, name: str, epoch: int, store: Store, hub: Hub) -> None:
        super().__init__()
        self._name = name
        self._epoch = epoch
        self._store = store
        self._hub = hub

    def partial(self, partial: Partial) -> None:
        super().partial(partial)
        self._hub.tell((TENANT, self._name), "transcript:partial", {"text": partial.stable})

    async def final(self, segment: Segment, *, committed_sample: int) -> None:
        while True:
            try:
                event = await self._store.write(self._name, self._epoch, segment, committed_sample)
                break
            except Fenced:
                raise
            except Unavailable:
                await asyncio.sleep(0.2)
        await super().final(segment, committed_sample=committed_sample)
        if event is None:
            self._hub.resync(TENANT, self._name)
        else:
            self._hub.announce([event])


class Live:
    """One stream on a server: what `server.live.stream` does, without its database and sockets."""

    def __init__(self, name: str, row: StreamRow, world: "World", fmt: AudioFormat) -> None:
        self.name = name
        self.epoch = row.epoch
        self.state = State.LIVE
        self.fmt = fmt
        self.log = world.disks[name]
        self._world = world
        begin = None
        if fmt.encoding.is_container:
            begin = begin_of(self.log, self.log.parts, row.committed_sample)
        plan = StreamPlan(
            f"{name}.{row.epoch}", fmt, "auto", (), CONVERSATION, row.committed_sample, row.next_ordinal, begin
        )
        rate = fmt.bytes_per_second
        self.ledger = OffsetLedger(
            received=self.log.end,
            durable=self.log.end,
            processed=min(plan.start_byte, self.log.end),
            credit_bytes=rate * LIMITS_SMALL.credit_ms // 1000,
            backlog_bytes=rate * LIMITS_SMALL.backlog_ms_max // 1000,
        )
        self.tape = Tape(self.log, position=plan.start_byte, end=self.log.end, limits=LIMITS_SMALL)
        self.sink = Sink(name, row.epoch, world.store, world.hub)
        self.pipeline = Pipeline(
            plan, tape=self.tape, recogniser=world.recogniser, detector=SoundDetector(), sink=self.sink,
            limits=LIMITS_SMALL, on_parts=self.log.keep_parts,
        )  # fmt: skip

    def chunk(self, offset: int, audio: bytes) -> None:
        self.state = advance(self.state, Input.CHUNK)
        skip = self.ledger.accept(offset, len(audio)).skip
        self.tape.extend(self.log.append(audio[skip:]))

    def stop(self, offset: int) -> None:
        state = advance(self.state, Input.STOP)
        self.ledger.finish(offset)
        if state is not self.state:
            self.tape.mark(MarkKind.STOP)
        self.state = state

    async def run(self) -> None:
        with contextlib.suppress(Fenced):
            async with Scope(self.name) as scope:
                scope.spawn(self._renew(), name="lease")
                scope.spawn(self._sync(), name="sync")
                await self.pipeline.run()
                while True:
                    try:
                        event = await self._world.store.end(self.name, self.epoch)
                        break
                    except Fenced:
                        raise
                    except Unavailable:
                        await asyncio.sleep(0.2)
                self._world.hub.announce([event])
        self.state = State.ENDED

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LIMITS_SMALL.lease_renew_ms / 1000)
            try:
                await self._world.store.renew(self.name, self.epoch, self.pipeline.progress.settled_sample)
            except Fenced:
                return
            except Unavailable:
                continue

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(LIMITS.sync_interval_ms / 1000)
            self.ledger.advance_durable(self.log.end)
            self.ledger.advance_processed(self.tape.position)


class Listener:
    """A client that watches a room and never misses, repeats or reorders an event, whatever it has to reconnect."""

    def __init__(self) -> None:
        self.seq = 0
        self.texts: list[str] = []
        self.over = asyncio.Event()

    def send_event(self, _event: str, data: dict[str, object], *, durable: bool) -> None:
        if not durable:
            after_seq = data["after_seq"]
            assert isinstance(after_seq, int)
            assert after_seq <= self.seq, "never before the event that it follows"
            return
        assert data["seq"] == self.seq + 1, f"seq {data['seq']} after {self.seq}"
        self.seq += 1
        if data["event"] == "recording:ended":
            self.over.set()
        else:
            self.texts.append(str(data["text"]))


class World:
    """Servers come and go; store and disks stay."""

    def __init__(self, seed: int, trouble: Trouble) -> None:
        self.rng = random.Random(seed)
        self.trouble = trouble
        self.store = Store(self.rng, trouble)
        self.disks: dict[str, MemoryLog] = defaultdict(MemoryLog)
        self.recogniser = ToneRecogniser(self._conduct)
        self.lives: dict[str, tuple[Live, asyncio.Task[None]]] = {}
        self.errors: list[BaseException] = []
        self.restarts = 0
        self._scope = Scope("server")
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.hub = Hub(self.store, LIMITS_SMALL)

    def _conduct(self, call: Call, _spec: UtteranceSpec) -> float:
        if self.rng.random() < self.trouble.worker:
            raise WorkerLost("lost")
        if call is Call.FINAL:
            return self.rng.choice([0.0, 0.3, 4.0])
        return self.rng.choice([0.0, 0.0, 0.001, 0.05, 0.4])

    # --- the server -----------------------------------------------------------------------------------------------
    def boot(self) -> None:
        """A server process begins."""
        self._scope = Scope("server", on_error=lambda _, error: self.errors.append(error))
        self.hub = Hub(self.store, LIMITS_SMALL)
        self._scope.spawn(self.hub.run(), name="hub")
        self.lives = {}
        self._locks.clear()
        self.restarts += 1

    async def crash(self, *, power: bool) -> None:
        """kill -9, or the power: then everything is gone that was not synced."""
        durable = {name: live.ledger.durable for name, (live, _) in self.lives.items()}
        await self._scope.close()
        if power:
            for name, n_bytes in durable.items():
                log = self.disks[name]
                log.cut(self.rng.randint(n_bytes, log.end))
        self.boot()

    async def shut_down(self) -> None:
        await self._scope.close()

    async def start(self, name: str, fmt: AudioFormat) -> Live:
        """Start a stream or take it over. Raises `StreamEnded`, `Unavailable`."""
        async with self._locks[name]:
            scope = self._scope
            row = await self.store.take_over(name)
            ghost = self.lives.get(name)
            if ghost is not None:
                await cancel_and_wait(ghost[1])
            if scope is not self._scope:
                raise Unavailable("the server crashed meanwhile")
            live = Live(name, row, self, fmt)
            self.lives[name] = (live, scope.spawn(live.run(), name=name))
            return live

    async def watch(self, listener: Listener, name: str) -> RoomKey:
        """Join a room after what the listener has."""
        key = (TENANT, name)
        while True:
            try:
                await self.hub.join(listener, key, after_seq=listener.seq)
                break
            except Unavailable:
                await asyncio.sleep(0.3)
        self._scope.spawn(self.hub.catch_up(listener, key), name="catch up")
        return key

    # --- clients --------------------------------------------------------------------------------------------------
    async def talk(self, name: str, audio: bytes, fmt: AudioFormat) -> None:
        """A client that keeps in its ring what is not durable, and continues where the server says."""
        ring_start = 0
        stopped = False
        while True:
            try:
                live = await self.start(name, fmt)
            except StreamEnded:
                assert stopped, "it ended before its client stopped it"
                return
            except Unavailable:
                await asyncio.sleep(0.5)
                continue
            sent = live.ledger.received
            assert ring_start <= sent <= len(audio), "the server asks for what the client was told to forget"
            while self.lives.get(name, (None,))[0] is live:
                if self.errors:
                    raise self.errors[0]
                ring_start = max(ring_start, live.ledger.durable)
                try:
                    sent = self._send(live, audio, sent)
                    if sent == len(audio):
                        live.stop(sent)
                        stopped = True
                except StreamEnded:
                    break
                await asyncio.sleep(self.rng.choice([0.0, 0.02, 0.1, 0.1, 0.5]))
                if self.rng.random() < self.trouble.cut:
                    break  # the connection is gone; another one follows
            await asyncio.sleep(self.rng.choice([0.0, 0.1, 2.0, 20.0]) if self.trouble.cut else 0.1)

    def _send(self, live: Live, audio: bytes, sent: int) -> int:
        """One chunk within the credit, sometimes with bytes that were sent before."""
        again = self.rng.choice([0, 0, 0, 700, 5_001])
        start = max(0, sent - again)
        sizes = [1, 90, 400, 2_001, 8_000] if live.fmt.encoding.is_container else [1, 640, 3_201, 16_000, 60_000]
        end = min(len(audio), sent + min(live.ledger.credit, self.rng.choice(sizes)))
        if end > sent:
            live.chunk(start, audio[start:end])
        return end

    async def listen(self, name: str, listener: Listener) -> None:
        """Watch a room until its recording has ended, through every crash and with breaks of one's own."""
        while not listener.over.is_set():
            boot = self.restarts
            hub = self.hub
            key = await self.watch(listener, name)
            while boot == self.restarts and not listener.over.is_set():
                await asyncio.sleep(0.25)
                if self.rng.random() < self.trouble.leave:
                    break
            hub.leave(listener, key)
            await asyncio.sleep(self.rng.choice([0.0, 1.0]))

    async def fate(self, done: Sequence["asyncio.Task[None]"]) -> None:
        """Crashes, while somebody still has something to do."""
        while not all(task.done() for task in done):
            await asyncio.sleep(self.rng.uniform(0.1, 4.0))
            if self.rng.random() < self.trouble.crash:
                await self.crash(power=self.rng.random() < self.trouble.power)


def begin_of(log: MemoryLog, parts: list[Part], committed_sample: int) -> DecodeStart:
    """`server.live.opening` for one container."""
    part = begin_at(parts, committed_sample * OPUS_PER_SAMPLE)
    if part is None:
        return DecodeStart(sample=committed_sample)
    header = log.read_range(part.container, part.container + part.header_bytes)
    return DecodeStart(sample=committed_sample, offset=part.offset, part=part, header=header)


def mono(rate: int) -> AudioFormat:
    return AudioFormat(Encoding.PCM_S16LE, rate, 1)
