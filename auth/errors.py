"""Errors of identity; same shape as `streaming.errors` (`code`, `retryable`, `message`, `field`).

AuthError
├── Unauthenticated   unauthenticated   no token, a bad one, an expired one
├── Forbidden         forbidden         visible to the caller, but this role may not do it
└── NotFound          not_found         absent, or not the caller's to see: the two look the same
"""

from typing import ClassVar


class AuthError(Exception):
    code: ClassVar[str] = "unauthenticated"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_ms: int | None = None


class Unauthenticated(AuthError):
    code = "unauthenticated"


class Forbidden(AuthError):
    code = "forbidden"


class NotFound(AuthError):
    code = "not_found"
