"""Configuration: `PARLANCE_*` variables over one TOML file over defaults, validated whole before anything opens.

Names are fixed (DESIGN, section 5). A wrong value raises `ConfigError` whose text names the setting, what was given
and what is expected; an unknown `PARLANCE_*` variable is refused with the nearest known name.
"""

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

PREFIX = "PARLANCE_"
DEVICES = r"auto|(cpu|cuda(:\d{1,2})?)(,(cpu|cuda(:\d{1,2})?)){0,31}"
"""At most 32: each is a process with a model of its own."""


HTTP_SERVER = r"https?://(\[[0-9a-f:]+\]|[^\s/:@?#\[\]]+):(?!0)\d{1,5}/?"


TIERS = ("auto", "fast", "balanced", "accurate")


class ConfigError(Exception):
    """A setting is wrong. The text is one sentence that names it."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`model`: a Whisper by name or folder, None takes the best one that is here, by `tier` (`server.models.tiers`);
    `devices`: where it runs, a worker process on each, such as `cuda:0,cuda:1`; `compute_type`: how (CTranslate2 knows
    the names), `final_model`: another Whisper that writes the finals, behind what is stable already; `models_env`: the
    models environment's folder, "off", or None for `.venv-models` beside the program; `align_model`,
    `diarisation_model`, `embedding_model`: a folder or a name on the hub, None takes the default; `speakers`: "off"
    tells nobody apart;
    `second_pass`: "off" reads no kept audio again, `pass_minutes`: between two passes over a recording that goes on;
    `remote_*`: an OpenAI-compatible service that makes the final text for these tenants ("*": all). `public_url`: how
    browsers reach the server, when a proxy stands before it. `origins`: pages of other origins that may open sockets;
    the server's own is always allowed. `redis_url`: what is told in rooms reaches the other nodes through it;
    `weaviate_*`: where the index is instead of the database, and how its collections' names begin;
    `storage_url`: `file:///folder` or `s3://bucket/prefix` that all nodes share for kept audio. `events_days`: how long
    the event logs reach back, 0 for ever; `searches_days`: the same of what people searched for.
    `connections_per_*`: of one node. `trusted_proxies`: networks whose X-Forwarded-For is believed."""

    host: str = "127.0.0.1"
    port: int = 8000
    data_dir: Path = Path("data")
    database_url: str | None = None
    engine: str = "auto"
    model: str | None = None
    tier: str = "auto"
    devices: str = "auto"
    compute_type: str = "auto"
    final_model: str | None = None
    offline: bool = False
    models_env: str | None = None
    align_model: str | None = None
    diarisation_model: str | None = None
    speakers: str = "auto"
    second_pass: str = "auto"  # noqa: S105 - no secret
    pass_minutes: int = 5
    embedding_model: str | None = None
    remote_url: str | None = None
    remote_key: str | None = None
    remote_model: str = "whisper-1"
    remote_tenants: tuple[str, ...] = ()
    secret: str | None = None
    public_url: str | None = None
    origins: tuple[str, ...] = ()
    token_hours: int = 24
    log_level: str = "info"
    log_format: str = "auto"
    abandon_ms: int = 900_000
    worker_command: str | None = None
    redis_url: str | None = None
    weaviate_url: str | None = None
    weaviate_grpc: str | None = None
    weaviate_api_key: str | None = None
    weaviate_prefix: str = "Parlance"
    storage_url: str | None = None
    events_days: int = 0
    searches_days: int = 90
    connections_per_user: int = 6_000
    connections_per_tenant: int = 8_000
    connections_per_address: int = 6_000
    trusted_proxies: tuple[str, ...] = ()

    @property
    def shared(self) -> bool:
        """Other nodes may work on the same database."""
        return self.database_url is not None

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the server."""
        if self.public_url:
            return self.public_url.rstrip("/")
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def load(environ: Mapping[str, str] | None = None, file: Path | None = None) -> Config:
    """Read and check the whole configuration. Raises `ConfigError`."""
    environ = os.environ if environ is None else environ
    file = file or (Path(environ[PREFIX + "CONFIG"]) if environ.get(PREFIX + "CONFIG") else None)
    values: dict[str, object] = {}
    known = msgspec.structs.fields(Config)
    names = {f.name for f in known}
    if file is not None:
        values.update(_read_file(file, names))
    for key, raw in environ.items():
        if not key.startswith(PREFIX) or key in (PREFIX + "CONFIG", PREFIX + "TOKEN", PREFIX + "URL"):
            continue
        name = key[len(PREFIX) :].lower()
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
            raise ConfigError(f"{key}: there is no such setting{hint}")
        if raw != "":
            values[name] = raw
    return _check(values)


def _read_file(file: Path, names: set[str]) -> dict[str, object]:
    try:
        content = tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: is not valid TOML: {error}") from error
    for key in content:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            raise ConfigError(
                f"{file}: {key}: there is no such setting" + (f"; did you mean {near[0]}?" if near else "")
            )
    return content


def _check(values: dict[str, object]) -> Config:
    typed: dict[str, object] = {}
    for field in msgspec.structs.fields(Config):
        if field.name not in values:
            continue
        raw = values[field.name]
        if field.name in ("origins", "remote_tenants", "trusted_proxies") and isinstance(raw, str):
            raw = [part.strip() for part in raw.split(",") if part.strip()]
        if field.type is bool and isinstance(raw, str):
            raw = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(raw.lower(), raw.lower())
        try:
            typed[field.name] = msgspec.convert(raw, field.type, strict=False, dec_hook=_decode)
        except msgspec.ValidationError as error:
            name = PREFIX + field.name.upper()
            raise ConfigError(f"{name}: {raw!r} will not do: {error}") from error
    config = Config(**typed)  # type: ignore[arg-type]
    _relations(config)
    return msgspec.structs.replace(config, data_dir=config.data_dir.expanduser().absolute())


def _decode(kind: type, raw: object) -> object:
    if kind is Path and isinstance(raw, str):
        return Path(raw)
    raise NotImplementedError


def _relations(config: Config) -> None:
    def refuse(name: str, why: str) -> None:
        raise ConfigError(f"{PREFIX}{name.upper()}: {why}")

    if not 0 <= config.port <= 65_535:
        refuse("port", f"{config.port} is not between 0 and 65535")
    if config.database_url is not None and not config.database_url.startswith(("postgres://", "postgresql://")):
        refuse("database_url", "must begin with postgresql://")
    if config.secret is not None and len(config.secret) < 32:
        refuse("secret", "must have at least 32 characters")
    if config.engine not in ("auto", "pocketsphinx", "whisperx") and ":" not in config.engine:
        refuse("engine", f"{config.engine!r} is none of auto, pocketsphinx, whisperx, or package.module:Engine")
    if config.tier not in TIERS:
        refuse("tier", f"{config.tier!r} is none of {', '.join(TIERS)}")
    if config.second_pass not in ("auto", "off"):
        refuse("second_pass", f"{config.second_pass!r} is neither auto nor off")
    if not 1 <= config.pass_minutes <= 720:
        refuse("pass_minutes", f"{config.pass_minutes} is not between 1 and 720")
    if config.speakers not in ("auto", "off"):
        refuse("speakers", f"{config.speakers!r} is neither auto nor off")
    if not re.fullmatch(DEVICES, config.devices):
        refuse("devices", f"{config.devices!r} is neither auto nor a list of cpu, cuda, cuda:0, cuda:1, ...")
    if config.remote_url is not None and not config.remote_url.startswith(("http://", "https://")):
        refuse("remote_url", "must begin with https:// or http://")
    if config.remote_url is not None and not config.remote_tenants:
        refuse("remote_tenants", "must name the tenants whose audio may go to PARLANCE_REMOTE_URL, or * for all")
    if config.log_level not in ("debug", "info", "warning", "error"):
        refuse("log_level", f"{config.log_level!r} is none of debug, info, warning, error")
    if config.log_format not in ("auto", "json", "text"):
        refuse("log_format", f"{config.log_format!r} is none of auto, json, text")
    if not 1 <= config.token_hours <= 24 * 365:
        refuse("token_hours", f"{config.token_hours} is not between 1 and 8760")
    if not 1_000 <= config.abandon_ms <= 24 * 3_600_000:
        refuse("abandon_ms", f"{config.abandon_ms} is not between 1000 and 86400000")
    _cluster_relations(config, refuse)
    _weaviate_relations(config, refuse)


def _cluster_relations(config: Config, refuse: Callable[[str, str], None]) -> None:
    if config.redis_url is not None and not config.redis_url.startswith(("redis://", "rediss://", "unix://")):
        refuse("redis_url", "must begin with redis://, rediss:// or unix://")
    if config.storage_url is not None and not config.storage_url.startswith(("file:///", "s3://")):
        refuse("storage_url", "must be file:///folder or s3://bucket/prefix")
    for name in ("events_days", "searches_days"):
        if not 0 <= getattr(config, name) <= 36_500:
            refuse(name, f"{getattr(config, name)} is not between 0 (for ever) and 36500")
    for name in ("connections_per_user", "connections_per_tenant", "connections_per_address"):
        if getattr(config, name) < 1:
            refuse(name, f"{getattr(config, name)} is less than 1")
    for network in config.trusted_proxies:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            refuse("trusted_proxies", f"{network!r} is no address or network, as 10.0.0.0/8")


def _weaviate_relations(config: Config, refuse: Callable[[str, str], None]) -> None:
    if config.weaviate_url is not None and not re.fullmatch(HTTP_SERVER, config.weaviate_url, re.ASCII):
        refuse("weaviate_url", "must be http://host:port or https://host:port, and nothing else")
    for name in ("weaviate_grpc", "weaviate_api_key"):
        if getattr(config, name) is not None and config.weaviate_url is None:
            refuse(name, "is of no use without PARLANCE_WEAVIATE_URL")
    if config.weaviate_grpc is not None:
        host, _, port = config.weaviate_grpc.rpartition(":")
        if not host or "/" in host or not (port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
            refuse("weaviate_grpc", f"{config.weaviate_grpc!r} is not host:port")
    if not re.fullmatch("[A-Z][A-Za-z0-9]{0,39}", config.weaviate_prefix):
        refuse("weaviate_prefix", f"{config.weaviate_prefix!r} is no capital letter with up to 39 letters and digits")
