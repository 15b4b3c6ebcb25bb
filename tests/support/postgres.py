"""A PostgreSQL of one's own for nodes that share a database: the bundled one, over TCP and over a unix socket.

Unlike the embedded database nothing starts it again when it dies: `kill` and `start` are the test's.
Invariant: what was committed before `kill` is there after `start` (fsync is on, as in production).
"""

import asyncio
import contextlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import asyncpg

from server.store.embedded import SETTINGS, SUPERUSER
from server.store.pgplace import bundled_binaries, choose, fall_back, socket_folder
from tests.support.spawn import Program, free_port

CONNECTIONS_MAX = 200
"""Some nodes with a pool of 10, their listeners, and what a killed node left for a moment."""


class Postgres:
    """A cluster at `folder`, made on first use. Any thread may call any method."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._program: Program | None = None
        self._sockets = folder

    @property
    def url(self) -> str:
        """Over TCP, as its superuser."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Over a proxy that listens on `port`."""
        return f"postgresql://{SUPERUSER}@127.0.0.1:{port}/postgres"

    @property
    def socket(self) -> Path:
        """The unix socket's file."""
        return self._sockets / f".s.PGSQL.{self.port}"

    @property
    def socket_url(self) -> str:
        return f"postgresql://{SUPERUSER}@/postgres?host={quote(str(self._sockets), safe='')}&port={self.port}"

    @property
    def program(self) -> Program:
        assert self._program is not None, "start first"
        return self._program

    def start(self) -> None:
        """Returns when it answers."""
        if self._program is None:
            self._program = self._prepare()
        with contextlib.suppress(FileNotFoundError):
            (self._folder.resolve() / "postmaster.pid").unlink()
        with ThreadPoolExecutor(1) as thread:  # of its own, because the caller's may run a loop already
            self._program.start(lambda: thread.submit(asyncio.run, _answers(self.url)).result())

    def _prepare(self) -> Program:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        place = choose(self._folder)
        try:
            self._make(place.data, place.account)
        except AssertionError:  # the kernel refuses a user namespace
            if os.geteuid() != 0:
                raise
            shutil.rmtree(place.data)
            place = fall_back(self._folder)
            self._make(place.data, place.account)
        self._sockets = socket_folder(place)
        settings = SETTINGS | {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "max_connections": str(CONNECTIONS_MAX),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(place.binaries / "postgres"), "-D", str(place.data), "-k", str(self._sockets), *options]
        return Program(command, place.data, account=place.account)

    def _make(self, data: Path, account: str) -> None:
        data.mkdir(mode=0o700, parents=True)
        if account.startswith("drop"):
            os.chown(data, *map(int, account.split(":")[1:]))
        initdb = [str(bundled_binaries() / "initdb"), "-D", str(data), "-U", SUPERUSER, "--auth=trust", "--no-sync"]
        initdb += ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8", "--no-instructions"]
        Program(initdb, data, account=account).run()

    @property
    def running(self) -> bool:
        return self._program is not None and self._program.running

    def kill(self) -> None:
        """kill -9 of the whole server."""
        self.program.kill()

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()
        if self._sockets != self._folder.resolve():
            with contextlib.suppress(OSError):
                self._sockets.rmdir()


async def _answers(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await connection.close()
    return True
