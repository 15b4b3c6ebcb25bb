"""The benchmarks of search on a real server, small: what they count is there. How fast it is, is not looked at here."""

from collections import defaultdict

import pytest

from bench import keystrokes, searchload
from bench.quality.vectors import Embedded
from bench.searching import Material, Stand, served, stands
from bench.searchload import Loaded, Size
from bench.spokentext import Spoken
from tests.fakes.embedder import FakeEmbedder, vector_of

SIZE = Size(segments=300, tenants=3, seconds=1.5, embedded=60, settle_s=0.1)


def material(spoken: Spoken) -> Material:
    info = FakeEmbedder().info
    assert info is not None
    base = searchload.base_of(spoken, SIZE)
    asked = ["budget of the trip", "how deep is the water"]
    passages, queries = ({text: vector_of(text) for text in texts} for texts in ([text for _, text in base], asked))
    return searchload.made(spoken, Embedded(info, passages, queries), base, asked, SIZE, seed=1)


@pytest.mark.timeout(300)
async def test_load_and_keystrokes_on_a_real_server() -> None:
    spoken = Spoken(1)
    given = material(spoken)
    stand = await anext(stands([]))
    assert isinstance(stand, Stand)
    loaded = Loaded()
    async with served(stand, given) as place:
        await searchload.load(place, given, spoken, SIZE, loaded)
        shares = [await searchload.recall(place.index, held, given) for held in given.libraries]
        typed = await keystrokes.typing(place, given, keystrokes.PATTERNS["both at once"], rounds=1, keys=6)
    assert loaded.finals == int(SIZE.seconds * searchload.FINALS_PER_S)
    assert loaded.searchable
    assert loaded.instant
    assert loaded.refused == 0
    assert set(loaded.cpu) == {"server", "database", "embedder"}
    assert min(shares) >= searchload.RECALL_LEAST
    assert len(typed.keys) == 12
    assert typed.late == 0
    assert not any(key.failed for key in typed.keys)
    last: dict[str, keystrokes.Key] = defaultdict()
    for key in typed.keys:
        last[key.slot] = key
    assert all(key.full_ms is not None for key in last.values()), "the newest of each slot is answered"
