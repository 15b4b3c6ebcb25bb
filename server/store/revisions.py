"""What changes in a segment after its final: written with its event in one transaction, fenced by the segment's `rev`.

Policy: a revision names the `rev` it was made from (its own minus 1) and is dropped where that is no longer the
segment's. No stream epoch is needed, and the recording may have ended: a stream only ever adds segments, under its
epoch, and never touches one that is there; so only revisions meet on a row, the row lock makes them take turns, and of
two that were made from the same `rev` the second finds another one. A node that was cut off and comes back late writes
nothing old over anything new, and what it writes was made from exactly what it replaces.

Pieces of a segment are inserted beside it, with its ordinal, and segments may be removed: by a caller that holds the
rows which it made them from (`hold`), so that both stand or fall together.

Finals that want exact word times are found here too (`unaligned`, `claim`, `settle`): a try is counted before it is
made, so that one which kills its worker, or this process, is counted as well.

Boundary: SQL on a connection from `tenant_tx`. Invariant: `rev` of a segment only grows, by 1, with one event each.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec

from server.store import feed, labels
from server.store.pool import Connection
from server.store.segments import COLUMNS, columns, final_body, from_row
from streaming.model import Segment
from streaming.protocol.messages import TranscriptRevised

Reason = Literal["alignment", "diarisation", "second_pass", "edit"]
SEGMENTS_PER_EVENT = 200
"""PROTOCOL.md, transcript:revised."""


class Revised(msgspec.Struct, frozen=True):
    """`written`: ids of the segments that were changed, inserted or removed, all of which are to be indexed; the others
    had changed meanwhile, or are gone, or were inserted before."""

    written: frozenset[str]
    events: list[feed.Event]


class Held(msgspec.Struct, frozen=True):
    """A segment whose row this transaction has locked. `edited`: only a person changes it."""

    segment: Segment
    edited: bool


async def hold(
    connection: Connection,
    tenant_id: str,
    recording_id: str,
    segment_ids: Collection[str] | None = None,
    *,
    speakers: Collection[str] = (),
) -> list[Held]:
    """These segments as they are now, or all of the recording, in order: nobody else changes them, or how many there
    are, before this transaction ends. Those that are not there are left out. `speakers`: labels that will be written:
    they are locked first, as `server.store.labels` wants it."""
    await connection.execute(
        "SELECT FROM recordings WHERE tenant_id = $1 AND recording_id = $2 FOR NO KEY UPDATE", tenant_id, recording_id
    )
    await labels.meanings(connection, tenant_id, [(recording_id, label) for label in sorted(set(speakers))])
    rows = await connection.fetch(
        f"""SELECT {COLUMNS}, edited FROM segments
            WHERE tenant_id = $1 AND recording_id = $2 AND ($3::text[] IS NULL OR segment_id = ANY($3))
            ORDER BY segment_id FOR NO KEY UPDATE""",  # noqa: S608
        tenant_id,
        recording_id,
        None if segment_ids is None else sorted(segment_ids),
    )
    held = [Held(from_row(row), row["edited"]) for row in rows]
    return sorted(held, key=lambda one: place(one.segment))


def place(segment: Segment) -> tuple[int, int, str]:
    """Where a segment stands in its recording: `server.store.segments.ORDER`."""
    return segment.start_ms, segment.ordinal, segment.segment_id


async def revise(
    connection: Connection,
    tenant_id: str,
    recording_id: str,
    segments: Sequence[Segment],
    *,
    inserted: Sequence[Segment] = (),
    removed: Collection[str] = (),
    reason: Reason,
    pass_id: str,
    at_ms: int,
) -> Revised:
    """Replace segments by whole new ones whose `rev` is one higher; their ids and ordinals stay. What a person edited
    only a person changes. Speakers are written with the labels that count now. `inserted`: with the ordinal of the
    segment that each stands behind, and a `rev` of 1; whoever inserts or removes holds the rows (`hold`).

    After an alignment a segment counts as aligned; where its text changed it wants a new one, unless
    a person wrote it."""
    every = await labels.resolved(connection, tenant_id, [(recording_id, each) for each in [*segments, *inserted]])
    segments, inserted = [s for _, s in every[: len(segments)]], [s for _, s in every[len(segments) :]]
    rows = await connection.fetch(
        """WITH held AS (
               SELECT s.segment_id FROM segments s
               JOIN unnest($3::text[], $5::int[]) AS x(id, rev) ON s.segment_id = x.id AND s.rev = x.rev - 1
               WHERE s.tenant_id = $1 AND s.recording_id = $2 AND ($14 OR NOT s.edited)
               ORDER BY s.segment_id FOR NO KEY UPDATE OF s)
           UPDATE segments s
           SET rev = x.rev, start_ms = x.a, end_ms = x.b, text = x.t, words = x.w::jsonb, speaker = x.p,
               language = x.l, confidence = x.c, edited = s.edited OR $14,
               alignment = CASE WHEN $13 THEN 'done' WHEN $14 AND (s.alignment IS NULL OR s.text <> x.t) THEN 'none'
                                WHEN s.text <> x.t AND NOT $15 THEN NULL ELSE s.alignment END,
               alignment_tries = CASE WHEN s.text <> x.t OR $15 THEN 0 ELSE s.alignment_tries END,
               alignment_due = CASE WHEN s.text <> x.t OR $15 THEN now() ELSE s.alignment_due END
           FROM unnest($3::text[], $4::int[], $5::int[], $6::bigint[], $7::bigint[], $8::text[], $9::text[],
                       $10::text[], $11::text[], $12::real[]) AS x(id, o, rev, a, b, t, w, p, l, c), held
           WHERE s.tenant_id = $1 AND s.segment_id = x.id AND held.segment_id = x.id AND s.rev = x.rev - 1
             AND ($14 OR NOT s.edited)
           RETURNING s.segment_id""",
        tenant_id,
        recording_id,
        *columns(segments),
        reason == "alignment",
        reason == "edit",
        reason == "diarisation",
    )
    added = await _insert(connection, tenant_id, recording_id, inserted, reason) if inserted else set()
    gone = await _remove(connection, tenant_id, recording_id, removed) if removed else []
    if len(added) != len(gone):
        await connection.execute(
            "UPDATE recordings SET segment_count = segment_count + $3 WHERE tenant_id = $1 AND recording_id = $2",
            tenant_id,
            recording_id,
            len(added) - len(gone),
        )
    written = {row["segment_id"] for row in rows} | added
    changed = sorted((each for each in [*segments, *inserted] if each.segment_id in written), key=place)
    drafts = [
        feed.Draft(f"recording:{recording_id}", "transcript:revised", msgspec.to_builtins(body))
        for body in bodies(recording_id, changed, removed=gone, reason=reason, pass_id=pass_id)
    ]
    events = await feed.append(connection, tenant_id, drafts, at_ms=at_ms) if drafts else []
    return Revised(frozenset(written.union(gone)), events)


async def _insert(
    connection: Connection, tenant_id: str, recording_id: str, segments: Sequence[Segment], reason: Reason
) -> set[str]:
    """Ids of those that were not there. A piece of a segment whose words keep their times is aligned where that is."""
    rows = await connection.fetch(
        """INSERT INTO segments (tenant_id, recording_id, segment_id, ordinal, rev, start_ms, end_ms, text, words,
                                 speaker, language, confidence, inserted, alignment)
           SELECT $1, $2, x.id, x.o, x.rev, x.a, x.b, x.t, x.w::jsonb, x.p, x.l, x.c, true,
                  CASE WHEN $13 THEN (SELECT s.alignment FROM segments s WHERE s.tenant_id = $1 AND s.recording_id = $2
                                        AND s.ordinal = x.o AND NOT s.inserted) END
           FROM unnest($3::text[], $4::int[], $5::int[], $6::bigint[], $7::bigint[], $8::text[], $9::text[],
                       $10::text[], $11::text[], $12::real[]) AS x(id, o, rev, a, b, t, w, p, l, c)
           ON CONFLICT (tenant_id, segment_id) DO NOTHING RETURNING segment_id""",
        tenant_id,
        recording_id,
        *columns(segments),
        reason == "diarisation",
    )
    return {row["segment_id"] for row in rows}


async def _remove(connection: Connection, tenant_id: str, recording_id: str, segment_ids: Collection[str]) -> list[str]:
    rows = await connection.fetch(
        """DELETE FROM segments WHERE tenant_id = $1 AND recording_id = $2 AND segment_id = ANY($3) AND NOT edited
           RETURNING segment_id""",
        tenant_id,
        recording_id,
        sorted(segment_ids),
    )
    return sorted(row["segment_id"] for row in rows)


def bodies(
    recording_id: str,
    segments: Sequence[Segment],
    *,
    removed: Sequence[str] = (),
    reason: Reason,
    pass_id: str,
) -> list[TranscriptRevised]:
    """The bodies of `transcript:revised`, in parts of at most `SEGMENTS_PER_EVENT`; none for nothing."""
    size = SEGMENTS_PER_EVENT
    starts = range(0, max(len(segments), len(removed)), size)
    return [
        TranscriptRevised(
            recording_id=recording_id,
            pass_id=pass_id,
            part=number,
            parts=len(starts),
            segments=[final_body(recording_id, segment) for segment in segments[at : at + size]],
            removed=list(removed[at : at + size]),
            reason=reason,
        )
        for number, at in enumerate(starts, start=1)
    ]


# --- finals that want exact word times ------------------------------------------------------------------------------
Outcome = Literal["none", "failed"]
"""Why a segment is not tried again: its times are not to be had, or its tries killed workers."""


class Unaligned(msgspec.Struct, frozen=True):
    tenant_id: str
    recording_id: str
    segment_id: str


class Claimed(msgspec.Struct, frozen=True):
    """A segment to be aligned. `tries`: with this one; `after_ms`, `before_ms`: where its neighbours end and begin."""

    segment: Segment
    tries: int
    after_ms: int | None
    before_ms: int | None


async def unaligned(
    connection: Connection, languages: Collection[str], *, age_s_max: int, tries_max: int, limit: int
) -> list[Unaligned]:
    """Finals of all tenants that may be tried now, newest first. `languages`: primary codes."""
    rows = await connection.fetch(
        "SELECT * FROM unaligned_segments($1, $2, $3, $4)", sorted(languages), age_s_max, tries_max, limit
    )
    return [Unaligned(**row) for row in rows]


async def claim(connection: Connection, tenant_id: str, segment_id: str, *, hold_s: float) -> Claimed | None:
    """Begin a try: it is counted, and for `hold_s` nobody else begins one. None when there is nothing to do now."""
    row = await connection.fetchrow(
        f"""UPDATE segments s SET alignment_tries = alignment_tries + 1,
                   alignment_due = now() + make_interval(secs => $3)
            WHERE tenant_id = $1 AND segment_id = $2 AND alignment IS NULL AND alignment_due <= now()
            RETURNING {COLUMNS}, alignment_tries AS tries,
              (SELECT p.end_ms FROM segments p WHERE p.tenant_id = s.tenant_id AND p.recording_id = s.recording_id
                 AND (p.start_ms, p.ordinal, p.segment_id) < (s.start_ms, s.ordinal, s.segment_id)
               ORDER BY p.start_ms DESC, p.ordinal DESC, p.segment_id DESC LIMIT 1) AS after_ms,
              (SELECT n.start_ms FROM segments n WHERE n.tenant_id = s.tenant_id AND n.recording_id = s.recording_id
                 AND (n.start_ms, n.ordinal, n.segment_id) > (s.start_ms, s.ordinal, s.segment_id)
               ORDER BY n.start_ms, n.ordinal, n.segment_id LIMIT 1) AS before_ms""",  # noqa: S608
        tenant_id,
        segment_id,
        hold_s,
    )
    return None if row is None else Claimed(from_row(row), row["tries"], row["after_ms"], row["before_ms"])


async def settle(connection: Connection, tenant_id: str, outcomes: Mapping[tuple[str, int], Outcome]) -> None:
    """(segment, rev) that are not tried again, unless they changed meanwhile."""
    if not outcomes:
        return
    await connection.execute(
        """UPDATE segments s SET alignment = x.outcome
           FROM unnest($2::text[], $3::int[], $4::text[]) AS x(segment_id, rev, outcome)
           WHERE s.tenant_id = $1 AND s.segment_id = x.segment_id AND s.rev = x.rev AND s.alignment IS NULL""",
        tenant_id,
        [segment_id for segment_id, _ in outcomes],
        [rev for _, rev in outcomes],
        list(outcomes.values()),
    )


async def give_back(connection: Connection, tenant_id: str, tries: Mapping[str, bool]) -> None:
    """End tries without an outcome: anybody may begin the next one at once. The value says whether the try counts."""
    if tries:
        await connection.execute(
            """UPDATE segments s SET alignment_due = now(), alignment_tries = alignment_tries - x.forgiven
               FROM unnest($2::text[], $3::int[]) AS x(segment_id, forgiven)
               WHERE s.tenant_id = $1 AND s.segment_id = x.segment_id AND s.alignment IS NULL
                 AND s.alignment_tries > 0""",
            tenant_id,
            list(tries),
            [0 if counts else 1 for counts in tries.values()],
        )
