"""A test that leaves tasks or processes behind fails, and one that cleans up does not."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.leaks import added

ROOT = Path(__file__).resolve().parents[2]

TESTS = """
import asyncio, subprocess, sys
import pytest
from tests.support import leaks

leaks.END_S_MAX = 0.5
KEPT = []

@pytest.fixture
async def owned():
    task = asyncio.create_task(asyncio.sleep(600))
    yield task
    task.cancel()

async def test_bad_task():
    KEPT.append(asyncio.create_task(asyncio.sleep(600)))

def test_bad_process():
    KEPT.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))

def test_bad_zombie():
    KEPT.append(subprocess.Popen([sys.executable, "-c", ""]))

async def test_good_fixture(owned):
    assert not owned.done()

async def test_good_task():
    task = asyncio.create_task(asyncio.sleep(600))
    task.cancel()

def test_good_process():
    subprocess.run([sys.executable, "-c", ""], check=True)

def test_good_nothing():
    pass
"""


def test_what_is_left_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "test_leaving.py").write_text(TESTS)
    options = ["-p", "tests.support.leaks", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-rA"]
    command = [sys.executable, "-m", "pytest", *options, "-W", "ignore", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    verdicts = dict(re.findall(r"^(?:ERROR|FAILED|PASSED) .*?::test_(bad|good)_(\w+)", ran.stdout, re.MULTILINE))
    assert set(verdicts) == {"bad", "good"}, ran.stdout + ran.stderr
    errors = set(re.findall(r"^ERROR .*?::test_(\w+)", ran.stdout, re.MULTILINE))
    assert errors == {"bad_task", "bad_process", "bad_zombie"}, ran.stdout
    assert "left tasks running" in ran.stdout
    assert "left processes running" in ran.stdout


def test_a_server_may_be_started_again_but_not_twice() -> None:
    before = {1: "server", 2: "database"}
    assert added(before, {2: "database", 3: "server"}) == {}
    assert added(before, {2: "database", 3: "server", 4: "server"}) == {4: "server"}
    assert added(before, {**before, 3: "server"}) == {3: "server"}
