"""What a speaker's label means now, for whoever is about to write segments with it.

Policy: a merge renames a label for good, but streams and passes that began before it go on saying the old one. So
every transaction that writes segments asks here first, and writes what the label means. The rows stay locked (shared)
until it ends, and a merge takes them exclusively: what was written before it is renamed by it, what comes later is
written with the new label.

Boundary: SQL on a connection from `tenant_tx`. Locks are taken in this order: streams, voices, speakers, segments,
rooms.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from server.store.pool import Connection
from streaming.model import Segment

Place = tuple[str, str]
"""(recording, label)."""


async def meanings(connection: Connection, tenant_id: str, places: Collection[Place]) -> Mapping[Place, str]:
    """The label that each of these means; for every one a row is there from now on."""
    if not places:
        return {}
    ordered = sorted(places)
    given = [recording_id for recording_id, _ in ordered], [label for _, label in ordered]
    await connection.execute(
        """INSERT INTO recording_speakers (tenant_id, recording_id, label)
           SELECT $1, x.recording_id, x.label FROM unnest($2::text[], $3::text[]) AS x(recording_id, label)
           ON CONFLICT DO NOTHING""",
        tenant_id,
        *given,
    )
    rows = await connection.fetch(
        """SELECT s.recording_id, s.label, coalesce(s.merged_into, s.label) AS means FROM recording_speakers s
           JOIN unnest($2::text[], $3::text[]) AS x(recording_id, label)
             ON s.recording_id = x.recording_id AND s.label = x.label
           WHERE s.tenant_id = $1 ORDER BY s.recording_id, s.label FOR SHARE OF s""",
        tenant_id,
        *given,
    )
    return {(row["recording_id"], row["label"]): row["means"] for row in rows}


async def resolved(
    connection: Connection, tenant_id: str, items: Sequence[tuple[str, Segment]]
) -> list[tuple[str, Segment]]:
    """(recording, segment): the same segments with the labels that count."""
    places = {(recording_id, segment.speaker) for recording_id, segment in items if segment.speaker is not None}
    means = await meanings(connection, tenant_id, places)
    return [
        (
            recording_id,
            segment
            if segment.speaker is None or means[recording_id, segment.speaker] == segment.speaker
            else msgspec.structs.replace(segment, speaker=means[recording_id, segment.speaker]),
        )
        for recording_id, segment in items
    ]
