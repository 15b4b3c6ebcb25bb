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
           ON CONFLICT (tenant_id, room) DO UPDATE SET seq = r.seq + excluded.seq
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
