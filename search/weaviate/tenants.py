"""Put tenants of Weaviate to sleep that nobody uses: what is open of them is memory.

Policy: this node's own use counts. Those that were awake before it started are noticed once, and sleep when nobody used
them here for as long. One that another node uses wakes with its next call (auto-activation; 5 ms, 80 ms when it is
large), and is not put to sleep again by who does not use it: so nodes cannot fight over a tenant.

Boundary: `search.weaviate.link`. Invariant: at most `index_tenants_awake_max` uses are remembered, the latest.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from weaviate.classes.tenants import TenantActivityStatus

from search.weaviate.link import Client, Link
from streaming.errors import Unavailable
from streaming.limits import Limits

log = logging.getLogger(__name__)

TENANTS_PER_CHANGE = 100
"""The library sends no more at once."""


class Resting:
    """`now`: seconds."""

    def __init__(self, link: Link, limits: Limits, now: Callable[[], float]) -> None:
        self._link = link
        self._limits = limits
        self._now = now
        self._used: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._noticed: set[str] = set()

    def note(self, collection: str, tenant_id: str) -> None:
        """It is used now."""
        self._used[collection, tenant_id] = self._now()
        self._used.move_to_end((collection, tenant_id))
        while len(self._used) > self._limits.index_tenants_awake_max:
            self._used.popitem(last=False)

    def forget(self, collection: str, tenant_id: str | None = None) -> None:
        """It is gone, or all of its collection."""
        for key in [key for key in self._used if key[0] == collection and tenant_id in (None, key[1])]:
            del self._used[key]

    async def run(self, collections: Callable[[], Awaitable[Sequence[str]]]) -> None:
        """A component. `collections`: those that are used."""
        while True:
            await asyncio.sleep(self._limits.index_rest_ms / 1_000)
            try:
                await self.look(await collections())
            except Unavailable:
                log.info("no tenant of the index was put to sleep: it is away")

    async def look(self, collections: Sequence[str]) -> int:
        """Put idle tenants to sleep; returns how many."""
        for name in collections:
            if name not in self._noticed:
                for tenant_id in await self._link.call(partial(_awake, name=name)):
                    if (name, tenant_id) not in self._used:
                        self.note(name, tenant_id)
                self._noticed.add(name)
        oldest, idle = self._now() - self._limits.index_tenant_idle_ms / 1_000, dict[str, list[str]]()
        for (name, tenant_id), used in self._used.items():
            if used > oldest:
                break
            idle.setdefault(name, []).append(tenant_id)
        slept = 0
        for name, tenant_ids in idle.items():
            for at in range(0, len(tenant_ids), TENANTS_PER_CHANGE):
                slept += await self._sleep(name, tenant_ids[at : at + TENANTS_PER_CHANGE])
        return slept

    async def _sleep(self, name: str, tenant_ids: Sequence[str]) -> int:
        async def deactivate(client: Client) -> int:
            there = set(await _awake(client, name)).intersection(tenant_ids)
            if there:
                await client.collections.get(name).tenants.deactivate(sorted(there))
            return len(there)

        slept = await self._link.call(deactivate, ms=self._limits.index_change_ms_max)
        for tenant_id in tenant_ids:
            self._used.pop((name, tenant_id), None)
        return slept


async def _awake(client: Client, name: str) -> list[str]:
    if not await client.collections.exists(name):
        return []
    found: dict[str, Any] = await client.collections.get(name).tenants.get()
    return [tenant_id for tenant_id, one in found.items() if one.activity_status is TenantActivityStatus.ACTIVE]
