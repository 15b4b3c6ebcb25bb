"""What of a folder counts: against a model in which nodes take over, go on as ghosts, merge and remove."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from server.media.extents import Chain, Extent, chain, parse


def names(*extents: tuple[int, ...]) -> list[str]:
    return [Extent(*extent).name for extent in extents]


def covered(found: Chain) -> list[tuple[int, int, int]]:
    return [(piece.start, piece.end, piece.extent.epoch) for piece in found.pieces]


def test_a_name_says_everything_and_sorts_by_place() -> None:
    extents = [Extent(0, 9, 1, 0, 0), Extent(9, 1_000_000, 1, 0, 0, 7), Extent(1_000_000, 1_000_000, 30, 1_000_000, 1)]
    assert [parse(extent.name) for extent in extents] == extents
    assert sorted(extent.name for extent in extents) == [extent.name for extent in extents]


def test_what_is_no_name_of_ours_counts_for_nothing() -> None:
    good = names((0, 9, 1, 0, 0))
    for other in ("", ".new", "audio.raw", good[0] + "x", good[0].replace("-", "_"), "../" + good[0]):
        assert parse(other) is None
        assert chain([*good, other]) == chain(good)
    assert chain([]) == Chain()
    for lie in names((0, 9, 2, 0, 2), (0, 9, 2, 0, 3), (9, 3, 2, 0, 0), (3, 9, 2, 4, 0)):
        assert parse(lie) is None


def test_what_a_ghost_writes_behind_its_successors_beginning_counts_for_nothing() -> None:
    before = names((0, 10, 1, 0, 0), (10, 20, 1, 0, 0))
    ghost = names((20, 30, 1, 0, 0), (30, 40, 1, 0, 0))
    assert covered(chain(before + ghost)) == [(0, 10, 1), (10, 20, 1), (20, 30, 1), (30, 40, 1)], "nobody else wrote"
    after = names((20, 25, 2, 20, 1))
    assert covered(chain(before + ghost + after)) == [(0, 10, 1), (10, 20, 1), (20, 25, 2)]
    assert covered(chain(before + ghost + names((20, 20, 2, 20, 1)))) == [(0, 10, 1), (10, 20, 1)], "it only began"
    merged = names((0, 40, 1, 0, 0))
    assert covered(chain(merged + after)) == [(0, 20, 1), (20, 25, 2)], "cut where the successor began"


def test_an_epoch_between_that_was_slower_than_its_successor_counts_for_nothing() -> None:
    """It found less than its successor, and wrote when that had written already."""
    base = names((0, 100, 1, 0, 0), (100, 200, 1, 0, 0))
    newest = names((200, 250, 3, 200, 1))
    slow = names((100, 150, 2, 100, 1))
    assert covered(chain(base + newest + slow)) == covered(chain(base + newest))
    assert chain(base + newest + slow).end == 250


def test_a_hole_ends_what_counts() -> None:
    assert chain(names((0, 10, 1, 0, 0), (20, 30, 1, 0, 0))).end == 10
    assert chain(names((10, 20, 1, 0, 0))).end == 0
    assert chain(names((0, 10, 1, 0, 0), (20, 30, 3, 20, 2))).end == 0, "nobody knows what lay before"
    assert chain(names((0, 10, 1, 0, 0), (20, 30, 2, 20, 1))).end == 10
    again = chain(names((0, 10, 1, 0, 0), (20, 30, 2, 20, 1), (10, 15, 3, 10, 2)))
    assert (again.end, again.epoch) == (15, 3), "whoever comes next goes on before the hole"


def test_pieces_within_a_range() -> None:
    found = chain(names((0, 10, 1, 0, 0), (10, 20, 1, 0, 0), (20, 30, 1, 0, 0)))
    assert [(piece.start, piece.end) for piece in found.within(5, 21)] == [(5, 10), (10, 20), (20, 21)]
    assert found.within(10, 10) == [] == found.within(30, 40)


class Writer:
    """A node that took a stream over: what it believes the stream to be, and what it has put."""

    def __init__(self, folder: dict[str, bytes], epoch: int) -> None:
        found = chain(folder)
        self.folder, self.epoch = folder, epoch
        self.begin, self.after = found.end, found.epoch
        self.stream = bytearray(content(folder))
        self.sealed = self.begin
        self.small: list[Extent] = []

    def append(self, n_bytes: int) -> None:
        self.stream += bytes([self.epoch % 251]) * n_bytes

    def put(self, start: int, end: int) -> Extent:
        extent = Extent(start, end, self.epoch, self.begin, self.after)
        self.folder[extent.name] = bytes(self.stream[start:end])
        return extent

    def seal(self, n_bytes: int) -> None:
        end = min(self.sealed + n_bytes, len(self.stream))
        if end > self.sealed:
            self.small.append(self.put(self.sealed, end))
            self.sealed = end

    def merge(self, remove: bool) -> None:
        if len(self.small) > 1:
            whole = self.put(self.small[0].start, self.small[-1].end)
            if remove:
                for extent in self.small:
                    self.folder.pop(extent.name, None)
            self.small = [whole]


def content(folder: dict[str, bytes]) -> bytes:
    """What a reader reads."""
    found = chain(folder)
    assert all(a.end == b.start for a, b in pairwise(found.pieces)), "no gaps"
    data = b"".join(folder[p.extent.name][p.start - p.extent.start : p.end - p.extent.start] for p in found.pieces)
    assert len(data) == found.end
    return data


STEPS = st.lists(
    st.tuples(st.sampled_from(["take over", "begin", "append", "seal", "merge", "die in a merge"]),
              st.integers(0, 5), st.integers(1, 9)),
    max_size=40,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(STEPS)
def test_the_newest_epoch_that_wrote_is_believed_and_nothing_it_called_durable_is_ever_lost(
    steps: list[tuple[str, int, int]],
) -> None:
    folder: dict[str, bytes] = {}
    writers = [Writer(folder, 1)]
    for what, who, n_bytes in steps:
        writer = writers[-1 - who % len(writers)]
        before = content(folder)
        if what == "take over":
            writers.append(Writer(folder, len(writers) + 1))
            assert bytes(writers[-1].stream) == before
        elif what == "append":
            writer.append(n_bytes)
        elif what == "begin":
            if writer.sealed == writer.begin:
                writer.put(writer.begin, writer.begin)
        elif what == "seal":
            writer.seal(n_bytes)
        else:
            writer.merge(remove=what == "merge")
        newest = chain(folder).epoch
        if newest:
            believed = writers[newest - 1]
            assert content(folder) == bytes(believed.stream[: believed.sealed]), (what, who)
        if writer.epoch < newest:
            assert content(folder) == before, "a ghost changes nothing"
