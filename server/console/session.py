"""`parlance stream` and `parlance search`: a command's time with the server.

Policy: the file is fed by one task, events are shown by another, lost connections are told by a third; the command
ends with the recording's `recording:ended`. An interrupt ends the feeding, and what was sent is still transcribed; a
second one ends at once.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from parlance_client import (
    Backoff,
    CallFailed,
    Client,
    EventStream,
    LiveStream,
    MatchesLost,
    SearchResults,
    StreamState,
)
from parlance_client.tokens import TokenSource

from server.console import show
from server.console.audiofile import AudioFile, due_s, open_audio
from server.console.encoder import Encoder, encoder_for
from server.console.failures import USAGE, CommandFailed
from server.console.searching import FIELDS, Wanted
from server.console.show import Show

CLIENT = "parlance-cli/0.1.0"
SILENCE_S_MAX = 120.0
"""Acknowledgements come every second while anything moves; after two minutes on a connection without any event nothing
will come."""
PATIENCE = Backoff(give_up_s=900.0)
"""A server keeps a stream without its client for 15 minutes by default: later there is nothing left to go on with."""


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`speed`: 1.0 is as spoken, None as fast as the server takes it; `encoding`: as in the protocol."""

    file: Path
    title: str | None = None
    language: str | None = None
    task: str | None = None
    preset: str | None = None
    speed: float | None = None
    encoding: str = "pcm_s16le"


async def stream_file(url: str, token: str, options: StreamOptions, show: Show) -> None:
    """Stream a file and show its captions until the recording ended.

    Raises `CommandFailed` and the client's errors."""
    interrupted = asyncio.Event()
    _on_interrupt(interrupted.set)
    with open_audio(options.file) as audio:
        encoder = encoder_for(options.encoding, sample_rate=audio.sample_rate, channels=audio.channels)
        async with Client(url, token, client=CLIENT, backoff=PATIENCE) as client, client.events() as events:
            stream = await client.record(
                encoding=options.encoding,
                sample_rate=encoder.sample_rate,
                channels=encoder.channels,
                title=options.title or options.file.stem,
                language=options.language,
                task=options.task,
                preset=options.preset,
            )
            await client.join(stream.room, 0)
            if client.ready.engine.notice:
                click.echo(f"Note: {client.ready.engine.notice}", err=True)
            with show:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_feed(stream, audio, encoder, options.speed, interrupted))
                    group.create_task(_tell_states(stream))
                    await _show_until_ended(client, events, stream.room, show)


async def _feed(
    stream: LiveStream, audio: AudioFile, encoder: Encoder, speed: float | None, interrupted: asyncio.Event
) -> None:
    now = asyncio.get_running_loop().time
    started, sent = now(), 0
    for chunk in audio.chunks():
        sent += len(chunk)
        if speed is not None:
            # A chunk exists only once its last sample was spoken.
            until = started + due_s(sent, audio.sample_rate * audio.frame_bytes, speed)
            await _sleep_until(until, interrupted)
        if interrupted.is_set():
            break
        await stream.send(encoder.feed(chunk))
    await stream.send(encoder.finish())
    await stream.stop()


async def _sleep_until(when: float, interrupted: asyncio.Event) -> None:
    try:
        async with asyncio.timeout_at(when):
            await interrupted.wait()
    except TimeoutError:
        return


async def _tell_states(stream: LiveStream) -> None:
    """Say when the connection is lost and when it is back; the rest is not worth a line."""
    was_away = False
    async for state in stream.states():
        if state is StreamState.RECONNECTING:
            was_away = True
            click.echo("No connection to the server. Trying again; nothing is lost.", err=True)
        elif was_away and not state.is_over:
            was_away = False
            click.echo(f"Connected again, {stream.waiting_ms / 1_000:.0f} s of sound to send.", err=True)


async def _show_until_ended(client: Client, events: EventStream, room: str, show: Show) -> None:
    while True:
        try:
            async with asyncio.timeout(SILENCE_S_MAX):
                event = await anext(events)
        except TimeoutError:
            if not client.is_connected:
                continue
            raise CommandFailed(f"The server has been silent for {SILENCE_S_MAX:g} s.") from None
        show.event(event)
        if event.name == "recording:ended" and event.room == room:
            reason = event.body.get("reason")
            if reason != "stopped":
                raise CommandFailed(f"The recording ended early: {reason}.")
            return


async def search(url: str, token: str, wanted: Wanted, *, as_json: bool) -> None:
    """Print what a query finds, one page or all; what else was looked for goes to stderr.

    Raises `CommandFailed` and the client's errors."""
    found: int | None = None
    async with Client(url, token, client=CLIENT) as client:
        with _options_named():
            async for page in client.search_pages(wanted.text, **wanted.options):
                if found is None:
                    _tell_of(page, wanted)
                show.hits(page.hits, as_json=as_json)
                found = (found or 0) + len(page.hits)
                if not wanted.every:
                    break
    if not found and not as_json:
        click.echo("Nothing was found.", err=True)


def _tell_of(page: SearchResults, wanted: Wanted) -> None:
    if page.corrections:
        click.echo(f"also looked for: {', '.join(used for _, used in page.corrections)}", err=True)
    if page.loosened:
        click.echo("nothing has all of these words; here is what has some", err=True)
    if page.degraded and wanted.mode == "semantic":
        click.echo("Search by meaning is not there yet: this is what the words find.", err=True)


async def follow(url: str, token: TokenSource, wanted: Wanted, *, as_json: bool) -> None:
    """Print what matches as it is said, until an interrupt. Raises `CommandFailed` and the client's errors."""
    async with Client(url, token, client=CLIENT) as client:
        matches = client.subscribe(wanted.text, mode=wanted.mode, filters=wanted.filters, after=wanted.after)
        _on_interrupt(matches.close)
        with _options_named():
            async with matches:
                click.echo("Waiting for what is said. Ctrl-C ends.", err=True)
                async for match in matches:
                    show.match(match, as_json=as_json)


@contextmanager
def _options_named() -> Iterator[None]:
    """What the server refuses is said of the option that it came from."""
    try:
        yield
    except MatchesLost as error:
        raise CommandFailed(f"--after {error.after}: what was said then is not kept any more.") from error
    except CallFailed as error:
        option = FIELDS.get((error.field or "").partition("[")[0])
        if option is None:
            raise
        raise CommandFailed(f"{option}: {error.message}", USAGE) from error


def _on_interrupt(end: Callable[[], object]) -> None:
    """The first SIGINT or SIGTERM calls `end`, the second one cancels the command."""
    interrupted = False
    loop, command = asyncio.get_running_loop(), asyncio.current_task()
    assert command is not None, "called within the command's task"

    def interrupt() -> None:
        nonlocal interrupted
        if interrupted:
            command.cancel()
        interrupted = True
        end()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
