"""Recordings and their fencing rows.

One row in `streams` per recording says who may write: `epoch` grows with every takeover, and every write of a stream
names its epoch. Whoever holds an old epoch gets `Fenced`.

Boundary: SQL on a connection from `tenant_tx`; nothing is announced here.
"""

from typing import Any

import msgspec

from auth.model import RecordingRef, Visibility
from server.store.pool import Connection
from streaming.errors import Fenced, NotFound, RecordingBusy, StreamEnded
from streaming.model import AudioFormat, Encoding
from streaming.protocol.messages import Recording, UserInfo


class StreamOptions(msgspec.Struct, frozen=True):
    """What the client asked for at the start and a takeover keeps. `remote`: the tenant's name, if its finals
    come from the remote service; else empty."""

    endpointing_ms: int | None = None
    vocabulary: tuple[str, ...] = ()
    words: bool = False
    remote: str = ""
    task: str = "transcribe"
    preset: str = "conversation"
    diarize: bool = True


class RecordingRow(msgspec.Struct, frozen=True):
    """A recording as stored. Times are Unix milliseconds."""

    tenant_id: str
    recording_id: str
    owner_id: str
    owner_name: str
    title: str
    visibility: Visibility
    language: str
    state: str
    engine: str
    format: AudioFormat
    options: StreamOptions
    started_at: int
    ended_at: int | None
    duration_ms: int
    segment_count: int
    containers: tuple[int, ...] = (0,)
    """Bytes of the kept audio at which containers begin, ascending."""

    @property
    def ref(self) -> RecordingRef:
        return RecordingRef(tenant_id=self.tenant_id, owner_id=self.owner_id, visibility=self.visibility)

    @property
    def room(self) -> str:
        return f"recording:{self.recording_id}"

    @property
    def notice_room(self) -> str:
        """Where its start and end are told: the tenant, or only its owner."""
        if self.visibility is Visibility.PRIVATE:
            return f"user:{self.owner_id}"
        return f"tenant:{self.tenant_id}"

    def wire(self) -> Recording:
        return Recording(
            id=self.recording_id,
            title=self.title,
            owner=UserInfo(id=self.owner_id, name=self.owner_name, roles=[]),
            visibility=self.visibility.value,
            language=self.language,
            state=self.state,
            engine=self.engine,
            started_at=self.started_at,
            ended_at=self.ended_at,
            duration_ms=self.duration_ms,
            segment_count=self.segment_count,
        )


class StreamRow(msgspec.Struct, frozen=True):
    """The fencing row: position and owner of a live stream."""

    stream_id: str
    epoch: int
    committed_sample: int
    next_ordinal: int
    idle_ms: int
    """Since its client was last seen."""
    containers: tuple[int, ...] = (0,)
    """As in `RecordingRow`."""
    context: bytes = b""
    """The engine's, from the last final."""
    speakers: bytes = b""
    """The listener's (`streaming.listener`), likewise."""


SELECT = """
    SELECT r.recording_id, r.owner_id, u.name AS owner_name, r.title, r.visibility, r.language, r.state, r.engine,
           r.encoding, r.sample_rate, r.channels, r.options, r.duration_ms,
           (extract(epoch FROM r.started_at) * 1000)::bigint AS started_at,
           (extract(epoch FROM r.ended_at) * 1000)::bigint AS ended_at,
           coalesce(s.containers, '{0}') AS containers,
           r.segment_count + CASE WHEN r.state = 'live' THEN coalesce(s.next_ordinal - 1, 0) ELSE 0 END AS segment_count
    FROM recordings r
    JOIN users u ON u.tenant_id = r.tenant_id AND u.user_id = r.owner_id
    LEFT JOIN streams s ON s.tenant_id = r.tenant_id AND s.recording_id = r.recording_id
"""


def _row(tenant_id: str, row: Any) -> RecordingRow:
    return RecordingRow(
        tenant_id=tenant_id,
        recording_id=row["recording_id"],
        owner_id=row["owner_id"],
        owner_name=row["owner_name"],
        title=row["title"],
        visibility=Visibility(row["visibility"]),
        language=row["language"],
        state=row["state"],
        engine=row["engine"],
        format=AudioFormat(
            encoding=Encoding(row["encoding"]), sample_rate=row["sample_rate"], channels=row["channels"]
        ),
        options=msgspec.json.decode(row["options"], type=StreamOptions),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        duration_ms=row["duration_ms"],
        segment_count=row["segment_count"],
        containers=tuple(row["containers"]),
    )


async def insert(
    connection: Connection, row: RecordingRow, *, stream_id: str, node: str, lease_ms: int, token_hash: bytes
) -> None:
    """A new recording with its first stream (epoch 1)."""
    await connection.execute(
        """INSERT INTO recordings (tenant_id, recording_id, owner_id, title, visibility, language, state, engine,
                                   encoding, sample_rate, channels, options, started_at)
           VALUES ($1, $2, $3, $4, $5, $6, 'live', $7, $8, $9, $10, $11, to_timestamp($12::bigint / 1000.0))""",
        row.tenant_id,
        row.recording_id,
        row.owner_id,
        row.title,
        row.visibility.value,
        row.language,
        row.engine,
        row.format.encoding.value,
        row.format.sample_rate,
        row.format.channels,
        msgspec.json.encode(row.options).decode(),
        row.started_at,
    )
    await connection.execute(
        """INSERT INTO streams (tenant_id, recording_id, stream_id, epoch, node, lease_until, resume_token_hash)
           VALUES ($1, $2, $3, 1, $4, now() + $5 * interval '1 ms', $6)""",
        row.tenant_id,
        row.recording_id,
        stream_id,
        node,
        lease_ms,
        token_hash,
    )
    await connection.execute(
        "INSERT INTO passes (tenant_id, recording_id) VALUES ($1, $2)", row.tenant_id, row.recording_id
    )


async def get(connection: Connection, tenant_id: str, recording_id: str) -> RecordingRow:
    """Raises `NotFound`."""
    row = None
    if "\0" not in recording_id:  # Postgres' text cannot hold it, so no id has it
        row = await connection.fetchrow(
            SELECT + "WHERE r.tenant_id = $1 AND r.recording_id = $2", tenant_id, recording_id
        )
    if row is None:
        raise NotFound("There is no such recording.")
    return _row(tenant_id, row)


async def newest(
    connection: Connection, tenant_id: str, user_id: str, *, before: tuple[int, str] | None, limit: int
) -> list[RecordingRow]:
    """The recordings this user may see, newest first; `before`: (started_at, id) of the last one already seen."""
    rows = await connection.fetch(
        SELECT
        + """WHERE r.tenant_id = $1 AND (r.visibility = 'tenant' OR r.owner_id = $2)
               AND ($3::bigint IS NULL OR (r.started_at, r.recording_id) < (to_timestamp($3 / 1000.0), $4))
             ORDER BY r.started_at DESC, r.recording_id DESC LIMIT $5""",
        tenant_id,
        user_id,
        before[0] if before else None,
        before[1] if before else None,
        limit,
    )
    return [_row(tenant_id, row) for row in rows]


async def take_over(
    connection: Connection,
    tenant_id: str,
    recording_id: str,
    *,
    stream_id: str,
    node: str,
    lease_ms: int,
    token_hash: bytes | None,
    client_seen: bool,
) -> StreamRow:
    """Fence the present owner off and become it: epoch + 1.

    `token_hash` None is the server's own adoption of a stream whose lease ran out; it succeeds only then.
    Raises `StreamEnded`, or `RecordingBusy` for a wrong token or a lease that still runs."""
    row = await connection.fetchrow(
        """SELECT ended, resume_token_hash, lease_until < now() AS expired FROM streams
           WHERE tenant_id = $1 AND recording_id = $2 FOR UPDATE""",
        tenant_id,
        recording_id,
    )
    if row is None or row["ended"]:
        raise StreamEnded("This recording has ended.")
    if row["resume_token_hash"] != token_hash if token_hash is not None else not row["expired"]:
        raise RecordingBusy("Somebody else streams into this recording.", field="resume_token")
    taken = await connection.fetchrow(
        """UPDATE streams SET epoch = epoch + 1, stream_id = $3, node = $4, lease_until = now() + $5 * interval '1 ms',
                  client_seen_at = CASE WHEN $6 THEN now() ELSE client_seen_at END, adopted = $7
           WHERE tenant_id = $1 AND recording_id = $2
           RETURNING stream_id, epoch, committed_sample, next_ordinal, containers, context, speakers,
                     (extract(epoch FROM now() - client_seen_at) * 1000)::bigint AS idle_ms""",
        tenant_id,
        recording_id,
        stream_id,
        node,
        lease_ms,
        client_seen,
        token_hash is None,
    )
    return StreamRow(**{**dict(taken), "containers": tuple(taken["containers"])})


async def begin_container(
    connection: Connection, tenant_id: str, recording_id: str, epoch: int, offset: int
) -> tuple[int, ...]:
    """From byte `offset` on, which is durable, another container follows; returns where all begin. Raises `Fenced`."""
    containers = await connection.fetchval(
        """UPDATE streams SET containers = CASE WHEN $4 > containers[cardinality(containers)]
                                                THEN containers || $4::bigint ELSE containers END
           WHERE tenant_id = $1 AND recording_id = $2 AND epoch = $3 AND NOT ended RETURNING containers""",
        tenant_id,
        recording_id,
        epoch,
        offset,
    )
    if containers is None:
        raise Fenced("Another connection took this stream over.")
    return tuple(containers)


async def renew(
    connection: Connection,
    tenant_id: str,
    recording_id: str,
    epoch: int,
    *,
    lease_ms: int,
    settled_sample: int,
    client_seen: bool,
) -> None:
    """Keep the lease and move the committed sample over settled silence. Raises `Fenced`."""
    done = await connection.fetchval(
        """UPDATE streams SET lease_until = now() + $4 * interval '1 ms',
                  committed_sample = greatest(committed_sample, $5),
                  client_seen_at = CASE WHEN $6 THEN now() ELSE client_seen_at END
           WHERE tenant_id = $1 AND recording_id = $2 AND epoch = $3 AND NOT ended RETURNING 1""",
        tenant_id,
        recording_id,
        epoch,
        lease_ms,
        settled_sample,
        client_seen,
    )
    if done is None:
        raise Fenced("Another connection took this stream over.")


async def keep_speakers(connection: Connection, tenant_id: str, recording_id: str, epoch: int, state: bytes) -> bool:
    """Keep the listener's state (empty: leave what is there); False when the stream is of another epoch, or gone. It
    may have ended: what was found out of its last words comes after its end."""
    return bool(
        await connection.fetchval(
            """UPDATE streams SET speakers = coalesce(nullif($4, ''::bytea), speakers)
               WHERE tenant_id = $1 AND recording_id = $2 AND epoch = $3 RETURNING true""",
            tenant_id,
            recording_id,
            epoch,
            state,
        )
    )


async def adopted(connection: Connection, tenant_id: str, recording_id: str) -> bool:
    """Whether the stream goes on at a node that took it by itself: no other client has it."""
    return bool(
        await connection.fetchval(
            "SELECT adopted AND NOT ended FROM streams WHERE tenant_id = $1 AND recording_id = $2",
            tenant_id,
            recording_id,
        )
    )


async def release(connection: Connection, tenant_id: str, recording_id: str, epoch: int) -> None:
    """Give the lease back on an orderly shutdown, so that the next process adopts the stream at once."""
    await connection.execute(
        "UPDATE streams SET lease_until = now() WHERE tenant_id = $1 AND recording_id = $2 AND epoch = $3",
        tenant_id,
        recording_id,
        epoch,
    )


async def end(
    connection: Connection, tenant_id: str, recording_id: str, epoch: int, *, reason: str, duration_ms: int
) -> RecordingRow:
    """The stream is over: no epoch may write any more. Raises `Fenced`."""
    ordinal = await connection.fetchval(
        """UPDATE streams SET ended = true WHERE tenant_id = $1 AND recording_id = $2 AND epoch = $3 AND NOT ended
           RETURNING next_ordinal""",
        tenant_id,
        recording_id,
        epoch,
    )
    if ordinal is None:
        raise Fenced("Another connection took this stream over.")
    await connection.execute(
        "UPDATE passes SET due_at = now() WHERE tenant_id = $1 AND recording_id = $2", tenant_id, recording_id
    )
    await connection.execute(
        """UPDATE recordings SET state = 'ended', end_reason = $3, duration_ms = $4, ended_at = now(),
                  segment_count = segment_count + $5
           WHERE tenant_id = $1 AND recording_id = $2""",
        tenant_id,
        recording_id,
        reason,
        duration_ms,
        ordinal - 1,
    )
    return await get(connection, tenant_id, recording_id)


async def expired(connection: Connection, *, limit: int) -> list[tuple[str, str]]:
    """(tenant, recording) of live streams whose lease ran out, of all tenants."""
    rows = await connection.fetch("SELECT tenant_id, recording_id FROM expired_streams($1)", limit)
    return [(row["tenant_id"], row["recording_id"]) for row in rows]
