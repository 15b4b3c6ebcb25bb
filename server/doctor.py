"""`parlance doctor`: look at everything this installation needs, and say what to do about what is missing.

Policy: each check is independent, ends within seconds and changes nothing: the database is tried in a throw-away
folder unless this installation already has one. "warn" is what Parlance works without, "fail" what it cannot.
"""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from enum import Enum
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import asyncpg
import msgspec

from server.config import Config
from server.console.failures import explain
from server.store import embedded

PYTHON_MIN = (3, 11)
PACKAGES = {
    "aiohttp": "aiohttp",
    "asyncpg": "asyncpg",
    "av": "av",
    "jwt": "pyjwt",
    "msgspec": "msgspec",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "orjson": "orjson",
    "parlance_client": "parlance-client",
    "pgqueuer": "pgqueuer",
    "pocketsphinx": "pocketsphinx",
    "prometheus_client": "prometheus-client",
    "silero_vad": "silero-vad",
    "socketio": "python-socketio",
    "soxr": "soxr",
    "uvloop": "uvloop",
    "webrtcvad": "webrtcvad-wheels",
}
"""Import names and what to install for them. Found, not imported: the server's process loads no model library."""
FREE_BYTES_MIN = 200 * 1024 * 1024
"""The embedded database takes 27 MB, an hour of 16 kHz audio 115 MB."""
FREE_BYTES_WANTED = 2 * 1024 * 1024 * 1024
DATABASE_TIMEOUT_S = 60.0
HTTP_TIMEOUT_S = 3.0
NODE_TIMEOUT_S = 5.0
NODE_MAJOR_MIN = 20
PAGE = Path(__file__).resolve().parent.parent / "clients" / "js" / "app" / "dist" / "index.html"


class Level(Enum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(msgspec.Struct, frozen=True):
    """`text`: one sentence; for "warn" and "fail" it says what to do."""

    level: Level
    name: str
    text: str


async def examine(config: Config) -> list[Check]:
    """All checks, in the order in which they matter."""
    return [
        python(sys.version_info[:2]),
        packages(lambda name: find_spec(name) is not None),
        data_folder(config.data_dir),
        await database(config),
        await port(config),
        engine(config),
        models(lambda name: find_spec(name) is not None),
        await page(),
    ]


def python(version: tuple[int, ...]) -> Check:
    text = ".".join(map(str, version))
    if version < PYTHON_MIN:
        return Check(Level.FAIL, "Python", f"{text} is too old; install Python 3.11 or newer.")
    return Check(Level.OK, "Python", text)


def packages(present: Callable[[str], bool]) -> Check:
    missing = [package for name, package in PACKAGES.items() if not present(name)]
    if missing:
        return Check(Level.FAIL, "packages", f"{', '.join(missing)} not found; run `make run`, which installs them.")
    return Check(Level.OK, "packages", f"all {len(PACKAGES)} found")


def data_folder(folder: Path) -> Check:
    """Can files be written there (or can the folder be made), and is there room?"""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check(
            Level.FAIL, "data folder", f"{folder} cannot be written; set PARLANCE_DATA_DIR to a folder of yours."
        )
    free = shutil.disk_usage(existing).free
    room = f"{free / 1024**3:.1f} GiB free"
    if free < FREE_BYTES_MIN:
        return Check(Level.FAIL, "data folder", f"{folder} has {room}; make room or set PARLANCE_DATA_DIR.")
    if free < FREE_BYTES_WANTED:
        return Check(Level.WARN, "data folder", f"{folder} has {room}, which recordings will soon fill; make room.")
    return Check(
        Level.OK, "data folder", f"{folder}, {room}" + ("" if folder.exists() else ", made at the first start")
    )


async def database(config: Config) -> Check:
    if config.database_url is not None:
        return await _configured_database(config.database_url)
    folder = config.data_dir / "postgres"
    try:
        async with asyncio.timeout(DATABASE_TIMEOUT_S):
            if folder.exists():
                async with embedded.use(folder) as dsn:
                    version = await _version(dsn)
            else:
                with tempfile.TemporaryDirectory(prefix="parlance-doctor-") as trial:
                    async with embedded.use(Path(trial) / "postgres") as dsn:
                        version = await _version(dsn)
    except Exception as error:  # the component boundary: one check fails, the others go on
        explained = explain(error)
        if explained is None:
            raise
        advice = "set PARLANCE_DATABASE_URL to use a PostgreSQL server instead"
        return Check(
            Level.FAIL, "database", f"the embedded PostgreSQL does not start: {explained[0]} You can {advice}."
        )
    return Check(Level.OK, "database", f"the embedded PostgreSQL {version} starts")


async def _configured_database(dsn: str) -> Check:
    try:
        version = await _version(dsn)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        return Check(
            Level.FAIL,
            "database",
            f"PARLANCE_DATABASE_URL does not answer ({type(error).__name__}); check the address, "
            "or unset it to use the embedded one.",
        )
    return Check(Level.OK, "database", f"PostgreSQL {version} answers at PARLANCE_DATABASE_URL")


async def _version(dsn: str) -> str:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        return str(await connection.fetchval("SHOW server_version")).partition(" ")[0]
    finally:
        await connection.close()


async def port(config: Config) -> Check:
    """Free to listen on, or taken by a Parlance that already runs."""
    if config.port == 0:
        return Check(Level.OK, "port", "any free one")
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((config.host, config.port))
    except OSError as error:
        if await _is_parlance(config):
            return Check(Level.OK, "port", f"a Parlance server already runs at {config.url}")
        return Check(
            Level.FAIL,
            "port",
            f"cannot listen on {config.host}:{config.port} ({error.strerror}); set PARLANCE_PORT to another one.",
        )
    return Check(Level.OK, "port", f"{config.host}:{config.port} is free")


async def _is_parlance(config: Config) -> bool:
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::", "") else config.host  # noqa: S104 - compared, not bound
    address = f"http://{f'[{host}]' if ':' in host else host}:{config.port}/metrics"
    timeout = aiohttp.ClientTimeout(total=HTTP_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(address) as answer:
            return "parlance_sockets" in await answer.text()
    except (aiohttp.ClientError, OSError, UnicodeDecodeError):
        return False


def engine(config: Config) -> Check:
    name = "engine"
    if ":" in config.engine:
        return Check(Level.OK, name, f"{config.engine}, as configured")
    spec = find_spec("pocketsphinx")
    places = list(spec.submodule_search_locations or []) if spec else []
    if not any((Path(place) / "model" / "en-us").exists() for place in places):
        return Check(Level.FAIL, name, "PocketSphinx's English model is missing; reinstall pocketsphinx.")
    return Check(
        Level.WARN,
        name,
        "PocketSphinx: it needs no download and understands clear English roughly; take its captions as a trial of the "
        "program, not of its accuracy.",
    )


def models(present: Callable[[str], bool]) -> Check:
    missing = [name for name in ("silero_vad", "onnxruntime") if not present(name)]
    if missing:
        return Check(Level.FAIL, "models", f"the voice detector needs {', '.join(missing)}; run `make run`.")
    return Check(Level.OK, "models", "the voice detector's model is installed")


async def page() -> Check:
    if PAGE.exists():
        return Check(Level.OK, "web page", "built")
    version = await _node_major()
    if version is None:
        return Check(Level.WARN, "web page", "not built, and Node.js was not found; install Node.js 20 or newer.")
    if version < NODE_MAJOR_MIN:
        return Check(Level.WARN, "web page", f"not built, and Node.js {version} is too old; install 20 or newer.")
    return Check(Level.WARN, "web page", "not built yet; `make run` builds it.")


async def _node_major() -> int | None:
    node = shutil.which("node")
    if node is None:
        return None
    process = await asyncio.create_subprocess_exec(
        node, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(NODE_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    major = output.decode(errors="replace").strip().lstrip("v").partition(".")[0]
    return int(major) if major.isdigit() else None
