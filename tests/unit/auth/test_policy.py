"""The one door, pure: every role, action and resource."""

import itertools

import pytest

from auth.errors import Forbidden, NotFound
from auth.model import Action, Identity, RecordingRef, Resource, Role, TenantRef, UserRef, Visibility
from auth.policy import access


def somebody(role: Role = Role.OWNER, *, user: str = "ann", tenant: str = "acme") -> Identity:
    return Identity(user_id=user, user_name=user, tenant_id=tenant, tenant_name=tenant, role=role, expires_at=2**40)


ANNS: tuple[Resource, ...] = (
    TenantRef(tenant_id="acme"),
    UserRef(tenant_id="acme", user_id="ann"),
    RecordingRef(tenant_id="acme", owner_id="ann", visibility=Visibility.TENANT),
    RecordingRef(tenant_id="acme", owner_id="ann", visibility=Visibility.PRIVATE),
)


@pytest.mark.parametrize(("role", "action", "what"), list(itertools.product(Role, Action, ANNS)))
def test_another_tenant_learns_nothing_even_with_the_same_user_id(role: Role, action: Action, what: Resource) -> None:
    with pytest.raises(NotFound):
        access(somebody(role, tenant="evil"), action, what)


@pytest.mark.parametrize("role", list(Role))
def test_the_owner_reads_everything_of_hers(role: Role) -> None:
    for what in ANNS:
        access(somebody(role), Action.READ, what)


@pytest.mark.parametrize(("role", "action"), list(itertools.product(Role, Action)))
def test_colleagues_see_neither_her_notices_nor_her_private_recordings(role: Role, action: Action) -> None:
    for what in (ANNS[1], ANNS[3]):
        with pytest.raises(NotFound):
            access(somebody(role, user="bob"), action, what)


def test_only_owners_and_admins_have_recordings_read_again() -> None:
    for role in Role:
        if role in (Role.OWNER, Role.ADMIN):
            access(somebody(role), Action.REREAD, ANNS[2])
        else:
            with pytest.raises(Forbidden, match="read again"):
                access(somebody(role), Action.REREAD, ANNS[2])


def test_only_a_viewer_may_not_record() -> None:
    for role in Role:
        for what in (ANNS[0], ANNS[2]):
            if role is Role.VIEWER:
                with pytest.raises(Forbidden):
                    access(somebody(role), Action.RECORD, what)
            else:
                access(somebody(role), Action.RECORD, what)
