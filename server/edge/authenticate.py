"""From a token to a caller who still belongs: the signature first, then the membership as it is now."""

import time
from collections.abc import Callable

from auth.errors import Unauthenticated
from auth.model import Identity
from auth.tokens import issue, issue_ticket, verify, verify_ticket
from server.store.identity import IdentityStore
from streaming.errors import Unavailable


class Authenticator:
    """Callable: `await authenticator(token) -> Identity`. Raises `Unauthenticated`, `Unavailable`.

    Until `open` has told it the secret everybody is `Unavailable`: the server answers while it starts."""

    def __init__(self, store: IdentityStore, *, ttl_s: int, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._opened: str | None = None
        self._ttl_s = ttl_s
        self._clock = clock

    def open(self, secret: str) -> None:
        self._opened = secret

    @property
    def _secret(self) -> str:
        if self._opened is None:
            raise Unavailable("The server is starting.", retry_after_ms=1_000)
        return self._opened

    async def __call__(self, token: str) -> Identity:
        claimed = verify(token, secret=self._secret, now=int(self._clock()))
        return await self._current(claimed.tenant_id, claimed.user_id, claimed.expires_at, "token")

    async def by_ticket(self, ticket: str, path: str) -> Identity:
        """Whose ticket for `path` this is, as a member now. Raises `Unauthenticated`, `Unavailable`."""
        claimed = verify_ticket(ticket, path, secret=self._secret, now=int(self._clock()))
        return await self._current(claimed.tenant_id, claimed.user_id, claimed.expires_at, "ticket")

    async def _current(self, tenant_id: str, user_id: str, expires_at: int, what: str) -> Identity:
        current = await self._store.identity_of(tenant_id, user_id, expires_at=expires_at)
        if current is None:
            raise Unauthenticated(f"This {what}'s user is no longer a member.", field=what)
        return current

    def ticket(self, identity: Identity, path: str) -> tuple[str, int]:
        """A ticket for `path`, and its end (Unix seconds)."""
        return issue_ticket(identity, path, secret=self._secret, now=int(self._clock()))

    async def redeem(self, code: str) -> tuple[str, Identity]:
        """A one-time login code's token. Raises `Unauthenticated`."""
        return self.token(await self._store.redeem_login_link(code))

    def token(self, identity: Identity) -> tuple[str, Identity]:
        """A fresh token and the identity with its end."""
        now = int(self._clock())
        token = issue(identity, secret=self._secret, now=now, ttl_s=self._ttl_s)
        return token, verify(token, secret=self._secret, now=now)
