"""When a token ends, and where the next one comes from."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from parlance_client import ConnectRefused, TokenFailed, __version__
from parlance_client.tokens import Tokens, expiry_of, refresh_in_s


def jwt(**claims: Any) -> str:
    return f"x.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.x"


def test_the_end_of_a_token_is_read_from_it_where_it_has_one() -> None:
    assert expiry_of(jwt(exp=1_000, name="ü?>")) == 1_000
    for none in ("", "key", "a.b", "a.b.c", "a.\0.c", jwt(), jwt(exp="soon")):
        assert expiry_of(none) is None


def test_the_next_one_is_asked_for_between_70_and_80_percent() -> None:
    assert [refresh_in_s(100, 0), refresh_in_s(100, 1), refresh_in_s(0.1, 0.5)] == [70, 80, 1]


def test_tokens_end_by_the_servers_clock() -> None:
    tokens = Tokens(jwt(exp=5_000))
    assert tokens.left_s(1_000) == 4_000
    tokens.clock(server_s=4_600, now_s=1_000)
    assert tokens.left_s(1_000) == 400
    assert Tokens("an API key").left_s(0) is None


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (OSError("no network"), True),
        (TimeoutError(), True),
        (KeyError("token"), False),
        (ConnectRefused("unauthenticated", "Gone."), False),
        (ConnectRefused("unavailable", "Later."), True),
    ],
)
async def test_a_source_that_fails_says_whether_asking_again_may_help(error: Exception, retryable: bool) -> None:
    def source() -> str:
        raise error

    with pytest.raises(TokenFailed) as caught:
        await Tokens(source).for_connect(0)
    assert caught.value.retryable is retryable


async def test_the_old_token_serves_while_it_holds() -> None:
    answers: list[Any] = [jwt(exp=1_000), "", ""]

    async def source() -> str:
        return str(answers.pop(0))

    tokens = Tokens(source)
    old = await tokens.for_connect(0)
    assert await tokens.for_connect(999) == old
    with pytest.raises(TokenFailed, match="gave none"):
        await tokens.for_connect(1_000)


def test_the_version_is_that_of_the_package() -> None:
    project = (Path(__file__).parents[3] / "clients/python/pyproject.toml").read_text()
    assert f'version = "{__version__}"' in project
