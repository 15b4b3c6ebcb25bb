"""A Redis of one's own: Debian's redis-server on a free port, keeping nothing, so that `kill` loses all it held."""

import shutil
from pathlib import Path

import pytest

from tests.support.spawn import Program, free_port, listens

PROGRAM = "redis-server"


class Redis:
    """`start`, `kill`, `stop`; the address stays the same. Any thread may call any method."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            pytest.skip(f"{PROGRAM} is not installed: scripts/test-packages.sh installs it where it may")
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self.program = Program([program, *options, "--dir", str(folder)], folder)

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Over a proxy that listens on `port`."""
        return f"redis://127.0.0.1:{port}/0"

    def start(self) -> None:
        """Returns when it answers."""
        self.program.start(lambda: listens(self.port))

    @property
    def running(self) -> bool:
        return self.program.running

    def kill(self) -> None:
        self.program.kill()

    def stop(self) -> None:
        self.program.stop()
