"""How many live streams a user, a tenant and this node may have.

Only what is new is refused. A stream that comes back, or whose node died, always finds room: it was promised that
nothing is lost.
"""

from collections.abc import Iterable

from auth.model import Identity
from streaming.errors import Overloaded, QuotaExceeded
from streaming.limits import Limits

Owner = tuple[str, str]
"""Tenant and user."""


def check_room(who: Identity, streams: Iterable[Owner], limits: Limits) -> None:
    """Room for one more stream of this person beside these. Raises `QuotaExceeded`, `Overloaded`."""
    taken = list(streams)
    of_user = sum(owner == (who.tenant_id, who.user_id) for owner in taken)
    of_tenant = sum(tenant_id == who.tenant_id for tenant_id, _ in taken)
    retry_ms = limits.streams_retry_ms
    if of_user >= limits.streams_per_user_max:
        raise QuotaExceeded(f"At most {limits.streams_per_user_max} live streams of one user.", retry_after_ms=retry_ms)
    if of_tenant >= limits.streams_per_tenant_max:
        raise QuotaExceeded(
            f"At most {limits.streams_per_tenant_max} live streams of one tenant.", retry_after_ms=retry_ms
        )
    if len(taken) >= limits.streams_max:
        raise Overloaded("This node has no place for another live stream.", retry_after_ms=retry_ms)
