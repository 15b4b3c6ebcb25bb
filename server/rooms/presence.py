"""Which nodes work together: each leaves a key in Redis that runs out when it no longer beats.

Policy: a beat every `node_beat_ms` writes this node's key and reads everybody's; a node that says hello before the next
beat counts at once. Nothing is decided by presence but what is worth encoding for others: it may be wrong for a while.

Boundary: commands go through `Execute`, on the connection of `server.rooms.redis`.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from server.telemetry import METRICS
from streaming.limits import Limits

Execute = Callable[[tuple[Any, ...]], Awaitable[Any]]
"""Runs one command and returns Redis' answer."""


class NodeInfo(msgspec.Struct, frozen=True):
    """A living node. `started_at`: Unix seconds."""

    id: str
    started_at: int
    version: str
    sockets: int = 0
    streams: int = 0


_decode = msgspec.json.Decoder(NodeInfo).decode


class Presence:
    """The nodes that this one knows of. `installation`: a prefix of keys, because others may use the same Redis.

    `<installation>:nodes` is the set of all ids; who has no key any more is taken out by whoever notices."""

    installation = ""

    def __init__(self, node: str, version: str, limits: Limits) -> None:
        self._me = NodeInfo(id=node, started_at=int(time.time()), version=version)
        self._limits = limits
        self._nodes: dict[str, NodeInfo] = {node: self._me}
        self._met: set[str] = set()
        self.others = False

    def nodes(self) -> list[NodeInfo]:
        """As of the last beat, this one included."""
        return list(self._nodes.values())

    def met(self, node: str) -> None:
        """Another node said something: it is there, until the next beat but one knows better."""
        if node not in self._nodes and len(self._met) < 1_000:
            self._met.add(node)
            self.others = True

    async def beat(self, execute: Execute) -> None:
        """Tell that this node lives, and see who else does."""
        heard, self._met = self._met, set()
        me = msgspec.structs.replace(
            self._me,
            sockets=int(METRICS.registry.get_sample_value("parlance_sockets") or 0),
            streams=int(METRICS.registry.get_sample_value("parlance_streams") or 0),
        )
        await execute(("SET", self._name(me.id), msgspec.json.encode(me), "PX", self._limits.node_expiry_ms))
        await execute(("SADD", f"{self.installation}:nodes", me.id))
        ids = [name.decode(errors="replace") for name in await execute(("SMEMBERS", f"{self.installation}:nodes"))]
        values = await execute(("MGET", *map(self._name, ids))) if ids else []
        found = {me.id: me}
        for name, value in zip(ids, values, strict=True):
            if value is None:
                await execute(("SREM", f"{self.installation}:nodes", name))
            elif (info := _read(value)) is not None:
                found[info.id] = info
        self._nodes = found
        self.others = len(found) > 1 or bool(heard - found.keys()) or bool(self._met)
        METRICS.nodes.set(len(found))

    async def leave(self, execute: Execute) -> None:
        """This node ends in order: nobody need wait until its key runs out."""
        await execute(("DEL", self._name(self._me.id)))
        await execute(("SREM", f"{self.installation}:nodes", self._me.id))

    def lost(self) -> None:
        """Redis is away: nobody is known but this node."""
        self._nodes, self._met, self.others = {self._me.id: self._me}, set(), False
        METRICS.nodes.set(1)

    def _name(self, node: str) -> str:
        return f"{self.installation}:node:{node}"


def _read(value: bytes) -> NodeInfo | None:
    try:
        return _decode(value)
    except msgspec.MsgspecError:  # a later version's, or a stranger's
        return None
