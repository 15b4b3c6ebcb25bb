"""Account for every byte and every event of a talk, whatever happened while it was spoken.

Policy: the truth is what was said (words as tones, `tests/fakes/tones.py`), the room's log as the server tells it in
the end, and the kept audio. Everything that anybody was told before must agree with them: nothing lost, doubled or out
of order, nothing taken back.

Pure: `check` takes what was collected and returns complaints; `judge` reads the end state from a server and asserts
that there are none.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import aiohttp
import msgspec

Event = dict[str, Any]
HEADER_BYTES = 44
"""Of the WAV file that `/media` sends."""
PAGE = 500
LATE_S_MAX = 20.0
"""A node that ran the stream before tells of its own end of the audio until it knows that it is a ghost."""


class Seen(msgspec.Struct):
    """What one connection was told in a room, in order: durable and ephemeral events. `after_seq`: as it joined."""

    after_seq: int
    events: list[tuple[str, Event]] = []


class Acks(msgspec.Struct):
    """What one stream of a connection was told. `offset`: where its start said to go on."""

    stream_id: str
    offset: int
    acks: list[Event] = []
    errors: list[Event] = []


class Account(msgspec.Struct):
    """All that was collected of one recording. `acks`: its streams in the order in which they were taken over;
    `texts`: what was said, None where no engine could be held to it."""

    recording_id: str
    pcm: bytes
    texts: Sequence[str] | None
    acks: list[Acks] = []
    watchers: list[list[Seen]] = []
    log: list[Event] = []
    media: bytes = b""
    transcript: list[str] = []


def check(account: Account) -> list[str]:
    """Complaints, one sentence each; empty when all is well."""
    complaints = [*_log(account), *_audio(account)]
    by_seq = {event["seq"]: event for event in account.log}
    for number, watcher in enumerate(account.watchers):
        reached = 0
        for seen in watcher:
            told = [*_watched(seen, by_seq), *_partials(seen)]
            complaints += [f"watcher {number}: {complaint}" for complaint in told]
            reached = max([reached, *(event["seq"] for event in _durable(seen))])
        if watcher and account.log and reached != account.log[-1]["seq"]:
            complaints.append(f"watcher {number} was told up to {reached} of {account.log[-1]['seq']}")
    return complaints


def _log(account: Account) -> Iterator[str]:
    """The room's log, and the transcript, against what was said."""
    finals = [event for event in account.log if event["event"] == "transcript:final"]
    yield from _gapless("seq in the log", [event["seq"] for event in account.log])
    yield from _gapless("ordinal", [event["ordinal"] for event in finals])
    texts = [event["text"] for event in finals] if account.texts is None else account.texts
    said = " ".join(texts).split()
    for where, heard in (("log", [event["text"] for event in finals]), ("transcript", account.transcript)):
        words = " ".join(heard).split()
        if words != said:
            yield f"the {where} {_difference(said, words)}"
    ends = [event for event in account.log if event["event"] == "recording:ended"]
    if len(ends) != 1 or account.log[-1] is not ends[0]:
        yield f"the log has {len(ends)} ends, and its last event is {account.log[-1:]}"
    elif (ends[0]["reason"], ends[0]["segment_count"]) != ("stopped", len(finals)):
        yield f"it ended as {ends[0]['reason']} with {ends[0]['segment_count']} of {len(finals)} segments"
    starts = [event["start_ms"] for event in finals]
    if starts != sorted(starts):
        yield "segments are out of order in time"


def _audio(account: Account) -> Iterator[str]:
    """Acknowledged bytes never reappear; the kept audio is what was spoken."""
    durable = 0
    for stream in account.acks:
        if stream.offset < durable:
            yield f"a take-over asks from byte {stream.offset}, but {durable} were durable"
        received = 0
        for ack in stream.acks:
            if ack["received_bytes"] < received or ack["durable_bytes"] < durable:
                yield f"an ack goes back: {ack['received_bytes']}, {ack['durable_bytes']}"
            if ack["durable_bytes"] > ack["received_bytes"]:
                yield f"more is durable than was received: {ack['durable_bytes']} of {ack['received_bytes']}"
            received, durable = ack["received_bytes"], max(durable, ack["durable_bytes"])
    if account.media != account.pcm:
        same = next((i for i, (a, b) in enumerate(zip(account.media, account.pcm, strict=False)) if a != b), None)
        where = "in length" if same is None else f"from byte {same}"
        yield f"the kept audio differs {where}: {len(account.media)} of {len(account.pcm)} bytes"


def _watched(seen: Seen, by_seq: dict[int, Event]) -> Iterator[str]:
    """Every durable event once, in order, as the log has it."""
    expected = seen.after_seq
    for event in _durable(seen):
        expected += 1
        if event["seq"] != expected:
            yield f"was told {event['seq']} where {expected} comes next (joined after {seen.after_seq})"
            return
        if by_seq.get(expected) != event:
            yield f"was told another {event['event']} {expected} than the log has"


def _partials(seen: Seen) -> Iterator[str]:
    """Stable text only grows and ends up in the final; nothing comes after it."""
    stable: dict[tuple[str, str], str] = {}
    last: dict[str, str] = {}
    final: dict[str, str] = {}
    for name, event in seen.events:
        if name == "transcript:final":
            segment = event["segment_id"]
            final[segment] = event["text"]
            if not event["text"].startswith(last.get(segment, "")):
                yield f"the final of {segment} takes back what was stable"
        elif name == "transcript:partial":
            segment, key = event["segment_id"], (event["stream_id"], event["segment_id"])
            if segment in final:
                yield f"a partial of {segment} follows its final"
            if not event["stable"].startswith(stable.get(key, "")):
                yield f"stable text of {segment} was taken back"
            stable[key] = last[segment] = event["stable"]


def _durable(seen: Seen) -> list[Event]:
    return [event for _, event in seen.events if "seq" in event]


def _gapless(what: str, numbers: Sequence[int]) -> Iterator[str]:
    wanted = range(1, len(numbers) + 1)
    wrong = next(((w, n) for w, n in zip(wanted, numbers, strict=True) if w != n), None)
    if wrong is not None:
        yield f"{what} is {wrong[1]} where {wrong[0]} was due"


def _difference(said: Sequence[str], heard: Sequence[str]) -> str:
    lost = [word for word in said if word not in set(heard)]
    doubled = sorted({word for word in heard if heard.count(word) > said.count(word)})
    first = next((i for i, (a, b) in enumerate(zip(said, heard, strict=False)) if a != b), min(len(said), len(heard)))
    return f"lost {lost}, has too often {doubled}, differs from word {first} of {len(said)} on"


async def complete(account: Account, url: str, token: str) -> Account:
    """Read log, transcript and audio from a server, and keep them in `account`."""
    headers = {"Authorization": f"Bearer {token}"}
    path = f"/v1/recordings/{account.recording_id}"
    async with aiohttp.ClientSession(url, headers=headers, raise_for_status=True) as http:
        end = time.monotonic() + LATE_S_MAX
        while len(account.media) < len(account.pcm):
            async with http.get(f"{path}/media") as response:
                account.media = (await response.read())[HEADER_BYTES:]
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.05)
        async with http.get(f"{path}/transcript.json") as response:
            account.transcript = [segment["text"] for segment in (await response.json())["segments"]]
    return account


def judge(accounts: Iterable[Account], context: str = "") -> None:
    """Fail with all complaints."""
    complaints = [f"{a.recording_id}: {complaint}" for a in accounts for complaint in check(a)]
    assert not complaints, "\n".join([f"the oracle complains {context}:", *complaints])
