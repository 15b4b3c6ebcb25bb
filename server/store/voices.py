"""Enrolled voices of a tenant: recognised in its later recordings, listed, renamed, deleted.

Policy: nobody's voice is enrolled but by a call that asks for it. What is stored is one vector (what the voice sounds
like to one model), the name, who enrolled it and when; no audio. A name belongs to one voice of the tenant. Enrolling
under a name that is there adds to that voice, so that it becomes better with every recording, unless the two do not
sound like one person; what another model heard before is replaced, because it cannot be compared any more. Deleting
forgets the vector; recordings keep the names that they show.

Boundary: SQL on a connection from `tenant_tx`. Invariant: vectors of two models are never compared nor added.
"""

from typing import Any
from uuid import uuid4

import msgspec

from server.store import feed, speakers
from server.store.pool import Connection
from streaming.diariser.enrolment import likeness, mean
from streaming.errors import BadRequest, Conflict, NotFound, QuotaExceeded
from streaming.limits import Limits

LIKENESS_MIN = 0.35
"""Below, two vectors enrolled under one name are taken for two people: what a voice of a window needs to count as a
person's at all (`streaming.diariser.offline`). Recognising wants twice that: this only keeps namesakes apart."""


class VoiceRow(msgspec.Struct, frozen=True):
    """An enrolled voice as stored, without its vector. `numbers`: how many that has; `enrolled_at`: Unix milliseconds
    of the first enrolment, `enrolled_by`: the name of who asked for it, None where that user is gone."""

    voice_id: str
    name: str
    model: str
    numbers: int
    clean_ms: int
    enrolled_by: str | None
    enrolled_at: int


SELECT = """
    SELECT v.voice_id, v.name, v.model, octet_length(v.vector) / 4 AS numbers, v.clean_ms, u.name AS enrolled_by,
           (extract(epoch FROM v.enrolled_at) * 1000)::bigint AS enrolled_at
    FROM voices v LEFT JOIN users u ON u.tenant_id = v.tenant_id AND u.user_id = v.enrolled_by
    WHERE v.tenant_id = $1
"""


async def listed(connection: Connection, tenant_id: str) -> list[VoiceRow]:
    """All voices of the tenant, by name."""
    return [VoiceRow(**row) for row in await connection.fetch(SELECT + "ORDER BY lower(v.name)", tenant_id)]


async def get(connection: Connection, tenant_id: str, voice_id: str) -> VoiceRow:
    """Raises `NotFound`."""
    row = None
    if "\0" not in voice_id:
        row = await connection.fetchrow(SELECT + "AND v.voice_id = $2", tenant_id, voice_id)
    if row is None:
        raise NotFound("There is no such voice.")
    return VoiceRow(**row)


async def rename(connection: Connection, tenant_id: str, voice_id: str, name: str) -> VoiceRow:
    """The name that later recordings show; those that show one keep it. Raises `NotFound`, `Conflict`."""
    await _take_turns(connection, tenant_id)
    await get(connection, tenant_id, voice_id)
    taken = await _named(connection, tenant_id, name)
    if taken is not None and taken["voice_id"] != voice_id:
        raise Conflict("Another voice has this name.", field="name")
    await connection.execute(
        "UPDATE voices SET name = $3 WHERE tenant_id = $1 AND voice_id = $2", tenant_id, voice_id, name
    )
    return await get(connection, tenant_id, voice_id)


async def delete(connection: Connection, tenant_id: str, voice_id: str) -> None:
    """Forget the voice. Raises `NotFound`."""
    done = await connection.fetchval(
        "DELETE FROM voices WHERE tenant_id = $1 AND voice_id = $2 RETURNING 1", tenant_id, voice_id
    )
    if done is None:
        raise NotFound("There is no such voice.")


async def enrol(
    connection: Connection,
    tenant_id: str,
    recording_id: str,
    label: str,
    name: str | None,
    *,
    by: str,
    at_ms: int,
    limits: Limits,
) -> tuple[VoiceRow, list[feed.Event]]:
    """A person names a speaker (None: it has a name) and wants the voice recognised from now on. Once for each speaker:
    asked again, nothing is added. Raises `NotFound`, `BadRequest`, `Conflict`, `QuotaExceeded`."""
    await _take_turns(connection, tenant_id)
    wanted = name
    if wanted is None:
        wanted = (await speakers.names(connection, tenant_id, recording_id)).get(label)
    voice = None if wanted is None else await _named(connection, tenant_id, wanted)
    await speakers.held(connection, tenant_id, recording_id, label)
    speaker = await speakers.sound_of(connection, tenant_id, recording_id, label)
    if wanted is None:
        raise BadRequest("A voice is enrolled under a name.", field="name")
    if not speaker.vector or speaker.clean_ms < limits.voice_clean_ms_min:
        raise BadRequest(
            f"This speaker was heard alone for {speaker.clean_ms / 1000:.1f} s; "
            f"a voice is enrolled from {limits.voice_clean_ms_min // 1000} s on.",
            field="enrol",
        )
    if voice is None:
        voice_id = await _insert(connection, tenant_id, wanted, speaker, by=by, at_ms=at_ms, limits=limits)
    else:
        voice_id = voice["voice_id"]
        if speaker.enrolled_as != voice_id:
            await _add(connection, tenant_id, voice, speaker)
    events = await speakers.rename(connection, tenant_id, recording_id, label, wanted, at_ms)
    await connection.execute(
        """UPDATE recording_speakers SET voice_id = $4, enrolled = true
           WHERE tenant_id = $1 AND recording_id = $2 AND label = $3""",
        tenant_id,
        recording_id,
        label,
        voice_id,
    )
    return await get(connection, tenant_id, voice_id), events


async def _take_turns(connection: Connection, tenant_id: str) -> None:
    """Of two who give one name at the same time, the second finds the first one's voice."""
    await connection.execute("SELECT FROM tenants WHERE tenant_id = $1 FOR NO KEY UPDATE", tenant_id)


async def _named(connection: Connection, tenant_id: str, name: str) -> Any:
    return await connection.fetchrow(
        """SELECT voice_id, model, vector, clean_ms FROM voices
           WHERE tenant_id = $1 AND lower(name) = lower($2) FOR UPDATE""",
        tenant_id,
        name,
    )


async def _insert(
    connection: Connection,
    tenant_id: str,
    name: str,
    speaker: speakers.Sound,
    *,
    by: str,
    at_ms: int,
    limits: Limits,
) -> str:
    count = await connection.fetchval("SELECT count(*) FROM voices WHERE tenant_id = $1", tenant_id)
    if count >= limits.voices_per_tenant_max:
        raise QuotaExceeded(f"A tenant has at most {limits.voices_per_tenant_max} voices.", field="enrol")
    voice_id = f"v_{uuid4().hex}"
    await connection.execute(
        """INSERT INTO voices (tenant_id, voice_id, name, model, vector, clean_ms, enrolled_by, enrolled_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, to_timestamp($8::bigint / 1000.0))""",
        tenant_id,
        voice_id,
        name,
        speaker.model,
        speaker.vector,
        speaker.clean_ms,
        by,
        at_ms,
    )
    return voice_id


async def _add(connection: Connection, tenant_id: str, voice: Any, speaker: speakers.Sound) -> None:
    vector, clean_ms = speaker.vector, speaker.clean_ms
    if voice["model"] == speaker.model:
        if likeness(voice["vector"], vector) < LIKENESS_MIN:
            raise Conflict("A voice of this name is there and sounds different. Choose another name.", field="name")
        vector, clean_ms = mean(voice["vector"], voice["clean_ms"], vector, clean_ms)
    await connection.execute(
        "UPDATE voices SET model = $3, vector = $4, clean_ms = $5 WHERE tenant_id = $1 AND voice_id = $2",
        tenant_id,
        voice["voice_id"],
        speaker.model,
        vector,
        clean_ms,
    )
