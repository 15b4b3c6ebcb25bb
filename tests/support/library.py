"""The doors of the library on a free port, on a real database: recordings, segments, speakers, voices. What they
announce is kept. Recordings and who speaks in them are put into the database as streams do it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import msgspec
import numpy as np
from aiohttp import web

from auth.errors import Unauthenticated
from auth.model import Identity, Role
from server.edge.authenticate import Authenticator
from server.edge.doors import Doors
from server.edge.http import boundary
from server.edge.library import LibraryDoors
from server.edge.people import PeopleDoors
from server.store import feed, segments, speakers
from server.store.identity import IdentityStore
from server.store.pool import Database
from server.store.segments import FinalWrite
from streaming.diariser.voices import Speaker
from streaming.model import Segment, Word
from tests.server.test_commits import begin
from tests.support.node import HANG_S, log_of

MODEL = "voices-1"


class Library:
    """`events`: what was announced; `stale`: rooms whose log is to be read anew."""

    def __init__(self, database: Database, url: str, session: aiohttp.ClientSession) -> None:
        self.database = database
        self.url = url
        self.people: dict[str, Identity] = {}
        self.events: list[feed.Event] = []
        self.stale: list[str] = []
        self.model: str | None = MODEL
        self.rereads = 0
        self._session = session

    # --- the port Announcer -----------------------------------------------------------------------------------
    def announce(self, events: Sequence[feed.Event]) -> None:
        self.events += events

    def resync(self, _tenant_id: str, room: str) -> None:
        self.stale.append(room)

    # --- the second pass --------------------------------------------------------------------------------------
    def reread(self) -> None:
        self.rereads += 1

    # --- people -----------------------------------------------------------------------------------------------
    async def member(self, name: str, role: Role = Role.MEMBER, *, tenant: str = "acme") -> Identity:
        """Somebody whose token is the name."""
        store = IdentityStore(self.database)
        tenant_id = await store.ensure_tenant(tenant)
        user = await store.ensure_user(tenant_id, name, role)
        who = Identity(
            user_id=user.user_id, user_name=name, tenant_id=tenant_id, tenant_name=tenant, role=role, expires_at=2**40
        )
        self.people[name] = who
        return who

    async def authenticate(self, token: str) -> Identity:
        if token not in self.people:
            raise Unauthenticated("Nobody.", field="token")
        return self.people[token]

    async def call(self, who: Identity, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The status and the decoded answer."""
        headers = {"Authorization": f"Bearer {who.user_name}"}
        async with self._session.request(method, self.url + path, json=body, headers=headers) as response:
            raw = await response.read()
        if response.content_type not in ("application/json", "application/problem+json"):
            return response.status, raw.decode()
        return response.status, msgspec.json.decode(raw)

    async def ok(self, who: Identity, method: str, path: str, body: Any = None) -> Any:
        status, answer = await self.call(who, method, path, body)
        assert status in (200, 204), answer
        return answer

    async def refused(self, who: Identity, method: str, path: str, body: Any = None) -> tuple[int, str, str | None]:
        """Status, code and field of what must be refused."""
        status, answer = await self.call(who, method, path, body)
        assert status >= 400, answer
        return status, answer["code"], answer.get("field")

    # --- what was said ----------------------------------------------------------------------------------------
    async def recording(self, who: Identity, name: str, *said: tuple[str | None, str], private: bool = False) -> None:
        """A live recording; `said`: (label, text) of one segment each, called <name>.1 and so on, a second long."""
        await begin(self.database, who, name)
        items = [spoken(who, name, number, label, text) for number, (label, text) in enumerate(said, 1)]
        async with self.database.tenant_tx(who.tenant_id) as tx:
            if private:
                await tx.execute("UPDATE recordings SET visibility = 'private' WHERE recording_id = $1", name)
            if items:
                await segments.write(tx, who.tenant_id, items, at_ms=1)

    async def sounds(
        self, who: Identity, name: str, *voices: tuple[str, Sequence[float], int], model: str = MODEL
    ) -> None:
        """(label, direction, clean_ms): what the diariser tells of a recording's labels."""
        made = [Speaker(label, vector(*direction), clean_ms) for label, direction, clean_ms in voices]
        async with self.database.tenant_tx(who.tenant_id) as tx:
            await speakers.upsert(tx, who.tenant_id, name, model, made)

    async def waits(self, task: "asyncio.Task[Any]") -> None:
        """Return when somebody waits for a lock of another transaction; `task` is who will."""
        async with asyncio.timeout(HANG_S), self.database.shared_tx() as tx:
            while not await tx.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                assert not task.done(), "it waits for nobody"
                await asyncio.sleep(0.01)

    async def log(self, who: Identity, name: str) -> list[tuple[str, dict[str, Any]]]:
        """Event and body of all that the recording's room was told."""
        return [(event.event, event.body) for event in await log_of(self.database, who, f"recording:{name}")]


def spoken(who: Identity, recording: str, number: int, label: str | None, text: str) -> FinalWrite:
    """The number-th final of a recording: from its number's second on, half a second of words without pauses."""
    start_ms, texts = number * 1_000, text.split()
    step = 500 // len(texts)
    words = tuple(Word(word, start_ms + at * step, start_ms + (at + 1) * step, 0.5) for at, word in enumerate(texts))
    segment = Segment(f"{recording}.{number}", number, 1, start_ms, words[-1].end_ms, text, words, label, "en", 0.5)
    return FinalWrite(who.tenant_id, recording, 1, segment, number * 16_000)


def vector(*direction: float) -> bytes:
    """A voice of unit length."""
    numbers = np.array(direction, "<f4")
    return bytes((numbers / np.linalg.norm(numbers)).astype("<f4").tobytes())


@asynccontextmanager
async def open_library(database: Database, *, rereads: bool = True) -> AsyncIterator[Library]:
    """`rereads`: there is a second pass."""
    app = web.Application(middlewares=[boundary])
    async with aiohttp.ClientSession() as session:
        library = Library(database, "", session)
        doors = Doors(authenticate=cast(Authenticator, library.authenticate), database=database, announcer=library)
        LibraryDoors(doors, library.reread if rereads else None).attach(app)
        PeopleDoors(doors, lambda: library.model).attach(app)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            host, port = runner.addresses[0][:2]
            library.url = f"http://{host}:{port}"
            yield library
        finally:
            await runner.cleanup()
