"""May this caller read this recording, this room? The look-up behind every door that shows one.

What is not there and what the caller may not see are the same answer, `NotFound`.
"""

from auth.model import Action, Identity, TenantRef, UserRef
from auth.policy import access
from server.rooms.hub import RoomKey
from server.store import recordings
from server.store.pool import Database
from streaming.errors import NotFound


async def readable_recording(database: Database, who: Identity, recording_id: str) -> recordings.RecordingRow:
    """Raises `NotFound`, `Unavailable`."""
    async with database.tenant_tx(who.tenant_id) as connection:
        row = await recordings.get(connection, who.tenant_id, recording_id)
    access(who, Action.READ, row.ref)
    return row


async def readable_room(database: Database, who: Identity, room: str) -> RoomKey:
    """The room's key. Raises `NotFound`, `Unavailable`."""
    kind, _, name = room.partition(":")
    match kind:
        case "tenant":
            access(who, Action.READ, TenantRef(tenant_id=name))
        case "user":
            access(who, Action.READ, UserRef(tenant_id=who.tenant_id, user_id=name))
        case "recording":
            await readable_recording(database, who, name)
        case _:
            raise NotFound("There is no such room.", field="room")
    return (who.tenant_id, room)
