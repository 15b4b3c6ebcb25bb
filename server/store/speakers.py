"""Who speaks in a recording: its labels with their names and voices, named, merged and recognised.

Policy: segments carry labels ("S1"); names stand here, beside them. A name that a person gave is never changed by a
machine. A merge says that two labels are one speaker: it renames the label in all segments, also in those whose text a
person wrote, because nothing else of them changes; labels are never given twice, and whoever still says the old one
means the new one (`server.store.labels`).

What a label sounds like (`vector`) belongs to its recording and is compared within it only; what is compared with other
recordings are voices that somebody enrolled (`server.store.voices`).

Boundary: SQL on a connection from `tenant_tx`. What changed comes back as logged events, to be announced after the
commit; segments that a merge renamed are to be indexed anew (`segments_in`).
"""

from collections.abc import Iterable, Sequence
from uuid import uuid4

import msgspec

from server.store import feed, labels
from server.store.pool import Connection
from server.store.revisions import Reason, bodies
from server.store.segments import COLUMNS, from_row
from streaming.diariser.enrolment import mean
from streaming.diariser.voices import Known, Speaker
from streaming.errors import BadRequest, Conflict, NotFound
from streaming.protocol.messages import RecordingSpeaker, SpeakerMerged, SpeakerRenamed


class Held(msgspec.Struct, frozen=True):
    """A speaker whose row this transaction has locked."""

    label: str
    name: str | None
    named_by_hand: bool
    voice_id: str | None
    enrolled: bool


class Sound(msgspec.Struct, frozen=True):
    """What a speaker sounds like, with all that was merged into it. `vector`: empty where nobody could tell;
    `enrolled_as`: the voice to which it was added."""

    vector: bytes
    model: str
    clean_ms: int
    enrolled_as: str | None


# --- what machines tell -------------------------------------------------------------------------------------------
async def upsert(
    connection: Connection, tenant_id: str, recording_id: str, model: str, speakers: Sequence[Speaker]
) -> None:
    """What the labels of a recording sound like now."""
    ordered = sorted(speakers, key=lambda speaker: speaker.label)
    await connection.execute(
        """INSERT INTO recording_speakers AS s (tenant_id, recording_id, label, vector, model, clean_ms)
           SELECT $1, $2, x.label, nullif(x.vector, ''::bytea), $3, x.clean_ms
           FROM unnest($4::text[], $5::bytea[], $6::bigint[]) AS x(label, vector, clean_ms)
           ON CONFLICT (tenant_id, recording_id, label) DO UPDATE
           SET vector = excluded.vector, model = excluded.model, clean_ms = excluded.clean_ms
           WHERE (s.vector, s.model, s.clean_ms)
                 IS DISTINCT FROM (excluded.vector, excluded.model, excluded.clean_ms)""",
        tenant_id,
        recording_id,
        model,
        [speaker.label for speaker in ordered],
        [speaker.vector for speaker in ordered],
        [speaker.clean_ms for speaker in ordered],
    )


async def of_model(connection: Connection, tenant_id: str, recording_id: str, model: str) -> list[Speaker]:
    """Every label of the recording as this model heard it, the first one first. Those that were merged keep their own:
    whoever hears that voice again calls it by the old label, which means the new one. Another model's have no vector;
    their labels are not to be given again."""
    rows = await connection.fetch(
        """SELECT label, CASE WHEN model = $3 THEN coalesce(vector, '') ELSE ''::bytea END AS vector, clean_ms
           FROM recording_speakers WHERE tenant_id = $1 AND recording_id = $2
           ORDER BY char_length(label), label""",
        tenant_id,
        recording_id,
        model,
    )
    return [Speaker(row["label"], row["vector"], row["clean_ms"]) for row in rows]


async def known(connection: Connection, tenant_id: str, model: str) -> list[Known]:
    """The tenant's enrolled voices of this model, the oldest first."""
    rows = await connection.fetch(
        "SELECT voice_id, vector FROM voices WHERE tenant_id = $1 AND model = $2 ORDER BY enrolled_at, voice_id",
        tenant_id,
        model,
    )
    return [Known(row["voice_id"], row["vector"]) for row in rows]


async def recognised(
    connection: Connection, tenant_id: str, recording_id: str, label: str, voice_id: str, at_ms: int
) -> list[feed.Event]:
    """The label is an enrolled voice: it gets its name, unless a person named it or the voice was deleted meanwhile."""
    name: str | None = await connection.fetchval(
        "SELECT name FROM voices WHERE tenant_id = $1 AND voice_id = $2 FOR KEY SHARE", tenant_id, voice_id
    )
    if name is None:
        return []
    place = (recording_id, label)
    label = (await labels.meanings(connection, tenant_id, [place]))[place]
    written = await connection.fetchval(
        """UPDATE recording_speakers SET name = $4, voice_id = $5, enrolled = false
           WHERE tenant_id = $1 AND recording_id = $2 AND label = $3 AND NOT named_by_hand
             AND (name, voice_id) IS DISTINCT FROM ($4, $5) RETURNING 1""",
        tenant_id,
        recording_id,
        label,
        name,
        voice_id,
    )
    return [] if written is None else await _renamed(connection, tenant_id, recording_id, label, name, at_ms)


async def merged(
    connection: Connection, tenant_id: str, recording_id: str, from_: str, into: str, at_ms: int
) -> list[feed.Event]:
    """Two labels proved one. Nothing happens where people gave them different names: then they are two."""
    means = await labels.meanings(connection, tenant_id, [(recording_id, from_), (recording_id, into)])
    from_, into = means[recording_id, from_], means[recording_id, into]
    if from_ == into:
        return []
    gone, kept = await _both(connection, tenant_id, recording_id, from_, into)
    if gone.named_by_hand and kept.named_by_hand and gone.name != kept.name:
        return []
    return await _merge(connection, tenant_id, recording_id, gone, kept, reason="diarisation", at_ms=at_ms)


# --- what people say ----------------------------------------------------------------------------------------------
async def names(connection: Connection, tenant_id: str, recording_id: str) -> dict[str, str]:
    """Names of the labels that have one."""
    rows = await connection.fetch(
        """SELECT label, name FROM recording_speakers
           WHERE tenant_id = $1 AND recording_id = $2 AND name IS NOT NULL AND merged_into IS NULL
           ORDER BY char_length(label), label""",
        tenant_id,
        recording_id,
    )
    return {row["label"]: row["name"] for row in rows}


async def merges(connection: Connection, tenant_id: str, recording_id: str) -> dict[str, str]:
    """Labels that are other ones now."""
    rows = await connection.fetch(
        """SELECT label, merged_into FROM recording_speakers
           WHERE tenant_id = $1 AND recording_id = $2 AND merged_into IS NOT NULL ORDER BY char_length(label), label""",
        tenant_id,
        recording_id,
    )
    return {row["label"]: row["merged_into"] for row in rows}


async def of_recording(connection: Connection, tenant_id: str, recording_id: str) -> list[RecordingSpeaker]:
    """Everybody who said something or was named, the first label first."""
    rows = await connection.fetch(
        """SELECT label, s.name, s.voice_id, coalesce(t.spoken_ms, 0)::bigint AS spoken_ms,
                  coalesce(s.clean_ms, 0) AS clean_ms
           FROM (SELECT coalesce(merged_into, label) AS label, max(name) AS name, max(voice_id) AS voice_id,
                        sum(clean_ms)::bigint AS clean_ms
                 FROM recording_speakers WHERE tenant_id = $1 AND recording_id = $2 GROUP BY 1) s
           FULL JOIN (SELECT speaker AS label, sum(end_ms - start_ms) AS spoken_ms FROM segments
                      WHERE tenant_id = $1 AND recording_id = $2 AND speaker IS NOT NULL
                      GROUP BY speaker) t USING (label)
           WHERE s.name IS NOT NULL OR t.spoken_ms IS NOT NULL
           ORDER BY char_length(label), label""",
        tenant_id,
        recording_id,
    )
    return [RecordingSpeaker(**row) for row in rows]


async def rename(
    connection: Connection, tenant_id: str, recording_id: str, label: str, given: str | None, at_ms: int
) -> list[feed.Event]:
    """A person names a speaker, or takes the name away (no machine gives it one then). A label that was recognised as a
    voice of another name is not that voice. Raises `NotFound`, `Conflict` (the label was merged)."""
    row = await held(connection, tenant_id, recording_id, label)
    await connection.execute(
        """UPDATE recording_speakers s SET name = $4, named_by_hand = true,
                  voice_id = (SELECT v.voice_id FROM voices v WHERE v.tenant_id = $1 AND v.voice_id = s.voice_id
                                AND lower(v.name) = lower($4))
           WHERE s.tenant_id = $1 AND s.recording_id = $2 AND s.label = $3""",
        tenant_id,
        recording_id,
        label,
        given,
    )
    if row.name == given:
        return []
    return await _renamed(connection, tenant_id, recording_id, label, given, at_ms)


async def merge(
    connection: Connection, tenant_id: str, recording_id: str, from_: str, into: str, at_ms: int
) -> list[feed.Event]:
    """A person says that two labels are one speaker. Raises `NotFound`, `BadRequest`, `Conflict`."""
    if from_ == into:
        raise BadRequest("A speaker cannot be merged into itself.", field="into")
    gone, kept = await _both(connection, tenant_id, recording_id, from_, into)
    return await _merge(connection, tenant_id, recording_id, gone, kept, reason="edit", at_ms=at_ms)


def segments_in(events: Iterable[feed.Event]) -> tuple[str, ...]:
    """Ids of the segments that these events changed: they are to be indexed anew."""
    return tuple(
        segment["segment_id"]
        for event in events
        if event.event == "transcript:revised"
        for segment in event.body["segments"]
    )


# --- within a transaction -----------------------------------------------------------------------------------------
async def held(connection: Connection, tenant_id: str, recording_id: str, label: str, *, field: str = "label") -> Held:
    """The speaker, locked until the transaction ends. Raises `NotFound`, `Conflict` (it was merged)."""
    await connection.execute(
        """INSERT INTO recording_speakers (tenant_id, recording_id, label)
           SELECT $1, $2, $3 WHERE EXISTS (
               SELECT FROM segments WHERE tenant_id = $1 AND recording_id = $2 AND speaker = $3)
           ON CONFLICT DO NOTHING""",
        tenant_id,
        recording_id,
        label,
    )
    row = await connection.fetchrow(
        """SELECT label, name, named_by_hand, voice_id, enrolled, merged_into FROM recording_speakers
           WHERE tenant_id = $1 AND recording_id = $2 AND label = $3 FOR UPDATE""",
        tenant_id,
        recording_id,
        label,
    )
    if row is None:
        raise NotFound("There is no such speaker in this recording.", field=field)
    values = dict(row)
    if into := values.pop("merged_into"):
        raise Conflict(f"This speaker was merged into {into}.", field=field)
    return Held(**values)


async def sound_of(connection: Connection, tenant_id: str, recording_id: str, label: str) -> Sound:
    """Of the model that heard most of the speaker."""
    rows = await connection.fetch(
        """SELECT label, vector, model, clean_ms, CASE WHEN enrolled THEN voice_id END AS enrolled_as
           FROM recording_speakers
           WHERE tenant_id = $1 AND recording_id = $2 AND (label = $3 OR merged_into = $3)
           ORDER BY clean_ms DESC, label""",
        tenant_id,
        recording_id,
        label,
    )
    heard = [row for row in rows if row["vector"]]
    vector, clean_ms, model = b"", 0, heard[0]["model"] if heard else ""
    for row in heard:
        if row["model"] == model:
            vector, clean_ms = mean(vector, clean_ms, row["vector"], row["clean_ms"])
    return Sound(vector, model, clean_ms, next((row["enrolled_as"] for row in rows if row["label"] == label), None))


async def _both(connection: Connection, tenant_id: str, recording_id: str, from_: str, into: str) -> tuple[Held, Held]:
    """Both locked, in the order of their labels, as everybody locks them."""
    fields = {from_: "label", into: "into"}
    rows = {
        label: await held(connection, tenant_id, recording_id, label, field=fields[label]) for label in sorted(fields)
    }
    return rows[from_], rows[into]


async def _merge(
    connection: Connection, tenant_id: str, recording_id: str, gone: Held, kept: Held, *, reason: Reason, at_ms: int
) -> list[feed.Event]:
    """`kept` takes over the segments of `gone`, and its name where it has none itself."""
    heir = kept
    if gone.name is not None and (kept.name is None or (gone.named_by_hand and not kept.named_by_hand)):
        heir = msgspec.structs.replace(
            kept, name=gone.name, named_by_hand=gone.named_by_hand, voice_id=gone.voice_id, enrolled=gone.enrolled
        )
    await connection.execute(
        """UPDATE recording_speakers SET name = $4, named_by_hand = $5, voice_id = $6, enrolled = $7
           WHERE tenant_id = $1 AND recording_id = $2 AND label = $3""",
        tenant_id,
        recording_id,
        kept.label,
        heir.name,
        heir.named_by_hand,
        heir.voice_id,
        heir.enrolled,
    )
    await connection.execute(
        """UPDATE recording_speakers
           SET merged_into = $4, name = NULL, named_by_hand = false, voice_id = NULL, enrolled = false
           WHERE tenant_id = $1 AND recording_id = $2 AND (label = $3 OR merged_into = $3)""",
        tenant_id,
        recording_id,
        gone.label,
        kept.label,
    )
    rows = await connection.fetch(
        f"""UPDATE segments SET speaker = $4, rev = rev + 1
            WHERE tenant_id = $1 AND recording_id = $2 AND speaker = $3 RETURNING {COLUMNS}""",  # noqa: S608
        tenant_id,
        recording_id,
        gone.label,
        kept.label,
    )
    changed = sorted(map(from_row, rows), key=lambda segment: (segment.start_ms, segment.ordinal, segment.segment_id))
    room = f"recording:{recording_id}"
    told: list[tuple[str, msgspec.Struct]] = [
        ("speaker:merged", SpeakerMerged(recording_id=recording_id, from_=gone.label, into=kept.label))
    ]
    if heir.name != kept.name:
        told.append(("speaker:renamed", SpeakerRenamed(recording_id=recording_id, speaker=kept.label, name=heir.name)))
    told += [
        ("transcript:revised", body)
        for body in bodies(recording_id, changed, reason=reason, pass_id=f"sp_{uuid4().hex}")
    ]
    drafts = [feed.Draft(room, event, msgspec.to_builtins(body)) for event, body in told]
    return await feed.append(connection, tenant_id, drafts, at_ms=at_ms)


async def _renamed(
    connection: Connection, tenant_id: str, recording_id: str, label: str, given: str | None, at_ms: int
) -> list[feed.Event]:
    body = SpeakerRenamed(recording_id=recording_id, speaker=label, name=given)
    draft = feed.Draft(f"recording:{recording_id}", "speaker:renamed", msgspec.to_builtins(body))
    return await feed.append(connection, tenant_id, [draft], at_ms=at_ms)
