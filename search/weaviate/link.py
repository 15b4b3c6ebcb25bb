"""One connection to Weaviate that breaks and comes back: deadlines, reconnecting, and whose fault an error is.

Policy: every call has a deadline. The library tries again by itself for half a minute where nobody listens, so while a
call takes longer than `index_patience_ms` Weaviate's health is asked, and the call given up when it is gone. After a
loss calls fail at once, but one every `index_retry_ms` tries; a new client is made then, because the old one's channel
waits for seconds before it tries again. A client that is given up is closed when its last call has ended.

Boundary: every error of the library, of HTTP and of gRPC becomes `Unavailable`, and its text goes no further: it quotes
what was asked and said. The library's own log does too, and is silent.
Invariant: no client is closed while a call uses it (gRPC would cancel the caller's task).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import urlsplit

import grpc
import httpx
import msgspec
import weaviate
from weaviate.classes.init import AdditionalConfig, Auth, Timeout
from weaviate.config import GrpcConfig
from weaviate.exceptions import UnexpectedStatusCodeError, WeaviateBaseError

from streaming.errors import Unavailable
from streaming.limits import LIMITS, Limits

log = logging.getLogger(__name__)

T = TypeVar("T")
Client = weaviate.WeaviateAsyncClient

GRPC_PORT = 50_051
HEALTH = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
"""grpc.health.v1.HealthCheckResponse with `status` SERVING; the request is empty."""
CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
)
"""Two minutes at most by default; and a new channel to the same place shares the old one's wait unless it is told not
to."""
UNAUTHORIZED = (401, 403)

ERRORS = (WeaviateBaseError, httpx.HTTPError, grpc.RpcError, OSError, TimeoutError, ValueError)
"""ValueError: of its decoders, when something else answers."""

logging.getLogger("weaviate-client").disabled = True
for _noisy in ("httpx", "httpcore"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)


class Address(msgspec.Struct, frozen=True):
    """`url`: http(s)://host:port; `grpc`: host:port, None for the usual port of that host; `key`: what lets us in."""

    url: str
    grpc: str | None = None
    key: str | None = None

    @property
    def grpc_target(self) -> str:
        return self.grpc or f"{urlsplit(self.url).hostname}:{GRPC_PORT}"


class Gone(Exception):
    """Nobody listens there."""


class Refused(Unavailable):
    """It does not know our key."""


class _Held:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.calls = 0


class Link:
    """`version`: of the server, once it was reached; `observe`: told of each call, how many seconds it took and whether
    it succeeded. For one event loop; `close` it at the end."""

    def __init__(
        self, address: Address, limits: Limits = LIMITS, *, observe: Callable[[float, bool], None] = lambda *_: None
    ) -> None:
        self.version: str | None = None
        self._observe = observe
        self._address = address
        self._limits = limits
        self._held: _Held | None = None
        self._given_up: list[_Held] = []
        self._opening = asyncio.Lock()
        self._try_at = 0.0
        self._told = False
        self._channel: grpc.aio.Channel | None = None

    async def call(self, work: Callable[[Client], Awaitable[T]], *, ms: int | None = None) -> T:
        """What `work` returns, within `ms`, else `index_answer_ms_max`. Raises `Unavailable`, whatever goes wrong."""
        began, held, done = time.monotonic(), None, False
        try:
            async with asyncio.timeout((ms or self._limits.index_answer_ms_max) / 1_000):
                held = await self._reached()
                held.calls += 1
                try:
                    result = await self._watched(held.client, work)
                finally:
                    held.calls -= 1
            done = True
            return result
        except Gone as error:
            self._give_up(held)
            raise Unavailable("The search index is away.", retry_after_ms=self._limits.index_retry_ms) from error
        except TimeoutError as error:
            self._give_up(held)
            raise Unavailable("The search index does not answer.") from error
        except ERRORS as error:
            log.warning("the index failed", extra={"error": type(error).__name__})
            raise Unavailable("The search index failed.") from error
        finally:
            self._observe(time.monotonic() - began, done)

    async def look(self) -> str:
        """The server's version. Raises `Unavailable` unless it knows our key and answers at both doors."""
        return await self.call(self._look)

    async def works(self) -> bool:
        try:
            await self.look()
        except Unavailable:
            return False
        return True

    async def close(self) -> None:
        for held in [*self._given_up, *([self._held] if self._held else [])]:
            await held.client.close()
        self._held, self._given_up = None, []
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    # --- reaching it ----------------------------------------------------------------------------------------------
    async def _reached(self) -> _Held:
        if self._held is not None:
            return self._held
        async with self._opening:
            if self._held is not None:
                return self._held
            if time.monotonic() < self._try_at:
                raise Gone
            self._try_at = time.monotonic() + self._limits.index_retry_ms / 1_000
            if not await self._listens():
                raise Gone
            for held in [held for held in self._given_up if held.calls == 0]:
                self._given_up.remove(held)
                await held.client.close()
            self._held = _Held(await self._opened())
            return self._held

    async def _opened(self) -> Client:
        client = self._client()
        try:
            await client.connect()
            self.version = str((await client.get_meta())["version"])
        except UnexpectedStatusCodeError as error:
            await client.close()
            if error.status_code not in UNAUTHORIZED:
                raise
            if not self._told:
                self._told = True
                log.warning("the index refuses our key", extra={"setting": "PARLANCE_WEAVIATE_API_KEY"})
            raise Refused("The search index refuses the key of this server.") from error
        except BaseException:
            await client.close()
            raise
        self._told = False
        return client

    def _client(self) -> Client:
        url, (grpc_host, _, grpc_port) = urlsplit(self._address.url), self._address.grpc_target.rpartition(":")
        secure = url.scheme == "https"
        seconds = self._limits.index_change_ms_max / 1_000
        return weaviate.use_async_with_custom(
            http_host=str(url.hostname),
            http_port=url.port or (443 if secure else 80),
            http_secure=secure,
            grpc_host=grpc_host,
            grpc_port=int(grpc_port),
            grpc_secure=secure,
            auth_credentials=Auth.api_key(self._address.key) if self._address.key else None,
            additional_config=AdditionalConfig(
                timeout=Timeout(init=seconds, query=seconds, insert=seconds),
                grpc_config=GrpcConfig(channel_options=CHANNEL),
            ),
            skip_init_checks=True,  # they ask a package index for a newer version
        )

    def _give_up(self, held: _Held | None) -> None:
        if held is None or self._held is not held:
            return
        self._held = None
        self._given_up.append(held)
        self._try_at = time.monotonic() + self._limits.index_retry_ms / 1_000

    # --- watching over a call -------------------------------------------------------------------------------------
    async def _watched(self, client: Client, work: Callable[[Client], Awaitable[T]]) -> T:
        """Raises `Gone` as soon as it is known that no answer will come."""
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch())
                result = await work(client)
                watch.cancel()
            return result
        except BaseExceptionGroup as errors:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError from None  # a group whose tasks fail as it is cancelled hides that
            raise errors.exceptions[0] from None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._limits.index_patience_ms / 1_000)
            if not await self._listens():
                raise Gone

    async def _listens(self) -> bool:
        """Whether somebody is there, who may be slow."""
        try:
            await self._health()
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
        return True

    async def _look(self, _client: Client) -> str:
        try:
            serves = await self._health() == SERVING
        except grpc.RpcError as error:
            raise Gone from error
        if not serves:
            raise Gone
        return self.version or ""

    async def _health(self) -> bytes:
        if self._channel is None:
            target = self._address.grpc_target
            if urlsplit(self._address.url).scheme == "https":
                self._channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=CHANNEL)
            else:
                self._channel = grpc.aio.insecure_channel(target, options=CHANNEL)
        answer: bytes = await self._channel.unary_unary(HEALTH)(b"", timeout=self._limits.index_retry_ms / 1_000)
        return answer
