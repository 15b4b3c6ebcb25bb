"""A client's queries and subscriptions: who waits for which answer.

Policy: a query lives on one connection and fails with it. A subscription outlives connections: its reader subscribes
again after the last match that is here, each time under a new name, so that what an earlier attempt is still told is
nobody's. It ends only with what no waiting heals.

Boundary: connecting is `connection`'s, what waits for a reader is `inbox`'s. Invariant: a match reaches its reader at
most once, and none is left out without a `MatchesLost`.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, Unpack

import msgspec

from parlance_client.connection import Connection
from parlance_client.errors import (
    CallFailed,
    CallTimeout,
    Disconnected,
    MatchesLost,
    ParlanceClientError,
    Superseded,
)
from parlance_client.inbox import Inbox
from parlance_client.link import Link
from parlance_client.model import Event, Match, SearchOptions, SearchResults

ANSWERS_MAX = 8
"""A query is answered by two phases, a failure or a supersession."""
RETRY_MS = 1_000
"""Between attempts to subscribe, where the server names no time."""

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
"""Begins a task that the client owns."""


class Searches:
    """Gives out queries and subscriptions, and brings them what arrives."""

    def __init__(self, connection: Connection, call_timeout_s: float, spawn: Spawn) -> None:
        self._connection = connection
        self._call_timeout_s = call_timeout_s
        self.spawn = spawn
        self._answers: dict[str, asyncio.Queue[SearchResults | ParlanceClientError]] = {}
        self._subscriptions: set[Subscription] = set()
        self._told: dict[str, Subscription] = {}

    async def query(
        self, text: str, *, cursor: str | None = None, **options: Unpack[SearchOptions]
    ) -> AsyncIterator[SearchResults]:
        """See `Client.search`."""
        request_id = uuid.uuid4().hex
        answers: asyncio.Queue[SearchResults | ParlanceClientError] = asyncio.Queue(ANSWERS_MAX)
        query = {"request_id": request_id, "text": text, "cursor": cursor, **options}
        link = self._connection.now()
        self._answers[request_id] = answers
        open_ = True
        try:
            await link.call("search:query", _given(query), timeout_s=self._call_timeout_s)
            while open_:
                answer = await answers.get()
                open_ = isinstance(answer, SearchResults) and answer.phase != "full"
                if not isinstance(answer, SearchResults):
                    raise answer
                yield answer
        finally:
            del self._answers[request_id]
            if open_:
                with suppress(Disconnected):
                    await link.emit("search:cancel", {"request_id": request_id})

    async def pages(self, text: str, **options: Unpack[SearchOptions]) -> AsyncIterator[SearchResults]:
        """See `Client.search_pages`."""
        cursor: str | None = None
        while True:
            phases = [answer async for answer in self.query(text, cursor=cursor, **options)]
            yield (page := phases[-1])
            cursor = page.next_cursor
            if cursor is None:
                return

    def subscribe(self, wanted: dict[str, Any], after: str | None, matches_max: int) -> "Subscription":
        """See `Client.subscribe`."""
        subscription = Subscription(self, _given(wanted), Inbox(after, matches_max))
        if self._connection.ended is not None:
            subscription.close(self._connection.ended)
        else:
            self._subscriptions.add(subscription)
        return subscription

    # --- what arrives ---------------------------------------------------------------------------------------------
    def on_event(self, event: Event) -> None:
        """An event of search. Never waits."""
        match event.name:
            case "search:match" | "search:unsubscribed":
                subscription = self._told.get(str(event.body.get("subscription_id")))
                if subscription is not None:
                    subscription.on_event(event)
            case _:
                self._answer(event)

    def on_up(self) -> None:
        """There is a connection."""
        for subscription in tuple(self._subscriptions):
            subscription.wake()

    def on_down(self) -> None:
        """A connection went."""
        for answers in self._answers.values():
            if not answers.full():
                answers.put_nowait(Disconnected("The connection went away during the search."))

    def close(self, error: ParlanceClientError | None) -> None:
        """There will be no more connections."""
        for subscription in tuple(self._subscriptions):
            subscription.close(error)

    def _answer(self, event: Event) -> None:
        answers = self._answers.get(str(event.body.get("request_id")))
        if answers is None or answers.full():
            return
        if event.name == "search:results":
            answers.put_nowait(msgspec.convert(event.body, SearchResults))
        elif event.name == "search:failed":
            answers.put_nowait(CallFailed.from_wire(event.body.get("error") or {}))
        else:
            answers.put_nowait(Superseded("A newer query took this one's place."))

    # --- for subscriptions ----------------------------------------------------------------------------------------
    @property
    def link(self) -> Link | None:
        return self._connection.link

    async def begin(self, link: Link, name: str, subscription: "Subscription", wanted: dict[str, Any]) -> None:
        """Subscribe under this name. Raises as `Link.call`."""
        self._told[name] = subscription
        await link.call(
            "search:subscribe",
            {**wanted, "subscription_id": name},
            timeout_s=self._call_timeout_s,
            on_ack=lambda reply: subscription.on_confirmed(str(reply["cursor"])),
        )

    async def leave(self, link: Link, name: str) -> None:
        """Nothing more under this name."""
        self._told.pop(name, None)
        with suppress(Disconnected):
            await link.emit("search:unsubscribe", {"subscription_id": name})

    def discard(self, subscription: "Subscription", name: str | None) -> None:
        """It is over."""
        self._subscriptions.discard(subscription)
        if name is not None:
            self._told.pop(name, None)


class Subscription:
    """An async iterator of `Match`, for one reader; a context manager, so that the server forgets it at the end."""

    def __init__(self, searches: Searches, wanted: dict[str, Any], inbox: Inbox) -> None:
        self._searches = searches
        self._wanted = wanted
        self._inbox = inbox
        self._link: Link | None = None
        self._name: str | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._has_begun = False
        self._closed = False
        self._error: ParlanceClientError | None = None
        self._wake = asyncio.Event()

    @property
    def cursor(self) -> str | None:
        """Of the last match that was read, or where it began (None before the server said so). Store it when the match
        has been dealt with; `subscribe(..., after=cursor)` goes on there, in another process too."""
        return self._inbox.cursor

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Match:
        """The next match. When it ended for good it raises the reason once, then stops: `MatchesLost`, a `CallFailed`
        that is not retryable, or why the client ended. May be cancelled without loss."""
        while True:
            self._wake.clear()
            match = self._inbox.take()
            if match is not None:
                return match
            if self._closed:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            await self._step()

    async def __aenter__(self) -> Self:
        """Returns when the server tells what is said from now on, or after the cursor. Raises as the iteration."""
        while not self._is_live:
            self._wake.clear()
            if self._closed:
                raise self._error or Disconnected("The subscription was closed.")
            await self._step()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        link, name = self._link, self._name
        self.close()
        if link is not None and name is not None:
            await self._searches.leave(link, name)

    def close(self, error: ParlanceClientError | None = None) -> None:
        """No more matches: what waits still comes, then `error` if given, then the end. Idempotent."""
        if self._closed:
            return
        self._closed, self._error = True, error
        self._searches.discard(self, self._name)
        self.wake()

    # --- what arrives ---------------------------------------------------------------------------------------------
    def wake(self) -> None:
        """Something changed: the reader looks for itself."""
        self._wake.set()

    def on_confirmed(self, cursor: str) -> None:
        self._has_begun = True
        self._inbox.confirm(cursor)

    def on_event(self, event: Event) -> None:
        """A match, or the end that the server put to it. Never waits."""
        if event.name == "search:match":
            self._inbox.offer(msgspec.convert(event.body, Match))
        else:
            self._failed(CallFailed.from_wire(event.body.get("error") or {}))
        self.wake()

    # --- the reader's work ----------------------------------------------------------------------------------------
    @property
    def _is_live(self) -> bool:
        return self._inbox.is_open and self._link is not None and not self._link.closed.is_set()

    async def _step(self) -> None:
        """Wait for a change, or subscribe where that is due; an attempt goes on when its reader is cancelled."""
        link = self._searches.link
        if link is None or self._is_live or (self._attempt is not None and not self._attempt.done()):
            await self._wake.wait()
            return
        wait_s = self._not_before - asyncio.get_running_loop().time()
        if wait_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            return
        self._attempt = self._searches.spawn(self._subscribe(link), "subscription")
        self._attempt.add_done_callback(lambda _: self.wake())

    async def _subscribe(self, link: Link) -> None:
        if self._link is not None and self._name is not None:
            await self._searches.leave(self._link, self._name)
        self._link, self._name = link, uuid.uuid4().hex
        self._inbox.open()
        try:
            await self._searches.begin(link, self._name, self, _given({**self._wanted, "after": self._inbox.after}))
        except Disconnected:
            return  # the next connection
        except (CallTimeout, CallFailed) as error:
            self._failed(error)

    def _failed(self, error: CallTimeout | CallFailed) -> None:
        """Try again later, or end. A quota may count our own last connection, which the server has not yet seen go."""
        self._inbox.shut()
        counted = self._has_begun and isinstance(error, CallFailed) and error.code == "quota_exceeded"
        if error.retryable or counted:
            wait_ms = error.retry_after_ms if isinstance(error, CallFailed) else None
            self._not_before = asyncio.get_running_loop().time() + (wait_ms or RETRY_MS) / 1_000
        elif isinstance(error, CallFailed) and error.code == "history_truncated":
            after = self._inbox.after
            self.close(MatchesLost("What was said after the cursor is not kept any more.", after=after))
        else:
            self.close(error)


def _given(wanted: dict[str, Any]) -> dict[str, Any]:
    """Without what was left open."""
    return {key: value for key, value in wanted.items() if value is not None}
