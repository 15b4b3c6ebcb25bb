"""The token in use, when it ends, and where the next one comes from.

Policy: a source (a function, plain or async) is asked for each connection, and again before the token ends, at a moment
between 70 and 80% of its time, so that a crowd of clients does not ask at once. While the old token holds, a source
that fails is only asked again; after that its failure counts.

Boundary: the source is the caller's code. No token appears in an error.
"""

import asyncio
import base64
import binascii
import inspect
from collections.abc import Awaitable, Callable

import aiohttp
import msgspec

from parlance_client.errors import ParlanceClientError, TokenFailed

TokenSource = str | Callable[[], str | Awaitable[str]]

SOURCE_TIMEOUT_S = 30.0
REFRESH_SHARES = (0.7, 0.8)
"""Of the time a token has left. The rest is for a source that fails."""
REFRESH_S_MIN = 1.0
"""A source that gives the same token again and again is not asked in a tight loop."""


class _Claims(msgspec.Struct):
    exp: float | None = None


def expiry_of(token: str) -> float | None:
    """`exp` (Unix seconds) of a JWT, not verified; None for an API key, which does not end."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(payload, type=_Claims).exp
    except (binascii.Error, msgspec.DecodeError, ValueError):
        return None


def refresh_in_s(left_s: float, random: float) -> float:
    """When to ask for the next token of one that ends in `left_s`; `random` in [0, 1)."""
    first, last = REFRESH_SHARES
    return max(REFRESH_S_MIN, left_s * (first + (last - first) * random))


class Tokens:
    """`current` is "" before a source was asked for the first time."""

    def __init__(self, given: TokenSource) -> None:
        self._source = None if isinstance(given, str) else given
        self._skew_s = 0.0
        self.current = ""
        self.expires_at: float | None = None
        if isinstance(given, str):
            self.take(given)

    @property
    def renewable(self) -> bool:
        return self._source is not None

    def take(self, token: str) -> None:
        """Use `token` from now on."""
        self.current, self.expires_at = token, expiry_of(token)

    def clock(self, *, server_s: float, now_s: float) -> None:
        """The server's clock and ours (Unix seconds) at the same moment: tokens end by the server's."""
        self._skew_s = server_s - now_s

    def left_s(self, now_s: float) -> float | None:
        """Until the current token ends; None when it does not end."""
        return None if self.expires_at is None else self.expires_at - (now_s + self._skew_s)

    async def fresh(self) -> str:
        """Ask the source and use what it gives. Raises `TokenFailed`."""
        assert self._source is not None
        try:
            async with asyncio.timeout(SOURCE_TIMEOUT_S):
                given = self._source()
                token = await given if inspect.isawaitable(given) else given
        except ParlanceClientError as error:
            raise TokenFailed(f"There is no fresh token: {error}", retryable=error.retryable) from error
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            raise TokenFailed(
                f"The source of tokens cannot be reached ({type(error).__name__}).", retryable=True
            ) from error
        except Exception as error:  # the session boundary: the source is the caller's code
            raise TokenFailed(f"The source of tokens failed ({type(error).__name__}).", retryable=False) from error
        if not isinstance(token, str) or not token:
            raise TokenFailed("The source of tokens gave none.", retryable=False)
        self.take(token)
        return token

    async def for_connect(self, now_s: float) -> str:
        """The token of the next connection: a fresh one, or the old one while it holds. Raises `TokenFailed`."""
        if not self.renewable:
            return self.current
        try:
            return await self.fresh()
        except TokenFailed:
            left_s = self.left_s(now_s)
            if not self.current or (left_s is not None and left_s <= 0):
                raise
            return self.current
