"""The bus between nodes over Redis, and its presence.

Policy: nodes talk on a channel of their own, sealed (`hints`), several hints to a message while Redis is busy; the
channel of stock managers is heard too, and its messages are left to `overheard`. What cannot be understood is counted,
and the first of each kind is logged.

Boundary: `Bus` towards the hub and the desk; Redis is behind `redislink`.
Invariant: what one node emits is heard by each other node in that order, or not at all.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any, Protocol

from server.rooms import hints
from server.rooms.bus import HERE, RoomKey
from server.rooms.outbound import Item
from server.rooms.presence import NodeInfo, Presence
from server.rooms.redislink import Command, Execute, RedisLink, Traffic
from server.telemetry import METRICS
from streaming.limits import Limits

log = logging.getLogger(__name__)

STRANGERS = "socketio"
"""The channel on which stock managers publish by default."""

OnFence = Callable[[str, str, int], None]


class Ears(Protocol):
    """Where other nodes are heard (`server.rooms.hub`)."""

    def hear(self, key: RoomKey, event: str, data: dict[str, Any], *, node: str) -> None: ...

    def owned(self, tenant_id: str, recording_id: str, epoch: int, *, node: str) -> None: ...


def _on_up() -> None:
    """Nobody wants to know."""


def _on_fence(_tenant_id: str, _recording_id: str, _epoch: int) -> None:
    """Nobody runs streams."""


class RedisBus(Traffic):
    """`open` and set the attributes, then `run`, a component of the lifecycle. Raises `ConfigError`.

    `ears`: the hub. `overheard`: takes messages of strangers, may raise anything. `on_up`: hints may have been missed
    until now. `on_fence(tenant_id, recording_id, epoch)`: another node took that stream over."""

    ears: Ears

    def __init__(self, url: str, *, node: str, limits: Limits) -> None:
        self.overheard: Callable[[bytes], Awaitable[None]] | None = None
        self.on_up: Callable[[], None] = _on_up
        self.on_fence: OnFence = _on_fence
        self._node = node
        self._limits = limits
        self._link = RedisLink(url, self, limits)
        self._presence = Presence(node, version("parlance"), limits)
        self._key = b""
        self._channel = ""
        self._own = hints.envelope(node)
        self._noticed: set[str] = set()

    def open(self, secret: str) -> None:
        """`secret`: what the nodes of this installation share."""
        self._key = hints.key_of(secret)
        self._channel = f"parlance:{hints.installation_of(self._key)}"
        self._presence.installation = self._channel
        self.channels = (self._channel, STRANGERS)

    async def run(self) -> None:
        assert self._channel, "open first"
        await self._link.run()

    async def works(self) -> bool:
        """Redis is there, and this node listens."""
        return self._link.up

    def nodes(self) -> list[NodeInfo]:
        """Who works together, this node included."""
        return self._presence.nodes()

    # --- Bus --------------------------------------------------------------------------------------------------
    @property
    def others(self) -> bool:
        return self._link.up and self._presence.others

    def emit(self, key: RoomKey, event: str, data: dict[str, Any]) -> None:
        METRICS.hints.inc()
        self._link.publish(Item(hints.said(*key, event, data), durable="seq" in data))

    def fence(self, tenant_id: str, recording_id: str, epoch: int) -> None:
        self.ears.owned(tenant_id, recording_id, epoch, node=HERE)
        self._link.publish(Item(hints.encoded(hints.Fence(tenant_id, recording_id, epoch)), durable=True))

    def publish(self, message: bytes) -> None:
        """Speak on the strangers' channel."""
        self._link.publish(Item(message, hint=False))

    # --- Traffic ----------------------------------------------------------------------------------------------
    def up(self) -> None:
        self.on_up()

    def down(self) -> None:
        self._presence.lost()

    async def beat(self, execute: Execute) -> None:
        await self._presence.beat(execute)
        await execute(("PUBLISH", self._channel, hints.sealed(self._key, self._node, [hints.encoded(hints.Hello())])))

    async def leave(self, execute: Execute) -> None:
        await self._presence.leave(execute)

    def commands(self, items: Sequence[Item]) -> list[Command]:
        found: list[Command] = []
        together: list[bytes] = []

        def close() -> None:
            if together:
                found.append(("PUBLISH", self._channel, hints.sealed(self._key, self._node, together)))
                together.clear()

        for item in items:
            if item.hint:
                together.append(item.payload)
            else:
                close()
                found.append(("PUBLISH", STRANGERS, item.payload))
        close()
        return found

    async def heard(self, channel: str, message: bytes) -> None:
        try:
            if channel == self._channel:
                self._heard(message)
            elif len(message) > self._limits.hint_bytes_max:
                self._ignore("too_large", None)
            elif self.overheard is not None:
                await self.overheard(message)
        except hints.Broken as error:
            self._ignore("broken", error)
        except Exception as error:  # the message boundary: whatever a stranger wrote, the next message is heard
            self._ignore("malformed", error)

    def _heard(self, message: bytes) -> None:
        if message.startswith(self._own, hints.SEAL_CHARS):
            return
        batch = hints.opened(self._key, message)
        self._presence.met(batch.node)
        for hint in batch.hints:
            if isinstance(hint, hints.Said):
                self.ears.hear((hint.tenant_id, hint.room), hint.event, hints.data_of(hint), node=batch.node)
            elif isinstance(hint, hints.Fence):
                self.ears.owned(hint.tenant_id, hint.recording_id, hint.epoch, node=batch.node)
                self.on_fence(hint.tenant_id, hint.recording_id, hint.epoch)

    def _ignore(self, why: str, error: Exception | None) -> None:
        METRICS.hints_ignored.labels(why).inc()
        if why not in self._noticed:
            self._noticed.add(why)
            log.warning("message over redis ignored", extra={"why": why, "error": type(error).__name__})
