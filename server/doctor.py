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

from server import hardware
from server.config import Config
from server.console.failures import explain
from server.hardware import Hardware
from server.models import environment
from server.models.cache import (
    alignment_languages,
    cache_folder,
    files_of,
    name_of,
    snapshot,
    torch_checkpoints,
)
from server.models.calibrating import words as padding_words
from server.models.catalogue import MODELS, complete, megabytes
from server.models.choosing import Chosen, chosen
from server.store import embedded
from streaming.errors import Unavailable
from streaming.limits import LIMITS
from streaming.recogniser.card import Source, treatment_of
from streaming.recogniser.engine import EngineUnavailable

PYTHON_MIN = (3, 11)
PACKAGES = {
    "aiohttp": "aiohttp",
    "asyncpg": "asyncpg",
    "av": "av",
    "ctranslate2": "ctranslate2",
    "faster_whisper": "faster-whisper",
    "huggingface_hub": "huggingface-hub",
    "jwt": "pyjwt",
    "msgspec": "msgspec",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "openai": "openai",
    "orjson": "orjson",
    "parlance_client": "parlance-client",
    "pgqueuer": "pgqueuer",
    "pocketsphinx": "pocketsphinx",
    "prometheus_client": "prometheus-client",
    "silero_vad": "silero-vad",
    "socketio": "python-socketio",
    "soxr": "soxr",
    "uvloop": "uvloop",
    "weaviate": "weaviate-client",
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
ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "clients" / "js" / "app" / "dist" / "index.html"


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
    machine = hardware.look()
    return [
        python(sys.version_info[:2]),
        packages(lambda name: find_spec(name) is not None),
        data_folder(config.data_dir),
        await database(config),
        await port(config),
        engine(config, cache_folder(), machine),
        *([hears] if (hears := padding(config, cache_folder(), machine)) is not None else []),
        voice_detector(lambda name: find_spec(name) is not None),
        models_environment(config, ROOT),
        vectors(config, ROOT, cache_folder()),
        word_times(config, ROOT, cache_folder(), torch_checkpoints()),
        *([await index(config)] if config.weaviate_url is not None else []),
        *([await remote(config)] if config.remote_url is not None else []),
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


def engine(config: Config, cache: Path, machine: Hardware) -> Check:
    """Which engine hears, and why that one."""
    name = "engine"
    if ":" in config.engine:
        return Check(Level.OK, name, f"{config.engine}, as configured")
    if config.engine == "pocketsphinx":
        return _pocketsphinx("PARLANCE_ENGINE says so; unset it to use Whisper")
    found = chosen(config, machine, cache)
    if found.path is not None:
        return _whisper(found, found.path)
    pull = f"`parlance models pull {found.fetch}`"
    if config.engine == "whisperx":
        missing = f"no Whisper called {config.model}" if config.model else "no Whisper"
        return Check(Level.FAIL, name, f"{missing} is here; run {pull}, or set PARLANCE_MODEL to a folder of yours.")
    if config.model is not None:
        return _pocketsphinx(f"PARLANCE_MODEL is {config.model}, which is not here; run {pull}")
    size = megabytes(MODELS[found.fetch].size_bytes)
    if config.offline:
        return _pocketsphinx(f"no Whisper is here and PARLANCE_OFFLINE is set; {pull} without it fetches one ({size})")
    return _pocketsphinx(f"no Whisper is here yet; the running server fetches one ({size}), or you with {pull}")


def _whisper(found: Chosen, path: Path) -> Check:
    finals = f"; {name_of(found.final)} writes the finals" if found.final is not None else ""
    return Check(Level.OK, "engine", f"Whisper {name_of(path)}, {found.reason}{finals}")


def padding(config: Config, cache: Path, machine: Hardware) -> Check | None:
    """How the Whisper that hears is padded, and who says so; None where no Whisper hears."""
    name = "padding"
    path = chosen(config, machine, cache).path if config.engine in ("auto", "whisperx") else None
    if path is None:
        return None
    try:
        treatment = treatment_of(path)
    except EngineUnavailable as error:
        return Check(Level.FAIL, name, f"{error}; mend that file, or delete it.")
    if treatment.source is not Source.DEFAULT:
        return Check(Level.OK, name, padding_words(treatment))
    measured = "the running server measures it by itself" if config.engine == "auto" else "nobody measured it"
    advice = f"{measured}, or you with `parlance models calibrate {name_of(path)}`"
    return Check(Level.WARN, name, f"{padding_words(treatment)}, which costs up to 16 times the CPU; {advice}.")


def _pocketsphinx(why: str) -> Check:
    spec = find_spec("pocketsphinx")
    places = list(spec.submodule_search_locations or []) if spec else []
    if not any((Path(place) / "model" / "en-us").exists() for place in places):
        return Check(Level.FAIL, "engine", "PocketSphinx's English model is missing; reinstall pocketsphinx.")
    return Check(Level.WARN, "engine", f"PocketSphinx, which understands clear English roughly: {why}.")


def voice_detector(present: Callable[[str], bool]) -> Check:
    missing = [name for name in ("silero_vad", "onnxruntime") if not present(name)]
    if missing:
        return Check(Level.FAIL, "voice detector", f"it needs {', '.join(missing)}; run `make run`.")
    return Check(Level.OK, "voice detector", "its model is installed")


def models_environment(config: Config, root: Path) -> Check:
    """Ready, or how it gets there and what stands in the way."""
    name = "models environment"
    folder = environment.place(config.models_env, root)
    if folder is None:
        return Check(Level.OK, name, "off, as PARLANCE_MODELS_ENV says: no search by meaning, no exact word times")
    requirements = root / environment.REQUIREMENTS
    found = environment.look(folder, requirements)
    if found.whole:
        return Check(Level.OK, name, found.text)
    if not requirements.is_file():
        advice = "set PARLANCE_MODELS_ENV to an environment that has the models' packages, or to off"
    elif config.offline:
        advice = "run the server once without PARLANCE_OFFLINE, which installs it"
    elif environment.find_uv(root) is None:
        advice = "uv, which installs it, was not found; `make run` fetches it"
    elif (lack := environment.room(folder, environment.room_wanted(LIMITS))) is not None:
        advice = f"{lack.why}; make room, or set PARLANCE_MODELS_ENV to a folder elsewhere"
    else:
        advice = f"the running server installs it by itself, into {megabytes(environment.room_wanted(LIMITS))} at most"
    return Check(Level.WARN, name, f"{found.text}; {advice}.")


def vectors(config: Config, root: Path, cache: Path) -> Check:
    """Search by meaning: the environment and an embedding model."""
    name = "search by meaning"
    wanted = config.embedding_model
    if not _environment_whole(config, root):
        return Check(Level.WARN, name, "it needs the models environment; search by words works without.")
    if wanted is None:
        return Check(Level.OK, name, "MiniLM, English, which the models environment brings along")
    if _is_here(wanted, cache):
        return Check(Level.OK, name, f"{wanted}, as PARLANCE_EMBEDDING_MODEL says")
    advice = f"run `parlance models pull {wanted}`" if wanted.count("/") == 1 else "name a folder or a model of the hub"
    return Check(Level.WARN, name, f"PARLANCE_EMBEDDING_MODEL is {wanted}, which is not here; {advice}.")


def word_times(config: Config, root: Path, cache: Path, checkpoints: Path) -> Check:
    """Exact word times by alignment: the environment, and weights for each language."""
    name = "exact word times"
    wanted = config.align_model
    if not _environment_whole(config, root):
        return Check(Level.WARN, name, "they need the models environment; without, words have the recogniser's times.")
    if wanted is not None:
        if _is_here(wanted, cache):
            return Check(Level.OK, name, f"{wanted}, as PARLANCE_ALIGN_MODEL says")
        advice = f"run `parlance models pull {wanted}`" if wanted.count("/") == 1 else "name a folder or one of the hub"
        return Check(Level.WARN, name, f"PARLANCE_ALIGN_MODEL is {wanted}, which is not here; {advice}.")
    here = alignment_languages(cache, checkpoints)
    if here:
        return Check(Level.OK, name, f"for {', '.join(sorted(here))}")
    size = megabytes(MODELS["align-en"].size_bytes)
    return Check(Level.WARN, name, f"no alignment model is here; `parlance models pull align-en` fetches one ({size}).")


def _environment_whole(config: Config, root: Path) -> bool:
    folder = environment.place(config.models_env, root)
    return folder is not None and environment.look(folder, root / environment.REQUIREMENTS).whole


def _is_here(wanted: str, cache: Path) -> bool:
    """A folder with a model, or a repository that is in the cache."""
    in_cache = wanted.count("/") == 1 and snapshot(cache, wanted) is not None
    return in_cache or complete(files_of(Path(wanted).expanduser()))


async def index(config: Config) -> Check:
    """Does the Weaviate that holds the index answer, at both doors and to our key?"""
    from search.weaviate.link import Address, Link, Refused  # it takes a second, where nobody has a Weaviate

    name = "search index"
    assert config.weaviate_url is not None
    link = Link(Address(config.weaviate_url, config.weaviate_grpc, config.weaviate_api_key))
    try:
        version = await link.look()
    except Refused:
        return Check(Level.FAIL, name, "Weaviate refuses PARLANCE_WEAVIATE_API_KEY; set the key that it knows.")
    except Unavailable:
        advice = "check PARLANCE_WEAVIATE_URL and PARLANCE_WEAVIATE_GRPC, or unset them to use the database"
        return Check(Level.FAIL, name, f"Weaviate does not answer at both of its doors; {advice}.")
    finally:
        await link.close()
    return Check(Level.OK, name, f"Weaviate {version} answers, collections {config.weaviate_prefix}_*")


async def remote(config: Config) -> Check:
    """Does the service that makes final text for some tenants answer, and take the key?"""
    name = "remote recogniser"
    assert config.remote_url is not None
    headers = {"Authorization": f"Bearer {config.remote_key}"} if config.remote_key else {}
    timeout = aiohttp.ClientTimeout(total=HTTP_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as http,
            http.get(config.remote_url.rstrip("/") + "/models", headers=headers) as answer,
        ):
            status = answer.status
    except (aiohttp.ClientError, OSError, ValueError):
        problem = "cannot be reached"
    else:
        if status < 500 and status not in (401, 403):
            whom = "every tenant" if "*" in config.remote_tenants else ", ".join(config.remote_tenants)
            return Check(Level.OK, name, f"it answers; {config.remote_model} makes the final text of {whom}")
        problem = "refuses PARLANCE_REMOTE_KEY" if status < 500 else f"answers with HTTP {status}"
    return Check(Level.WARN, name, f"PARLANCE_REMOTE_URL {problem}; final text stays the local engine's meanwhile.")


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
