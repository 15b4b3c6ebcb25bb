"""`parlance admin`: build the index anew, and compare it with the database.

Policy: both work from this installation's own data, beside running servers and without one. Building is the servers'
own machinery (`server.jobs.rebuild`): whoever holds the lease does it, here its progress is shown; Ctrl-C leaves what
was done, and a server or the next call goes on there. Results go to stdout, everything else to stderr.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from server.config import Config
    from server.indexing import Indexing
    from server.jobs.verify import Difference, Verification
    from server.store.editions import StoredEdition
    from server.store.pool import Database

LOOK_S = 0.2
TENTHS = 10


@click.group()
def admin() -> None:
    """Look after this installation: its search index."""


@admin.command()
@click.option("--tenant", help="Put only this tenant's segments again, into the index that there is.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def reindex(tenant: str | None, yes: bool) -> None:
    """Build the search index anew from the database.

    The new index is built beside the one that is searched, and takes its place when it is whole: searches go on
    meanwhile. A build that was interrupted goes on where it was, by a running server or by this command.

    \b
    Examples:
      parlance admin reindex
      parlance admin reindex --tenant demo --yes
    """
    what = f"the segments of {tenant}" if tenant else "all segments"
    if not yes:
        click.confirm(f"Put {what} into the search index again? Searches go on meanwhile.", abort=True, err=True)
    asyncio.run(_reindex(tenant))


@admin.command("verify-index")
@click.option("--repair", is_flag=True, help="Index again what is missing or stale, and remove what is too much.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line for each tenant, and one for all.")
def verify_index(repair: bool, as_json: bool) -> None:
    """Compare the search index with the database.

    Tells how many segments are missing in the index, how many it holds too much, and how many are stale: of another
    revision, or without a vector that there is. Exit status 1 when anything differs (with --repair: still differs).

    \b
    Examples:
      parlance admin verify-index
      parlance admin verify-index --repair --json
    """
    if asyncio.run(_verify(repair, as_json)):
        sys.exit(1)


@asynccontextmanager
async def _installation() -> "AsyncIterator[tuple[Database, Indexing]]":
    from server.config import load
    from server.console.local import local_database
    from server.indexing import Indexing, Silent
    from streaming.limits import LIMITS

    config: Config = load()
    async with local_database(config) as database:
        indexing = Indexing(config, database, Silent(), LIMITS)
        try:
            yield database, indexing
        finally:
            await indexing.close()


async def _reindex(tenant: str | None) -> None:
    async with _installation() as (database, indexing):
        if tenant is not None:
            await _reindex_tenant(database, indexing, tenant)
            return
        await indexing.rebuild.expect()
        number = await indexing.rebuild.request()
        total = await indexing.editions.segments()
        with Progress("Segments in the new index", total) as show:
            await _build(indexing, number, show)
        click.echo(f"The index is built: edition {number} is searched now.")


async def _build(indexing: "Indexing", number: int, show: Callable[[int], None]) -> None:
    """Until the edition is searched and the one before is dropped, here or at a server."""
    from streaming.aio import Scope

    async with Scope("reindex") as scope:
        building = scope.spawn(indexing.rebuild.run(), name="build")
        waits = False
        while True:
            editions = {edition.number: edition for edition in await indexing.editions.all()}
            edition = editions.get(number)
            if edition is None:
                raise click.ClickException("The new index was given up: a server wants another model or adapter.")
            show(edition.done)
            if edition.state == "current" and len(editions) == 1:
                return
            if not waits and _lacks_vectors(edition, editions):
                waits = True
                click.echo(
                    "All segments are there; it waits for their vectors, which a running server makes.", err=True
                )
            await asyncio.wait({building}, timeout=LOOK_S)
            if building.done():
                building.result()


def _lacks_vectors(edition: "StoredEdition", editions: "dict[int, StoredEdition]") -> bool:
    if not edition.filled or edition.state != "building":
        return False
    return any(e.state == "current" and e.shape.model != edition.shape.model for e in editions.values())


async def _reindex_tenant(database: "Database", indexing: "Indexing", name: str) -> None:
    from server.console.failures import CommandFailed
    from server.store.identity import IdentityStore
    from streaming.limits import LIMITS

    tenant_id = await IdentityStore(database).tenant_called(name)
    if tenant_id is None:
        raise CommandFailed(f"There is no tenant called {name}.")
    await indexing.rebuild.expect()
    after, done = "", 0
    while page := await indexing.editions.page(tenant_id, after, LIMITS.index_fill_page):
        await indexing.indexer.fill(tenant_id, [segment_id for segment_id, _ in page])
        after = page[-1][0]
        done += len(page)
    models = [edition.model for edition in await indexing.editions.open() if edition.model]
    found = await _verification(database, indexing, repair=True).tenant(tenant_id, models)
    click.echo(f"{done:,} segments of {name} are in the index.")
    if found.differs:
        raise CommandFailed(f"{found.missing + found.extra + found.stale} segments still differ from the database.")


def _verification(database: "Database", indexing: "Indexing", *, repair: bool) -> "Verification":
    from server.jobs.verify import Verification

    return Verification(
        database, editions=indexing.editions, index=indexing.index, indexer=indexing.indexer, repair=repair
    )


async def _verify(repair: bool, as_json: bool) -> bool:
    """Whether anything differs in the end."""
    import msgspec

    from server.jobs.verify import Difference

    total = Difference("")
    async with _installation() as (database, indexing):
        await indexing.rebuild.expect()
        verification = _verification(database, indexing, repair=repair)
        async for found in verification.run():
            for kind in ("segments", "missing", "extra", "stale"):
                setattr(total, kind, getattr(total, kind) + getattr(found, kind))
            if as_json:
                click.echo(msgspec.json.encode({"tenant": found.tenant_id, **_counts(found), "ids": found.ids}))
            elif found.differs:
                click.echo(f"tenant {found.tenant_id}: {_sentence(found)}")
    if as_json:
        click.echo(msgspec.json.encode({"total": _counts(total), "repaired": verification.repaired}))
    else:
        if repair:
            click.echo(f"{verification.repaired:,} segments were repaired.", err=True)
        click.echo(f"{total.segments:,} segments: {_sentence(total)}")
    return total.differs


def _counts(found: "Difference") -> dict[str, int]:
    return {kind: getattr(found, kind) for kind in ("segments", "missing", "extra", "stale")}


def _sentence(found: "Difference") -> str:
    return f"{found.missing:,} missing, {found.extra:,} extra, {found.stale:,} stale"


class Progress:
    """On a terminal a bar, elsewhere a line for every tenth. A context manager; its value takes how many are done."""

    def __init__(self, title: str, total: int) -> None:
        from rich import progress
        from rich.console import Console

        self._title = title
        self._total = total
        self._tenth = -1
        self._bar: progress.Progress | None = None
        if sys.stderr.isatty():
            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
            )

    def __enter__(self) -> Callable[[int], None]:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=max(1, self._total))
        return self._show

    def __exit__(self, *_error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _show(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
            return
        tenth = TENTHS if self._total == 0 else min(TENTHS, TENTHS * done // self._total)
        if tenth != self._tenth:
            self._tenth = tenth
            click.echo(f"{self._title}: {done:,} of {self._total:,}", err=True)
