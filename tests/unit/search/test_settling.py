"""Which queries are remembered: those that settled, each once, and the longer one in place of its beginning."""

from itertools import count

from search.settling import Settled, Settling, Typed
from streaming.limits import Limits

LIMITS = Limits(searches_settling_max=3)
SETTLED_MS, GROWS_MS = LIMITS.search_settled_ms, LIMITS.search_grows_ms


class Desk:
    """`search.settling` with a clock in hand."""

    def __init__(self) -> None:
        numbers = count(1)
        self.settling = Settling(LIMITS, new_id=lambda: f"id{next(numbers)}")
        self.now_ms = 0

    def type(self, text: str, *, place: str = "slot", user: str = "ann", hits: int | None = 1) -> list[Settled]:
        typed = Typed("t", user, text, text.lower())
        settled = self.settling.asked(place, typed, self.now_ms)
        typed.hits = hits
        return settled

    def after(self, ms: int) -> list[str]:
        """What is due then: "id text"."""
        self.now_ms += ms
        return [f"{settled.search_id} {settled.text}" for settled in self.settling.due(self.now_ms)]


def test_keystrokes_are_one_query_that_settles_once() -> None:
    desk = Desk()
    for end in range(1, 7):
        desk.type("Budget"[:end])
        assert desk.after(80) == []
    assert desk.after(SETTLED_MS - 81) == []
    assert desk.after(1) == ["id1 Budget"]
    assert desk.after(5 * SETTLED_MS) == []


def test_typing_on_replaces_what_was_remembered() -> None:
    desk = Desk()
    desk.type("budget")
    assert desk.after(SETTLED_MS) == ["id1 budget"]
    desk.type("budget meeting", hits=0)
    assert [s.hits for s in desk.settling.due(desk.now_ms + SETTLED_MS)] == [0]
    assert desk.after(SETTLED_MS) == []
    desk.type("budget meeting minutes")
    assert desk.after(SETTLED_MS) == ["id1 budget meeting minutes"]


def test_another_query_or_a_later_one_is_a_new_one() -> None:
    desk = Desk()
    desk.type("budget")
    assert desk.after(SETTLED_MS) == ["id1 budget"]
    desk.type("weather")
    assert desk.after(SETTLED_MS) == ["id2 weather"]
    desk.type("weather today")
    assert desk.after(GROWS_MS) == ["id2 weather today"]
    desk.type("weather today and tomorrow")
    assert desk.after(SETTLED_MS) == ["id3 weather today and tomorrow"], "a minute is another time"


def test_what_was_taken_back_before_it_stood_is_not_remembered() -> None:
    desk = Desk()
    for text in ("budgef", "budge", "budget"):
        assert desk.type(text) == []
        desk.after(SETTLED_MS - 1)
    assert desk.after(SETTLED_MS) == ["id2 budget"]


def test_taking_back_what_was_remembered_replaces_nothing() -> None:
    desk = Desk()
    desk.type("budget meeting")
    assert desk.after(SETTLED_MS) == ["id1 budget meeting"]
    desk.type("budget")
    assert desk.after(SETTLED_MS) == ["id2 budget"]


def test_a_query_about_something_else_settles_the_one_before() -> None:
    desk = Desk()
    desk.type("weather")
    assert [s.text for s in desk.type("budget", hits=None)] == ["weather"]
    assert desk.type("cats") == [], "it was never answered"
    assert desk.after(SETTLED_MS) == ["id3 cats"]


def test_what_was_not_answered_is_not_remembered() -> None:
    desk = Desk()
    desk.type("weather", hits=None)
    assert desk.after(SETTLED_MS) == []
    assert desk.settling.answered_of("t") == []
    assert desk.settling.left(["slot"]) == []
    assert len(desk.settling) == 0


def test_who_asks_for_the_history_sees_what_is_answered() -> None:
    desk = Desk()
    desk.type("budget")
    desk.type("weather", place="other", user="bob")
    assert [s.text for s in desk.settling.answered_of("t", "ann")] == ["budget"]
    assert [s.text for s in desk.settling.answered_of("t")] == ["weather"]
    assert desk.settling.answered_of("another") == []
    assert desk.after(SETTLED_MS) == []
    desk.type("budget meeting")
    assert desk.after(SETTLED_MS) == ["id1 budget meeting"], "typing on replaces it all the same"


def test_another_user_at_the_same_place_goes_on_with_nobodys_query() -> None:
    desk = Desk()
    desk.type("budget")
    assert desk.after(SETTLED_MS) == ["id1 budget"]
    desk.type("budget meeting", user="bob")
    assert desk.after(SETTLED_MS) == ["id2 budget meeting"]
    assert [s.user_id for s in desk.type("budget meeting today")] == [], "it was told before"


def test_leaving_remembers_and_forgetting_does_not() -> None:
    desk = Desk()
    desk.type("budget")
    assert [s.text for s in desk.settling.left(["slot", "unknown"])] == ["budget"]
    desk.type("weather")
    desk.settling.forget("t", "ann")
    assert desk.after(SETTLED_MS) == []


def test_a_settled_place_is_forgotten_after_a_minute() -> None:
    desk = Desk()
    desk.type("budget")
    desk.after(SETTLED_MS)
    assert len(desk.settling) == 1
    desk.after(GROWS_MS)
    assert len(desk.settling) == 0


def test_places_are_bounded_and_the_oldest_is_written_as_it_is() -> None:
    desk = Desk()
    for number in range(LIMITS.searches_settling_max):
        assert desk.type(f"query {number}", place=str(number)) == []
    assert [s.text for s in desk.type("one more", place="more")] == ["query 0"]
    assert len(desk.settling) == LIMITS.searches_settling_max
