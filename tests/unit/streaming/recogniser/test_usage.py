"""Who wants how much of a worker's time."""

import pytest

from streaming.recogniser import link
from streaming.recogniser.usage import Usage


def test_speakers_count_at_once_and_finals_on_average() -> None:
    usage = Usage()
    usage.step({"a": 0.4, "b": 0.1}, {}, 5)
    assert (usage.wants["a"].total, usage.wants["b"].total) == (0.4, 0.1)
    assert usage.each == pytest.approx(0.1)
    for second in range(100):
        usage.step({"a": 0.4, "b": 0.1}, {"a": 0.5} if second % 5 == 0 else {}, 5)
    assert usage.wants["a"].partials == pytest.approx(0.4)
    assert usage.wants["a"].finals == pytest.approx(0.1, rel=0.3)
    assert usage.each == pytest.approx(0.1 + 0.1 / 5, rel=0.1)


def test_what_a_speaker_wants_does_not_change_because_a_crowd_leaves() -> None:
    """Thirty people end a meeting within one second: the next one costs what they cost, finals included."""
    usage = Usage()
    for _ in range(60):
        usage.step({"a": 0.9}, {"a": 0.3}, 30)
    each = usage.each
    assert each == pytest.approx(1.2 / 30)
    for _ in range(90):
        usage.step({}, {}, 0)
    assert usage.wants == {}
    assert usage.each == pytest.approx(each)
    usage.step({"b": 0.03}, {}, 1)
    assert usage.each < 2 * each
    for _ in range(60):
        usage.step({"b": 0.03}, {}, 1)
    assert usage.each == pytest.approx(0.03, rel=0.05), "and is measured anew"


def test_who_leaves_fades_and_the_heaviest_are_told_of() -> None:
    usage = Usage()
    names = [f"tenant {n:04}" for n in range(link.LOAD_TENANTS_MAX + 50)]
    usage.step({name: n / 1_000 for n, name in enumerate(names, 1)}, {}, len(names))
    assert usage.heaviest().keys() == set(names[50:])
    for _ in range(30):
        usage.step({}, {}, 0)
    assert usage.wants == {}
