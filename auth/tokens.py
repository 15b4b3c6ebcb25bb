"""Access tokens and tickets: who the caller is, signed by this installation (JWT, RFC 7519, HS256).

A ticket stands in a URL where a browser cannot set headers: it opens one path for ten minutes and nothing else. Its
audience tells it from a token, so that neither is ever taken for the other.

Policy: HS256 is the only algorithm, the secret the only key; a token that names another algorithm, issuer or shape is
refused. Revocation is not the token's business: `server.store.identity.identity_of` says whether the membership still
exists and what its role is now.

Boundary: a value in, a value out; the time is the caller's. Invariant: no error text carries any part of a token.
"""

import uuid
from typing import Any

import jwt
import msgspec

from auth.errors import Unauthenticated
from auth.model import Identity, Role

ALGORITHM = "HS256"
ISSUER = "parlance"
TICKET_AUDIENCE = "parlance:ticket"
TICKET_S = 600
"""PROTOCOL.md: ten minutes."""
TOKEN_CHARS_MAX = 4_096
"""Longest token that is looked at; as `streaming.limits.token_chars_max`, which this package may not import."""
SECRET_CHARS_MIN = 32
"""RFC 7518, 3.2: a key of at least the hash's 256 bits."""
ID_CHARS_MAX = 100
NAME_CHARS_MAX = 200


class _Claims(msgspec.Struct, frozen=True):
    """The claims of an access token. `tid`, `tname`: the tenant; times in Unix seconds."""

    iss: str
    sub: str
    name: str
    tid: str
    tname: str
    role: Role
    iat: int
    exp: int
    jti: str


class _TicketClaims(msgspec.Struct, frozen=True):
    """The claims of a ticket. `path`: the only one that it opens."""

    iss: str
    aud: str
    sub: str
    tid: str
    path: str
    iat: int
    exp: int
    jti: str


class Ticket(msgspec.Struct, frozen=True):
    """A verified ticket: who asked for it."""

    tenant_id: str
    user_id: str
    expires_at: int


def issue(identity: Identity, *, secret: str, now: int, ttl_s: int) -> str:
    """Sign a token for `identity`, valid for `ttl_s` seconds from `now` (Unix seconds).

    `identity.expires_at` is not looked at: the token's own end is `now + ttl_s`. Raises ValueError for a secret below
    32 characters or a `ttl_s` below 1.
    """
    _check_secret(secret)
    if ttl_s < 1:
        raise ValueError("a token must live for at least one second")
    claims = _Claims(
        iss=ISSUER,
        sub=identity.user_id,
        name=identity.user_name,
        tid=identity.tenant_id,
        tname=identity.tenant_name,
        role=identity.role,
        iat=now,
        exp=now + ttl_s,
        jti=uuid.uuid4().hex,
    )
    return jwt.encode(msgspec.to_builtins(claims), secret, algorithm=ALGORITHM)


def issue_ticket(identity: Identity, path: str, *, secret: str, now: int) -> tuple[str, int]:
    """A ticket of `identity` for `path`, and its end (Unix seconds)."""
    _check_secret(secret)
    claims = _TicketClaims(
        iss=ISSUER,
        aud=TICKET_AUDIENCE,
        sub=identity.user_id,
        tid=identity.tenant_id,
        path=path,
        iat=now,
        exp=now + TICKET_S,
        jti=uuid.uuid4().hex,
    )
    return jwt.encode(msgspec.to_builtins(claims), secret, algorithm=ALGORITHM), claims.exp


def verify_ticket(ticket: str, path: str, *, secret: str, now: int) -> Ticket:
    """Whose ticket for `path` this is. Raises `Unauthenticated`."""
    payload = _payload(ticket, secret, "ticket")
    if payload.get("aud") != TICKET_AUDIENCE:
        raise Unauthenticated("This is no ticket of Parlance.", field="ticket")
    try:
        claims = msgspec.convert(payload, _TicketClaims)
    except msgspec.ValidationError:
        raise Unauthenticated("The ticket lacks a claim that it must carry.", field="ticket") from None
    if claims.exp <= now:
        raise Unauthenticated("The ticket has expired.", field="ticket")
    if claims.path != path:
        raise Unauthenticated("The ticket is for another path.", field="ticket")
    return Ticket(tenant_id=claims.tid, user_id=claims.sub, expires_at=claims.exp)


def verify(token: str, *, secret: str, now: int) -> Identity:
    """The identity in `token`. Raises `Unauthenticated` with one sentence that says what is wrong."""
    claims = _claims(token, secret)
    if claims.exp <= now:
        raise Unauthenticated("The token has expired.", field="token")
    return Identity(
        user_id=claims.sub,
        user_name=claims.name,
        tenant_id=claims.tid,
        tenant_name=claims.tname,
        role=claims.role,
        expires_at=claims.exp,
    )


def _check_secret(secret: str) -> None:
    if len(secret) < SECRET_CHARS_MIN:
        raise ValueError("the signing secret must have at least 32 characters")


def _payload(text: str, secret: str, what: str) -> dict[str, Any]:
    """What `text`, called `what`, says over our signature. Raises `Unauthenticated`."""
    if not text:
        raise Unauthenticated(f"A {what} is needed.", field=what)
    if len(text) > TOKEN_CHARS_MAX:
        raise Unauthenticated(f"The {what} is longer than {TOKEN_CHARS_MAX} characters.", field=what)
    # PyJWT would compare exp and iat with the machine's clock; here the caller's `now` decides. The causes are cut
    # off (`from None`): a log of the chain could otherwise carry pieces of the token.
    checks = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}
    try:
        return jwt.decode(text, secret, algorithms=[ALGORITHM], issuer=ISSUER, options=checks)  # type: ignore[arg-type]
    except jwt.InvalidAlgorithmError:
        raise Unauthenticated(f"The {what} is signed with another algorithm than HS256.", field=what) from None
    except jwt.InvalidSignatureError:
        raise Unauthenticated(f"The {what} was not signed by this server.", field=what) from None
    except (jwt.InvalidIssuerError, jwt.MissingRequiredClaimError):
        kind = "an access token" if what == "token" else f"a {what}"
        raise Unauthenticated(f"The {what} is not {kind} of Parlance.", field=what) from None
    except (jwt.InvalidTokenError, ValueError):
        # ValueError: bytes that are no UTF-8 in a part of the token.
        raise Unauthenticated(f"The {what} is malformed.", field=what) from None


def _claims(token: str, secret: str) -> _Claims:
    payload = _payload(token, secret, "token")
    if "aud" in payload:
        raise Unauthenticated("The token is not an access token of Parlance.", field="token")
    try:
        claims = msgspec.convert(payload, _Claims)
    except msgspec.ValidationError:
        raise Unauthenticated("The token lacks a claim that it must carry.", field="token") from None
    ids, names = (claims.sub, claims.tid, claims.jti), (claims.name, claims.tname)
    if not all(0 < len(i) <= ID_CHARS_MAX for i in ids) or not all(len(n) <= NAME_CHARS_MAX for n in names):
        raise Unauthenticated("The token lacks a claim that it must carry.", field="token")
    return claims
