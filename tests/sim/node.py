"""A simulated server: the real pipeline, tape, offset machine, session states, hub and marks, around a pretended store.

`Live` is `server.live.stream` without sockets and clocks, `Node` the desk and what surrounds it.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from server.rooms.bus import ALONE, RoomKey
from server.rooms.hub import Hub
from server.rooms.marks import Marks
from streaming.aio import Scope, cancel_and_wait
from streaming.audio.decode import DecodeStart, begin_at
from streaming.audio.endpoint import CONVERSATION
from streaming.audio.parts import OPUS_PER_SAMPLE
from streaming.audio.vad import SoundDetector
from streaming.errors import Fenced, Unavailable
from streaming.limits import LIMITS
from streaming.listener import Diariser, Found, Listener, Settled
from streaming.model import AudioFormat, Part, Partial, Segment, ms_of
from streaming.pipeline import Pipeline, StreamPlan, lead_in
from streaming.protocol.offsets import OffsetLedger
from streaming.protocol.session import Input, State, advance
from streaming.tape import MarkKind, Tape
from tests.fakes.log import MemoryLog
from tests.fakes.recogniser import ToneRecogniser
from tests.fakes.sink import MemorySink
from tests.sim.storage import Kept
from tests.sim.store import TENANT, Store, StreamRow

LIMITS_SMALL = msgspec.structs.replace(LIMITS, replay_page_events=2, credit_ms=5_000, lease_renew_ms=700)

Keep = Callable[[str, int], Kept]
"""Opens a recording's log for an epoch."""
Carry = Callable[["Node", Callable[["Node"], None]], None]
"""Lets every other node do something, soon, in the order of asking, or not at all."""


class Sink(MemorySink):
    """Commits to the store until it is through, then announces: `server.store.commits` for one stream."""

    def __init__(self, name: str, epoch: int, store: Any, hub: Hub) -> None:
        super().__init__()
        self._name = name
        self._epoch = epoch
        self._store = store
        self._hub = hub

    def partial(self, partial: Partial) -> None:
        super().partial(partial)
        self._hub.tell(
            (TENANT, self._name), "transcript:partial", {"text": partial.stable, "segment_id": partial.segment_id}
        )

    async def final(self, segment: Segment, *, committed_sample: int, context: bytes, speakers: bytes) -> None:
        while True:
            try:
                event = await self._store.write(self._name, self._epoch, segment, committed_sample, context, speakers)
                break
            except Fenced:
                raise
            except Unavailable:
                await asyncio.sleep(0.2)
        await super().final(segment, committed_sample=committed_sample, context=context, speakers=speakers)
        if event is None:
            self._hub.resync(TENANT, self._name)
        else:
            self._hub.announce([event])


class Book:
    """What `server.live.speakers` does with what one listener found out."""

    def __init__(self, name: str, epoch: int, node: "Node") -> None:
        self._name, self._epoch, self._node = name, epoch, node
        self._found: asyncio.Queue[tuple[Settled, ...]] = asyncio.Queue(LIMITS.speaker_findings_max)
        self.listener: Listener | None = None

    async def known(self, _model: str) -> tuple[()]:
        return ()

    def offer(self, found: Found) -> bool:
        assert not found.changes, "voices here are too different to be taken for one another"
        self._found.put_nowait(found.finals)
        return True

    async def run(self) -> None:
        assert self.listener is not None
        while True:
            finals = await self._found.get()
            with contextlib.suppress(Fenced):
                await self._write(finals, self.listener)

    async def _write(self, finals: tuple[Settled, ...], listener: Listener) -> None:
        tried = False
        while True:
            try:
                event = await self._node.store.revise(self._name, self._epoch, finals, listener.state)
                break
            except Fenced:
                raise
            except Unavailable:
                tried = True
                await asyncio.sleep(0.2)
        if event is not None:
            self._node.hub.announce([event])
        if tried:
            self._node.hub.resync(TENANT, self._name)


class Live:
    """One stream on a server: what `server.live.stream` does, without its database and sockets."""

    def __init__(
        self,
        name: str,
        row: StreamRow,
        node: "Node",
        kept: Kept,
        fmt: AudioFormat,
        listener: Listener | None = None,
    ) -> None:
        self.name = name
        self.epoch = row.epoch
        self.state = State.LIVE
        self.fmt = fmt
        self.kept = kept
        self.log = kept.log
        self._node = node
        self._listener = listener
        self._overtaken = asyncio.Event()
        self.ending = False
        begin = None
        if fmt.encoding.is_container:
            begin = begin_of(self.log, self.log.parts, row.committed_sample)
        plan = StreamPlan(
            f"{name}.{row.epoch}", fmt, "auto", (), CONVERSATION, row.committed_sample, row.next_ordinal, begin,
            row.context,
        )  # fmt: skip
        rate = fmt.bytes_per_second
        self.ledger = OffsetLedger(
            received=self.log.end,
            durable=kept.durable,
            processed=min(plan.start_byte, self.log.end),
            credit_bytes=rate * LIMITS_SMALL.credit_ms // 1000,
            backlog_bytes=rate * LIMITS_SMALL.backlog_ms_max // 1000,
        )
        self.tape = Tape(self.log, position=plan.start_byte, end=self.log.end, limits=LIMITS_SMALL)
        self.sink = Sink(name, row.epoch, node.store, node.hub)
        self.pipeline = Pipeline(
            plan, tape=self.tape, recogniser=node.recogniser, detector=SoundDetector(), sink=self.sink,
            limits=LIMITS_SMALL, listener=listener, on_parts=self.log.keep_parts,
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
        try:
            async with asyncio.TaskGroup() as group:
                minders = [group.create_task(each()) for each in (self._renew, self._sync, self._give_way)]
                await self.pipeline.run()
                self.ending = True
                await self._end()
                for minder in minders:
                    minder.cancel()
        except* Fenced:
            pass
        finally:
            self.state = State.ENDED
            if self._listener is not None:
                self._listener.close()

    async def _end(self) -> None:
        """Not before every byte is durable."""
        while True:
            try:
                while self.kept.durable < self.log.end:
                    await self.kept.sync()
                event = await self._node.store.end(self.name, self.epoch)
                break
            except Fenced:
                raise
            except Unavailable:
                await asyncio.sleep(0.2)
        self._node.hub.announce([event])

    def overtaken(self) -> None:
        self._overtaken.set()

    async def _give_way(self) -> None:
        await self._overtaken.wait()
        raise Fenced("taken over")

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LIMITS_SMALL.lease_renew_ms / 1000)
            try:
                await self._node.store.renew(self.name, self.epoch, self.pipeline.progress.settled_sample)
            except Fenced:
                if self.ending:
                    return  # by our own end, perhaps; if not, the end finds out
                raise
            except Unavailable:
                continue

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(LIMITS.sync_interval_ms / 1000)
            with contextlib.suppress(Unavailable):
                await self.kept.sync()
            self.ledger.advance_durable(self.kept.durable)
            self.ledger.advance_processed(self.tape.position)


class Link:
    """The way from one node to the store: nothing passes while the node is cut off, and answers on the way are lost."""

    def __init__(self, store: Store, is_cut: Callable[[], bool]) -> None:
        self._store = store
        self._is_cut = is_cut

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any) -> Any:
            if self._is_cut():
                await asyncio.sleep(1)
                raise Unavailable("no way")
            result = await method(*args)
            if self._is_cut():
                raise Unavailable("no way back")
            return result

        return call


class Node:
    """One server process after another at one place. `carry(node, do)`: the bus of the installation, None alone."""

    def __init__(self, number: int, store: Store, recogniser: ToneRecogniser, keep: Keep, carry: Carry | None) -> None:
        self.number = number
        self.store: Any = Link(store, lambda: self.cut_off)
        self.recogniser = recogniser
        self.errors: list[BaseException] = []
        self.diariser: Diariser | None = None
        self.restarts = 0
        self.cut_off = False
        self.lives: dict[str, tuple[Live, asyncio.Task[None]]] = {}
        self._keep = keep
        self._carry = carry
        self._scope = Scope("server")
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.hub = Hub(self.store, LIMITS_SMALL)

    def boot(self) -> None:
        """A server process begins."""
        self._scope = Scope("server", on_error=lambda _, error: self.errors.append(error))
        self.hub = Hub(self.store, LIMITS_SMALL, ALONE if self._carry is None else self)
        self._scope.spawn(self.hub.run(), name="hub")
        if self._carry is not None:
            self._scope.spawn(Marks(self.hub, self.store, LIMITS_SMALL).run(), name="marks")
        self.lives = {}
        self._locks.clear()
        self.restarts += 1

    async def stop(self) -> None:
        """kill -9: everything in memory is gone."""
        await self._scope.close()

    async def start(self, name: str, fmt: AudioFormat) -> Live:
        """Start a stream or take it over. Raises `StreamEnded`, `Unavailable`."""
        async with self._locks[name]:
            scope = self._scope
            row = await self.store.take_over(name)
            self.fence(TENANT, name, row.epoch)
            ghost = self.lives.get(name)
            if ghost is not None:
                await cancel_and_wait(ghost[1])
            if scope is not self._scope:
                raise Unavailable("the server crashed meanwhile")
            listener = await self._listener(name, row)
            live = Live(name, row, self, self._keep(name, row.epoch), fmt, listener)
            self.lives[name] = (live, scope.spawn(live.run(), name=name))
            return live

    async def _listener(self, name: str, row: StreamRow) -> Listener | None:
        """Who tells the stream's speakers apart here."""
        if self.diariser is None:
            return None
        scope, start = self._scope, lead_in(row.committed_sample)
        book = Book(name, row.epoch, self)
        recent = await self.store.since(name, ms_of(start))
        if scope is not self._scope:
            raise Unavailable("the server crashed meanwhile")
        book.listener = Listener(
            self.diariser, book, start_sample=start, limits=LIMITS_SMALL, state=row.speakers, recent=recent
        )
        scope.spawn(book.listener.run(), name="listener")
        scope.spawn(book.run(), name="book")
        return book.listener

    async def watch(self, listener: Any, name: str) -> Callable[[], None]:
        """Join a room after what the listener has; returns what leaves it."""
        key = (TENANT, name)
        while True:
            hub = self.hub  # of this process: another one may follow
            try:
                await hub.join(listener, key, after_seq=listener.seq)
                break
            except Unavailable:
                await asyncio.sleep(0.3)
        if hub is self.hub:
            self._scope.spawn(hub.catch_up(listener, key), name="catch up")
        return lambda: hub.leave(listener, key)

    # --- as the hub's bus -----------------------------------------------------------------------------------------
    @property
    def others(self) -> bool:
        return self._carry is not None

    def emit(self, key: RoomKey, event: str, data: dict[str, Any]) -> None:
        if self._carry is not None:
            self._carry(self, lambda other: other.hub.hear(key, event, data, node=str(self.number)))

    def fence(self, tenant_id: str, recording_id: str, epoch: int) -> None:
        if self._carry is not None:
            self._carry(self, lambda other: other.fenced(tenant_id, recording_id, epoch, self))

    def fenced(self, tenant_id: str, name: str, epoch: int, by: "Node") -> None:
        """Another node says that it took a stream over."""
        self.hub.owned(tenant_id, name.partition(":")[2], epoch, node=str(by.number))
        live, _ = self.lives.get(name, (None, None))
        if live is not None and live.epoch < epoch:
            live.overtaken()


def begin_of(log: MemoryLog, parts: list[Part], committed_sample: int) -> DecodeStart:
    """`server.live.opening` for one container."""
    sample = lead_in(committed_sample)
    part = begin_at(parts, sample * OPUS_PER_SAMPLE)
    if part is None:
        return DecodeStart(sample=sample)
    header = log.read_range(part.container, part.container + part.header_bytes)
    return DecodeStart(sample=sample, offset=part.offset, part=part, header=header)
