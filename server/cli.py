"""The command line. Reads the same `PARLANCE_*` settings as the server.

Policy: an error is one sentence on stderr and an exit status (`server.console.failures`), never a traceback. The
parts are imported when a command runs, so that `parlance --help` is quick.
"""

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from server.console import searching
from server.console.admin import admin
from server.console.models import models

if TYPE_CHECKING:
    from server.config import Config

T = TypeVar("T")
ROLES = ("owner", "admin", "member", "viewer")
SPEED_MAX = 100.0
ENCODINGS = ("pcm_s16le", "pcm_f32le", "mulaw", "webm_opus", "ogg_opus")
TASKS = ("transcribe", "translate")
PRESETS = ("conversation", "dictation", "lecture")


class _Commands(click.Group):
    """The process boundary: what escapes a command becomes a sentence, when it is no defect."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (asyncio.CancelledError, KeyboardInterrupt):
            from server.console.failures import INTERRUPTED

            click.echo("parlance: Interrupted.", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None
        except Exception as error:  # the process boundary: what the terminal is told
            from server.console.failures import explain

            explained = explain(error)
            if explained is None:
                raise
            message, status = explained
            if message:
                click.echo(f"parlance: {message}", err=True)
            raise click.exceptions.Exit(status) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="parlance", prog_name="parlance")
def cli() -> None:
    """Parlance: live captions, and search while people talk.

    Settings come from PARLANCE_* variables, or from the TOML file that PARLANCE_CONFIG names.

    Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 the server cannot be reached or refused,
    130 interrupted.
    """


@cli.command()
@click.option("--host", help="Address to listen on [PARLANCE_HOST, 127.0.0.1].")
@click.option("--port", type=int, help="Port to listen on, 0 for any [PARLANCE_PORT, 8000].")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder for all data [PARLANCE_DATA_DIR, data].")
def serve(host: str | None, port: int | None, data_dir: Path | None) -> None:
    """Run the server, with everything it needs.

    Prints a link that signs you in to the page. Stop it with Ctrl-C.
    """
    config = _config(host=host, port=port, data_dir=data_dir)
    from server.app import serve as run

    sys.exit(run(config))


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--realtime", is_flag=True, help="Send at the speed of speech instead of as fast as possible.")
@click.option(
    "--speed", type=click.FloatRange(0, SPEED_MAX, min_open=True), help="With --realtime: this many times faster."
)
@click.option("--title", help="Title of the recording [the file's name].")
@click.option("--language", help="Language of the speech, such as en [auto].")
@click.option("--task", type=click.Choice(TASKS), help="Write what was said, or its translation into English.")
@click.option("--preset", type=click.Choice(PRESETS), help="When a pause ends a sentence [conversation].")
@click.option(
    "--encoding", type=click.Choice(ENCODINGS), default=ENCODINGS[0], show_default=True, help="What to send it as."
)
@click.option("--url", envvar="PARLANCE_URL", help="The server [PARLANCE_URL, else this installation's].")
@click.option("--token", envvar="PARLANCE_TOKEN", help="Access token [PARLANCE_TOKEN, else one for demo's owner].")
@click.option("--json", "as_json", is_flag=True, help="Print every event as one JSON line.")
def stream(
    file: Path,
    realtime: bool,
    speed: float | None,
    title: str | None,
    language: str | None,
    task: str | None,
    preset: str | None,
    encoding: str,
    url: str | None,
    token: str | None,
    as_json: bool,
) -> None:
    """Stream an audio FILE as if it were spoken, and print the captions.

    Takes WAV, FLAC, MP3, video: whatever FFmpeg opens. On a terminal the caption under way changes in place; otherwise
    each final is one line. Ctrl-C stops the recording, whose rest is still transcribed; a second one leaves at once.
    """
    if speed is not None and not realtime:
        raise click.UsageError("--speed only makes sense with --realtime.")
    config = _config()
    from server.console.session import StreamOptions, stream_file
    from server.console.show import choose

    options = StreamOptions(
        file=file,
        title=title,
        language=language,
        task=task,
        preset=preset,
        speed=(speed or 1.0) if realtime else None,
        encoding=encoding,
    )
    where = url or config.url

    async def run() -> None:
        from server.console.local import token_for

        await stream_file(where, await token_for(config, where, token), options, choose(as_json=as_json))

    _run(run())


@cli.command()
@click.argument("text")
@searching.options
@click.option("--url", envvar="PARLANCE_URL", help="The server [PARLANCE_URL, else this installation's].")
@click.option("--token", envvar="PARLANCE_TOKEN", help="Access token [PARLANCE_TOKEN, else one for demo's owner].")
@click.option("--json", "as_json", is_flag=True, help="Print each hit as one JSON line.")
def search(text: str, url: str | None, token: str | None, as_json: bool, **options: Any) -> None:
    """Search TEXT in everything that was said; the last word may be incomplete.

    With --follow its words are whole, and what matches is printed as it is said. A line of --json then has a cursor:
    --after goes on behind it, so that nothing is missed and nothing comes twice.
    """
    wanted = searching.wanted_of(text, **options)
    config = _config()
    from server.console import session
    from server.console.local import token_for

    where = url or config.url

    async def run() -> None:
        first = await token_for(config, where, token)
        if wanted.follow:
            source = token or (lambda: token_for(config, where, None))  # it may outlive one token
            await session.follow(where, source, wanted, as_json=as_json)
        else:
            await session.search(where, first, wanted, as_json=as_json)

    _run(run())


@cli.command()
@click.option("--tenant", required=True, help="The tenant's name; created when missing.")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What the user may do; also sets it.")
@click.option("--user", help="The user's name; created when missing [the role's name].")
@click.option("--hours", type=click.IntRange(1, 24 * 365), help="How long the token lasts [PARLANCE_TOKEN_HOURS, 24].")
def token(tenant: str, role: str, user: str | None, hours: int | None) -> None:
    """Print an access token, alone on the last line.

    Works from this installation's data, with the server up or down.
    """
    config = _config()
    from auth.model import Role
    from server.console.local import mint

    lifetime = hours or config.token_hours
    made = _run(mint(config, tenant=tenant, user=user or role, role=Role(role), hours=lifetime))
    click.echo(f"A token for {user or role} ({role}) of {tenant}, valid for {lifetime} hours:", err=True)
    click.echo(made)


@cli.command()
def doctor() -> None:
    """Check this installation and say what to do about what is wrong. Exit status 1 when something must be mended."""
    config = _config()
    from server.doctor import Level, examine

    checks = _run(examine(config))
    colours = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}
    for check in checks:
        click.echo(f"{click.style(f'{check.level.value:4}', fg=colours[check.level])}  {check.name}: {check.text}")
    if any(check.level is Level.FAIL for check in checks):
        sys.exit(1)


cli.add_command(models)
cli.add_command(admin)


def _config(**given: object) -> "Config":
    """The configuration, with the options of the command line before the environment."""
    from server.config import PREFIX, load

    options = {PREFIX + name.upper(): str(value) for name, value in given.items() if value is not None}
    return load({**os.environ, **options})


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def main() -> None:
    """Entry point of the program."""
    cli(prog_name="parlance")
