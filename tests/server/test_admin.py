"""`parlance admin`: the index is compared with the database, mended, and built anew beside servers and without one."""

import asyncio
import json
from collections.abc import Sequence

import pytest
from click.testing import CliRunner, Result

from search.model import Held
from server.cli import cli
from server.jobs import verify
from server.jobs.verify import Difference, Verification, compared
from server.store.ledger import Fact
from server.store.pool import Database
from tests.support.keeping import Keeper, Talk
from tests.support.waiting import until

MODELS = ["concepts"]


@pytest.fixture
async def talk(database: Database) -> Talk:
    return await Talk(database).begin()


@pytest.fixture
async def keeper(database: Database) -> Keeper:
    return await Keeper(database).open()


@pytest.fixture(autouse=True)
def nobody_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that wait are not waited for."""
    monkeypatch.setattr(verify, "JOBS_S_MAX", 0.05)
    monkeypatch.setattr(verify, "LOOK_S", 0.01)


def verification(keeper: Keeper, *, repair: bool = False) -> Verification:
    return Verification(
        keeper.database, editions=keeper.editions, index=keeper.index, indexer=keeper.indexer, repair=repair
    )


async def differences(keeper: Keeper, *, repair: bool = False) -> dict[str, tuple[int, int, int, int]]:
    return {
        one.tenant_id: (one.segments, one.missing, one.extra, one.stale)
        async for one in verification(keeper, repair=repair).run()
    }


# --- what differs -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("facts", "held", "wrong"),
    [
        ([("a", 1, ())], [("a", 1, ())], {}),
        ([("a", 1, ())], [], {"a": "missing"}),
        ([], [("a", 1, ())], {"a": "extra"}),
        ([("a", 2, ())], [("a", 1, ())], {"a": "stale"}),
        ([("a", 1, ("m",))], [("a", 1, ())], {"a": "stale"}),
        ([("a", 1, ())], [("a", 1, ("m",))], {"a": "stale"}),
        ([("a", 1, ("m",))], [("a", 1, ("m", "retired"))], {}),
        ([("a", 1, ()), ("b", 1, ())], [("b", 2, ()), ("c", 1, ())], {"a": "missing", "b": "stale", "c": "extra"}),
    ],
)
def test_what_differs(
    facts: list[tuple[str, int, tuple[str, ...]]], held: list[tuple[str, int, tuple[str, ...]]], wrong: dict[str, str]
) -> None:
    assert compared([Fact(*one) for one in facts], [Held(*one) for one in held], ["m"]) == wrong


def test_a_report_names_some_of_many() -> None:
    found = Difference("t")
    found.count("missing", [])
    found.count("missing", [f"s{n:02}" for n in range(15)])
    found.count("missing", [f"s{n:02}" for n in range(15, 40)])
    assert (found.missing, found.ids["missing"]) == (40, [f"s{n:02}" for n in range(verify.NAMED_MAX)])


async def test_an_index_that_holds_the_truth_differs_in_nothing(
    keeper: Keeper, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "PAGE", 3)
    names = await talk.say(*(f"word {n}" for n in range(10)))
    other = await Talk(talk.database, "u").begin()
    await other.say("theirs")
    await keeper.drain()
    await keeper.embed("t", names[:5])
    await keeper.drain()
    assert await differences(keeper) == {"t": (10, 0, 0, 0), "u": (1, 0, 0, 0)}


async def damaged(keeper: Keeper, talk: Talk) -> None:
    """Two segments are missing, one is extra, one of another revision, one without its vector."""
    names = await talk.say(*(f"budget {n}" for n in range(10)))
    await keeper.drain()
    await keeper.embed("t", names)
    await keeper.drain()
    await keeper.index.remove("t", names[:2])
    async with talk.database.tenant_tx("t") as connection:
        await connection.execute("UPDATE segments SET rev = 7 WHERE segment_id = $1", names[2])
        await connection.execute("UPDATE segment_vectors SET searched = false WHERE segment_id = $1", names[3])


class Full(Keeper):
    """Its index holds a segment that nobody said, as another adapter may."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        index, self.extra = self.index, {"t": ["never said"], "gone tenant": ["a", "b"]}
        held, held_of, remove, tenants = index.held, index.held_of, index.remove, index.tenants

        async def with_extra(tenant_id: str, after: str | None, limit: int) -> tuple[list[Held], str | None]:
            page, following = await held(tenant_id, after, limit)
            mine = self.extra.get(tenant_id, []) if following is None else []
            return page + [Held(name, 1) for name in mine], following

        async def of(tenant_id: str, names: Sequence[str]) -> list[Held]:
            return await held_of(tenant_id, names) + [
                Held(name, 1) for name in self.extra.get(tenant_id, []) if name in names
            ]

        async def without(tenant_id: str, names: Sequence[str]) -> None:
            await remove(tenant_id, names)
            self.extra[tenant_id] = [name for name in self.extra.get(tenant_id, []) if name not in names]

        async def everyone() -> list[str]:
            return sorted({*await tenants(), *(tenant for tenant, names in self.extra.items() if names)})

        vars(index).update(held=with_extra, held_of=of, remove=without, tenants=everyone)


async def test_missing_extra_and_stale_are_counted_and_repaired(talk: Talk) -> None:
    keeper = await Full(talk.database).open()
    await damaged(keeper, talk)
    assert await differences(keeper) == {"t": (10, 2, 1, 2), "gone tenant": (0, 0, 2, 0)}
    mending = verification(keeper, repair=True)
    assert [one.differs async for one in mending.run()] == [False, False]
    assert mending.repaired == 7
    assert await differences(keeper) == {"t": (10, 0, 0, 0)}
    assert await keeper.near("t", "money") == set(await keeper.held("t"))


async def test_what_a_job_is_about_to_index_is_no_difference(
    keeper: Keeper, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "JOBS_S_MAX", 60.0)
    await talk.say("not indexed yet")
    looked = asyncio.Event()
    look = Verification._look

    async def told(self: Verification, *arguments: object) -> dict[str, str]:
        wrong = await look(self, *arguments)  # type: ignore[arg-type]
        looked.set()
        return wrong

    monkeypatch.setattr(Verification, "_look", told)
    found = asyncio.ensure_future(differences(keeper))
    await looked.wait()
    await keeper.drain()
    assert await found == {"t": (1, 0, 0, 0)}


async def test_without_anybody_who_works_what_waits_is_missing(keeper: Keeper, talk: Talk) -> None:
    await talk.say("not indexed yet")
    assert await differences(keeper) == {"t": (1, 1, 0, 0)}


# --- the program ------------------------------------------------------------------------------------------------------
@pytest.fixture
def configured(database_dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("PARLANCE_DATABASE_URL", database_dsn)
    monkeypatch.setenv("PARLANCE_DATA_DIR", str(tmp_path))


async def admin(*arguments: str, said: str | None = None) -> Result:
    """In a thread, because it runs a loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, cli, ["admin", *arguments], said)


@pytest.mark.usefixtures("configured")
async def test_verify_index_prints_counts_and_its_status_tells(keeper: Keeper, talk: Talk) -> None:
    await damaged(keeper, talk)
    found = await admin("verify-index")
    assert found.exit_code == 1, found.output
    assert found.stdout.splitlines() == [
        "tenant t: 2 missing, 0 extra, 2 stale",
        "10 segments: 2 missing, 0 extra, 2 stale",
    ]
    lines = [json.loads(line) for line in (await admin("verify-index", "--json")).stdout.splitlines()]
    assert {key: lines[0][key] for key in ("tenant", "segments", "missing", "extra", "stale")} == {
        "tenant": "t", "segments": 10, "missing": 2, "extra": 0, "stale": 2,
    }  # fmt: skip
    assert len(lines[0]["ids"]["missing"]) == 2
    assert lines[1] == {"total": {"segments": 10, "missing": 2, "extra": 0, "stale": 2}, "repaired": 0}
    mended = await admin("verify-index", "--repair")
    assert (mended.exit_code, mended.stdout) == (0, "10 segments: 0 missing, 0 extra, 0 stale\n")
    assert (await admin("verify-index")).exit_code == 0


@pytest.mark.usefixtures("configured")
async def test_reindex_builds_anew_beside_a_node_that_works_and_one_that_builds(keeper: Keeper, talk: Talk) -> None:
    """What was damaged is whole then, and what is said meanwhile is there."""
    await damaged(keeper, talk)
    assert (await admin("reindex", said="n\n")).exit_code == 1
    assert await keeper.states() == [(1, "current")]
    async with keeper.working():
        building = asyncio.ensure_future(admin("reindex", "--yes"))
        await until(lambda: _building(keeper))
        (name,) = await talk.say("budget meanwhile")
        found = await building
    assert found.exit_code == 0, found.output
    assert found.stdout == "The index is built: edition 2 is searched now.\n"
    assert "Segments in the new index: 10 of 10" in found.stderr or "11 of 11" in found.stderr
    assert await keeper.states() == [(2, "current")]
    keeper.editions.forget()
    assert await differences(keeper) == {"t": (11, 0, 0, 0)}
    assert name in await keeper.match("t", "meanwhile")


async def _building(keeper: Keeper) -> bool:
    return (2, "building") in await keeper.states()


@pytest.mark.usefixtures("configured")
async def test_reindex_of_one_tenant_mends_it_alone(keeper: Keeper, talk: Talk) -> None:
    other = await Talk(talk.database, "u").begin()
    await other.say("theirs, not indexed")
    await damaged(keeper, talk)
    async with talk.database.shared_tx() as connection:
        await connection.execute("DELETE FROM pgqueuer")
    await keeper.index.remove("u", list(await keeper.held("u")))
    found = await admin("reindex", "--tenant", "t", "--yes")
    assert (found.exit_code, found.stdout) == (0, "10 segments of t are in the index.\n"), found.output
    assert await keeper.states() == [(1, "current")]
    assert await differences(keeper) == {"t": (10, 0, 0, 0), "u": (1, 1, 0, 0)}
    unknown = await admin("reindex", "--tenant", "nobody", "--yes")
    assert unknown.exit_code == 1
    assert "There is no tenant called nobody." in unknown.output


@pytest.mark.parametrize("command", ["reindex", "verify-index"])
def test_help_has_examples(command: str) -> None:
    text = CliRunner().invoke(cli, ["admin", command, "--help"]).output
    assert f"parlance admin {command}" in text
    assert "Examples:" in text
