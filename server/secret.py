"""The secret that signs access tokens: from the configuration, else a file of the data folder, made on first use.

Policy: every process of an installation must sign with the same secret, so when two start at once the first to link
the file wins and both read it. Nodes that share a database share the secret through it instead
(`server.lifecycle.secret_of`). Invariant: `secret.key` never exists half written, and only its owner can read it.
"""

import os
import secrets
from pathlib import Path

from server.config import Config, ConfigError

FILE_NAME = "secret.key"
SECRET_BYTES = 32
"""256 bits, the size of the HMAC's hash."""


def signing_secret(config: Config) -> str:
    """`config.secret`, else the content of `<data_dir>/secret.key`. Raises `ConfigError` when that cannot be had."""
    if config.secret is not None:
        return config.secret
    path = config.data_dir / FILE_NAME
    try:
        if not path.exists():
            _create(path)
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"{path}: the signing secret can neither be read nor created: {reason}") from error
    if len(secret) < 2 * SECRET_BYTES:
        raise ConfigError(f"{path}: is too short for a signing secret; remove it and a new one is made")
    return secret


def known_secret(config: Config) -> str | None:
    """The data folder's secret if it has one: what signed tokens before this node shared a database."""
    return signing_secret(config) if (config.data_dir / FILE_NAME).exists() else None


def new_secret() -> str:
    return secrets.token_hex(SECRET_BYTES)


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{FILE_NAME}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(new_secret() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            # Another process was first: its secret counts.
            return
    finally:
        draft.unlink(missing_ok=True)
