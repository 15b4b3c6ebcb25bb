"""`parlance models`: which models are here, fetching them, measuring their padding, removing them.

Policy: a pull runs in a process of its own (`server.models.fetch`), so that Ctrl-C ends it at once; what has arrived
stays, and the next pull goes on there. On a terminal there is a progress bar, elsewhere a line for every tenth. What a
script may want (folders) goes to stdout, everything else to stderr.
"""

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from server.config import Config
    from server.models.cache import Installed
    from server.models.catalogue import Model
    from server.models.events import Note, Progress
    from streaming.recogniser.calibrate import Step

TENTHS = 10


@click.group()
def models() -> None:
    """See, fetch, measure and remove models: Whisper, word alignment, embeddings."""


@models.command("list")
def list_() -> None:
    """What is here, what can be had, and which Whisper the server takes."""
    from server import hardware
    from server.config import load
    from server.models.cache import cache_folder, installed
    from server.models.catalogue import Kind, megabytes
    from server.models.choosing import chosen

    config = load()
    cache = cache_folder()
    here = installed(cache)
    found = chosen(config, hardware.look(), cache)
    taken = found.path
    click.echo(f"Here, in {cache}:" if here else f"No models are here yet; they are kept in {cache}.")
    for model in here:
        state = "" if model.complete else f"incomplete: `parlance models pull {model.name}` goes on"
        if model.complete and model.path == taken:
            used = config.engine in ("auto", "whisperx")
            state = "taken for captions" if used else f"not used: PARLANCE_ENGINE is {config.engine}"
        click.echo(f"  {model.name:<20} {megabytes(model.size_bytes):>8}  {state}".rstrip())
        if model.complete:
            click.echo(f"  {'':<20} {'':>8}  {model.path}")
        if model.complete and model.kind is Kind.WHISPER:
            click.echo(f"  {'':<20} {'':>8}  {_padding(model.path)}")
    if taken is not None and taken not in {model.path for model in here}:
        click.echo(f"PARLANCE_MODEL names a folder, which is taken for captions: {taken}")
        click.echo(f"  {_padding(taken)}")
    elif taken is None and config.model:
        click.echo(f"PARLANCE_MODEL is {config.model}, which is not here.")
    if found.selection is not None:
        click.echo(f"The tier is {found.selection.tier.value}, on a machine with {found.selection.machine.value}.")
    _show_catalogue({model.name for model in here if model.complete})


def _padding(folder: Path) -> str:
    from server.models.calibrating import words
    from streaming.recogniser.card import treatment_of
    from streaming.recogniser.engine import EngineUnavailable

    try:
        return words(treatment_of(folder))
    except EngineUnavailable as error:
        return str(error)


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

    Goes on where an earlier pull ended, and checks every file against the hub. A Whisper's padding is measured then, as
    by `calibrate`. A running server with PARLANCE_ENGINE auto takes its first Whisper for new streams by itself; one of
    several is chosen at its start. "default" is what PARLANCE_TIER wants on this machine.
    """
    from server.config import load
    from server.console.failures import USAGE, CommandFailed
    from server.models.cache import cache_folder

    config = load()
    wanted = _resolved(names, config)
    if config.offline:
        raise CommandFailed("PARLANCE_OFFLINE is set, so nothing is fetched; unset it for this command.", USAGE)
    cache = cache_folder()
    for model in wanted:
        _measure_new(model, _pull(model, cache))
    _tell_use(wanted, config, cache)


def _resolved(names: Iterable[str], config: "Config") -> "list[Model]":
    from server import hardware
    from server.console.failures import USAGE, CommandFailed
    from server.models.catalogue import UnknownModel, resolve
    from server.models.tiers import choose

    if "default" in names:
        fetched = choose(config.tier, hardware.look(), ()).fetch
        names = [fetched if name == "default" else name for name in names]
    try:
        return list({model.repo: model for model in map(resolve, names)}.values())
    except UnknownModel as error:
        raise CommandFailed(error.message, USAGE) from error


def _pull(model: "Model", cache: Path) -> Path:
    """Its folder. Raises `CommandFailed`."""
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
    return Path(done.path)


def _measure_new(model: "Model", folder: Path) -> None:
    """The padding of a Whisper that was fetched and that nobody measured. That it cannot be is no failure: it works."""
    from server.models.cache import files_of
    from server.models.calibrating import CalibrationFailed
    from server.models.catalogue import is_whisper
    from streaming.recogniser.card import Source, treatment_of
    from streaming.recogniser.engine import EngineUnavailable

    if not is_whisper(files_of(folder)):
        return
    try:
        if treatment_of(folder).source is Source.DEFAULT:
            _calibrate(folder, model.name, (), "auto")
    except (CalibrationFailed, EngineUnavailable) as error:
        click.echo(f"{model.name}: it stays padded to 30 s. {error}", err=True)


@models.command()
@click.argument("name")
@click.option(
    "--speech", multiple=True, type=click.Path(exists=True, path_type=Path),
    help="A recording, or a folder of them; may be given several times [synthetic speech].",
)  # fmt: skip
@click.option("--language", default="auto", show_default=True, help="Of the speech.")
def calibrate(name: str, speech: tuple[Path, ...], language: str) -> None:
    """Measure how little padding a Whisper needs: the model NAME, or one in a FOLDER.

    Whisper was trained on windows of 30 s, and padding live windows to it costs up to 16 times the CPU. The smallest
    padding whose words are those of the padded model is kept for this user, and taken when the model is loaded next.
    Your own recordings, two minutes or more of people who speak as yours do, prove most: one word of 200 may differ.
    Without them it is measured on a minute of synthetic English, where no word may differ and the next larger padding
    is taken.
    """
    from server.console.failures import FAILED, USAGE, CommandFailed
    from server.models.cache import cache_folder, find_whisper, name_of
    from server.models.calibrating import CalibrationFailed
    from streaming.recogniser.card import CARD

    folder = find_whisper(name, cache_folder())
    if folder is None:
        raise CommandFailed(
            f"There is no Whisper {name} here; `parlance models list` shows what is, `parlance models pull` gets one.",
            USAGE,
        )
    try:
        _calibrate(folder, name_of(folder), [path.absolute() for path in speech], language)
    except CalibrationFailed as error:
        raise CommandFailed(f"{name}: {error.message}", FAILED) from error
    if (folder / CARD).exists():
        click.echo(f"{folder / CARD} says how the model is padded and is believed first.", err=True)


def _calibrate(folder: Path, name: str, speech: Sequence[Path], language: str) -> None:
    """Raises `CalibrationFailed`."""
    from server.models.calibrating import calibrate as measure

    with _Shown(name, "windows") as shown:
        verdict = asyncio.run(measure(folder, name, shown.step, speech=speech, language=language))
    click.echo(f"{name}: measured on {'synthetic speech' if verdict.synthetic else 'your recordings'}", err=True)
    click.echo(f"  {'padding':<32} {'words that differ':>18} {'CPU of a window':>16}", err=True)
    for row in verdict.rows:
        differ = f"{row.differ} of {row.words}"
        mark = "  chosen" if row.padding == verdict.chosen else ""
        click.echo(f"  {row.padding!s:<32} {differ:>18} {row.cpu_ms:>13.0f} ms{mark}", err=True)
    click.echo(f"{name}: {verdict.chosen} from its next start on.", err=True)


def _tell_use(pulled: "list[Model]", config: "Config", cache: Path) -> None:
    """Which Whisper is used now, when another one was fetched."""
    from server import hardware
    from server.models.cache import name_of
    from server.models.catalogue import Kind
    from server.models.choosing import chosen

    whispers = {model.name for model in pulled if model.kind is Kind.WHISPER}
    found = chosen(config, hardware.look(), cache)
    if not whispers or found.path is None or name_of(found.path) in whispers:
        return
    click.echo(f"The server takes {name_of(found.path)}, {found.reason}.", err=True)
    click.echo(f"To use another one set PARLANCE_MODEL={min(whispers)}.", err=True)


class _Shown:
    """Progress of one pull or measurement: a bar on a terminal, else a line for each tenth."""

    def __init__(self, name: str, unit: str = "bytes") -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._name = name
        self._tenth = -1
        console = Console(stderr=True, highlight=False)
        self._bar = (
            Progress(
                TextColumn("{task.description}"), BarColumn(),
                DownloadColumn() if unit == "bytes" else MofNCompleteColumn(), TimeRemainingColumn(),
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

    def step(self, step: "Step") -> None:
        """Each padding has its windows; elsewhere than on a terminal it is one line."""
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task, description=f"{self._name}: {step.padding}", completed=step.done, total=step.windows
            )
        elif step.done == 0:
            _to_stderr(f"{self._name}: measuring {step.windows} windows {step.padding}")


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
