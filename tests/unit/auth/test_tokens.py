"""Access tokens: what is signed comes back, everything else is refused without echoing the token."""

import base64
import json

import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.errors import Unauthenticated
from auth.model import Identity, Role
from auth.tokens import TOKEN_CHARS_MAX, issue, verify
from streaming.limits import LIMITS

SECRET = "s" * 32
NOW = 1_800_000_000
WHO = Identity(
    user_id="u1", user_name="Ana", tenant_id="t1", tenant_name="Demo", role=Role.MEMBER, expires_at=NOW + 3_600
)


def claims(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "iss": "parlance",
        "sub": "u1",
        "name": "Ana",
        "tid": "t1",
        "tname": "Demo",
        "role": "member",
        "iat": NOW,
        "exp": NOW + 60,
        "jti": "j1",
    }
    base.update(changes)
    return {key: value for key, value in base.items() if value is not None}


def signed(payload: dict[str, object], secret: str = SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode(payload, secret, algorithm=algorithm)


def refusal(token: str, now: int = NOW) -> str:
    with pytest.raises(Unauthenticated) as caught:
        verify(token, secret=SECRET, now=now)
    message = caught.value.message
    assert message.endswith(".")
    assert not any(part and part in message for part in token.split("."))
    assert caught.value.__cause__ is None
    return message


@pytest.mark.parametrize("role", list(Role))
def test_an_issued_token_names_its_caller(role: Role) -> None:
    who = msgspec.structs.replace(WHO, role=role)
    assert verify(issue(who, secret=SECRET, now=NOW, ttl_s=3_600), secret=SECRET, now=NOW + 3_599) == who


def test_it_carries_exactly_the_named_claims() -> None:
    token = issue(WHO, secret=SECRET, now=NOW, ttl_s=60)
    payload = jwt.decode(token, options={"verify_signature": False})
    jti = payload.pop("jti")
    assert jti
    assert payload == {key: value for key, value in claims().items() if key != "jti"}
    assert issue(WHO, secret=SECRET, now=NOW, ttl_s=60) != token, "each token has its own jti"


def test_it_ends_with_its_lifetime() -> None:
    token = issue(WHO, secret=SECRET, now=NOW, ttl_s=60)
    verify(token, secret=SECRET, now=NOW + 59)
    assert refusal(token, now=NOW + 60) == "The token has expired."


def test_the_machine_clock_has_no_say() -> None:
    long_ago = issue(WHO, secret=SECRET, now=1_000_000, ttl_s=60)
    assert verify(long_ago, secret=SECRET, now=1_000_030).user_id == "u1"
    to_come = issue(WHO, secret=SECRET, now=9_000_000_000, ttl_s=60)
    assert verify(to_come, secret=SECRET, now=9_000_000_000).user_id == "u1"


def test_another_secret_is_refused() -> None:
    assert "not signed by this server" in refusal(signed(claims(), "x" * 32))


def test_a_changed_payload_is_refused() -> None:
    head, _, signature = signed(claims()).split(".")
    forged = base64.urlsafe_b64encode(json.dumps(claims(role="owner")).encode()).rstrip(b"=").decode()
    assert "not signed by this server" in refusal(f"{head}.{forged}.{signature}")


def test_no_algorithm_but_hs256() -> None:
    assert "another algorithm" in refusal(jwt.encode(claims(), None, algorithm="none"))  # type: ignore[arg-type]
    assert "another algorithm" in refusal(signed(claims(), "s" * 64, algorithm="HS512"))


@pytest.mark.parametrize("issuer", ["somebody", "", None])
def test_another_issuer_is_refused(issuer: str | None) -> None:
    assert "access token of Parlance" in refusal(signed(claims(iss=issuer)))


@pytest.mark.parametrize("missing", ["sub", "name", "tid", "tname", "role", "iat", "exp", "jti"])
def test_every_claim_is_needed(missing: str) -> None:
    assert "lacks a claim" in refusal(signed(claims(**{missing: None})))


@pytest.mark.parametrize(
    "changes",
    [{"role": "root"}, {"exp": "soon"}, {"exp": True}, {"sub": ""}, {"tid": "t" * 101}, {"tname": "n" * 201}],
)
def test_a_claim_of_another_shape_is_refused(changes: dict[str, object]) -> None:
    refusal(signed(claims(**changes)))


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "..", "é.ü.ñ", "a.b.c.d", "\x00", "e30.e30."])
def test_malformed_text_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        verify(token, secret=SECRET, now=NOW)


def test_an_oversized_token_is_refused_unread() -> None:
    assert "longer than 4096" in refusal(signed(claims(padding="p" * TOKEN_CHARS_MAX)))
    assert LIMITS.token_chars_max == TOKEN_CHARS_MAX


@given(st.text(max_size=300))
def test_no_text_does_worse_than_a_refusal(text: str) -> None:
    with pytest.raises(Unauthenticated):
        verify(text, secret=SECRET, now=NOW)


def test_a_weak_secret_or_no_lifetime_is_a_defect() -> None:
    with pytest.raises(ValueError, match="32 characters"):
        issue(WHO, secret="short", now=NOW, ttl_s=60)
    with pytest.raises(ValueError, match="one second"):
        issue(WHO, secret=SECRET, now=NOW, ttl_s=0)
