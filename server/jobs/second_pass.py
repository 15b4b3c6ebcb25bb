"""The second pass: kept audio is read once more, slowly and whole, and the transcript is put right.

    due -> claim -> next piece (`pieces`) -> ... -> merge (`merging`): one transaction -> announce

Policy: every few minutes of a long recording, and when it ended. A step is a piece or a merge, and each is one
transaction at its end, so whoever is killed, this process, a worker or a database, goes on at that piece, and nothing
is told twice. Of a live recording only what lies before its committed sample is read. One recording at a time, the one
that waits longest first; a lease keeps other nodes from the same work.

Boundary: SQL through `server.store.passes`. Invariant: no step depends on an earlier one of the same process.
"""

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from server.jobs.align import AudioSource
from server.jobs.merging import Merger
from server.jobs.pieces import PieceReader, Transcriber, Voices, Work
from server.store import passes, recordings
from server.store.commits import Announcer
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.aio import Scope, Signal
from streaming.audio.cutting import PIECE_SAMPLES_MAX
from streaming.errors import DecodeFailed, NotFound, Unavailable
from streaming.limits import Limits
from streaming.model import SAMPLE_RATE, ms_of, samples_of
from streaming.protocol.messages import StatusTask

TASK = "second_pass"
LOOK_S = 1.0
"""Between looks for what is due: a query of an index."""
LOOK_ROWS = 8
RETRY_S_MIN, RETRY_S_MAX = 0.5, 30.0
"""Between tries while a worker, the database or the audio is away."""
LIVE_LOOK_S_MIN = 5.0
AGAIN_S = 60.0
"""When somebody keeps changing the transcript."""

log = logging.getLogger(__name__)


class _Rest(msgspec.Struct, frozen=True):
    """What is next of a recording: `again_s` from now; None at once; or nothing any more."""

    again_s: float | None = None
    state: str = "waiting"


class SecondPass:
    """`run` is a component; `nudge` may be called when a pass was asked for. `transcriber`: who reads now; `minutes`:
    of talk between two passes over a recording that goes on; `node`: whose leases are its own, also those of the
    process before."""

    def __init__(
        self,
        database: Database,
        audio: AudioSource,
        announcer: Announcer,
        *,
        transcriber: Callable[[], Transcriber],
        voices: Voices | None,
        minutes: float,
        node: str,
        limits: Limits,
    ) -> None:
        self._database = database
        self._reader = PieceReader(database, audio, voices, limits)
        self._merger = Merger(database, announcer, limits)
        self._transcriber = transcriber
        self._every_samples = samples_of(round(minutes * 60_000))
        self._node = node
        self._limits = limits
        self._asked = Signal()
        self.task: StatusTask | None = None

    def nudge(self) -> None:
        """There is something to do: look now."""
        self._asked.set()

    async def run(self) -> None:
        retry_s = RETRY_S_MIN
        while True:
            try:
                worked = await self.step()
                retry_s = RETRY_S_MIN
            except Unavailable as error:
                log.warning("second pass waits", extra={"error": type(error).__name__})
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_S_MAX)
                continue
            if not worked:
                self.task = None
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._asked.wait()
                except TimeoutError:
                    continue

    async def step(self) -> bool:
        """Work on the recording that waits longest: a piece, or a merge; False when there is nothing to do now."""
        async with self._database.shared_tx() as connection:
            found = await passes.due(connection, node=self._node, limit=LOOK_ROWS)
        METRICS.passes.behind_seconds.set(max((behind_s for *_, behind_s in found), default=0))
        for tenant_id, recording_id, _ in found:
            async with self._database.tenant_tx(tenant_id) as connection:
                held = await passes.claim(
                    connection, tenant_id, recording_id, node=self._node, lease_ms=self._limits.lease_ms
                )
            if held:
                await self._work(tenant_id, recording_id)
                return True
        return False

    async def _work(self, tenant_id: str, recording_id: str) -> None:
        rest = _Rest(AGAIN_S)
        try:
            async with Scope("second pass", on_error=_lease_lost) as scope:
                scope.spawn(self._keep(tenant_id, recording_id), name="lease")
                rest = await self._advance(tenant_id, recording_id)
        except NotFound:
            rest = _Rest(state="none")  # the recording is gone, or its audio
        except DecodeFailed:
            log.warning("kept audio cannot be read again", extra={"recording_id": recording_id})
            rest = _Rest(state="failed")
        finally:
            async with self._database.tenant_tx(tenant_id) as connection:
                await passes.leave(
                    connection, tenant_id, recording_id, node=self._node, again_s=rest.again_s, state=rest.state
                )
                if rest.state in ("none", "failed"):
                    await passes.forget_pieces(connection, tenant_id, recording_id)

    async def _keep(self, tenant_id: str, recording_id: str) -> None:
        """Renew the lease until cancelled."""
        while True:
            await asyncio.sleep(self._limits.lease_renew_ms / 1000)
            async with self._database.tenant_tx(tenant_id) as connection:
                await passes.renew(connection, tenant_id, recording_id, node=self._node, lease_ms=self._limits.lease_ms)

    async def _advance(self, tenant_id: str, recording_id: str) -> _Rest:
        """The next thing to do. Raises `NotFound`, `DecodeFailed`, `Unavailable`."""
        async with self._database.tenant_tx(tenant_id) as connection:
            row = await passes.get(connection, tenant_id, recording_id)
            recording = await recordings.get(connection, tenant_id, recording_id)
        work = Work(tenant_id, recording, row)
        if _too_old(work, self._limits):
            return _Rest(state="none")
        if row.ended:
            self._tell(ms_of(row.read_sample), recording.duration_ms)
            if await self._reader.read(work, self._transcriber()):
                return _Rest()
            return _Rest(state="done") if await self._merger.merge(work, row.pieces, done=True) else _Rest(AGAIN_S)
        ahead = row.committed_sample - row.merged_sample
        if ahead < self._every_samples:
            return _Rest(max(LIVE_LOOK_S_MIN, (self._every_samples - ahead) / SAMPLE_RATE))
        if row.committed_sample - row.read_sample >= PIECE_SAMPLES_MAX:
            self._tell(ms_of(row.read_sample - row.merged_sample), ms_of(ahead))
            await self._reader.read(work, self._transcriber())
            return _Rest()
        upto = await self._merger.whole(work)
        if upto > row.merged_pieces:
            await self._merger.merge(work, upto, done=False)
        return _Rest(max(LIVE_LOOK_S_MIN, self._every_samples / SAMPLE_RATE / 2))

    def _tell(self, done_ms: int, all_ms: int) -> None:
        minutes = max(1, round(all_ms / 60_000))
        text = f"A recording of {minutes} min is read once more: {round(done_ms / 60_000)} min so far."
        fraction = round(min(1.0, done_ms / all_ms), 2) if all_ms else 0.0
        self.task = StatusTask(name=TASK, state="running", fraction=fraction, text=text)


def _lease_lost(_name: str, error: BaseException) -> None:
    log.warning("the lease of a second pass was not renewed", extra={"error": type(error).__name__})


def _too_old(work: Work, limits: Limits) -> bool:
    """It ended long ago, and nobody asked for it (`passes.ask` begins another round)."""
    ended_at = work.recording.ended_at
    return (
        ended_at is not None
        and work.row.round == 1
        and work.row.merges == 0
        and time.time() - ended_at / 1000 > limits.pass_age_s_max
    )


__all__ = ["SecondPass", "Transcriber", "Voices"]
