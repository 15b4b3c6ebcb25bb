"""The vocabulary of identity: who calls, in which tenant, with which role."""

from enum import Enum

import msgspec


class Role(Enum):
    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"


class Identity(msgspec.Struct, frozen=True):
    """A verified caller. `expires_at`: Unix seconds after which the token no longer counts."""

    user_id: str
    user_name: str
    tenant_id: str
    tenant_name: str
    role: Role
    expires_at: int


class Visibility(Enum):
    TENANT = "tenant"
    PRIVATE = "private"


class Action(Enum):
    """What a caller wants of a resource."""

    READ = "read"
    RECORD = "record"
    """Start a stream or take one over."""
    EDIT = "edit"
    """Correct what was recognised, name speakers, enrol and delete voices."""
    ANALYSE = "analyse"
    """See what the tenant's people look for, without their names."""
    REREAD = "reread"
    """Have kept audio read once more, which takes a core for some time."""


class RecordingRef(msgspec.Struct, frozen=True):
    """What the policy must know of a recording, a segment of it, or its media."""

    tenant_id: str
    owner_id: str
    visibility: Visibility


class TenantRef(msgspec.Struct, frozen=True):
    """The tenant itself: its room, starting a new recording."""

    tenant_id: str


class UserRef(msgspec.Struct, frozen=True):
    """One person of a tenant: the `user:` room."""

    tenant_id: str
    user_id: str


Resource = RecordingRef | TenantRef | UserRef
