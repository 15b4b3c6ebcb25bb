"""Which words the bench of the second pass calls lost or doubled at a joint."""

import pytest

from bench.second_pass import NEAR_MS, differences
from bench.speech import Said

WORDS = ("we", "moved", "the", "old", "launch", "to", "the", "new", "office")
SAID = [Said(text, 1_000.0 * n, 1_000.0 * n + 400) for n, text in enumerate(WORDS)]
JOINT_MS = 4_700
"""Between "launch" and "to"."""


@pytest.mark.parametrize(
    ("heard", "errors", "lost"),
    [
        ("we moved the old launch to the new office", 0, 0),
        ("we moved the old to the new office", 1, 1),
        ("we moved the old launch launch to the new office", 1, 1),
        ("we moved the old lunch to the new office", 1, 0),
        ("we moved the old launch the new office", 1, 1),
        ("moved the old launch to the new office", 1, 0),
        ("we moved the old launch to the new office office", 1, 0),
    ],
)
def test_only_what_is_near_a_joint_counts(heard: str, errors: int, lost: int) -> None:
    assert differences(SAID, heard.split(), [JOINT_MS]) == (errors, lost)


def test_how_near_it_must_be() -> None:
    heard = ["we", "moved", "the", "old", "to", "the", "new", "office"]
    end_ms = round(SAID[4].end_ms)
    assert differences(SAID, heard, [end_ms + NEAR_MS])[1] == 1
    assert differences(SAID, heard, [end_ms + NEAR_MS + 1])[1] == 0
