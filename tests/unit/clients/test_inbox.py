"""What waits for a subscription's reader: each match once and in order, whatever is cut off and told again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parlance_client import Hit, Match
from parlance_client.inbox import Inbox

HIT = Hit("g1", "r1", "Talk", None, 0, 900, "hello", [], 1.0)


def match(number: int) -> Match:
    return Match(str(number), HIT)


def opened(after: str | None, matches_max: int = 10, *, at: str = "0") -> Inbox:
    inbox = Inbox(after, matches_max)
    inbox.open()
    inbox.confirm(at)
    return inbox


def taken(inbox: Inbox) -> list[str]:
    return [found.cursor for found in iter(inbox.take, None)]


def test_it_begins_where_it_was_asked_to_and_moves_as_matches_are_taken() -> None:
    inbox = opened("5", at="9")
    assert (inbox.cursor, inbox.after) == ("5", "5"), "what the server says of a place we know is not news"
    inbox.offer(match(6))
    inbox.offer(match(7))
    assert (inbox.cursor, inbox.after) == ("5", "7"), "not dealt with yet, but here"
    inbox.take()
    assert (inbox.cursor, inbox.after) == ("6", "7")


def test_without_a_place_of_its_own_it_begins_where_the_server_says() -> None:
    inbox = Inbox(None, 10)
    assert (inbox.cursor, inbox.after, inbox.is_open) == (None, None, False)
    inbox.open()
    assert not inbox.is_open
    inbox.confirm("3")
    assert (inbox.cursor, inbox.after, inbox.is_open) == ("3", "3", True)


def test_a_match_before_the_confirmation_is_its_place() -> None:
    inbox = Inbox(None, 10)
    inbox.open()
    inbox.offer(match(4))
    inbox.confirm("3")
    assert (inbox.after, taken(inbox), inbox.cursor) == ("4", ["4"], "4")


def test_one_more_than_fits_is_asked_for_again_with_all_that_follows() -> None:
    inbox = opened("0", 2)
    for number in (1, 2, 3):
        inbox.offer(match(number))
    assert not inbox.is_open
    inbox.take()
    inbox.offer(match(4))  # there is room, but 3 is missing
    assert (inbox.after, taken(inbox)) == ("2", ["2"])
    inbox.open()
    inbox.confirm("2")
    assert inbox.is_open
    inbox.offer(match(3))
    assert taken(inbox) == ["3"]


def test_what_comes_while_it_is_shut_is_nobodys() -> None:
    inbox = opened("0")
    inbox.shut()
    inbox.offer(match(1))
    assert (inbox.is_open, inbox.after, taken(inbox)) == (False, "0", [])


def test_there_must_be_room() -> None:
    with pytest.raises(ValueError, match="room"):
        Inbox(None, 0)


@given(
    room=st.integers(1, 5),
    steps=st.lists(st.sampled_from(["tell", "take", "lose"]), max_size=100),
)
def test_a_server_that_tells_what_follows_is_read_without_a_gap(room: int, steps: list[str]) -> None:
    """`tell`: the next match of the log; `lose`: the connection goes, and the reader subscribes again when it may."""
    inbox, log, read = opened("0", room), 0, list[str]()
    for step in steps:
        if step == "tell":
            log += 1
            inbox.offer(match(log))
        elif step == "lose":
            inbox.shut()
        elif found := inbox.take():
            read.append(found.cursor)
        elif not inbox.is_open:
            again = int(inbox.after or 0)
            inbox.open()
            for number in range(again + 1, log + 1):
                inbox.offer(match(number))
            inbox.confirm(str(again))
    assert read == [str(number) for number in range(1, len(read) + 1)]
    assert inbox.cursor == str(len(read))
