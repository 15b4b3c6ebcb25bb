"""Which partials come too late to be shown."""

from server.rooms.partials import FINISHED_MAX, Partials


def test_none_follows_its_final() -> None:
    partials = Partials()
    assert partials.may_show("a", "sg1")
    partials.final("sg1")
    assert not partials.may_show("a", "sg1")
    assert partials.may_show("a", "sg2")


def test_the_last_finals_are_remembered() -> None:
    partials = Partials()
    partials.final(None)
    for number in range(FINISHED_MAX + 1):
        partials.final(f"sg{number}")
    assert partials.may_show("a", "sg0")
    assert not partials.may_show("a", "sg1")
    assert not partials.may_show("a", f"sg{FINISHED_MAX}")


def test_only_the_newest_owner_speaks() -> None:
    partials = Partials()
    assert partials.may_show("a", "sg1"), "nobody is known"
    partials.owned("b", 3)
    assert (partials.may_show("a", "sg1"), partials.may_show("b", "sg1")) == (False, True)
    partials.owned("a", 2)
    assert not partials.may_show("a", "sg1"), "older news"
    partials.owned("a", 4)
    assert (partials.may_show("a", "sg1"), partials.may_show("b", "sg1")) == (True, False)
