"""A real Weaviate (built by scripts/weaviate-server.sh) on ports of its own, its data in a folder.

One serves all tests of a session (`weaviate_server`), each of which has tenants of its own. It starts in 2.4 s, most of
it until it has elected itself, and takes 100 MB. A test that kills it starts it again.
"""

import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.spawn import Program, free_port, free_ports

ROOT = Path(__file__).resolve().parents[2]
READY_S_MAX = 1.0
MEMORY = "512MiB"
"""The garbage collector keeps below it where it can; 100,000 segments with vectors want three times as much."""


def program() -> Path | None:
    """Where it is, or None."""
    script = str(ROOT / "scripts/weaviate-server.sh")
    found = subprocess.run([script, "--where"], capture_output=True, text=True, check=True)
    path = Path(found.stdout.strip())
    return path if path.exists() else None


class WeaviateServer:
    """`start`, `kill`, `stop`; the addresses and the data stay. Any thread may call any method, and all block.

    `key`: the API key without which it lets nobody in; None lets everybody in."""

    def __init__(self, folder: Path, *, key: str | None = None, memory: str = MEMORY, **others: str) -> None:
        """`others`: further variables of its own."""
        found = program()
        if found is None:
            pytest.skip("scripts/weaviate-server.sh could not build Weaviate")
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.grpc_port = free_port(), free_port()
        variables = _variables(folder, key, memory) | {"GRPC_PORT": str(self.grpc_port)} | others
        settings = [f"{name}={value}" for name, value in variables.items()]
        address = ["--scheme", "http", "--host", "127.0.0.1", "--port", str(self.port)]
        self.program = Program(["/usr/bin/env", *settings, str(found), *address], folder)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def settings(self) -> dict[str, str]:
        """Of a `ServerProcess` that uses it."""
        return {"weaviate_url": self.url, "weaviate_grpc": self.grpc}

    @property
    def running(self) -> bool:
        return self.program.running

    def start(self) -> None:
        """Returns when it takes requests."""
        self.program.start(self._ready)

    def kill(self) -> None:
        self.program.kill()

    def stop(self) -> None:
        self.program.stop()

    def signal(self, number: int) -> None:
        self.program.signal(number)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/v1/.well-known/ready", timeout=READY_S_MAX) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _variables(folder: Path, key: str | None, memory: str) -> dict[str, str]:
    """One node, quiet, with every port its own; of two that belong together it finds the second after the first. Its
    elections take a fifth of the usual time, so that it is ready in 2.4 s instead of 7."""
    gossip, data = free_ports(2)
    raft, raft_calls = free_ports(2)
    inner = {
        "CLUSTER_GOSSIP_BIND_PORT": gossip,
        "CLUSTER_DATA_BIND_PORT": data,
        "RAFT_PORT": raft,
        "RAFT_INTERNAL_RPC_PORT": raft_calls,
        "GO_PROFILING_PORT": free_port(),
    }
    access = (
        {"AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "true"}
        if key is None
        else {
            "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false",
            "AUTHENTICATION_APIKEY_ENABLED": "true",
            "AUTHENTICATION_APIKEY_ALLOWED_KEYS": key,
            "AUTHENTICATION_APIKEY_USERS": "parlance",
        }
    )
    return {
        "PERSISTENCE_DATA_PATH": str(folder / "data"),
        "CLUSTER_HOSTNAME": "node1",
        "CLUSTER_ADVERTISE_ADDR": "127.0.0.1",
        "CLUSTER_BIND_ADDR": "127.0.0.1",
        "CLUSTER_IN_LOCALHOST": "true",
        "RAFT_BOOTSTRAP_EXPECT": "1",
        "RAFT_BOOTSTRAP_TIMEOUT": "60",
        "RAFT_TIMEOUTS_MULTIPLIER": "1",
        "DEFAULT_VECTORIZER_MODULE": "none",
        "DISABLE_TELEMETRY": "true",
        "GO_PROFILING_DISABLE": "true",
        "GOMEMLIMIT": memory,
        "GOMAXPROCS": str(min(os.cpu_count() or 1, 4)),
        "LOG_LEVEL": "warning",
        **{name: str(port) for name, port in inner.items()},
        **access,
    }


@pytest.fixture(scope="session")
def weaviate_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeaviateServer]:
    """Runs; a test that stops or kills it starts it again."""
    server = WeaviateServer(tmp_path_factory.mktemp("weaviate") / "server")
    try:
        server.start()
        yield server
    finally:
        server.stop()
