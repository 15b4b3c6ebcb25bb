"""The way to Redis: one connection that listens, one that publishes, together or not at all.

Policy: whatever goes wrong with either ends both; they are made anew within `redis_retry_ms_max`, for ever, and what
waited meanwhile is dropped (it is in the log). redis-py's own retries and pools are not used: they reconnect without a
word, so that nobody would know what was missed, and they publish over several connections, out of order.

A connection that is silent, as after a firewall forgot it, is noticed: this node hears its own beats.

Boundary: bytes in, bytes out; the only module that imports redis.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from server.config import ConfigError
from server.rooms.outbound import Item, Outbound
from server.telemetry import METRICS
from streaming.aio import Signal
from streaming.limits import Limits

log = logging.getLogger(__name__)

Command = tuple[Any, ...]
Execute = Callable[[Command], Awaitable[Any]]


class Traffic:
    """What the link carries: implemented by the manager."""

    channels: tuple[str, ...] = ()

    def up(self) -> None:
        """From now on everything that is published is heard; before, anything may have been missed."""

    def down(self) -> None:
        """From now on nothing is heard."""

    async def beat(self, execute: Execute) -> None:
        """Every `node_beat_ms`, first of all."""

    async def leave(self, execute: Execute) -> None:
        """Once, at the orderly end."""

    async def heard(self, channel: str, message: bytes) -> None:
        """Never raises."""

    def commands(self, items: Sequence[Item]) -> list[Command]:
        """What publishes them, in their order."""
        raise NotImplementedError


class RedisLink:
    """`run` is a component of the lifecycle. Raises `ConfigError` for an address that cannot be read."""

    def __init__(self, url: str, traffic: Traffic, limits: Limits) -> None:
        self._answer_s = limits.redis_answer_ms_max / 1000
        try:
            self._pool = cast(Any, ConnectionPool.from_url(url))
            self._pool.make_connection()
        except (ValueError, TypeError) as error:  # without its text: the address may hold a password
            raise ConfigError("PARLANCE_REDIS_URL: cannot be read; write redis://user:password@host:port/0") from error
        self._traffic = traffic
        self._limits = limits
        self._waiting = Outbound(limits.hints_bytes_max)
        self._wake = Signal()
        self._retry_ms = limits.redis_retry_ms_min
        self.up = False

    def publish(self, item: Item) -> None:
        """Queue it; dropped and counted where there is no way or no room. Never waits."""
        if not self.up:
            METRICS.hints_dropped.labels("away").inc()
        elif len(item.payload) > self._limits.hint_bytes_max:
            METRICS.hints_dropped.labels("too_large").inc()
        else:
            if dropped := self._waiting.offer(item):
                METRICS.hints_dropped.labels("full").inc(len(dropped))
            self._wake.set()

    async def run(self) -> None:
        told = False
        while True:
            try:
                await self._session()
            except asyncio.CancelledError:
                if self.up:
                    await self._leave()
                raise
            except Exception as error:  # the session boundary: whatever a connection does, there will be another
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise asyncio.CancelledError from None  # a TaskGroup whose tasks fail as they end hides it
                if self.up or not told:
                    log.warning("redis is away, trying again", extra={"error": _kind(error)})
                told = True
            finally:
                self._end()
            await asyncio.sleep(self._retry_ms / 1000)
            self._retry_ms = min(self._retry_ms * 2, self._limits.redis_retry_ms_max)

    def _end(self) -> None:
        if self.up:
            self.up = False
            self._traffic.down()
        if dropped := self._waiting.clear():
            METRICS.hints_dropped.labels("away").inc(len(dropped))

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        connection = self._pool.make_connection()
        connection.socket_timeout = None  # with one it uses wait_for, which in Python 3.11 may lose a cancellation
        try:
            async with asyncio.timeout(self._answer_s):
                await connection.connect()
            yield connection
        finally:
            await connection.disconnect(nowait=True)

    async def _session(self) -> None:
        async with self._connection() as listening, self._connection() as publishing:
            async with asyncio.timeout(self._answer_s):
                await listening.send_command("SUBSCRIBE", *self._traffic.channels)
                for _ in self._traffic.channels:
                    await listening.read_response()
            async with asyncio.TaskGroup() as group:
                beaten = asyncio.Event()
                group.create_task(self._publish(publishing, beaten))
                await beaten.wait()
                log.info("redis is there")
                self.up = True
                self._retry_ms = self._limits.redis_retry_ms_min
                self._traffic.up()
                await self._listen(listening)

    async def _listen(self, connection: Any) -> None:
        silence_s = self._limits.node_expiry_ms / 1000
        while True:
            async with asyncio.timeout(silence_s):  # this node hears at least itself
                answer = await connection.read_response()
            if len(answer) == 3 and answer[0] == b"message":
                await self._traffic.heard(answer[1].decode(errors="replace"), answer[2])

    async def _publish(self, connection: Any, beaten: asyncio.Event) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            if clock() >= due:
                due = clock() + self._limits.node_beat_ms / 1000
                await self._traffic.beat(lambda command: self._execute(connection, [command]))
                beaten.set()
            if not len(self._waiting):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await self._wake.wait()
            if items := self._waiting.take(self._limits.hints_batch_bytes):
                await self._execute(connection, self._traffic.commands(items))

    async def _leave(self) -> None:
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(self._answer_s), self._connection() as connection:
                if items := self._waiting.take(self._limits.hints_bytes_max):
                    await self._execute(connection, self._traffic.commands(items))
                await self._traffic.leave(lambda command: self._execute(connection, [command]))

    async def _execute(self, connection: Any, commands: Sequence[Command]) -> Any:
        """Run commands in one go; returns the last answer."""
        answer = None
        async with asyncio.timeout(self._answer_s):
            await connection.send_packed_command(connection.pack_commands(commands))
            for _ in commands:
                answer = await connection.read_response()
        return answer


def _kind(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
