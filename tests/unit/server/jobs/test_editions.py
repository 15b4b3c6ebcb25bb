"""Which edition of the index comes next."""

import itertools

import msgspec
import pytest

from server.jobs.editions import Adopt, Await, Begin, Drop, Fill, Promote, Retire, Step, next_step
from server.store.editions import Shape, StoredEdition

BARE = Shape("postgres", 1, 1)
OLD = Shape("postgres", 1, 1, "old", "old-spec", 384, 0.3)
NEW = Shape("postgres", 1, 1, "new", "new-spec", 768, 0.4)
_numbers = itertools.count(1)


def stored(shape: Shape, state: str, *, filled: bool = True) -> StoredEdition:
    return StoredEdition(next(_numbers), shape, state, filled, "", "", 0)


def changed(shape: Shape, **fields: object) -> Shape:
    return msgspec.structs.replace(shape, **fields)


def test_the_first_edition_is_searched_at_once() -> None:
    assert next_step([], BARE, insist=True) == Begin(BARE, current=True)


def test_a_current_edition_is_filled_once() -> None:
    current = stored(OLD, "current", filled=False)
    assert next_step([current], OLD, insist=True) == Fill(current)
    assert next_step([stored(OLD, "current")], OLD, insist=True) is None
    assert next_step([stored(OLD, "current")], BARE, insist=True) is None, "the model is not known yet"


def test_a_model_that_becomes_known_is_taken_up() -> None:
    bare = stored(BARE, "current")
    assert next_step([bare], OLD, insist=True) == Adopt(bare.number)
    older = stored(changed(BARE, schema=0), "current")
    assert next_step([older], OLD, insist=True) == Begin(OLD, current=False), "an edition that goes takes up nothing"


@pytest.mark.parametrize(
    "wanted",
    [NEW, changed(OLD, adapter="weaviate"), changed(OLD, schema=2), changed(OLD, analysis=2), changed(BARE, schema=2)],
    ids=["model", "adapter", "schema", "analysis", "schema before the model is known"],
)
def test_what_is_made_otherwise_is_built_beside(wanted: Shape) -> None:
    current = stored(OLD, "current")
    step = next_step([current], wanted, insist=True)
    assert isinstance(step, Begin)
    assert not step.current
    assert step.shape == (changed(OLD, schema=2) if not wanted.model else wanted)
    assert next_step([current], wanted, insist=False) is None, "another node has its way"


@pytest.mark.parametrize("there", [changed(OLD, schema=2), changed(OLD, analysis=2)])
def test_what_a_newer_version_made_is_left_to_it(there: Shape) -> None:
    assert next_step([stored(there, "current")], NEW, insist=True) is None
    building = stored(there, "building", filled=False)
    assert next_step([stored(OLD, "current"), building], NEW, insist=True) == Fill(building)


def test_an_edition_is_filled_awaited_promoted_and_the_old_one_dropped() -> None:
    current = stored(OLD, "current")
    building = stored(NEW, "building", filled=False)
    assert next_step([current, building], NEW, insist=True) == Fill(building)
    building = stored(NEW, "building")
    assert next_step([current, building], NEW, insist=True) == Await(building), "until its vectors are there"
    same = stored(OLD, "building")
    assert next_step([current, same], OLD, insist=True) == Promote(same.number), "the vectors were there"
    retired = stored(OLD, "retired")
    assert next_step([retired, stored(NEW, "current")], NEW, insist=True) == Drop(retired)
    assert next_step([retired, current, building], NEW, insist=True) == Drop(retired), "before anything else"


def test_an_edition_that_nobody_wants_any_more_is_given_up() -> None:
    current = stored(OLD, "current")
    building = stored(NEW, "building", filled=False)
    assert next_step([current, building], OLD, insist=True) == Retire(building.number)
    assert next_step([current, building], OLD, insist=False) == Fill(building)
    assert next_step([current, building], BARE, insist=True) == Fill(building), "no model known, none insisted on"


@pytest.mark.parametrize("start", [[], [stored(OLD, "current")], [stored(BARE, "current", filled=False)]])
@pytest.mark.parametrize("wanted", [BARE, OLD, NEW, changed(NEW, schema=2), changed(OLD, adapter="weaviate")])
def test_steps_come_to_an_end_and_there_is_always_one_to_search(start: list[StoredEdition], wanted: Shape) -> None:
    editions, taken = list(start), 0
    while (step := next_step(editions, wanted, insist=True)) is not None:
        editions = after(editions, step, wanted)
        taken += 1
        assert taken < 10
        assert [e.state for e in editions].count("current") == 1
        assert [e.state for e in editions].count("building") <= 1
    (last,) = editions
    assert last.filled
    assert (last.shape.adapter, last.shape.schema) == (wanted.adapter, wanted.schema)
    assert not wanted.model or last.shape == wanted


def after(editions: list[StoredEdition], step: Step, wanted: Shape) -> list[StoredEdition]:
    """As `server.jobs.rebuild` does it."""

    def put(number: int, **fields: object) -> list[StoredEdition]:
        return [msgspec.structs.replace(e, **fields) if e.number == number else e for e in editions]

    match step:
        case Begin(shape, current):
            return [*editions, stored(shape, "current" if current else "building", filled=False)]
        case Adopt(number):
            return put(number, shape=wanted, filled=False)
        case Fill(edition):
            return put(edition.number, filled=True)
        case Await(edition):
            return after(editions, Promote(edition.number), wanted)
        case Promote(number):
            rest = [msgspec.structs.replace(e, state="retired") if e.state == "current" else e for e in editions]
            return [msgspec.structs.replace(e, state="current") if e.number == number else e for e in rest]
        case Retire(number):
            return put(number, state="retired")
        case Drop(edition):
            return [e for e in editions if e.number != edition.number]
