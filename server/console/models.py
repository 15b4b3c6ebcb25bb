"""`parlance models`: which models are here, fetching them, removing them.

Policy: a pull runs in a process of its own (`server.models.fetch`), so that Ctrl-C ends it at once; what has arrived
stays, and the next pull goes on there. On a terminal there is a progress bar, elsewhere a line for every tenth. What a
script may want (folders) goes to stdout, everything else to stderr.
"""

import asyncio
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from server.config import Config
    from server.models.cache import Installed
    from server.models.catalogue import Model
    from server.models.events import Note, Progress

TENTHS = 10


@click.group()
def models() -> None:
    """See, fetch and remove models: Whisper, word alignment, embeddings."""


@models.command("list")
def list_() -> None:
    """What is here, what can be had, and which Whisper the server takes."""
    from server.config import load
    from server.models.cache import cache_folder, find_whisper, installed
    from server.models.catalogue import megabytes

    config = load()
    cache = cache_folder()
    here = installed(cache)
    taken = find_whisper(config.model, cache)
    click.echo(f"Here, in {cache}:" if here else f"No models are here yet; they are kept in {cache}.")
    for model in here:
        state = "" if model.complete else f"incomplete: `parlance models pull {model.name}` goes on"
        if model.complete and model.path == taken:
            used = config.engine in ("auto", "whisperx")
            state = "taken for captions" if used else f"not used: PARLANCE_ENGINE is {config.engine}"
        click.echo(f"  {model.name:<20} {megabytes(model.size_bytes):>8}  {state}".rstrip())
        if model.complete:
            click.echo(f"  {'':<20} {'':>8}  {model.path}")
    if taken is not None and taken not in {model.path for model in here}:
        click.echo(f"PARLANCE_MODEL names a folder, which is taken for captions: {taken}")
    elif taken is None and config.model:
        click.echo(f"PARLANCE_MODEL is {config.model}, which is not here.")
    _show_catalogue({model.name for model in here if model.complete})


def _show_catalogue(here: set[str]) -> None:
    from server.models.catalogue import DEFAULT, MODELS, Kind, megabytes

    titles = {
        Kind.WHISPER: f"Whisper, speech to text ({DEFAULT} is the default)",
        Kind.EMBEDDING: "Search by meaning (set PARLANCE_EMBEDDING_MODEL to the name in brackets)",
        Kind.ALIGNMENT: "Exact word times, one for each language",
    }
    click.echo("\nCan be had with `parlance models pull NAME`:")
    for kind, title in titles.items():
        rest = [model for model in MODELS.values() if model.kind is kind and model.name not in here]
        if not rest:
            continue
        click.echo(f"  {title}")
        if kind is Kind.ALIGNMENT:
            click.echo(_wrapped([model.name for model in rest]))
            small, large = (megabytes(f(model.size_bytes for model in rest)) for f in (min, max))
            click.echo(f"    {small} to {large} each")
            continue
        for model in rest:
            about = f"{model.about} [{model.repo}]" if kind is Kind.EMBEDDING else model.about
            click.echo(f"    {model.name:<20} {megabytes(model.size_bytes):>8}  {about}")


def _wrapped(words: list[str]) -> str:
    import textwrap

    indent = "    "
    return textwrap.fill(" ".join(words), 100, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


@models.command()
def environment() -> None:
    """Install the models environment now, instead of beside the running server.

    Search by meaning and exact word times need it. Its folder is PARLANCE_MODELS_ENV, else .venv-models.
    """
    from server.config import load

    click.echo(asyncio.run(_install(load())))


async def _install(config: "Config") -> Path:
    """Its folder, installed when it was not. Raises `CommandFailed`."""
    from server.console.failures import FAILED, USAGE, CommandFailed
    from server.models.environment import REQUIREMENTS, ROOT, ModelsEnvironment, find_uv, place
    from streaming.aio import Scope
    from streaming.limits import LIMITS

    folder = place(config.models_env, ROOT)
    if folder is None:
        raise CommandFailed("PARLANCE_MODELS_ENV is off; unset it, or name a folder.", USAGE)
    changed = asyncio.Event()
    subject = ModelsEnvironment(
        folder, requirements=ROOT / REQUIREMENTS, uv=find_uv(ROOT), offline=config.offline, limits=LIMITS,
        on_change=changed.set,
    )  # fmt: skip
    told: object = None
    async with Scope("install") as scope:
        running = scope.spawn(subject.run(), name="environment")
        running.add_done_callback(lambda _: changed.set())
        while not running.done() and (subject.task is None or subject.task.state != "waiting"):
            await changed.wait()
            changed.clear()
            task = subject.task
            if task is not None and (tenth := (task.state, int((task.fraction or 0) * TENTHS))) != told:
                told = tenth
                click.echo(task.text, err=True)
    if subject.state != "ready":
        why = subject.task.text if subject.task is not None else "PARLANCE_OFFLINE is set, so nothing is installed."
        raise CommandFailed(why, FAILED)
    return folder


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def pull(names: tuple[str, ...]) -> None:
    """Fetch models by NAME, "default", or OWNER/NAME on the hub.

    Goes on where an earlier pull ended, and checks every file against the hub. A running server with PARLANCE_ENGINE
    auto takes its first Whisper for new streams by itself; one of several is chosen at its start.
    """
    from server.config import load
    from server.console.failures import USAGE, CommandFailed
    from server.models.cache import cache_folder

    config = load()
    wanted = _resolved(names)
    if config.offline:
        raise CommandFailed("PARLANCE_OFFLINE is set, so nothing is fetched; unset it for this command.", USAGE)
    cache = cache_folder()
    for model in wanted:
        _pull(model, cache)
    _tell_use(wanted, config.model, cache)


def _resolved(names: Iterable[str]) -> "list[Model]":
    from server.console.failures import USAGE, CommandFailed
    from server.models.catalogue import UnknownModel, resolve

    try:
        return list({model.repo: model for model in map(resolve, names)}.values())
    except UnknownModel as error:
        raise CommandFailed(error.message, USAGE) from error


def _pull(model: "Model", cache: Path) -> None:
    from server.console.failures import FAILED, UNREACHABLE, CommandFailed
    from server.models.catalogue import megabytes
    from server.models.events import FetchFailed
    from server.models.fetching import fetch

    try:
        with _Shown(model.name) as shown:
            done = asyncio.run(fetch(model.repo, cache, shown.tell))
    except FetchFailed as error:
        status = UNREACHABLE if error.reason == "unreachable" else FAILED
        raise CommandFailed(f"{model.name}: {error.message}", status) from error
    fetched = f"{megabytes(done.fetched_bytes)} fetched, checked" if done.fetched_bytes else "was here, checked"
    click.echo(f"{model.name}: {fetched}", err=True)
    click.echo(done.path)


def _tell_use(pulled: "list[Model]", configured: str | None, cache: Path) -> None:
    """Which Whisper is used now, when another one was fetched."""
    from server.models.cache import find_whisper, name_of
    from server.models.catalogue import Kind

    whispers = {model.name for model in pulled if model.kind is Kind.WHISPER}
    taken = find_whisper(configured, cache)
    if not whispers or taken is None or name_of(taken) in whispers:
        return
    why = "as PARLANCE_MODEL says" if configured else "the best here that keeps up with live speech on two cores"
    click.echo(f"The server takes {name_of(taken)}, {why}.", err=True)
    click.echo(f"To use another one set PARLANCE_MODEL={min(whispers)}.", err=True)


class _Shown:
    """Progress of one pull: a bar on a terminal, else a line for each tenth."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self._name = name
        self._tenth = -1
        console = Console(stderr=True, highlight=False)
        self._bar = (
            Progress(
                TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
                console=console, transient=True,
            )
            if console.is_terminal
            else None
        )  # fmt: skip
        self._task = self._bar.add_task(name, total=None) if self._bar is not None else None

    def __enter__(self) -> "_Shown":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, event: "Progress | Note") -> None:
        from server.models.catalogue import megabytes
        from server.models.events import Note

        if isinstance(event, Note):
            say: Callable[..., object] = self._bar.console.print if self._bar is not None else _to_stderr
            say(f"{self._name}: {event.text}")
        elif self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=event.done_bytes, total=event.total_bytes)
        elif (tenth := int(event.fraction * TENTHS)) > self._tenth:
            self._tenth = tenth
            here, total = megabytes(event.done_bytes), megabytes(event.total_bytes)
            _to_stderr(f"{self._name}: {tenth * TENTHS}% ({here} of {total})")


def _to_stderr(text: str) -> None:
    click.echo(text, err=True)


@models.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(name: str, yes: bool) -> None:
    """Delete a model, and what an interrupted pull left."""
    from server.console.failures import CommandFailed
    from server.models.cache import cache_folder, installed
    from server.models.cache import remove as delete
    from server.models.catalogue import megabytes

    cache = cache_folder()
    model = _one_here(name, installed(cache))
    if not yes:
        if not sys.stdin.isatty():
            raise CommandFailed(f"Nobody can be asked here; add --yes to delete {model.name}.")
        question = f"Delete {model.name} ({megabytes(model.size_bytes)})? Other programs share this cache"
        if not click.confirm(question, err=True):
            raise CommandFailed("Nothing was deleted.")
    freed = delete(cache, model.repo)
    click.echo(f"{model.name} is deleted, {megabytes(freed)} are free again.", err=True)


def _one_here(name: str, here: "list[Installed]") -> "Installed":
    """The model that is meant; the names that are here count for near matches."""
    import difflib

    from server.console.failures import USAGE, CommandFailed
    from server.models.catalogue import DEFAULT

    name = DEFAULT if name == "default" else name
    for model in here:
        if name in (model.name, model.repo):
            return model
    near = difflib.get_close_matches(name, [model.name for model in here], 3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`parlance models list` shows what is here."
    raise CommandFailed(f"There is no model {name} here; {hint}", USAGE)
