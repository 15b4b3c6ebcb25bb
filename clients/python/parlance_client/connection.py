"""The client's one logical connection: which socket it is now, and how the next one is made.

Policy: after a loss the addresses are tried in turn with jittered back-off, none before the time that it named
(`retry_after_ms`). A server that drains is left at a random moment within its `reconnect_after_ms`; its streams are
taken over by whoever answers next. The token is renewed before it ends (`tokens`). What no waiting heals ends the
connection for good, with the reason.

Boundary: sockets are `link`'s. Invariant: at most one link is open, and after `end` none.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import aiohttp
import msgspec

from parlance_client.backoff import Backoff, Route
from parlance_client.bell import Bell
from parlance_client.errors import (
    CallFailed,
    CallTimeout,
    ConnectFailed,
    Disconnected,
    ParlanceClientError,
    TokenFailed,
)
from parlance_client.link import EventHandler, Link, forget
from parlance_client.model import Ready
from parlance_client.tokens import Tokens, TokenSource, refresh_in_s

PROTOCOL = 1
READY_TIMEOUT_S = 10.0


class Connection:
    """`open` once, then `keep` and `keep_token` as tasks, then `end` and `close`.

    `on_event(name, body)` hears everything, `on_up()` and `on_down()` follow the links; none waits or raises."""

    def __init__(
        self,
        urls: Sequence[str],
        token: TokenSource,
        name: str,
        backoff: Backoff,
        *,
        on_event: EventHandler,
        on_up: Callable[[], None],
        on_down: Callable[[], None],
    ) -> None:
        self._route = Route(urls, backoff)
        self._tokens = Tokens(token)
        self._name = name
        self._backoff = backoff
        self._on_event = on_event
        self._on_up = on_up
        self._on_down = on_down
        self._http: aiohttp.ClientSession | None = None
        self._greeting: asyncio.Future[Ready] | None = None
        self._sent_away: str | None = None
        self._move_at: float | None = None
        self.bell = Bell()
        self.link: Link | None = None
        self.ready: Ready | None = None
        self.ended: ParlanceClientError | None = None

    # --- for everybody --------------------------------------------------------------------------------------------
    def now(self) -> Link:
        """The present link. Raises `Disconnected`, or why the client ended."""
        if self.ended is not None:
            raise self.ended
        if self.link is None:
            raise Disconnected("There is no connection at the moment.")
        return self.link

    async def wait(self) -> Link:
        """The present link, waiting for one. Raises why the client ended."""
        while True:
            ticket = self.bell.ticket()
            if self.ended is not None:
                raise self.ended
            if self.link is not None:
                return self.link
            await ticket.wait()

    def move(self, after_ms: int) -> None:
        """Leave the present link at a random moment within `after_ms`; another one follows at once."""
        if self._move_at is None:
            within_s = after_ms / 1_000 * random.random()  # noqa: S311 - jitter
            self._move_at = asyncio.get_running_loop().time() + within_s
            self.bell.ring()

    async def refresh(self, token: str) -> None:
        """Give the server a newer token, and use it from now on. Raises as `Link.call`."""
        await self.now().call("auth:refresh", {"token": token})
        self._tokens.take(token)
        self.bell.ring()

    async def request(self, method: str, path: str, body: object, *, timeout_s: float) -> Any:
        """Ask over HTTP, at the address of the present link; None where there is no answer but that it was done.

        Raises `CallFailed`, `CallTimeout`, `Disconnected`."""
        self.now()
        assert self._http is not None, "there was a link"
        headers = {"Authorization": f"Bearer {self._tokens.current}"}
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._http.request(method, self._route.url.rstrip("/") + path, json=body, headers=headers) as response,
            ):
                answer = await response.read()
        except TimeoutError:
            raise CallTimeout(f"{method} {path} was not answered within {timeout_s:g} s.") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Disconnected(f"{method} {path} failed: {error}") from error
        if response.status >= 400:
            with suppress(msgspec.DecodeError, AttributeError):
                raise CallFailed.from_wire(msgspec.json.decode(answer))
            raise CallFailed("unavailable", f"The server answered with {response.status}.", retryable=True)
        return msgspec.json.decode(answer) if answer else None

    # --- life -----------------------------------------------------------------------------------------------------
    async def open(self, http: aiohttp.ClientSession) -> None:
        """Connect for the first time; each address is asked once. Raises `ConnectFailed` and its kin."""
        self._http = http
        for attempt in range(len(self._route)):
            try:
                self._adopt(await self._connect())
                return
            except ConnectFailed as error:
                if attempt == len(self._route) - 1 or not error.retryable:
                    raise

    async def keep(self) -> None:
        """Connect again whenever the link is lost; returns when that is over for good."""
        while self.ended is None:
            link = self.link
            if link is not None:
                await self._until_over(link)
                await link.close()
            try:
                self._adopt(await self._reconnect())
            except ConnectFailed as error:
                self.end(error)
                return

    async def keep_token(self) -> None:
        """Renew the token before it ends, as long as it comes from a source and ends at all."""
        clock = asyncio.get_running_loop().time
        planned: tuple[Link, str] | None = None
        due_at, failures = 0.0, 0
        while self._tokens.renewable:
            ticket, link, token = self.bell.ticket(), self.link, self._tokens.current
            left_s = self._tokens.left_s(time.time())
            if link is None or left_s is None or left_s <= 0:
                await ticket.wait()
                continue
            if planned != (link, token):
                planned, failures = (link, token), 0
                due_at = clock() + refresh_in_s(left_s, random.random())  # noqa: S311 - jitter
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due_at):
                    await ticket.wait()
                continue
            try:
                if await self._tokens.fresh() != token:
                    await link.call("auth:refresh", {"token": self._tokens.current})
                planned = None
            except ParlanceClientError:
                # Again, until the token ends; then the server closes the link, and the next connection asks.
                failures += 1
                due_at = clock() + self._backoff.delay_s(failures, random.random())  # noqa: S311 - jitter
                planned = (link, self._tokens.current)

    def end(self, error: ParlanceClientError | None) -> None:
        """No more links; waiters get `error`."""
        self.ended = error or Disconnected("The client was closed.")
        self.bell.ring()

    async def close(self) -> None:
        if self.link is not None:
            await self.link.close()

    # --- what arrives ---------------------------------------------------------------------------------------------
    def _hear(self, name: str, body: dict[str, Any]) -> None:
        match name:
            case "ready" if self._greeting is not None and not self._greeting.done():
                self._greeting.set_result(msgspec.convert(body, Ready))
            case "server:draining":
                self.move(int(body.get("reconnect_after_ms", 0)))
            case "server:closing":
                self._sent_away = str(body.get("code"))
        self._on_event(name, body)

    def _down(self, link: Link) -> None:
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_exception(ConnectFailed("The server closed the connection before it was ready."))
        if self.link is link:
            self.link = None
            sent_away = self._sent_away is not None and self._sent_away != "draining"
            self._route.lost(asyncio.get_running_loop().time(), sent_away=sent_away)
        self._on_down()
        self.bell.ring()

    # --- connecting -----------------------------------------------------------------------------------------------
    async def _connect(self) -> Link:
        assert self._http is not None, "open comes first"
        clock = asyncio.get_running_loop().time
        link = Link(self._http, self._hear, lambda: self._down(link))
        greeting = self._greeting = asyncio.get_running_loop().create_future()
        self._sent_away = None
        try:
            token = await self._tokens.for_connect(time.time())
            await link.open(self._route.url, {"token": token, "protocol": PROTOCOL, "client": self._name})
            try:
                async with asyncio.timeout(READY_TIMEOUT_S):
                    self.ready = ready = await greeting
            except TimeoutError:
                raise ConnectFailed("The server did not say that it is ready.") from None
        except BaseException as error:
            forget(greeting)
            await link.close()
            if isinstance(error, ConnectFailed) and not isinstance(error, TokenFailed):
                self._route.failed(clock(), error.retry_after_ms)
            raise
        self._tokens.clock(server_s=ready.server_time / 1_000, now_s=time.time())
        return link

    def _adopt(self, link: Link) -> None:
        self._move_at = None
        if link.closed.is_set():
            return
        self.link = link
        self._route.connected(asyncio.get_running_loop().time())
        self._on_up()
        self.bell.ring()

    async def _until_over(self, link: Link) -> None:
        """Wait until the link is gone, or is to be left."""
        while not link.closed.is_set():
            ticket = self.bell.ticket()
            if self._move_at is None:
                await ticket.wait()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._move_at):
                    await link.closed.wait()
            return

    async def _reconnect(self) -> Link:
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + self._backoff.give_up_s
        token_failures = 0
        while True:
            if self._move_at is not None:
                # Asked to move: the jitter is in that moment already, and it holds when the server was faster.
                wait_s, self._move_at = max(0.0, self._move_at - clock()), None
                self._route.wait_s(clock(), 0.0)
            else:
                wait_s = self._route.wait_s(clock(), random.random())  # noqa: S311 - jitter
            if token_failures:
                wait_s = max(wait_s, self._backoff.delay_s(token_failures, random.random()))  # noqa: S311 - jitter
            await asyncio.sleep(wait_s)
            try:
                return await self._connect()
            except ConnectFailed as error:
                if not error.retryable or clock() >= give_up_at:
                    raise
                token_failures += isinstance(error, TokenFailed)
