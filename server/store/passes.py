"""How far the second pass over a recording is: one row for each recording, one for each piece that was read.

Policy: a recording is due when it ended, when enough of a long one is there, or when somebody asked. Whoever works on
it holds it by a lease, which saves work and guards nothing: a piece is written once (its number is the key), and what
goes into the transcript is written only by who knows how often that was done before (`merges`).

Boundary: SQL on a connection from `tenant_tx`; `due` sees names of all tenants. Invariant: pieces of a round follow
each other without a gap, and are never changed."""

import msgspec

from server.store.pool import Connection
from server.store.revisions import Held
from server.store.segments import COLUMNS, from_row
from streaming.diariser.heard import Heard
from streaming.errors import NotFound
from streaming.transcript.merge import Spoken


class Windows(msgspec.Struct, frozen=True, array_like=True):
    """What a diariser heard: (start_sample, window) in order. `model`: whose vectors these are."""

    model: str
    heard: tuple[tuple[int, Heard], ...]


class PieceRow(msgspec.Struct, frozen=True):
    number: int
    start_sample: int
    end_sample: int
    spoken: tuple[Spoken, ...]


class PassRow(msgspec.Struct, frozen=True):
    """`ended`: no stream adds anything any more; `committed_sample`: before it nothing is added; `read_sample`,
    `pieces`: where the next piece begins, and how many there are; `merged_sample`: before it, as `merged_pieces` say,
    the transcript has what was read; `asked`: somebody wants it, whatever its age."""

    state: str
    round: int
    merges: int
    merged_pieces: int
    merged_sample: int
    pieces: int
    read_sample: int
    tries: int
    ended: bool
    committed_sample: int


async def due(connection: Connection, *, node: str, limit: int) -> list[tuple[str, str, float]]:
    """(tenant, recording, seconds that it waits) of all tenants that `node` may claim, the longest first."""
    rows = await connection.fetch("SELECT * FROM passes_due($1, $2)", node, limit)
    return [(row["tenant_id"], row["recording_id"], row["behind_s"]) for row in rows]


async def claim(connection: Connection, tenant_id: str, recording_id: str, *, node: str, lease_ms: int) -> bool:
    """Begin to work on it; False when another node does, or there is nothing to do now."""
    return bool(
        await connection.fetchval(
            """UPDATE passes SET held_until = now() + $4 * interval '1 ms', held_by = $3
               WHERE tenant_id = $1 AND recording_id = $2 AND state = 'waiting' AND due_at <= now()
                 AND (held_until <= now() OR held_by = $3) RETURNING true""",
            tenant_id,
            recording_id,
            node,
            lease_ms,
        )
    )


async def renew(connection: Connection, tenant_id: str, recording_id: str, *, node: str, lease_ms: int) -> None:
    await connection.execute(
        """UPDATE passes SET held_until = now() + $4 * interval '1 ms'
           WHERE tenant_id = $1 AND recording_id = $2 AND held_by = $3""",
        tenant_id,
        recording_id,
        node,
        lease_ms,
    )


async def leave(
    connection: Connection,
    tenant_id: str,
    recording_id: str,
    *,
    node: str,
    again_s: float | None,
    state: str = "waiting",
) -> None:
    """Give the lease back. `again_s`: when to look again, None as before."""
    await connection.execute(
        """UPDATE passes SET held_until = '-infinity', held_by = '', state = $5,
                  due_at = CASE WHEN $4::double precision IS NULL THEN due_at
                                ELSE now() + make_interval(secs => $4) END
           WHERE tenant_id = $1 AND recording_id = $2 AND held_by = $3 AND state = 'waiting'""",
        tenant_id,
        recording_id,
        node,
        again_s,
        state,
    )


async def get(connection: Connection, tenant_id: str, recording_id: str) -> PassRow:
    """Raises `NotFound` when the recording is gone, or never had a pass."""
    row = await connection.fetchrow(
        """SELECT p.state, p.round, p.merges, p.merged_pieces, p.tries, r.state = 'ended' AS ended,
                  coalesce(s.committed_sample, 0) AS committed_sample,
                  coalesce(max(c.number), 0) AS pieces, coalesce(max(c.end_sample), 0) AS read_sample,
                  coalesce(max(c.end_sample) FILTER (WHERE c.number <= p.merged_pieces), 0) AS merged_sample
           FROM passes p JOIN recordings r USING (tenant_id, recording_id)
           LEFT JOIN streams s USING (tenant_id, recording_id)
           LEFT JOIN pass_pieces c ON c.tenant_id = p.tenant_id AND c.recording_id = p.recording_id
                                      AND c.round = p.round
           WHERE p.tenant_id = $1 AND p.recording_id = $2
           GROUP BY p.state, p.round, p.merges, p.merged_pieces, p.tries, r.state, s.committed_sample""",
        tenant_id,
        recording_id,
    )
    if row is None:
        raise NotFound("There is no such recording.")
    return PassRow(**row)


async def begin_try(connection: Connection, tenant_id: str, recording_id: str) -> int:
    """Count a try of the next piece before it is made, so that one which kills this process counts too."""
    tries: int | None = await connection.fetchval(
        "UPDATE passes SET tries = tries + 1 WHERE tenant_id = $1 AND recording_id = $2 RETURNING tries",
        tenant_id,
        recording_id,
    )
    if tries is None:
        raise NotFound("There is no such recording.")
    return tries


async def forgive(connection: Connection, tenant_id: str, recording_id: str) -> None:
    """The last try did not count: nothing was wrong with the piece."""
    await connection.execute(
        "UPDATE passes SET tries = greatest(tries - 1, 0) WHERE tenant_id = $1 AND recording_id = $2",
        tenant_id,
        recording_id,
    )


async def add_piece(
    connection: Connection, tenant_id: str, recording_id: str, round_: int, piece: PieceRow, windows: Windows | None
) -> None:
    """Once: a second one of the same number changes nothing. Raises `NotFound` when the recording is gone."""
    here = await connection.fetchval(
        """UPDATE passes SET tries = 0 WHERE tenant_id = $1 AND recording_id = $2 AND round = $3 RETURNING true""",
        tenant_id,
        recording_id,
        round_,
    )
    if here is None:
        raise NotFound("There is no such recording.")
    await connection.execute(
        """INSERT INTO pass_pieces (tenant_id, recording_id, round, number, start_sample, end_sample, words, windows)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING""",
        tenant_id,
        recording_id,
        round_,
        piece.number,
        piece.start_sample,
        piece.end_sample,
        msgspec.msgpack.encode(piece.spoken),
        None if windows is None else msgspec.msgpack.encode(windows),
    )


async def pieces(
    connection: Connection, tenant_id: str, recording_id: str, round_: int, *, after: int, upto: int
) -> list[PieceRow]:
    """Pieces with numbers in (`after`, `upto`], in order."""
    rows = await connection.fetch(
        """SELECT number, start_sample, end_sample, words FROM pass_pieces
           WHERE tenant_id = $1 AND recording_id = $2 AND round = $3 AND number > $4 AND number <= $5
           ORDER BY number""",
        tenant_id,
        recording_id,
        round_,
        after,
        upto,
    )
    return [
        PieceRow(
            row["number"],
            row["start_sample"],
            row["end_sample"],
            msgspec.msgpack.decode(row["words"], type=tuple[Spoken, ...]),
        )
        for row in rows
    ]


async def windows(
    connection: Connection, tenant_id: str, recording_id: str, round_: int, *, upto: int
) -> list[Windows]:
    """What was heard of voices in pieces up to this number, in order."""
    rows = await connection.fetch(
        """SELECT windows FROM pass_pieces WHERE tenant_id = $1 AND recording_id = $2 AND round = $3 AND number <= $4
             AND windows IS NOT NULL ORDER BY number""",
        tenant_id,
        recording_id,
        round_,
        upto,
    )
    return [msgspec.msgpack.decode(row["windows"], type=Windows) for row in rows]


async def transcript(
    connection: Connection, tenant_id: str, recording_id: str, start_ms: int, end_ms: int | None
) -> list[Held]:
    """Segments that share time with [start, end), in order, without a lock."""
    rows = await connection.fetch(
        f"""SELECT {COLUMNS}, edited FROM segments
            WHERE tenant_id = $1 AND recording_id = $2 AND end_ms > $3 AND ($4::bigint IS NULL OR start_ms < $4)
            ORDER BY start_ms, ordinal, segment_id""",  # noqa: S608
        tenant_id,
        recording_id,
        start_ms,
        end_ms,
    )
    return [Held(from_row(row), row["edited"]) for row in rows]


async def merged(
    connection: Connection, tenant_id: str, recording_id: str, row: PassRow, *, pieces: int, done: bool
) -> bool:
    """In the transaction that writes what was merged: pieces up to this number are in the transcript now. False when
    somebody else did that since `row` was read: then nothing of it may be written."""
    written = bool(
        await connection.fetchval(
            """UPDATE passes SET merges = merges + 1, merged_pieces = $5, tries = 0,
                      state = CASE WHEN $6 THEN 'done' ELSE state END
               WHERE tenant_id = $1 AND recording_id = $2 AND round = $3 AND merges = $4 AND state = 'waiting'
               RETURNING true""",
            tenant_id,
            recording_id,
            row.round,
            row.merges,
            pieces,
            done,
        )
    )
    if written and done:
        await forget_pieces(connection, tenant_id, recording_id)
    return written


async def forget_pieces(connection: Connection, tenant_id: str, recording_id: str) -> None:
    """What was read is in the transcript, or no good."""
    await connection.execute(
        "DELETE FROM pass_pieces WHERE tenant_id = $1 AND recording_id = $2", tenant_id, recording_id
    )


async def ask(connection: Connection, tenant_id: str, recording_id: str) -> bool:
    """Read all of an ended recording once more, now; False when a pass over it is under way."""
    return bool(
        await connection.fetchval(
            """INSERT INTO passes AS p (tenant_id, recording_id, due_at) VALUES ($1, $2, now())
               ON CONFLICT (tenant_id, recording_id) DO UPDATE
               SET state = 'waiting', round = p.round + 1, merged_pieces = 0, tries = 0, due_at = now()
               WHERE p.state <> 'waiting' RETURNING true""",
            tenant_id,
            recording_id,
        )
    )
