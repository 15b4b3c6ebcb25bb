"""Access tokens: who the caller is, signed by this installation (JWT, RFC 7519, HS256).

Policy: HS256 is the only algorithm, the secret the only key; a token that names another algorithm, issuer or shape is
refused. Revocation is not the token's business: `server.store.identity.identity_of` says whether the membership still
exists and what its role is now.

Boundary: a value in, a value out; the time is the caller's. Invariant: no error text carries any part of a token.
"""

import uuid

import jwt
import msgspec

from auth.errors import Unauthenticated
from auth.model import Identity, Role

ALGORITHM = "HS256"
ISSUER = "parlance"
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


def issue(identity: Identity, *, secret: str, now: int, ttl_s: int) -> str:
    """Sign a token for `identity`, valid for `ttl_s` seconds from `now` (Unix seconds).

    `identity.expires_at` is not looked at: the token's own end is `now + ttl_s`. Raises ValueError for a secret below
    32 characters or a `ttl_s` below 1.
    """
    if len(secret) < SECRET_CHARS_MIN:
        raise ValueError("the signing secret must have at least 32 characters")
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


def verify(token: str, *, secret: str, now: int) -> Identity:
    """The identity in `token`. Raises `Unauthenticated` with one sentence that says what is wrong."""
    if not token:
        raise Unauthenticated("A token is needed.", field="token")
    if len(token) > TOKEN_CHARS_MAX:
        raise Unauthenticated(f"The token is longer than {TOKEN_CHARS_MAX} characters.", field="token")
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


def _claims(token: str, secret: str) -> _Claims:
    # PyJWT would compare exp and iat with the machine's clock; here the caller's `now` decides. The causes are cut
    # off (`from None`): a log of the chain could otherwise carry pieces of the token.
    checks = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}
    try:
        payload = jwt.decode(token, secret, algorithms=[ALGORITHM], issuer=ISSUER, options=checks)  # type: ignore[arg-type]
    except jwt.InvalidAlgorithmError:
        raise Unauthenticated("The token is signed with another algorithm than HS256.", field="token") from None
    except jwt.InvalidSignatureError:
        raise Unauthenticated("The token was not signed by this server.", field="token") from None
    except (jwt.InvalidIssuerError, jwt.MissingRequiredClaimError):
        raise Unauthenticated("The token is not an access token of Parlance.", field="token") from None
    except (jwt.InvalidTokenError, ValueError):
        # ValueError: bytes that are no UTF-8 in a part of the token.
        raise Unauthenticated("The token is malformed.", field="token") from None
    try:
        claims = msgspec.convert(payload, _Claims)
    except msgspec.ValidationError:
        raise Unauthenticated("The token lacks a claim that it must carry.", field="token") from None
    ids, names = (claims.sub, claims.tid, claims.jti), (claims.name, claims.tname)
    if not all(0 < len(i) <= ID_CHARS_MAX for i in ids) or not all(len(n) <= NAME_CHARS_MAX for n in names):
        raise Unauthenticated("The token lacks a claim that it must carry.", field="token")
    return claims
