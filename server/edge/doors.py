"""What the doors to recordings have in common: who calls, may they, what they may see in one transaction, and that a
change is committed before anybody hears of it.
"""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from auth.model import Action, Identity
from auth.policy import access
from server.edge.authenticate import Authenticator
from server.edge.callers import bearer
from server.jobs.index import IndexSegments, enqueue_index
from server.store import feed, recordings, speakers
from server.store.commits import Announcer
from server.store.pool import Connection, Database
from streaming.errors import NotFound, Unavailable

NAME = re.compile(r"[\x21-\x7e]{1,100}")
"""Ids and labels that this server gives; whatever else stands in a path is not there."""

Answer = TypeVar("Answer")


class Opened(msgspec.Struct, frozen=True):
    """A recording that the caller may see, within a transaction of its tenant."""

    who: Identity
    connection: Connection
    row: recordings.RecordingRow

    @property
    def place(self) -> tuple[Connection, str, str]:
        """How the stores' functions begin."""
        return self.connection, self.who.tenant_id, self.row.recording_id


class Doors:
    def __init__(self, *, authenticate: Authenticator, database: Database, announcer: Announcer) -> None:
        self._authenticate = authenticate
        self._announcer = announcer
        self.database = database

    async def who(self, request: web.Request) -> Identity:
        return await bearer(request, self._authenticate)

    @asynccontextmanager
    async def opened(self, request: web.Request, action: Action = Action.READ) -> AsyncIterator[Opened]:
        """The recording that the path names."""
        who = await self.who(request)
        async with self.database.tenant_tx(who.tenant_id) as connection:
            row = await recordings.get(connection, who.tenant_id, request.match_info["id"])
            access(who, action, row.ref)
            yield Opened(who, connection, row)

    async def change(
        self, request: web.Request, work: Callable[[Opened, int], Awaitable[tuple[Answer, list[feed.Event]]]]
    ) -> Answer:
        """Do `work` (it gets the time, Unix milliseconds) with the recording that the path names: what it logs and what
        is to be indexed stand or fall together, and are announced after the commit."""
        room = None
        try:
            async with self.opened(request, Action.EDIT) as opened:
                room = (opened.who.tenant_id, opened.row.room)
                answer, events = await work(opened, now_ms())
                if changed := speakers.segments_in(events):
                    connection, tenant_id, recording_id = opened.place
                    job = IndexSegments(tenant_id=tenant_id, recording_id=recording_id, segment_ids=changed)
                    await enqueue_index(connection, [job])
        except Unavailable:
            if room is not None:
                self._announcer.resync(*room)  # a commit whose answer was lost is announced by nobody
            raise
        self._announcer.announce(events)
        return answer


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def named(request: web.Request, part: str) -> str:
    """An id or a label from the path. Raises `NotFound`."""
    name = request.match_info[part]
    if not NAME.fullmatch(name):
        raise NotFound("There is nothing here by that name.")
    return name


def json_answer(body: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")
