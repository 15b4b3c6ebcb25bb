"""Every rule catches an offender, and leaves alone what only looks like one."""

import textwrap

import pytest

from tests.style.rules import FUNCTION_LINES_MAX, MODULE_LINES_MAX, RULES, attributes_read, check, fixed_sleeps

OFFENDERS = {
    "banned_calls": [
        "import asyncio\nasyncio.create_task(f())",
        "import asyncio as a\na.ensure_future(f())",
        "from asyncio import create_task as go\ngo(f())",
        "import asyncio\nasyncio.get_event_loop()",
        "import time\ntime.sleep(1)",
        "from time import sleep\nsleep(1)",
        "print('hello')",
        "import os\nos.system('ls')",
        "eval('1')",
        "exec('1')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import datetime\ndatetime.datetime.utcnow()",
    ],
    "owned_tasks": [
        "import asyncio\nasyncio.get_running_loop().create_task(f())",
        "def g(loop):\n    loop.create_task(f())",
    ],
    "time_zones": [
        "from datetime import datetime\ndatetime.now()",
        "import datetime as d\nd.datetime.fromtimestamp(1)",
    ],
    "guessable_numbers": ["import random", "from random import choice"],
    "broad_excepts": [
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept BaseException as error:\n    log(error)",
        "try:\n    f()\nexcept:\n    pass",
        "try:\n    f()\nexcept (ValueError, Exception):\n    pass",
        "try:\n    f()\nexcept Exception:  # whatever\n    pass",
        "try:\n    f()\nexcept Exception:\n    if late:\n        return\n    raise",
    ],
    "bounded_queues": [
        "import asyncio\nasyncio.Queue()",
        "import asyncio\nasyncio.Queue(maxsize=0)",
        "import queue\nqueue.SimpleQueue()",
        "from collections import deque\ndeque()",
        "import collections\ncollections.deque([1], maxlen=None)",
    ],
    "environment": [
        "import os\nos.environ['A']",
        "from os import environ\nenviron.get('A')",
        "import os\nos.getenv('A')",
        "import click\nclick.option('--a', envvar='A')",
    ],
    "docstring": ["x = 1"],
    "sizes": [
        "\n" * MODULE_LINES_MAX + "x = 1",
        "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX,
    ],
}

INNOCENT = [
    '"""A group owns its tasks."""\nimport asyncio\nasync def f():\n    async with asyncio.TaskGroup() as group:\n'
    "        group.create_task(g())",
    '"""So does one that was passed in."""\nfrom asyncio import TaskGroup\ndef f(group: TaskGroup):\n'
    "    group.create_task(g())",
    '"""And one that was kept."""\nimport asyncio\nclass C:\n    async def f(self, stack):\n'
    "        self._group = await stack.enter_async_context(asyncio.TaskGroup())\n        self._group.create_task(g())",
    '"""Clean up, pass on."""\ntry:\n    f()\nexcept BaseException:\n    undo()\n    raise',
    '"""A boundary."""\ntry:\n    f()\nexcept Exception:  # the session boundary: one stream ends\n    pass',
    '"""Bounded."""\nimport asyncio\nfrom collections import deque\nasyncio.Queue(N)\ndeque(x, N)\ndeque(maxlen=N)',
    '"""With a zone."""\nfrom datetime import UTC, datetime\ndatetime.now(UTC)\ndatetime.fromtimestamp(1, tz=UTC)',
    '"""A method of that name, and the waiting that yields."""\nimport asyncio\nconsole.print(1)\nasyncio.sleep(1)',
    "",
]


def test_every_rule_has_an_offender() -> None:
    assert set(OFFENDERS) == {rule.__name__ for rule in RULES}


@pytest.mark.parametrize(
    ("rule", "source"), [(rule, source) for rule, sources in OFFENDERS.items() for source in sources]
)
def test_offenders_are_caught(rule: str, source: str) -> None:
    assert rule in {offence.rule for offence in check("module.py", source)}


@pytest.mark.parametrize("source", INNOCENT)
def test_the_innocent_are_left_alone(source: str) -> None:
    assert check("module.py", source) == []


def test_an_offence_names_its_place_and_its_remedy() -> None:
    (offence,) = check("streaming/x.py", '"""X."""\n\nimport time\ntime.sleep(1)')
    assert str(offence) == "streaming/x.py:4: time.sleep: it blocks the loop [banned_calls]"


@pytest.mark.parametrize(
    ("caught", "source"),
    [
        (True, "await asyncio.sleep(0.2)"),
        (True, "time.sleep(PAUSE_S)"),
        (True, "for _ in range(3):\n    await asyncio.sleep(0.1)"),
        (False, "await asyncio.sleep(0)"),
        (False, "await asyncio.sleep(len(data) / rate)"),
        (False, "while not done():\n    await asyncio.sleep(0.01)"),
    ],
)
def test_fixed_sleeps(caught: bool, source: str) -> None:
    module = f"import asyncio, time\nasync def f():\n{textwrap.indent(source, '    ')}"
    assert bool(check("tests/test_x.py", module, (fixed_sleeps,))) is caught


def test_a_limit_that_is_only_set_is_not_read() -> None:
    assert attributes_read("limits.a\nlimits.b = 1\nLimits(c=1)") == {"a"}
