"""From a token to a caller who still belongs: the signature first, then the membership as it is now."""

import time
from collections.abc import Callable

from auth.errors import Unauthenticated
from auth.model import Identity
from auth.tokens import issue, verify
from server.store.identity import IdentityStore


class Authenticator:
    """Callable: `await authenticator(token) -> Identity`. Raises `Unauthenticated`, `Unavailable`."""

    def __init__(
        self, store: IdentityStore, *, secret: str, ttl_s: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._secret = secret
        self._ttl_s = ttl_s
        self._clock = clock

    async def __call__(self, token: str) -> Identity:
        claimed = verify(token, secret=self._secret, now=int(self._clock()))
        current = await self._store.identity_of(claimed.tenant_id, claimed.user_id, expires_at=claimed.expires_at)
        if current is None:
            raise Unauthenticated("This token's user is no longer a member.", field="token")
        return current

    async def redeem(self, code: str) -> tuple[str, Identity]:
        """A one-time login code's token. Raises `Unauthenticated`."""
        return self.token(await self._store.redeem_login_link(code))

    def token(self, identity: Identity) -> tuple[str, Identity]:
        """A fresh token and the identity with its end."""
        now = int(self._clock())
        token = issue(identity, secret=self._secret, now=now, ttl_s=self._ttl_s)
        return token, verify(token, secret=self._secret, now=now)
