"""Live captions through a real server: audio goes in as fast as it is spoken, events are timed as they arrive.

The clock of a stream starts with its audio: what stands at second 3 of the clip was spoken at second 3, and leaves in
the piece of `PIECE_MS` that ends at or after it. A latency therefore counts what a speaker would see, the client's
piece, the network and the server included. What the events mean is `bench.metrics`.
"""

import asyncio
import time
from collections.abc import Callable

from parlance_client import Client, Event
from parlance_client.errors import CallFailed
from parlance_client.events import EventStream
from parlance_client.recording import LiveStream

from bench.metrics import ENDED, Heard, Take
from bench.speech import Clip, Cut
from streaming.model import SAMPLE_RATE

PIECE_MS = 100
PIECE = SAMPLE_RATE * PIECE_MS // 1000
HANG_S = 60.0
"""For what is left when all was said: finals of streams that are far behind, too."""
RETRY_MS = 1_000
ACKNOWLEDGED = "voice:recording:ack"

Listener = Callable[[float, Event], None]


def ignore(_at: float, _event: Event) -> None:
    """No listener."""


class Opened:
    """A stream that has not begun to speak. `events`: everything from its start on."""

    def __init__(self, stream: LiveStream, events: EventStream) -> None:
        self.stream = stream
        self.events = events


async def open_stream(
    client: Client, clip: Clip, *, endpointing_ms: int | None = None, patience_s: float = 0.0
) -> Opened | str:
    """A new stream for the clip, or the code by which the server refused it, and did so for `patience_s`. Raises
    `CallFailed` where trying again cannot help."""
    end = time.perf_counter() + patience_s
    events = client.events()
    while True:
        try:
            stream = await client.record(title=clip.id, language="en", endpointing_ms=endpointing_ms)
        except CallFailed as error:
            wait_s = (error.retry_after_ms or RETRY_MS) / 1_000
            if not error.retryable:
                raise
            if time.perf_counter() + wait_s > end:
                events.close()
                return error.code
            await asyncio.sleep(wait_s)
        else:
            await client.join(stream.room)
            return Opened(stream, events)


async def speak(
    opened: Opened,
    clip: Clip,
    cuts: list[Cut],
    *,
    pace: float = 1.0,
    hang_s: float = HANG_S,
    listen: Listener = ignore,
) -> Take:
    """Stream the clip, whose utterances are `cuts`, `pace` times as fast as it is spoken.

    `listen` gets every event of it with its arrival (`time.perf_counter`)."""
    stream, events = opened.stream, opened.events
    heard: list[Heard] = []
    acks: list[dict[str, int]] = []
    began = time.perf_counter()

    async def follow() -> None:
        async for event in events:
            now = time.perf_counter()
            if event.name == ACKNOWLEDGED and event.body["stream_id"] == stream.stream_id:
                acks.append(event.body)
            if event.room != stream.room:
                continue
            listen(now, event)
            heard.append(Heard((now - began) * 1_000, event.name, event.body))
            if event.name == ENDED:
                return

    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow())
        for at in range(0, len(clip.audio), PIECE):
            piece = clip.audio[at : at + PIECE]
            spoken_s = (at + len(piece)) / SAMPLE_RATE / pace
            await asyncio.sleep(max(0.0, began + spoken_s - time.perf_counter()))
            await stream.send(piece.tobytes())
        await stream.stop()
        async with asyncio.timeout(hang_s):
            await following
    events.close()
    return Take(
        clip,
        cuts,
        heard,
        sent_bytes=2 * len(clip.audio),
        durable_bytes=max((ack["durable_bytes"] for ack in acks), default=0),
        lag_ms=max((ack["lag_ms"] for ack in acks), default=0),
        degraded=any(ack.get("degraded") for ack in acks),
    )
