"""Cut event logs to the days that they are to reach back, and forget what people searched for after some. Transcripts
stay: only what is told of them is forgotten.

Policy: nothing is queued, because the rooms themselves say which of them is due. A round deletes a bounded batch and
rests for as long as that took, until nothing is due; then the next look is ten minutes away. Rooms that somebody is
writing to are passed over, so nobody waits for this; two nodes may do it at once, each takes what the other leaves.

Boundary: `feed.expire`, `searches.expire`, one transaction for a batch; a lost database is waited for. Invariant: of
each log a beginning is deleted, and `first_seq` moves in the same transaction; numbers go on where they were.
"""

import asyncio
import logging
import time

from server.jobs.queue import pause_s
from server.store import feed, searches
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.errors import Unavailable
from streaming.limits import Limits

log = logging.getLogger(__name__)

DAY_S = 86_400
RETRY_S_MIN, RETRY_S_MAX = 1.0, 60.0


class Retention:
    """A component: `run` works until it is cancelled, or returns at once when nothing is to go: of `days` (events) and
    `searches_days` 0 means that they are kept for ever."""

    def __init__(self, database: Database, limits: Limits, *, days: int, searches_days: int = 0) -> None:
        self._database = database
        self._limits = limits
        self._age_s = days * DAY_S
        self._searches_age_s = searches_days * DAY_S

    async def run(self) -> None:
        failures = 0
        while self._age_s or self._searches_age_s:
            try:
                await self.forget_searches()
                await self.catch_up()
                failures = 0
                pause = self._limits.retention_look_ms / 1000
            except Unavailable:
                log.warning("old events wait: the database is away")
                pause = pause_s(failures, RETRY_S_MIN, RETRY_S_MAX)
                failures += 1
            await asyncio.sleep(pause)

    async def catch_up(self) -> int:
        """Delete what is due now; returns how many events went. Raises `Unavailable`."""
        total, more = 0, self._age_s > 0
        while more:
            began = time.monotonic()
            async with self._database.shared_tx() as connection:
                deleted, more = await feed.expire(
                    connection, age_s=self._age_s, limit=self._limits.retention_batch_events
                )
            METRICS.events_expired.inc(deleted)
            total += deleted
            if more:
                await asyncio.sleep(time.monotonic() - began)
        if total:
            log.info("old events deleted", extra={"count": total})
        return total

    async def forget_searches(self) -> int:
        """Delete what is due now; returns how many searches went. Raises `Unavailable`."""
        total, more = 0, self._searches_age_s > 0
        batch = self._limits.retention_batch_events
        while more:
            async with self._database.shared_tx() as connection:
                gone = await searches.expire(connection, age_s=self._searches_age_s, limit=batch)
            total += gone
            more = gone == batch
        return total
