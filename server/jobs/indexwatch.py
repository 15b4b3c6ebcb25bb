"""How far the index is behind: how many index jobs wait, and for how long the oldest.

Policy: looked up every few seconds, for metrics and for whoever fills the index in the background, who stands back
while people's own words wait. Boundary: SQL on the job queue; a lost database is waited for.
"""

import asyncio
import logging

from server.jobs.index import LIVE, IndexSegments
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.errors import Unavailable
from streaming.limits import LIMITS, Limits

LOOK = """
SELECT count(*) AS jobs, count(*) FILTER (WHERE priority >= $2) AS live,
       coalesce(extract(epoch FROM now() - min(created)), 0)::double precision AS oldest_s
FROM pgqueuer WHERE entrypoint = $1 AND status IN ('queued', 'picked')
"""

log = logging.getLogger(__name__)


class IndexWatch:
    """`run` is a component."""

    def __init__(self, database: Database, limits: Limits = LIMITS) -> None:
        self._database = database
        self._limits = limits
        self._live = 0

    @property
    def busy(self) -> bool:
        """So much waits that was just said that everything else stands back."""
        return self._live >= self._limits.index_busy_jobs

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except Unavailable:
                log.warning("index jobs cannot be counted")
            await asyncio.sleep(self._limits.index_watch_ms / 1000)

    async def look(self) -> None:
        """Raises `Unavailable`."""
        async with self._database.shared_tx() as connection:
            row = await connection.fetchrow(LOOK, IndexSegments.kind, LIVE)
        self._live = row["live"]
        METRICS.index.jobs.set(row["jobs"])
        METRICS.index.oldest_seconds.set(row["oldest_s"])
