"""The one door: may this caller do this to that?

Every path to a room, a recording, a segment or its media goes through `access`. A caller of another tenant, and
anybody but the owner of a private recording, learns nothing: the answer is `NotFound`, as if it were not there.
`Forbidden` is for what the caller can see but not do.

Pure. Invariant: no path returns normally for a resource of another tenant.
"""

from auth.errors import Forbidden, NotFound
from auth.model import Action, Identity, RecordingRef, Resource, Role, TenantRef, UserRef, Visibility

WRITERS = frozenset({Role.OWNER, Role.ADMIN, Role.MEMBER})
OPERATORS = frozenset({Role.OWNER, Role.ADMIN})
ROLES = {
    Action.RECORD: (WRITERS, "record"),
    Action.EDIT: (WRITERS, "change what is there"),
    Action.ANALYSE: (OPERATORS, "see what others look for"),
    Action.REREAD: (OPERATORS, "have recordings read again"),
}
"""Who may do what not everybody may, and how that is said to the others."""


def access(who: Identity, action: Action, what: Resource) -> None:
    """Return when `who` may do `action` to `what`; raise `NotFound` or `Forbidden` otherwise."""
    if what.tenant_id != who.tenant_id:
        raise NotFound("There is nothing here by that name.")
    match what:
        case UserRef(user_id=user_id) if user_id != who.user_id:
            raise NotFound("There is nothing here by that name.")
        case RecordingRef(visibility=Visibility.PRIVATE, owner_id=owner_id) if owner_id != who.user_id:
            raise NotFound("There is nothing here by that name.")
        case RecordingRef() | TenantRef() | UserRef():
            pass
    allowed, doing = ROLES.get(action, (frozenset(Role), ""))
    if who.role not in allowed:
        raise Forbidden(f"The role {who.role.value} may watch and search but not {doing}.")
