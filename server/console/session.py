"""`parlance stream` and `parlance search`: a command's time with the server.

Policy: the file is fed by one task, events are shown by another, lost connections are told by a third; the command
ends with the recording's `recording:ended`. An interrupt ends the feeding, and what was sent is still transcribed; a
second one ends at once.
"""

import asyncio
import signal
from pathlib import Path

import click
import msgspec
from parlance_client import Backoff, Client, EventStream, LiveStream, SearchResults, StreamState

from server.console.audiofile import AudioFile, due_s, open_audio
from server.console.encoder import Encoder, encoder_for
from server.console.failures import CommandFailed
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
    interrupted = _on_interrupt()
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


async def search(url: str, token: str, text: str, *, limit: int, sort: str) -> SearchResults:
    """The last phase of a query's answer. Raises `CommandFailed` and the client's errors."""
    async with Client(url, token, client=CLIENT) as client:
        last: SearchResults | None = None
        async for answer in client.search(text, limit=limit, sort=sort):
            last = answer
    if last is None:
        raise CommandFailed("The server gave no results.")
    return last


def _on_interrupt() -> asyncio.Event:
    """An event that the first SIGINT or SIGTERM sets; the second one cancels the command."""
    interrupted = asyncio.Event()
    loop, command = asyncio.get_running_loop(), asyncio.current_task()
    assert command is not None, "called within the command's task"

    def interrupt() -> None:
        if interrupted.is_set():
            command.cancel()
        interrupted.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    return interrupted
