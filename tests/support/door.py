"""The doors of one node on a free port: its sockets and one HTTP path, behind a real `Admission`."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from aiohttp import web

from auth.errors import Unauthenticated
from auth.model import Identity
from server.app import LogReader
from server.edge.admission import Admission
from server.edge.authenticate import Authenticator
from server.edge.board import StatusBoard
from server.edge.callers import bearer
from server.edge.handlers import Handlers
from server.edge.http import boundary
from server.edge.search.searches import Searches
from server.edge.sockets import Sockets
from streaming.limits import Limits
from streaming.protocol.messages import EngineInfo, SpeakersInfo
from tests.support.node import Node


class Door:
    """`url`: where it is. `GET /v1/who` answers with the caller's name."""

    def __init__(self, url: str, admission: Admission, sockets: Sockets) -> None:
        self.url = url
        self.admission = admission
        self.sockets = sockets


def searches_of(one: Node, limits: Limits) -> Searches:
    """Without an index: whoever searches is answered by nobody."""
    return Searches(
        database=one.database, hub=one.hub, rooms=LogReader(one.database), index=cast(Any, None),
        words=cast(Any, None), embedders=list, embedder=None, limits=limits,
    )  # fmt: skip


@asynccontextmanager
async def open_door(
    one: Node, people: Mapping[str, Identity], limits: Limits, searches: Searches | None = None, **places: Any
) -> AsyncIterator[Door]:
    """`people`: by token. `searches`: with its HTTP doors. `places`: options of `Admission`."""
    searches = searches or searches_of(one, limits)

    async def authenticate(token: str) -> Identity:
        if token not in people:
            raise Unauthenticated("Nobody.", field="token")
        return people[token]

    async def who(request: web.Request) -> web.Response:
        return web.Response(text=(await bearer(request, cast(Authenticator, authenticate))).user_name)

    async def well(_: web.Request) -> web.Response:
        return web.Response()

    def engine(_tenant: str) -> EngineInfo:
        return EngineInfo(name="tones", model="tones", state="ready")

    handlers = Handlers(
        authenticate=authenticate, database=one.database, hub=one.hub, desk=one.desk,
        searches=searches, engine=engine, limits=limits,
    )  # fmt: skip
    admission = Admission(limits, **places)
    sockets = Sockets(
        authenticate=authenticate, handlers=handlers, hub=one.hub, origins=[], limits=limits, admission=admission,
        board=StatusBoard(
            engine=engine,
            vectors=lambda: False,
            alignment=list,
            speakers=lambda: SpeakersInfo(state="off"),
            tasks=list,
        ),
    )  # fmt: skip
    app = web.Application(middlewares=[boundary])
    app.router.add_get("/v1/who", who)
    app.router.add_get("/healthz", well)
    searches.doors(cast(Authenticator, authenticate)).attach(app)
    sockets.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        host, port = runner.addresses[0][:2]
        yield Door(f"http://{host}:{port}", admission, sockets)
    finally:
        await sockets.close("draining", "The test ends.")
        await searches.close()
        await runner.cleanup()
