"""What people correct in a segment, and what became of it over time.

Policy: whoever corrects names the `rev` that they saw; where it is no longer the segment's, nothing is written and they
learn the present one (`Outdated`). An edited segment is a person's from then on, text, words and speaker: no machine
changes it (`server.store.revisions.revise` sees to that), so also a segment of which only the speaker was corrected
stays as it is. A merge of two speakers is no correction of a segment: machines go on improving what it renamed.

The history is read from the recording's event log, as far as that reaches back.

Boundary: SQL on a connection from `tenant_tx`; the new segment is to be indexed, the events announced after the commit.
"""

import re
from typing import Any
from uuid import uuid4

import msgspec
from msgspec import UNSET, UnsetType

from server.store import feed, labels
from server.store.pool import Connection
from server.store.revisions import revise
from server.store.segments import COLUMNS, final_body, from_row
from streaming.errors import BadRequest, NotFound, Outdated
from streaming.limits import Limits
from streaming.model import Segment
from streaming.transcript.rewriting import rewritten

NEW_SPEAKER = "new"
"""Instead of a label: somebody who has none yet. Gets P1, P2, ...: machines give labels that begin with S, so that the
two never name different people alike."""


class Version(msgspec.Struct, frozen=True):
    """A segment as it was from `at` (Unix milliseconds) on. `reason`: "final", or that of the revision."""

    rev: int
    text: str
    speaker: str | None
    reason: str
    at: int


class Edited(msgspec.Struct, frozen=True):
    """The segment as it is now; no events where nothing changed."""

    segment: Segment
    events: list[feed.Event]


async def edit(
    connection: Connection,
    tenant_id: str,
    recording_id: str,
    segment_id: str,
    *,
    rev: int,
    text: str | UnsetType = UNSET,
    speaker: str | UnsetType | None = UNSET,
    at_ms: int,
    limits: Limits,
) -> Edited:
    """Raises `NotFound`, `BadRequest`, `Outdated`."""
    if text is not UNSET:
        _check(text, limits)
    segment = await _seen(connection, tenant_id, recording_id, segment_id, rev)
    # The label that will be written is locked before the row, as everybody does; of this rev the row has no other one.
    wanted = segment.speaker if speaker is UNSET else speaker
    label = await _label(connection, tenant_id, recording_id, wanted)
    segment = await _seen(connection, tenant_id, recording_id, segment_id, rev, lock="FOR NO KEY UPDATE")
    new = segment if text is UNSET else rewritten(segment, text)
    if speaker is not UNSET:
        new = msgspec.structs.replace(new, speaker=label)
    if (new.text, new.speaker) == (segment.text, segment.speaker):
        return Edited(segment, [])
    new = msgspec.structs.replace(new, rev=segment.rev + 1)
    revised = await revise(
        connection, tenant_id, recording_id, [new], reason="edit", pass_id=f"ed_{uuid4().hex}", at_ms=at_ms
    )
    assert revised.written == {segment_id}, "the row is locked"
    return Edited(new, revised.events)


async def _seen(
    connection: Connection, tenant_id: str, recording_id: str, segment_id: str, rev: int, *, lock: str = ""
) -> Segment:
    """The segment, if it is still what the caller saw. Raises `NotFound`, `Outdated`."""
    segment = from_row(await _row(connection, tenant_id, recording_id, segment_id, lock=lock))
    if segment.rev != rev:
        raise Outdated("This segment was changed meanwhile.", expected=segment.rev)
    return segment


async def history(
    connection: Connection, tenant_id: str, recording_id: str, segment_id: str
) -> tuple[dict[str, Any], list[Version]]:
    """The segment with `edited`, and its versions in order, those that the log still has. Raises `NotFound`."""
    row = await _row(connection, tenant_id, recording_id, segment_id)
    rows = await connection.fetch(
        """SELECT told.segment ->> 'text' AS text, (told.segment ->> 'rev')::int AS rev,
                  told.segment ->> 'speaker' AS speaker, coalesce(e.body ->> 'reason', 'final') AS reason,
                  (extract(epoch FROM e.at) * 1000)::bigint AS at
           FROM events e CROSS JOIN LATERAL (
               SELECT CASE e.event WHEN 'transcript:final' THEN e.body ELSE jsonb_path_query_first(
                   e.body, '$.segments[*] ? (@.segment_id == $id)', jsonb_build_object('id', $3::text)) END
           ) AS told(segment)
           WHERE e.tenant_id = $1 AND e.room = $2 AND e.event IN ('transcript:final', 'transcript:revised')
             AND told.segment ->> 'segment_id' = $3
           ORDER BY e.seq""",
        tenant_id,
        f"recording:{recording_id}",
        segment_id,
    )
    body = {**msgspec.to_builtins(final_body(recording_id, from_row(row))), "edited": row["edited"]}
    return body, [Version(**row) for row in rows]


async def _row(connection: Connection, tenant_id: str, recording_id: str, segment_id: str, *, lock: str = "") -> Any:
    row = None
    if "\0" not in segment_id:
        row = await connection.fetchrow(
            f"""SELECT {COLUMNS}, edited FROM segments
                WHERE tenant_id = $1 AND recording_id = $2 AND segment_id = $3 {lock}""",  # noqa: S608
            tenant_id,
            recording_id,
            segment_id,
        )
    if row is None:
        raise NotFound("There is no such segment.")
    return row


async def _label(connection: Connection, tenant_id: str, recording_id: str, speaker: str | None) -> str | None:
    """The label that counts; a new one's row is made. Raises `BadRequest` for one that the recording does not have."""
    if speaker is None:
        return None
    if speaker == NEW_SPEAKER:
        await connection.execute(
            "SELECT FROM recordings WHERE tenant_id = $1 AND recording_id = $2 FOR NO KEY UPDATE",
            tenant_id,
            recording_id,
        )
        given = await connection.fetch(
            "SELECT label FROM recording_speakers WHERE tenant_id = $1 AND recording_id = $2", tenant_id, recording_id
        )
        numbers = [int(found[1]) for row in given if (found := re.fullmatch(r"P([1-9][0-9]{0,5})", row["label"]))]
        speaker = f"P{max(numbers, default=0) + 1}"
    elif not await connection.fetchval(
        """SELECT EXISTS (SELECT FROM recording_speakers
                          WHERE tenant_id = $1 AND recording_id = $2 AND label = $3)
               OR EXISTS (SELECT FROM segments WHERE tenant_id = $1 AND recording_id = $2 AND speaker = $3)""",
        tenant_id,
        recording_id,
        speaker,
    ):
        raise BadRequest("This recording has no such speaker.", field="speaker")
    place = (recording_id, speaker)
    return (await labels.meanings(connection, tenant_id, [place]))[place]


def _check(text: str, limits: Limits) -> None:
    words = text.split()
    if not words:
        raise BadRequest("A segment has words.", field="text")
    if len(text) > limits.edit_chars_max or len(words) > limits.edit_words_max:
        raise BadRequest(
            f"A segment has at most {limits.edit_words_max} words in {limits.edit_chars_max} characters.", field="text"
        )
