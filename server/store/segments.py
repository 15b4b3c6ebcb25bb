"""Final segments: written with their event and index job in one transaction, fenced by the stream's epoch.

`write` takes the finals of many streams of one tenant. An item whose epoch is old comes back as fenced; one whose
ordinal is already there (a commit whose answer was lost) comes back as repeated and is not written again.

Ordinals count what streams commit. What a revision inserts (`server.store.revisions`) has the ordinal of the segment it
came from; segments are always listed by `ORDER`.

Boundary: SQL on a connection from `tenant_tx`. Invariant: (recording, ordinal) of finals is unique and grows by one.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from server.store import feed, labels
from server.store.pool import Connection
from streaming.model import Segment, Word
from streaming.protocol.messages import TranscriptFinal, WireWord

COLUMNS = "segment_id, ordinal, rev, start_ms, end_ms, text, words, speaker, language, confidence"
ORDER = "start_ms, ordinal, segment_id"
"""How the segments of a recording follow one another. Times of pieces that a revision made differ, or their ids do."""


class FinalWrite(msgspec.Struct, frozen=True):
    """A final on its way into the database. `committed_sample`: audio before it needs no further work;
    `context`: the engine's, `speakers`: the listener's state (empty: it did not listen, and what is there stays), for
    whoever goes on from there."""

    tenant_id: str
    recording_id: str
    epoch: int
    segment: Segment
    committed_sample: int
    context: bytes = b""
    speakers: bytes = b""


class WriteResult(msgspec.Struct):
    """Indices into the written items, by outcome, and the logged events of the written ones."""

    written: list[int]
    fenced: list[int]
    repeated: list[int]
    events: list[feed.Event]


def final_body(recording_id: str, segment: Segment) -> TranscriptFinal:
    """The body of `transcript:final`."""
    return TranscriptFinal(
        recording_id=recording_id,
        segment_id=segment.segment_id,
        ordinal=segment.ordinal,
        rev=segment.rev,
        start_ms=segment.start_ms,
        end_ms=segment.end_ms,
        text=segment.text,
        words=[wire_word(word) for word in segment.words],
        speaker=segment.speaker,
        language=segment.language,
        confidence=round(segment.confidence, 4),
    )


def wire_word(word: Word) -> WireWord:
    return WireWord(w=word.text, start_ms=word.start_ms, end_ms=word.end_ms, p=round(word.p, 4))


def from_row(row: Any) -> Segment:
    """A row of `COLUMNS`."""
    words = msgspec.json.decode(row["words"], type=list[WireWord])
    return Segment(
        segment_id=row["segment_id"],
        ordinal=row["ordinal"],
        rev=row["rev"],
        start_ms=row["start_ms"],
        end_ms=row["end_ms"],
        text=row["text"],
        words=tuple(Word(word.w, word.start_ms, word.end_ms, word.p) for word in words),
        speaker=row["speaker"],
        language=row["language"],
        confidence=row["confidence"],
    )


def words_json(segment: Segment) -> str:
    """The column `words`."""
    return msgspec.json.encode([wire_word(word) for word in segment.words]).decode()


def columns(segments: Sequence[Segment]) -> list[list[object]]:
    """Arrays for `unnest`: id, ordinal, rev, start_ms, end_ms, text, words, speaker, language, confidence."""
    rows = [
        (
            s.segment_id,
            s.ordinal,
            s.rev,
            s.start_ms,
            s.end_ms,
            s.text,
            words_json(s),
            s.speaker,
            s.language,
            s.confidence,
        )
        for s in segments
    ]
    return [[row[at] for row in rows] for at in range(10)]


async def write(connection: Connection, tenant_id: str, items: Sequence[FinalWrite], *, at_ms: int) -> WriteResult:
    """Write what may be written, in order; see `WriteResult`."""
    result = WriteResult([], [], [], [])
    rows = await connection.fetch(
        """SELECT recording_id, epoch, ended, next_ordinal FROM streams
           WHERE tenant_id = $1 AND recording_id = ANY($2) ORDER BY recording_id FOR UPDATE""",
        tenant_id,
        sorted({item.recording_id for item in items}),
    )
    streams = {row["recording_id"]: row for row in rows}
    following = {name: row["next_ordinal"] for name, row in streams.items()}
    for index, item in enumerate(items):
        stream = streams.get(item.recording_id)
        if stream is None or stream["ended"] or stream["epoch"] != item.epoch:
            result.fenced.append(index)
        elif item.segment.ordinal < following[item.recording_id]:
            result.repeated.append(index)
        else:
            assert item.segment.ordinal == following[item.recording_id], "finals of a stream come in order"
            following[item.recording_id] += 1
            result.written.append(index)
    if result.written:
        written = await _labelled(connection, tenant_id, [items[index] for index in result.written])
        await _insert(connection, tenant_id, written)
        await _advance(connection, tenant_id, written)
        drafts = [
            feed.Draft(
                room=f"recording:{item.recording_id}",
                event="transcript:final",
                body=msgspec.to_builtins(final_body(item.recording_id, item.segment)),
            )
            for item in written
        ]
        result.events = await feed.append(connection, tenant_id, drafts, at_ms=at_ms)
    return result


async def _labelled(connection: Connection, tenant_id: str, items: Sequence[FinalWrite]) -> list[FinalWrite]:
    """With the speakers' labels that count: a stream does not know what was merged since."""
    named = await labels.resolved(connection, tenant_id, [(item.recording_id, item.segment) for item in items])
    return [
        item if segment is item.segment else msgspec.structs.replace(item, segment=segment)
        for item, (_, segment) in zip(items, named, strict=True)
    ]


async def _insert(connection: Connection, tenant_id: str, items: Sequence[FinalWrite]) -> None:
    segments = [item.segment for item in items]
    await connection.execute(
        """INSERT INTO segments (tenant_id, recording_id, segment_id, ordinal, rev, start_ms, end_ms, text, words,
                                 speaker, language, confidence)
           SELECT $1, s.* FROM (
               SELECT r, i, o, v, a, b, t, w::jsonb, p, l, c
               FROM unnest($2::text[], $3::text[], $4::int[], $5::int[], $6::bigint[], $7::bigint[], $8::text[],
                           $9::text[], $10::text[], $11::text[], $12::real[])
                    AS x(r, i, o, v, a, b, t, w, p, l, c)) s""",
        tenant_id,
        [item.recording_id for item in items],
        *columns(segments),
    )


async def _advance(connection: Connection, tenant_id: str, items: Sequence[FinalWrite]) -> None:
    last = {item.recording_id: item for item in items}
    await connection.execute(
        """UPDATE streams s SET committed_sample = greatest(s.committed_sample, x.sample),
                  next_ordinal = x.ordinal + 1, context = x.context,
                  speakers = coalesce(nullif(x.speakers, ''), s.speakers)
           FROM unnest($2::text[], $3::bigint[], $4::int[], $5::bytea[], $6::bytea[])
                AS x(recording_id, sample, ordinal, context, speakers)
           WHERE s.tenant_id = $1 AND s.recording_id = x.recording_id""",
        tenant_id,
        list(last),
        [item.committed_sample for item in last.values()],
        [item.segment.ordinal for item in last.values()],
        [item.context for item in last.values()],
        [item.speakers for item in last.values()],
    )


async def of_recording(connection: Connection, tenant_id: str, recording_id: str) -> list[dict[str, Any]]:
    """All segments of a recording as bodies of `transcript:final`, in order."""
    rows = await connection.fetch(
        f"""SELECT {COLUMNS} FROM segments
           WHERE tenant_id = $1 AND recording_id = $2 ORDER BY {ORDER}""",  # noqa: S608
        tenant_id,
        recording_id,
    )
    return [
        {
            "recording_id": recording_id,
            **dict(row),
            "words": msgspec.json.decode(row["words"]),
            "confidence": round(row["confidence"], 4),
        }
        for row in rows
    ]


async def since(connection: Connection, tenant_id: str, recording_id: str, from_ms: int) -> list[Segment]:
    """Segments that end after `from_ms`, in order, but for those that a person edited."""
    rows = await connection.fetch(
        f"""SELECT {COLUMNS} FROM segments
           WHERE tenant_id = $1 AND recording_id = $2 AND end_ms > $3 AND NOT edited ORDER BY {ORDER}""",  # noqa: S608
        tenant_id,
        recording_id,
        from_ms,
    )
    return [from_row(row) for row in rows]
