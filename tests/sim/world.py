"""A whole installation in memory and on virtual time: a database, storage, one server or several, workers and clients.

Real are the pipeline, the tape, the offset machine, the session's states, the hub, the marks and the names of extents.
The store does what the SQL does: fencing by epoch, ordinals that follow one another, a gapless log per room, commits
whose answer is lost. A `World` is driven by one `random.Random`: the same seed gives the same history.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Sequence

from streaming.errors import StreamEnded, Unavailable, WorkerLost
from streaming.model import AudioFormat, Encoding, UtteranceSpec
from tests.fakes.log import MemoryLog
from tests.fakes.recogniser import Call, ToneRecogniser
from tests.sim.node import Live, Node
from tests.sim.storage import Kept, OnDisk, Shared, Spooled
from tests.sim.store import Store, Trouble


class Listener:
    """A client that watches a room and never misses, repeats or reorders an event, whatever it has to reconnect."""

    def __init__(self) -> None:
        self.seq = 0
        self.texts: list[str] = []
        self.partials = 0
        self.over = asyncio.Event()
        self._finished: set[object] = set()

    def send_event(self, _event: str, data: dict[str, object], *, durable: bool) -> None:
        if not durable:
            after_seq = data["after_seq"]
            assert isinstance(after_seq, int)
            assert after_seq <= self.seq, "never before the event that it follows"
            assert data["segment_id"] not in self._finished, "no partial follows its final"
            self.partials += 1
            return
        assert data["seq"] == self.seq + 1, f"seq {data['seq']} after {self.seq}"
        self.seq += 1
        self._finished.add(data["segment_id"])
        if data["event"] == "recording:ended":
            self.over.set()
        elif data["event"] == "transcript:final":
            self.texts.append(str(data["text"]))

    def room_truncated(self, key: tuple[str, str], first_seq: int) -> None:
        raise AssertionError("nothing is ever deleted here")


class World:
    """Servers come and go; store and storage stay."""

    def __init__(self, seed: int, trouble: Trouble, *, nodes: int = 1) -> None:
        self.rng = random.Random(seed)
        self.trouble = trouble
        self.store = Store(self.rng, trouble)
        self.disks: dict[str, MemoryLog] = defaultdict(MemoryLog)
        self.shared = Shared(self.rng, trouble.storage) if nodes > 1 else None
        self.recogniser = ToneRecogniser(self._conduct)
        carry = self._carry if nodes > 1 else None
        self.nodes = [Node(number, self.store, self.recogniser, self._keep, carry) for number in range(nodes)]
        self._last: dict[tuple[int, int], float] = defaultdict(float)

    @property
    def restarts(self) -> int:
        return sum(node.restarts for node in self.nodes)

    @property
    def errors(self) -> list[BaseException]:
        return [error for node in self.nodes for error in node.errors]

    def audio(self, name: str) -> bytes:
        """What is kept of a recording."""
        return self.shared.audio(name) if self.shared is not None else bytes(self.disks[name].data)

    def _conduct(self, call: Call, _spec: UtteranceSpec) -> float:
        if self.rng.random() < self.trouble.worker:
            raise WorkerLost("lost")
        if call is Call.FINAL:
            return self.rng.choice([0.0, 0.3, 4.0])
        return self.rng.choice([0.0, 0.0, 0.001, 0.05, 0.4])

    def _keep(self, name: str, epoch: int) -> Kept:
        if self.shared is None:
            return OnDisk(self.disks[name])
        return Spooled(name, epoch, self.shared)

    def _carry(self, sender: Node, do: Callable[[Node], None]) -> None:
        """The bus: from one node to another in order, late, or not at all."""
        loop = asyncio.get_running_loop()
        for other in self.nodes:
            if other is sender or sender.cut_off or self.rng.random() < self.trouble.bus:
                continue
            pair = (sender.number, other.number)
            at = self._last[pair] = max(self._last[pair], loop.time() + self.rng.choice([0.0, 0.001, 0.05, 0.8]))
            loop.call_at(at, self._arrive, other, other.restarts, do)

    @staticmethod
    def _arrive(node: Node, restarts: int, do: Callable[[Node], None]) -> None:
        if node.restarts == restarts and not node.cut_off:
            do(node)

    # --- the servers ----------------------------------------------------------------------------------------------
    def boot(self) -> None:
        for node in self.nodes:
            node.boot()

    async def shut_down(self) -> None:
        for node in self.nodes:
            await node.stop()

    async def _crash(self, node: Node) -> None:
        """kill -9, or the power: then everything is gone that was not synced."""
        durable = {name: live.kept.durable for name, (live, _) in node.lives.items()}
        await node.stop()
        if self.shared is None and self.rng.random() < self.trouble.power:
            for name, n_bytes in durable.items():
                log = self.disks[name]
                log.cut(self.rng.randint(n_bytes, log.end))
        node.boot()

    async def _cut_off(self, node: Node) -> None:
        node.cut_off = True
        await asyncio.sleep(self.rng.uniform(0.5, 8.0))
        node.cut_off = False

    async def fate(self, done: Sequence["asyncio.Task[None]"]) -> None:
        """Crashes and partitions, while somebody still has something to do."""
        while not all(task.done() for task in done):
            await asyncio.sleep(self.rng.uniform(0.1, 4.0))
            if self.rng.random() < self.trouble.crash:
                await self._crash(self.rng.choice(self.nodes))
            if self.rng.random() < self.trouble.partition:
                await self._cut_off(self.rng.choice(self.nodes))

    # --- clients --------------------------------------------------------------------------------------------------
    async def talk(self, name: str, audio: bytes, fmt: AudioFormat) -> None:
        """A client that keeps in its ring what is not durable, and continues where the server says."""
        ring_start = 0
        stopped = False
        while True:
            node = self.rng.choice(self.nodes)
            try:
                live = await node.start(name, fmt)
            except StreamEnded:
                assert stopped, "it ended before its client stopped it"
                return
            except Unavailable:
                await asyncio.sleep(0.5)
                continue
            sent = live.ledger.received
            assert ring_start <= sent <= len(audio), "the server asks for what the client was told to forget"
            while node.lives.get(name, (None,))[0] is live and not node.cut_off:
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
            node = self.rng.choice(self.nodes)
            boot = node.restarts
            leave = await node.watch(listener, name)
            while boot == node.restarts and not listener.over.is_set():
                await asyncio.sleep(0.25)
                if self.rng.random() < self.trouble.leave or (node.cut_off and self.rng.random() < 0.2):
                    break
            leave()
            await asyncio.sleep(self.rng.choice([0.0, 1.0]))


def mono(rate: int) -> AudioFormat:
    return AudioFormat(Encoding.PCM_S16LE, rate, 1)
