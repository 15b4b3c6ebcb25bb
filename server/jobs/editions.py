"""Which edition of the index comes next: what there is and what this node wants in, the next step out.

Policy: an edition whose adapter, schema, analysis or model is not the wanted one is replaced by another, built beside
it while it is searched. A model that becomes known where there was none is taken up by the edition that is there. What
a newer version of the program made is left to it. A retired edition is dropped before anything else is begun.

Pure; `server.jobs.rebuild` does the steps.
"""

from collections.abc import Sequence

import msgspec

from server.store.editions import Shape, StoredEdition


class Begin(msgspec.Struct, frozen=True):
    """Make room for an edition; `current`: there is none to search meanwhile."""

    shape: Shape
    current: bool


class Adopt(msgspec.Struct, frozen=True):
    """Take up the wanted model."""

    number: int


class Fill(msgspec.Struct, frozen=True):
    edition: StoredEdition


class Await(msgspec.Struct, frozen=True):
    """Promote it when no vector is missing."""

    edition: StoredEdition


class Promote(msgspec.Struct, frozen=True):
    number: int


class Retire(msgspec.Struct, frozen=True):
    number: int


class Drop(msgspec.Struct, frozen=True):
    edition: StoredEdition


Step = Begin | Adopt | Fill | Await | Promote | Retire | Drop


def next_step(editions: Sequence[StoredEdition], wanted: Shape, *, insist: bool) -> Step | None:
    """None: all is as it should be. `wanted.model` is "" while this node knows of none; `insist`: the wanted model
    counts, and not what another node has begun since this one did."""
    for edition in editions:
        if edition.state == "retired":
            return Drop(edition)
    current = next((e for e in editions if e.state == "current"), None)
    building = next((e for e in editions if e.state == "building"), None)
    if current is None:
        return Begin(wanted, current=True)
    if building is not None:
        if insist and _replaces(building.shape, wanted):
            return Retire(building.number)
        if not building.filled:
            return Fill(building)
        changed = building.shape.model not in ("", current.shape.model)
        return Await(building) if changed else Promote(building.number)
    if not current.shape.model and wanted.model and not _replaces(current.shape, wanted):
        return Adopt(current.number)
    if insist and _replaces(current.shape, wanted):
        return Begin(with_model(wanted, current.shape), current=False)
    return None if current.filled else Fill(current)


def _replaces(there: Shape, wanted: Shape) -> bool:
    """`wanted` wants another edition than `there`."""
    if there.adapter != wanted.adapter:
        return True
    if there.schema > wanted.schema or there.analysis > wanted.analysis:
        return False
    older = (there.schema, there.analysis) != (wanted.schema, wanted.analysis)
    return older or ("" not in (there.model, wanted.model) and there.model != wanted.model)


def with_model(wanted: Shape, there: Shape) -> Shape:
    """What is searched by meaning goes on being searched so while the model is not there yet."""
    if wanted.model:
        return wanted
    return msgspec.structs.replace(
        wanted,
        model=there.model,
        spec=there.spec,
        dimensions=there.dimensions,
        similarity_min=there.similarity_min,
    )
