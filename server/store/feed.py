"""The event log: one gapless sequence per room, in the same transaction as what it tells of.

Numbers come from a counter row (`rooms.seq`), never from a SEQUENCE, so an aborted transaction leaves no gap. Rows are
locked in sorted order of room names: two writers never deadlock.

Boundary: SQL on a connection that the caller got from `tenant_tx`. Invariant: seq of a room is 1, 2, 3, ...
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from server.store.pool import Connection
from streaming.errors import HistoryTruncated


class Draft(msgspec.Struct, frozen=True):
    """An event about to be logged. `body`: JSON-ready fields without event, room, seq and at."""

    room: str
    event: str
    body: dict[str, Any]


class Event(msgspec.Struct, frozen=True):
    """A logged event. `at`: Unix milliseconds."""

    tenant_id: str
    room: str
    seq: int
    at: int
    event: str
    body: dict[str, Any]

    def wire(self) -> dict[str, Any]:
        """The object of the durable event as clients get it."""
        return {"event": self.event, "room": self.room, "seq": self.seq, "at": self.at, **self.body}


class Head(msgspec.Struct, frozen=True):
    """The newest and the oldest sequence number of a room; seq 0 means no event yet."""

    seq: int
    first_seq: int


async def append(connection: Connection, tenant_id: str, drafts: Sequence[Draft], *, at_ms: int) -> list[Event]:
    """Number and store `drafts` in their order. Part of the caller's transaction; announce only after its commit."""
    counts = Counter(draft.room for draft in drafts)
    rooms = sorted(counts)
    rows = await connection.fetch(
        """INSERT INTO rooms AS r (tenant_id, room, seq)
           SELECT $1, c.room, c.n FROM unnest($2::text[], $3::bigint[]) WITH ORDINALITY AS c(room, n, i) ORDER BY c.i
           ON CONFLICT (tenant_id, room) DO UPDATE
           SET seq = r.seq + excluded.seq, oldest_at = least(r.oldest_at, excluded.oldest_at)
           RETURNING room, seq""",
        tenant_id,
        rooms,
        [counts[room] for room in rooms],
    )
    following = {row["room"]: row["seq"] - counts[row["room"]] + 1 for row in rows}
    events = []
    for draft in drafts:
        seq = following[draft.room]
        following[draft.room] += 1
        events.append(Event(tenant_id, draft.room, seq, at_ms, draft.event, draft.body))
    await connection.execute(
        """INSERT INTO events (tenant_id, room, seq, at, event, body)
           SELECT $1, e.room, e.seq, to_timestamp($2::bigint / 1000.0), e.event, e.body::jsonb
           FROM unnest($3::text[], $4::bigint[], $5::text[], $6::text[]) AS e(room, seq, event, body)""",
        tenant_id,
        at_ms,
        [event.room for event in events],
        [event.seq for event in events],
        [event.event for event in events],
        [msgspec.json.encode(event.body).decode() for event in events],
    )
    return events


async def head(connection: Connection, tenant_id: str, room: str) -> Head:
    """Where the room's log stands; (0, 1) for a room nobody wrote to yet."""
    row = await connection.fetchrow(
        "SELECT seq, first_seq FROM rooms WHERE tenant_id = $1 AND room = $2", tenant_id, room
    )
    return Head(row["seq"], row["first_seq"]) if row else Head(0, 1)


async def behind(connection: Connection, known: Sequence[tuple[str, str, int]]) -> list[tuple[str, str]]:
    """Of rooms (tenant id, name, seq) those whose log goes on after seq. In a transaction of any tenant or none."""
    rows = await connection.fetch(
        "SELECT place FROM rooms_behind($1, $2, $3)",
        [tenant_id for tenant_id, _, _ in known],
        [room for _, room, _ in known],
        [seq for _, _, seq in known],
    )
    return [known[row["place"] - 1][:2] for row in rows]


async def read(connection: Connection, tenant_id: str, room: str, *, after_seq: int, limit: int) -> list[Event]:
    """At most `limit` events after `after_seq`, in order."""
    rows = await connection.fetch(
        """SELECT seq, (extract(epoch FROM at) * 1000)::bigint AS at, event, body FROM events
           WHERE tenant_id = $1 AND room = $2 AND seq > $3 ORDER BY seq LIMIT $4""",
        tenant_id,
        room,
        after_seq,
        limit,
    )
    return [
        Event(tenant_id, room, row["seq"], row["at"], row["event"], msgspec.json.decode(row["body"])) for row in rows
    ]


async def page(
    connection: Connection, tenant_id: str, room: str, *, after_seq: int, limit: int
) -> tuple[Head, list[Event]]:
    """Where the log stands, and its events after `after_seq`, at most `limit`: one moment of both.

    Raises `HistoryTruncated` when the next event after `after_seq` is gone."""
    rows = await connection.fetch(
        """SELECT r.seq AS head, r.first_seq, e.seq, e.at, e.event, e.body FROM rooms r LEFT JOIN LATERAL (
               SELECT seq, (extract(epoch FROM at) * 1000)::bigint AS at, event, body FROM events
               WHERE tenant_id = r.tenant_id AND room = r.room AND seq > $3 ORDER BY seq LIMIT $4) e ON true
           WHERE r.tenant_id = $1 AND r.room = $2 ORDER BY e.seq""",
        tenant_id,
        room,
        after_seq,
        limit,
    )
    head = Head(rows[0]["head"], rows[0]["first_seq"]) if rows else Head(0, 1)
    if after_seq < head.first_seq - 1:
        raise HistoryTruncated("The oldest events of this room are gone.", first_seq=head.first_seq)
    return head, [
        Event(tenant_id, room, row["seq"], row["at"], row["event"], msgspec.json.decode(row["body"]))
        for row in rows
        if row["seq"] is not None
    ]


async def expire(connection: Connection, *, age_s: float, limit: int) -> tuple[int, bool]:
    """Delete at most `limit` events of all tenants that are older than `age_s`; how many went, and whether there may be
    more. Each log loses its beginning only, and `first_seq` tells."""
    row = await connection.fetchrow("SELECT deleted, more FROM expire_events($1, $2)", age_s, limit)
    return row["deleted"], row["more"]
