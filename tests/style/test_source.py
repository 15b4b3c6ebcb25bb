"""The rules of style over the program's own packages. What is right in one place only stands here, with its reason."""

import re
from functools import cache
from pathlib import Path

import msgspec

from streaming.limits import Limits
from tests.style.rules import Offence, attributes_read, check, fixed_sleeps

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("streaming", "search", "auth", "server", "clients/python/parlance_client")

ALLOWED = {
    ("streaming/aio.py", "asyncio.create_task"): "the one place where tasks begin: a Scope owns them",
    ("clients/python/parlance_client/connection.py", "random"): "jitter between connection attempts, no secret",
    ("clients/python/parlance_client/recording.py", "random"): "jitter between takeovers, no secret",
    ("server/config.py", "os.environ"): "the one place that reads settings",
    ("server/cli.py", "os.environ"): "options of the command line go over the variables, into server.config",
    ("server/cli.py", "envvar"): "PARLANCE_URL and PARLANCE_TOKEN are the command line's own: which server, as whom",
    ("server/store/embedded.py", "os.environ"): "what the database's process inherits, ours taken out",
    ("server/models/process.py", "os.environ"): "what an installer's or fetcher's process inherits, ours taken out",
    ("server/workers/program.py", "os.environ"): "what the worker's process inherits, ours taken out",
    ("server/hardware.py", "os.environ"): "CUDA_VISIBLE_DEVICES: the driver's setting, which workers inherit",
    (
        "streaming/recogniser/peer.py",
        "collections.deque",
    ): "nothing more is read while more than REPLIES_BYTES_MAX wait",
    ("streaming/limits.py", "module"): "all limits stand in one file, each with where it comes from",
    ("streaming/recogniser/whisper.py", "os.environ"): "PARLANCE_MODEL: an engine's constructor takes no argument",
    ("streaming/audio/vad.py", "collections.deque"): "cut to REPLAY_FRAMES as frames are put in",
    ("streaming/audio/endpoint.py", "collections.deque"): "the onset window, cut to its length at every frame",
    ("streaming/tape.py", "collections.deque"): "refuses more than Limits.flush_marks_max",
    ("clients/python/parlance_client/events.py", "collections.deque"): "events_max; what is over is an EventsLost",
}
"""(path, what) of offences that are none, and why."""

UNREAD_LIMITS = {
    "sync_interval_ms": "a promise that others are measured against: audio is synced with every acknowledgement",
}
"""Limits that nothing but the relations in streaming/limits.py needs, and why they are there."""

ALLOWED_SLEEPS: dict[tuple[str, str], str] = {}
"""(path, what) of tests that must let real time pass, and why no condition can be waited for."""

VIRTUAL_TIME = re.compile(r"^tests/sim/|^(from|import) tests\.sim\b", re.MULTILINE)
"""Where sleeping costs nothing and ends exactly: the simulations, and tests that run on their clock."""


@cache
def sources(*folders: str) -> dict[str, str]:
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


def report(offences: list[Offence], allowed: dict[tuple[str, str], str]) -> str:
    """Offences that nothing allows, and allowances without an offence."""
    found = {(o.path, o.what) for o in offences}
    lines = [str(o) for o in offences if (o.path, o.what) not in allowed]
    lines += [f"{path}: {what}: allowed and not there any more" for path, what in allowed if (path, what) not in found]
    return "\n".join(lines)


def test_the_program_keeps_the_rules() -> None:
    modules = sources(*PACKAGES)
    assert len(modules) > 80, "the packages are where they are looked for"
    problems = report([o for path, source in modules.items() for o in check(path, source)], ALLOWED)
    assert not problems, f"\n{problems}"


def test_tests_wait_for_conditions() -> None:
    modules = {p: s for p, s in sources("tests").items() if not VIRTUAL_TIME.search(p) and not VIRTUAL_TIME.search(s)}
    assert len(modules) > 50, "most tests run in real time"
    offences = [o for path, source in modules.items() for o in check(path, source, (fixed_sleeps,))]
    problems = report(offences, ALLOWED_SLEEPS)
    assert not problems, f"\n{problems}"


def test_every_limit_is_used() -> None:
    modules = sources("streaming", "search", "auth", "server")
    read = set().union(*(attributes_read(text) for path, text in modules.items() if path != "streaming/limits.py"))
    unread = {field.name for field in msgspec.structs.fields(Limits)} - read
    assert unread == set(UNREAD_LIMITS)


def test_a_report_names_what_is_new_and_what_is_stale() -> None:
    offence = Offence("a.py", 3, "banned_calls", "print", "no")
    assert report([offence], {}) == "a.py:3: print: no [banned_calls]"
    assert report([offence], {("a.py", "print"): "a test"}) == ""
    assert report([], {("a.py", "print"): "a test"}) == "a.py: print: allowed and not there any more"
