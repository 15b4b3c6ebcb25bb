"""Spool folders: a living node's is its own, a dead node's is removed by whoever starts next."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from server.media.spool import ALL, Spool

HOLDER = """
import sys, time
from pathlib import Path
from server.media.spool import Spool
spool = Spool(Path(sys.argv[1]), "other")
spool.open()
(spool.folder / "t.r.1").write_bytes(b"audio")
print("open", flush=True)
sys.stdin.read()
"""


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} - {ALL}


def test_a_dead_nodes_folder_is_removed_and_a_living_ones_stays(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    command = [sys.executable, "-c", HOLDER, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        one = Spool(root, "one")
        one.open()
        assert names(root) == {"other", "other.lock", "one", "one.lock"}
        assert (root / "other" / "t.r.1").read_bytes() == b"audio"
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    two = Spool(root, "two")
    two.open()
    assert names(root) == {"one", "one.lock", "two", "two.lock"}
    (one.folder / "t.r.1").write_bytes(b"audio")
    one.close()
    one.close()
    two.close()
    assert names(root) == set()
