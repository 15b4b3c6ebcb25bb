"""Subscriptions of clients: told of each new or revised segment that matches, once for a revision.

Policy: this node follows a tenant's index feed while a socket here subscribes (`server.edge.search.following`). An
acknowledgement says that a subscription was taken, and from where; it waits for no vector. Texts are embedded some at a
time, behind the searches that people wait for; when the model is away subscriptions begin by words alone, and get their
vector when the first segment with one comes. Subscribing twice with one id replaces.

Boundary: the hub (rooms), `Embedder`, `Reader`. Bounds: subscriptions of a socket, a user and a node.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence

from search.live import Heard
from search.model import EmbedderInfo, Vector
from search.ports import CannotEmbed, Embedder, Transcripts
from server.edge.connection import Connection
from server.edge.errors import as_known
from server.edge.search.following import Feed, Subscription
from server.edge.search.wire import Position, cursor, parse_interest, parse_position
from server.rooms.hub import Hub, LogReader
from server.store import heard as store
from server.store.feed import Event, Head
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.aio import Scope, Signal
from streaming.errors import HistoryTruncated, Overloaded, QuotaExceeded, Unavailable
from streaming.limits import Limits
from streaming.protocol import searches as s

log = logging.getLogger(__name__)


class FeedReader:
    """`server.edge.search.following.Reader`."""

    def __init__(self, database: Database, rooms: LogReader, transcripts: Transcripts) -> None:
        self._database = database
        self._rooms = rooms
        self._transcripts = transcripts

    async def head(self, tenant_id: str, room: str) -> Head:
        return await self._rooms.head(tenant_id, room)

    async def read(self, tenant_id: str, room: str, after_seq: int, limit: int) -> list[Event]:
        return await self._rooms.read(tenant_id, room, after_seq, limit)

    async def languages(self, tenant_id: str) -> Sequence[str]:
        return await self._transcripts.languages(tenant_id)

    async def said(
        self, tenant_id: str, segment_ids: Sequence[str], *, meant: Sequence[str], models: Sequence[str]
    ) -> dict[str, Heard]:
        async with self._database.tenant_tx(tenant_id) as connection:
            return await store.said(connection, tenant_id, segment_ids, meant=meant, models=models)


class _Followed:
    """A tenant's feed and its subscriptions. `wanted`: calls that are about to subscribe; `closed`: nobody did."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.held: set[Subscription] = set()
        self.wanted = 0
        self.joining = asyncio.Lock()
        self.task: asyncio.Task[None] | None = None
        self.closed = False


class SubscriptionDesk:
    """`run` is a component: it gets vectors. Feeds begin with their first subscription and end with the last."""

    def __init__(self, hub: Hub, reader: FeedReader, embedder: Embedder | None, limits: Limits) -> None:
        self._hub = hub
        self._reader = reader
        self._embedder = embedder
        self._limits = limits
        self._scope = Scope("subscriptions", on_error=_task_failed)
        self._tenants: dict[str, _Followed] = {}
        self._held: dict[Connection, dict[str, Subscription]] = {}
        self._of_user: Counter[str] = Counter()
        self._count = 0
        self._unembedded: dict[Subscription, Feed] = {}
        self._embed = Signal()
        self._no_vectors_before = 0.0

    # --- of connections ---------------------------------------------------------------------------------------
    async def subscribe(self, connection: Connection, wanted: s.SearchSubscribe) -> str:
        """Returns the cursor from which it is told. Raises `BadRequest`, `QuotaExceeded`, `Overloaded`,
        `HistoryTruncated`, `Unavailable`."""
        who = connection.identity
        interest = parse_interest(who.user_id, wanted)
        after = None if wanted.after is None else parse_position(wanted.after)
        followed = await self._followed(who.tenant_id)
        try:
            position = await self._position(followed.feed, after)
            if followed.closed or connection.ended:
                raise Unavailable("The subscription could not begin.", retry_after_ms=1_000)
            self._make_room(connection, wanted.subscription_id)
            subscription = Subscription(connection, wanted.subscription_id, interest, position)
            self._keep(followed, subscription)
        finally:
            followed.wanted -= 1
            self._close_idle(who.tenant_id, followed)
        followed.feed.admit(subscription)
        return cursor(position)

    def unsubscribe(self, connection: Connection, subscription_id: str) -> None:
        """Unknown ids are fine: the server may just have ended it."""
        subscription = self._held.get(connection, {}).pop(subscription_id, None)
        if subscription is not None:
            self._forget(subscription)

    def gone(self, connection: Connection) -> None:
        """The connection has ended."""
        for subscription in self._held.pop(connection, {}).values():
            self._forget(subscription)

    # --- feeds ------------------------------------------------------------------------------------------------
    async def _followed(self, tenant_id: str) -> _Followed:
        """The tenant's feed, followed from now on, and wanted once more. Raises `Unavailable`."""
        while True:
            followed = self._tenants.get(tenant_id)
            if followed is None:
                key = (tenant_id, f"index:{tenant_id}")
                feed = Feed(key, self._reader, model=self._model, wants=self._want, limits=self._limits)
                followed = self._tenants[tenant_id] = _Followed(feed)
            followed.wanted += 1
            try:
                async with followed.joining:
                    if followed.task is None and not followed.closed:
                        head = await self._hub.join(followed.feed, followed.feed.key, after_seq=None)
                        followed.feed.stand(head.seq)
                        followed.task = self._scope.spawn(self._follow(tenant_id, followed), name="feed")
                        self._scope.spawn(self._hub.catch_up(followed.feed, followed.feed.key), name="catch up")
            except BaseException:
                followed.wanted -= 1
                self._close_idle(tenant_id, followed)
                raise
            if not followed.closed:
                return followed

    async def _position(self, feed: Feed, after: Position | None) -> Position:
        """Where a subscription begins: a position beyond the feed's end counts as that."""
        now = (feed.seen + 1, 0)
        if after is None or after >= now:
            return now
        after = max(after, (1, 0))
        head = await self._reader.head(*feed.key)
        if after[0] < head.first_seq:
            raise HistoryTruncated("The oldest events of the index are gone.", first_seq=head.first_seq)
        return after

    async def _follow(self, tenant_id: str, followed: _Followed) -> None:
        try:
            await followed.feed.run()
        except Exception as error:  # the session boundary of a feed: its subscriptions end, the node goes on
            if not isinstance(error, HistoryTruncated):
                log.exception("index feed failed")
            self._close(tenant_id, followed)
            for subscription in list(followed.held):
                self._held.get(subscription.connection, {}).pop(subscription.name, None)
                subscription.end(as_known(error))
                self._forget(subscription)

    def _close_idle(self, tenant_id: str, followed: _Followed) -> None:
        if followed.held or followed.wanted or followed.closed:
            return
        self._close(tenant_id, followed)
        if followed.task is not None:
            followed.task.cancel()

    def _close(self, tenant_id: str, followed: _Followed) -> None:
        followed.closed = True
        del self._tenants[tenant_id]
        self._hub.leave(followed.feed, followed.feed.key)

    # --- bounds -----------------------------------------------------------------------------------------------
    def _make_room(self, connection: Connection, name: str) -> None:
        """For one more of this connection, in place of the one that has its id. Raises `QuotaExceeded`,
        `Overloaded`."""
        limits, theirs = self._limits, self._held.get(connection, {})
        if name in theirs:
            self.unsubscribe(connection, name)
            return
        if len(theirs) >= limits.subscriptions_per_socket_max:
            raise QuotaExceeded(f"At most {limits.subscriptions_per_socket_max} subscriptions per socket.")
        if self._of_user[connection.identity.user_id] >= limits.subscriptions_per_user_max:
            raise QuotaExceeded(f"At most {limits.subscriptions_per_user_max} subscriptions per user.")
        if self._count >= limits.subscriptions_max:
            raise Overloaded("This node has no place for another subscription.", retry_after_ms=limits.streams_retry_ms)

    def _keep(self, followed: _Followed, subscription: Subscription) -> None:
        connection = subscription.connection
        self._held.setdefault(connection, {})[subscription.name] = subscription
        followed.held.add(subscription)
        self._counted(connection.identity.user_id, 1)

    def _forget(self, subscription: Subscription) -> None:
        """It is in nobody's list any more."""
        who = subscription.connection.identity
        self._unembedded.pop(subscription, None)
        self._counted(who.user_id, -1)
        if (followed := self._tenants.get(who.tenant_id)) is not None:
            followed.feed.drop(subscription)
            followed.held.discard(subscription)
            self._close_idle(who.tenant_id, followed)

    def _counted(self, user_id: str, by: int) -> None:
        self._count += by
        self._of_user[user_id] += by
        if not self._of_user[user_id]:
            del self._of_user[user_id]
        METRICS.searches.subscriptions.set(self._count)

    # --- vectors ----------------------------------------------------------------------------------------------
    def _model(self) -> EmbedderInfo | None:
        """Of the vectors that texts can be given now."""
        if self._embedder is None or asyncio.get_running_loop().time() < self._no_vectors_before:
            return None
        return self._embedder.info

    def _want(self, feed: Feed, subscription: Subscription) -> None:
        self._unembedded[subscription] = feed
        self._embed.set()

    async def run(self) -> None:
        """Give texts their vectors."""
        while True:
            await self._embed.wait()
            while self._unembedded:
                await self._embed_some()

    async def _embed_some(self) -> None:
        some = list(self._unembedded.items())[: self._limits.subscription_texts_max]
        info = self._model()
        vectors: list[Vector | None] = []
        if info is not None:
            try:
                async with asyncio.timeout(self._limits.search_ms_max / 1000):
                    vectors = await self._vectors([subscription.interest.query.text for subscription, _ in some])
            except (Unavailable, TimeoutError):
                self._no_vectors_before = asyncio.get_running_loop().time() + self._limits.subscription_retry_ms / 1000
        if self._model() != info:
            vectors = []  # another model came up meanwhile: whose vectors are they?
        for at, (subscription, feed) in enumerate(some):
            if self._unembedded.pop(subscription, None) is not None:
                if info is not None and vectors:
                    subscription.vector = (info, vectors[at])
                feed.place(subscription)

    async def _vectors(self, texts: Sequence[str]) -> list[Vector | None]:
        """None for a text that the model cannot embed. Raises `Unavailable`."""
        assert self._embedder is not None, "it has a model"
        try:
            return list(await self._embedder.embed(texts, as_query=True))
        except CannotEmbed:
            if len(texts) == 1:
                return [None]
        return [vector for text in texts for vector in await self._vectors([text])]

    async def close(self) -> None:
        """End all feeds. Idempotent."""
        await self._scope.close()


def _task_failed(name: str, error: BaseException) -> None:
    log.error("task of the subscriptions failed", extra={"task": name}, exc_info=error)
