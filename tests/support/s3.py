"""A real S3 server over a folder (versitygw, built by scripts/s3-server.sh), on a port of its own.

Every method blocks; in a test with a loop use `asyncio.to_thread`. `environ` is what a node needs to reach it.
"""

import subprocess
from pathlib import Path

import pytest

from tests.support.spawn import Program, free_port, listens

BUCKET = "kept"
ROOT = Path(__file__).resolve().parents[2]


def program() -> Path | None:
    """Where it is, or None."""
    found = subprocess.run([str(ROOT / "scripts/s3-server.sh"), "--where"], capture_output=True, text=True, check=True)
    path = Path(found.stdout.strip())
    return path if path.exists() else None


class S3Server:
    """`start` and `stop` may be called again and again; its objects stay."""

    def __init__(self, folder: Path) -> None:
        found = program()
        if found is None:
            pytest.skip("scripts/s3-server.sh could not build the S3 server")
        (folder / "buckets" / BUCKET).mkdir(parents=True)
        (folder / "server").mkdir()
        self.port = free_port()
        self._program = Program(
            [str(found), "--access", "tests", "--secret", "testtest", "--quiet", "--port", f"127.0.0.1:{self.port}",
             "posix", str(folder / "buckets")],
            folder / "server",
        )  # fmt: skip
        self.environ = {
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "testtest",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }

    def start(self) -> None:
        self._program.start(lambda: listens(self.port))

    def stop(self) -> None:
        self._program.stop()

    def signal(self, number: int) -> None:
        self._program.signal(number)
