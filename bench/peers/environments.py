"""The other servers' environments: one each, outside the checkout, from pinned lists, made once.

A list beside this file pins every package (`uv pip compile` of the server with torch and ctranslate2 as our models
environment has them). They are installed without looking at dependencies: WhisperLive's metadata wants PyAudio, which
wants portaudio, and OpenVINO; neither is used by its server with faster-whisper. What it needs is in its list.

Invariant: an environment whose stamp is there holds what the list says.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

import msgspec

from bench import shapes
from bench.report import ROOT

INSTALL_S_MAX = 1_200.0
STAMP = ".list"


class Unavailable(Exception):
    """The environment is not there and cannot be made; the message says why."""


class Environment(msgspec.Struct, frozen=True):
    """`package`: what it is for, as the package index calls it."""

    package: str
    version: str

    @property
    def pinned(self) -> Path:
        return Path(__file__).parent / f"{self.package}.txt"

    @property
    def folder(self) -> Path:
        return shapes.cache().parent / "peers" / f"{self.package}-{self.version}"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def pins(self) -> dict[str, str]:
        """Versions of all packages."""
        return dict(line.split("==") for line in self.pinned.read_text().splitlines() if "==" in line)


WHISPER_LIVE_KIT = Environment("whisperlivekit", "0.2.26")
WHISPER_LIVE = Environment("whisper-live", "0.10.0")


def make(environment: Environment) -> Path:
    """Its Python; installs it first when it is not there. Raises `Unavailable`."""
    stamp = environment.folder / STAMP
    wanted = hashlib.sha256(environment.pinned.read_bytes()).hexdigest()
    if environment.python.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return environment.python
    uv = _run(["scripts/uv.sh"]).strip()
    environment.folder.parent.mkdir(parents=True, exist_ok=True)
    _run([uv, "venv", "--clear", "--no-project", "--python", sys.executable, str(environment.folder)])
    _run([uv, "pip", "install", "--python", str(environment.python), "--no-deps", "-r", str(environment.pinned)])
    stamp.write_text(wanted)
    return environment.python


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{Path(command[0]).name}: {error}") from error
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise Unavailable(f"{Path(command[0]).name} {' '.join(command[1:3])}: {' '.join(lines[:2])}"[:300])
    return done.stdout
