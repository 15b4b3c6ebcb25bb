"""What changes in a segment after its final: written with its event in one transaction, fenced by the segment's `rev`.

Policy: a revision names the `rev` it was made from (its own minus 1) and is dropped where that is no longer the
segment's. No stream epoch is needed, and the recording may have ended: a stream only ever adds segments, under its
epoch, and never touches one that is there; so only revisions meet on a row, the row lock makes them take turns, and of
two that were made from the same `rev` the second finds another one. A node that was cut off and comes back late writes
nothing old over anything new, and what it writes was made from exactly what it replaces.

Finals that want exact word times are found here too (`unaligned`, `claim`, `settle`): a try is counted before it is
made, so that one which kills its worker, or this process, is counted as well.

Boundary: SQL on a connection from `tenant_tx`. Invariant: `rev` of a segment only grows, by 1, with one event each.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec

from server.store import feed
from server.store.pool import Connection
from server.store.segments import COLUMNS, final_body, from_row, words_json
from streaming.model import Segment
from streaming.protocol.messages import TranscriptRevised

Reason = Literal["alignment", "diarisation", "second_pass", "edit"]
SEGMENTS_PER_EVENT = 200
"""PROTOCOL.md, transcript:revised."""


class Revised(msgspec.Struct, frozen=True):
    """`written`: ids of the segments that were changed; the others had changed meanwhile, or are gone."""

    written: frozenset[str]
    events: list[feed.Event]


async def revise(
    connection: Connection,
    tenant_id: str,
    recording_id: str,
    segments: Sequence[Segment],
    *,
    reason: Reason,
    pass_id: str,
    at_ms: int,
) -> Revised:
    """Replace segments by whole new ones whose `rev` is one higher; their ids and ordinals stay.

    After an alignment a segment counts as aligned; where its text changed it wants a new one."""
    rows = await connection.fetch(
        """WITH held AS (
               SELECT s.segment_id FROM segments s
               JOIN unnest($3::text[], $4::int[]) AS x(id, rev) ON s.segment_id = x.id AND s.rev = x.rev - 1
               WHERE s.tenant_id = $1 AND s.recording_id = $2 ORDER BY s.segment_id FOR NO KEY UPDATE OF s)
           UPDATE segments s
           SET rev = x.rev, start_ms = x.a, end_ms = x.b, text = x.t, words = x.w::jsonb, speaker = x.p,
               language = x.l, confidence = x.c,
               alignment = CASE WHEN $12 THEN 'done' WHEN s.text <> x.t THEN NULL ELSE s.alignment END,
               alignment_tries = CASE WHEN s.text <> x.t THEN 0 ELSE s.alignment_tries END,
               alignment_due = CASE WHEN s.text <> x.t THEN now() ELSE s.alignment_due END
           FROM unnest($3::text[], $4::int[], $5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::text[],
                       $10::text[], $11::real[]) AS x(id, rev, a, b, t, w, p, l, c), held
           WHERE s.tenant_id = $1 AND s.segment_id = x.id AND held.segment_id = x.id AND s.rev = x.rev - 1
           RETURNING s.segment_id""",
        tenant_id,
        recording_id,
        [segment.segment_id for segment in segments],
        [segment.rev for segment in segments],
        [segment.start_ms for segment in segments],
        [segment.end_ms for segment in segments],
        [segment.text for segment in segments],
        [words_json(segment) for segment in segments],
        [segment.speaker for segment in segments],
        [segment.language for segment in segments],
        [segment.confidence for segment in segments],
        reason == "alignment",
    )
    written = frozenset(row["segment_id"] for row in rows)
    changed = [segment for segment in segments if segment.segment_id in written]
    drafts = [
        feed.Draft(f"recording:{recording_id}", "transcript:revised", msgspec.to_builtins(body))
        for body in bodies(recording_id, changed, reason=reason, pass_id=pass_id)
    ]
    events = await feed.append(connection, tenant_id, drafts, at_ms=at_ms) if drafts else []
    return Revised(written, events)


def bodies(recording_id: str, segments: Sequence[Segment], *, reason: Reason, pass_id: str) -> list[TranscriptRevised]:
    """The bodies of `transcript:revised`, in parts of at most `SEGMENTS_PER_EVENT`; none for no segments."""
    pieces = [segments[at : at + SEGMENTS_PER_EVENT] for at in range(0, len(segments), SEGMENTS_PER_EVENT)]
    return [
        TranscriptRevised(
            recording_id=recording_id,
            pass_id=pass_id,
            part=number,
            parts=len(pieces),
            segments=[final_body(recording_id, segment) for segment in piece],
            removed=[],
            reason=reason,
        )
        for number, piece in enumerate(pieces, start=1)
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
                 AND p.ordinal = s.ordinal - 1) AS after_ms,
              (SELECT n.start_ms FROM segments n WHERE n.tenant_id = s.tenant_id AND n.recording_id = s.recording_id
                 AND n.ordinal = s.ordinal + 1) AS before_ms""",  # noqa: S608
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
