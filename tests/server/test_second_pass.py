"""Kept audio is read again and the transcript put right, whoever dies meanwhile: the steps, on a real database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest

from auth.model import Identity, Role
from server.jobs.audio import RecordedAudio
from server.jobs.merging import Merger
from server.jobs.pieces import Work
from server.jobs.second_pass import SecondPass
from server.media.audiolog import MediaStore
from server.media.playback import Playback
from server.store import passes, recordings, revisions
from server.store.pool import Connection, Database
from server.store.segments import FinalWrite
from server.telemetry import METRICS
from server.workers.calls import CallFailed
from server.workers.passes import OnDemand, Wanted
from streaming.aio import Scope
from streaming.diariser.heard import DiariserInfo, Heard, Voice
from streaming.errors import Unavailable, WorkerLost
from streaming.limits import LIMITS
from streaming.model import Segment, Word, ms_of, samples_of
from streaming.ports import Pcm16
from streaming.transcript.merge import Spoken
from tests.fakes.tones import Talk, hear, labels_of, random_sentences, talk
from tests.server.test_commits import begin, end, write
from tests.support.library import open_library
from tests.support.node import log_of, somebody
from tests.support.told import Told

HANG_S = 60.0
STEPS_MAX = 50
QUICK = msgspec.structs.replace(LIMITS, lease_ms=600, lease_renew_ms=100, pass_idle_ms=50)
LONG = talk(random_sentences(5, 45, words=(4, 9)), silence_ms=900)
"""Some 110 s: two pieces and a rest."""
SHORT = talk(random_sentences(6, 4), silence_ms=900)
NAME = "rec_a"


class Ears:
    """The port `Transcriber` in this process, without error; `before` runs in every call and may change the answer."""

    name = "ears"
    capabilities = ("sound", 28_000)

    def __init__(self, before: Callable[[Wanted], Awaitable[None]] | None = None, *, better: bool = True) -> None:
        self.given: list[Wanted] = []
        self.language = "en"
        self._before = before
        self._better = better

    def improves(self, _engine: str) -> bool:
        return self._better

    async def transcribe(self, wanted: Wanted) -> tuple[Spoken, ...]:
        self.given.append(wanted)
        if self._before is not None:
            await self._before(wanted)
        found = []
        for start, last in wanted.utterances:
            first = start - wanted.piece.start_sample
            audio = wanted.piece.audio[first : first + last - start]
            words = tuple(
                Word(text, ms_of(start + a), ms_of(start + b), 0.9) for text, a, b in hear(audio, labels_of(audio))
            )
            found.append(Spoken(ms_of(start), ms_of(last), words, self.language))
        return tuple(found)


class House:
    """A tenant's recordings, and passes over them. Each `step` is made by a process of its own, as if the one before
    had been killed behind it."""

    def __init__(self, database: Database, media: MediaStore, who: Identity) -> None:
        self.database, self.media, self.who = database, media, who
        self.told = Told()
        self.ears = Ears()
        self.voices: Any = None
        self.minutes = 5.0
        self.limits = QUICK
        self.node = "one"

    def process(self) -> SecondPass:
        return SecondPass(
            self.database, RecordedAudio(self.database, self.media, Playback(self.media)), self.told,
            transcriber=lambda: self.ears, voices=self.voices, minutes=self.minutes, node=self.node,
            limits=self.limits,
        )  # fmt: skip

    async def record(
        self, said: Talk, made: Sequence[Segment], *, name: str = NAME, committed: int | None = None, ended: bool = True
    ) -> None:
        await begin(self.database, self.who, name)
        kept = await self.media.open(self.who.tenant_id, name)
        kept.append(said.audio.tobytes())
        await kept.seal()
        tenant_id = self.who.tenant_id
        await write(self.database, self.who, *(FinalWrite(tenant_id, name, 1, s, samples_of(s.end_ms)) for s in made))
        async with self.database.tenant_tx(tenant_id) as connection:
            await connection.execute("UPDATE passes SET due_at = now()")
            await connection.execute(
                "UPDATE streams SET committed_sample = $1 WHERE recording_id = $2",
                len(said.audio) if committed is None else committed, name,
            )  # fmt: skip
        if ended:
            await end(self.database, self.who, name, 1)

    async def finish(self) -> int:
        """Steps until nothing is due."""
        async with asyncio.timeout(HANG_S):
            for number in range(STEPS_MAX):
                if not await self.process().step():
                    return number
        raise AssertionError("it never ends")

    async def segments(self, name: str = NAME) -> list[Segment]:
        async with self.database.tenant_tx(self.who.tenant_id) as connection:
            return [each.segment for each in await passes.transcript(connection, self.who.tenant_id, name, 0, None)]

    async def texts(self, name: str = NAME) -> list[str]:
        return [segment.text for segment in await self.segments(name)]

    async def revisions(self, name: str = NAME) -> list[dict[str, Any]]:
        log = await log_of(self.database, self.who, f"recording:{name}")
        return [event.body for event in log if event.event == "transcript:revised"]

    async def row(self, name: str = NAME) -> passes.PassRow:
        async with self.database.tenant_tx(self.who.tenant_id) as connection:
            return await passes.get(connection, self.who.tenant_id, name)

    async def due_now(self) -> None:
        async with self.database.tenant_tx(self.who.tenant_id) as connection:
            await connection.execute("UPDATE passes SET due_at = now(), held_until = '-infinity'")


@pytest.fixture
def house(database: Database, media: MediaStore, who: Identity) -> House:
    return House(database, media, who)


def exact(said: Talk, *, name: str = NAME) -> list[Segment]:
    """What a recogniser without error makes of it."""
    return [
        Segment(f"{name}.1.{n}", n, 1, s[0].start_ms, s[-1].end_ms, " ".join(w.text for w in s), s, None, "en", 0.5)
        for n, s in enumerate(said.sentences, start=1)
    ]


def misheard(segment: Segment, index: int = 0, text: str = "mumble") -> Segment:
    words = list(segment.words)
    words[index] = msgspec.structs.replace(words[index], text=text)
    return msgspec.structs.replace(segment, words=tuple(words), text=" ".join(word.text for word in words))


def numbered(made: Sequence[Segment]) -> list[Segment]:
    """With ordinals as a stream gives them."""
    return [msgspec.structs.replace(segment, ordinal=n) for n, segment in enumerate(made, start=1)]


# --- what becomes of a transcript ---------------------------------------------------------------------------------
async def test_where_live_recognition_died_the_whole_transcript_is_there(house: House) -> None:
    await house.record(LONG, [])
    steps = await house.finish()
    assert steps >= 3, "pieces, and what is behind the last one"
    assert " ".join(await house.texts()) == " ".join(LONG.texts), "no word lost or doubled at a joint"
    (told,) = await house.revisions()
    assert (told["reason"], told["part"], told["parts"]) == ("second_pass", 1, 1)
    assert [event.event for event in house.told.events] == ["transcript:revised"]
    row = await house.row()
    assert (row.state, row.pieces) == ("done", 0), "what was read is not kept"
    assert await house.finish() == 0


async def test_a_transcript_that_is_right_is_not_touched(house: House) -> None:
    await house.record(LONG, exact(LONG))
    await house.finish()
    assert await house.segments() == exact(LONG)
    assert await house.revisions() == []
    assert (await house.row()).state == "done"


async def test_words_change_where_they_were_wrong_and_nowhere_else(house: House, owner: Connection) -> None:
    right = exact(LONG)
    live = [*right[:4], misheard(right[4]), *right[5:9], *right[10:]]
    noise = Segment(
        f"{NAME}.1.99", 1, 1, right[12].end_ms + 300, right[12].end_ms + 600, "thank you",
        (Word("thank you", right[12].end_ms + 300, right[12].end_ms + 600),), None, "en", 0.5,
    )  # fmt: skip
    live = numbered(sorted([*live, noise], key=lambda s: s.start_ms))
    await house.record(LONG, live)
    before = await index_jobs(owner)
    await house.finish()
    (told,) = await house.revisions()
    assert [s["segment_id"] for s in told["segments"]] == [f"{NAME}.1.5", f"{NAME}.p1.1"]
    assert told["removed"] == [noise.segment_id]
    assert told["pass_id"]
    assert " ".join(await house.texts()) == " ".join(LONG.texts)
    stayed = {s.segment_id: s for s in await house.segments()}
    kept = [s for s in live if stayed.get(s.segment_id) == s]
    assert len(kept) == len(live) - 2, "all others keep id and rev"
    assert await index_jobs(owner) == before + 1


async def index_jobs(owner: Connection) -> int:
    return int(await owner.fetchval("SELECT count(*) FROM pgqueuer WHERE entrypoint = 'index_segments'"))


async def test_what_a_person_edited_stays(house: House) -> None:
    right = exact(SHORT)
    await house.record(SHORT, [misheard(right[0], text="mine"), *right[1:]])
    async with house.database.tenant_tx(house.who.tenant_id) as connection:
        await connection.execute("UPDATE segments SET edited = true WHERE ordinal = 1")
    await house.finish()
    assert (await house.texts())[0].startswith("mine ")
    assert await house.revisions() == []


async def test_a_broken_model_takes_nothing_away(house: House, caplog: pytest.LogCaptureFixture) -> None:
    async def deaf(wanted: Wanted) -> None:
        if wanted.piece.start_sample:
            msgspec.structs.force_setattr(wanted, "utterances", ())

    house.ears = Ears(deaf)
    live = [misheard(segment) for segment in exact(LONG)]
    before = METRICS.passes.discarded._value.get()
    await house.record(LONG, live)
    await house.finish()
    assert await house.segments() == live, "also where it heard something"
    assert METRICS.passes.discarded._value.get() == before + 1
    assert "second pass discarded: it hears less than what is there" in caplog.text
    assert (await house.row()).state == "done"


async def test_large_revisions_come_in_parts(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "SEGMENTS_PER_EVENT", 10)
    await house.record(LONG, [misheard(segment) for segment in exact(LONG)])
    await house.finish()
    told = await house.revisions()
    assert [(each["part"], each["parts"]) for each in told] == [(n, 5) for n in range(1, 6)]
    assert len({each["pass_id"] for each in told}) == 1
    assert await house.texts() == LONG.texts


# --- while a recording goes on --------------------------------------------------------------------------------------
async def test_of_a_long_recording_what_is_committed_is_read_every_few_minutes(house: House) -> None:
    house.minutes = 1.0
    right = exact(LONG)
    live = [misheard(segment) for segment in right]
    committed = samples_of(right[30].end_ms)
    await house.record(LONG, live[:31], committed=committed, ended=False)
    await house.finish()
    row = await house.row()
    assert row.state == "waiting"
    assert 0 < row.merged_sample <= row.read_sample <= committed
    first = await house.segments()
    for now, was, should in zip(first, live, right, strict=False):
        if samples_of(was.end_ms) > row.merged_sample:
            assert now == was, "behind its end nothing is touched"
        else:
            assert (now.segment_id, now.rev, now.text) == (was.segment_id, 2, should.text)
    (told,) = await house.revisions()
    await house.due_now()
    assert await house.process().step(), "it looks"
    assert len(await house.revisions()) == 1, "and finds nothing new"
    tenant_id = house.who.tenant_id
    await write(
        house.database, house.who, *(FinalWrite(tenant_id, NAME, 1, s, samples_of(s.end_ms)) for s in live[31:])
    )
    await end(house.database, house.who, NAME, 1)
    await house.finish()
    assert await house.texts() == LONG.texts, "no word lost or doubled between the two"
    second = (await house.revisions())[1:]
    twice = {s["segment_id"] for s in told["segments"]} & {s["segment_id"] for each in second for s in each["segments"]}
    assert not twice
    assert {segment.rev for segment in await house.segments()} == {2}


async def test_a_segment_across_the_end_of_a_piece_waits_for_the_next_merge(house: House, owner: Connection) -> None:
    house.minutes = 1.0
    await house.record(LONG, [], committed=samples_of(61_000), ended=False)
    assert await house.process().step()
    edge_ms = ms_of((await house.row()).read_sample)
    across = Segment(
        f"{NAME}.1.1", 1, 1, edge_ms - 400, edge_ms + 400, "mumble", (Word("mumble", edge_ms - 400, edge_ms + 400),),
        None, "en", 0.5,
    )  # fmt: skip
    await write(house.database, house.who, FinalWrite(house.who.tenant_id, NAME, 1, across, samples_of(61_000)))
    await house.finish()
    assert ((await house.row()).pieces, (await house.row()).merges) == (1, 0)
    await owner.execute("DELETE FROM segments")
    await house.due_now()
    await house.finish()
    assert ((await house.row()).pieces, (await house.row()).merges) == (1, 1)
    await end(house.database, house.who, NAME, 1)
    await house.finish()
    assert " ".join(await house.texts()) == " ".join(LONG.texts)


async def test_a_short_recording_that_goes_on_is_left_alone(house: House) -> None:
    await house.record(SHORT, [], ended=False)
    assert await house.process().step()
    assert not await house.process().step(), "it is looked at again when there may be enough of it"
    assert (await house.row()).pieces == 0


# --- who dies -------------------------------------------------------------------------------------------------------
async def test_a_process_that_dies_anywhere_goes_on_at_the_piece_and_tells_once(house: House) -> None:
    """Cancelled at each of its statements in turn, which is what the database sees of kill -9."""
    undisturbed = House(house.database, house.media, house.who)
    await undisturbed.record(LONG, [misheard(s) for s in exact(LONG, name="whole")], name="whole")
    await undisturbed.finish()
    statements = 0
    for number in range(400):
        name = f"rec_{number}"
        await house.record(SHORT, [misheard(s) for s in exact(SHORT, name=name)], name=name)
        dying = Dying(house.database, at=number)
        house.database = dying  # type: ignore[assignment]
        died = False
        try:
            await house.finish()
        except Killed:
            died = True
        house.database = undisturbed.database
        await house.due_now()
        await house.finish()
        (told,) = await house.revisions(name)
        assert [s["segment_id"] for s in told["segments"]] == [f"{name}.1.{n}" for n in range(1, 5)]
        assert await house.texts(name) == SHORT.texts
        statements = number
        if not died:
            break
    assert statements > 10, "it was killed at each of its transactions"
    assert len(await undisturbed.revisions("whole")) == 1


class Killed(BaseException):
    """The process is gone."""


class Dying:
    """A database whose user dies before, or right behind the commit of, one of its transactions."""

    def __init__(self, database: Database, *, at: int) -> None:
        self._database = database
        self._left = at

    @asynccontextmanager
    async def tenant_tx(self, tenant_id: str, *, long: bool = False) -> AsyncIterator[Connection]:
        async with self._database.tenant_tx(tenant_id, long=long) as connection:
            self._tick()
            yield connection
        self._tick()

    @asynccontextmanager
    async def shared_tx(self) -> AsyncIterator[Connection]:
        async with self._database.shared_tx() as connection:
            yield connection

    def _tick(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Killed


async def test_a_lost_worker_is_asked_again_and_costs_nothing(house: House) -> None:
    losses = 2

    async def lose(_: Wanted) -> None:
        nonlocal losses
        losses -= 1
        if losses >= 0:
            raise WorkerLost("gone")

    house.ears = Ears(lose)
    await house.record(SHORT, [])
    for _ in range(2):
        with pytest.raises(WorkerLost):
            await house.process().step()
        await house.due_now()
    await house.finish()
    assert " ".join(await house.texts()) == " ".join(SHORT.texts)


async def test_a_piece_that_kills_its_workers_is_passed_over(house: House, caplog: pytest.LogCaptureFixture) -> None:
    async def lose(wanted: Wanted) -> None:
        if wanted.piece.start_sample == 0:
            raise WorkerLost("gone")

    house.ears = Ears(lose)
    live = [misheard(segment) for segment in exact(LONG)]
    await house.record(LONG, live)
    for _ in range(LIMITS.pass_tries_max):
        with pytest.raises(WorkerLost):
            await house.process().step()
        await house.due_now()
    await house.finish()
    edge_ms = ms_of(house.ears.given[-1].piece.start_sample) if len(house.ears.given) == 5 else None
    assert "a piece is passed over after repeated losses" in caplog.text
    after = await house.segments()
    assert after[0] == live[0]
    assert after[-1].text == LONG.texts[-1]
    assert edge_ms is None or edge_ms > 0


async def test_what_a_worker_refuses_is_passed_over_at_once(house: House) -> None:
    async def refuse(_: Wanted) -> None:
        raise CallFailed("no")

    house.ears = Ears(refuse)
    live = [misheard(segment) for segment in exact(SHORT)]
    await house.record(SHORT, live)
    await house.finish()
    assert await house.segments() == live
    assert (await house.row()).state == "done"


async def test_a_recogniser_that_is_away_counts_no_tries(house: House) -> None:
    async def away(_: Wanted) -> None:
        raise Unavailable("not now")

    house.ears = Ears(away)
    await house.record(SHORT, [])
    for _ in range(LIMITS.pass_tries_max + 2):
        with pytest.raises(Unavailable):
            await house.process().step()
        await house.due_now()
    house.ears = Ears()
    await house.finish()
    assert " ".join(await house.texts()) == " ".join(SHORT.texts)


async def test_two_nodes_share_the_work_and_tell_once(house: House, owner: Connection) -> None:
    other = House(house.database, house.media, house.who)
    other.node = "two"
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(_: Wanted) -> None:
        entered.set()
        await release.wait()

    house.ears = Ears(slow)
    await house.record(SHORT, [])
    async with asyncio.timeout(HANG_S), asyncio.TaskGroup() as group:
        group.create_task(house.process().step())
        await entered.wait()
        first = await owner.fetchval("SELECT held_until FROM passes")
        while await owner.fetchval("SELECT now() < $1", first):
            await asyncio.sleep(0.02)
        assert not await other.process().step(), "its lease ran out, and was renewed"
        release.set()
    await house.finish()
    assert len(await house.revisions()) == 1


async def test_what_a_dead_node_held_is_free_when_its_lease_has_run_out(house: House, owner: Connection) -> None:
    await house.record(SHORT, [])
    async with house.database.tenant_tx(house.who.tenant_id) as connection:
        assert await passes.claim(connection, house.who.tenant_id, NAME, node="dead", lease_ms=QUICK.lease_ms)
    assert not await house.process().step()
    async with asyncio.timeout(HANG_S):
        while await owner.fetchval("SELECT held_until > now() FROM passes"):
            await asyncio.sleep(0.02)
    await house.finish()
    assert " ".join(await house.texts()) == " ".join(SHORT.texts)


async def test_a_second_writer_writes_nothing(house: House) -> None:
    """Two nodes that both believe to hold it."""
    await house.record(SHORT, [])
    while not (await house.row()).pieces:
        await house.process().step()
    work = await work_of(house)
    merger = Merger(house.database, house.told, QUICK)
    assert await merger.merge(work, work.row.pieces, done=True)
    assert await Merger(house.database, house.told, QUICK).merge(work, work.row.pieces, done=True)
    assert len(await house.revisions()) == 1
    assert house.told.resynced == [f"recording:{NAME}"]


async def work_of(house: House) -> Work:
    async with house.database.tenant_tx(house.who.tenant_id) as connection:
        recording = await recordings.get(connection, house.who.tenant_id, NAME)
        return Work(house.who.tenant_id, recording, await passes.get(connection, house.who.tenant_id, NAME))


@pytest.mark.parametrize("touched", [1, 2])
async def test_a_segment_that_changed_meanwhile_is_merged_anew(house: House, touched: int) -> None:
    right = exact(SHORT)
    live = [misheard(right[0]), misheard(right[1]), *right[2:]]
    await house.record(SHORT, live)
    while not (await house.row()).pieces:
        await house.process().step()
    work = await work_of(house)
    merger = Merger(house.database, house.told, QUICK)
    async with house.database.tenant_tx(house.who.tenant_id) as connection:
        held = await passes.transcript(connection, house.who.tenant_id, NAME, 0, None)
    made = await merger._make(work, held, work.row.pieces)
    mine = msgspec.structs.replace(live[touched - 1], rev=2, text="by hand", words=())
    async with house.database.tenant_tx(house.who.tenant_id) as connection:
        await revisions.revise(
            connection, house.who.tenant_id, NAME, [mine], reason="edit", pass_id="e", at_ms=1
        )  # fmt: skip
    assert await merger._write(work, held, made, work.row.pieces, done=True) is None
    assert (await house.row()).state == "waiting", "nothing of it was written"
    await house.finish()
    texts = await house.texts()
    assert texts[touched - 1] == "by hand"
    assert [*texts[: touched - 1], *texts[touched:]] == [t for n, t in enumerate(SHORT.texts, 1) if n != touched]


# --- what is not there ----------------------------------------------------------------------------------------------
async def test_a_recording_deleted_meanwhile_leaves_nothing(house: House, owner: Connection) -> None:
    async def delete(_: Wanted) -> None:
        await owner.execute("DELETE FROM recordings")

    house.ears = Ears(delete)
    await house.record(SHORT, [])
    assert await house.process().step()
    assert await owner.fetchval("SELECT count(*) FROM passes") == 0
    assert await owner.fetchval("SELECT count(*) FROM pass_pieces") == 0
    assert not await house.process().step()


async def test_without_its_audio_a_recording_keeps_what_it_has(house: House) -> None:
    await begin(house.database, house.who, NAME)
    await end(house.database, house.who, NAME, 1)
    await house.finish()
    assert (await house.row()).state == "none"


async def test_what_ended_long_ago_is_read_only_when_somebody_asks(house: House, owner: Connection) -> None:
    await house.record(SHORT, [])
    await owner.execute(
        "UPDATE recordings SET ended_at = now() - make_interval(secs => $1)", LIMITS.pass_age_s_max + 5.0
    )
    await house.finish()
    assert await house.texts() == []
    async with house.database.tenant_tx(house.who.tenant_id) as connection:
        assert await passes.ask(connection, house.who.tenant_id, NAME)
    async with house.database.tenant_tx(house.who.tenant_id) as connection:
        assert not await passes.ask(connection, house.who.tenant_id, NAME), "one is under way"
    await house.finish()
    assert " ".join(await house.texts()) == " ".join(SHORT.texts)


async def test_another_tenant_sees_none_of_it(house: House) -> None:
    await house.record(SHORT, [])
    await house.process().step()
    stranger = await somebody(house.database, tenant="evil")
    async with house.database.tenant_tx(stranger.tenant_id) as connection:
        assert await connection.fetchval("SELECT count(*) FROM passes") == 0
        assert await connection.fetchval("SELECT count(*) FROM pass_pieces") == 0
        assert not await connection.fetchval("UPDATE passes SET tries = 9 RETURNING true")


# --- who reads ------------------------------------------------------------------------------------------------------
async def test_the_engine_of_live_talk_reads_only_what_it_missed(house: House) -> None:
    house.ears = Ears(better=False)
    right = exact(SHORT)
    await house.record(SHORT, numbered([misheard(right[0]), *right[2:]]))
    await house.finish()
    (given,) = house.ears.given
    assert len(given.utterances) == 1
    assert (await house.texts())[1:] == SHORT.texts[1:]
    assert (await house.texts())[0].startswith("mumble "), "its own words are no better the second time"


async def test_the_language_found_live_is_the_language_of_the_piece(house: House, owner: Connection) -> None:
    german = [msgspec.structs.replace(segment, language="de") for segment in exact(SHORT)]
    house.ears.language = "de"
    await house.record(SHORT, german)
    await owner.execute("UPDATE recordings SET language = 'auto'")
    await house.finish()
    assert {wanted.language for wanted in house.ears.given} == {"de"}


class Hum:
    """The port `Voices`: whoever is loud is another person."""

    def __init__(self, window_ms: int = 10_000) -> None:
        self.window_ms = window_ms
        self.heard: list[int] = []

    @asynccontextmanager
    async def used(self) -> AsyncIterator[DiariserInfo | None]:
        yield DiariserInfo(model="hum", dim=2, window_ms=self.window_ms, locals_max=3)

    async def listen(self, audio: Pcm16) -> Heard:
        self.heard.append(len(audio))
        level = int(np.abs(audio).max())
        vector = np.array([1, 0] if level < 16_000 else [0, 1], np.float32).tobytes()
        loud = np.flatnonzero(np.abs(audio) > 500)
        if not len(loud):
            return Heard(len(audio), ())
        span = int(loud[0]), int(loud[-1]) + 1
        return Heard(len(audio), (Voice((span,), ms_of(span[1] - span[0]), vector),))


async def test_speakers_are_told_apart_over_the_whole_recording(house: House) -> None:
    one, other = talk(random_sentences(8, 12), silence_ms=900), talk(random_sentences(9, 12), silence_ms=900)
    loud = (other.audio.astype(np.int32) * 2).clip(-32_768, 32_767).astype(np.int16)
    shift_ms = ms_of(len(one.audio))
    moved = tuple(
        tuple(Word(w.text, w.start_ms + shift_ms, w.end_ms + shift_ms) for w in sentence)
        for sentence in other.sentences
    )
    said = Talk(np.concatenate([one.audio, loud]), (*one.sentences, *moved))
    house.voices = Hum()
    await house.record(said, exact(said))
    await house.finish()
    speakers = [segment.speaker for segment in await house.segments()]
    assert set(speakers) == {"S1", "S2"}
    assert speakers[0] == "S1"
    assert speakers[-1] == "S2"
    assert sum(a != b for a, b in pairwise(speakers)) == 1
    assert await house.texts() == said.texts
    assert len(house.voices.heard) >= 2 * len(said.audio) // samples_of(10_000) - 2


async def test_a_diariser_of_long_windows_hears_a_piece_at_once(house: House) -> None:
    said = talk(random_sentences(8, 30), silence_ms=900)
    house.voices = Hum(LIMITS.pass_piece_ms_max + 10_000)
    await house.record(said, [])
    await house.finish()
    pieces = [wanted.piece for wanted in house.ears.given]
    assert len(pieces) > 1
    before = [min(piece.start_sample, samples_of(10_000)) for piece in pieces]
    whole = [piece.end_sample for piece in pieces[:-1]] + [len(said.audio)]
    assert house.voices.heard == [
        end - piece.start_sample + more for end, piece, more in zip(whole, pieces, before, strict=True)
    ]


async def test_a_worker_on_demand_lives_while_it_is_used_and_a_little_longer() -> None:
    alive: list[bool] = []

    async def work() -> None:
        alive.append(True)
        try:
            await asyncio.Event().wait()
        finally:
            alive[-1] = False

    program = OnDemand("test", work, 0.05)
    async with asyncio.timeout(HANG_S), Scope("test") as scope:
        scope.spawn(program.run(), name="program")
        await asyncio.sleep(0)
        assert alive == []
        for lives in (1, 2):
            async with program.used():
                while alive != [False] * (lives - 1) + [True]:
                    await asyncio.sleep(0.01)
                end = asyncio.get_running_loop().time() + 0.1  # longer than it would wait without users
                while asyncio.get_running_loop().time() < end:
                    async with program.used():
                        await asyncio.sleep(0.01)
                    assert alive[-1]
            while alive[-1]:
                await asyncio.sleep(0.01)


# --- asked for by hand ------------------------------------------------------------------------------------------------
async def test_owners_and_admins_may_ask_for_a_pass(database: Database) -> None:
    async with open_library(database) as library:
        owner, admin = await library.member("ann", Role.OWNER), await library.member("ada", Role.ADMIN)
        member, viewer = await library.member("bob"), await library.member("vic", Role.VIEWER)
        stranger = await library.member("eve", Role.OWNER, tenant="evil")
        await library.recording(owner, "talk", (None, "hello"))
        ask = "POST", "/v1/recordings/talk/pass"
        assert (await library.refused(owner, *ask))[:2] == (409, "conflict"), "it goes on"
        await end(database, owner, "talk", 1)
        assert (await library.refused(owner, *ask))[:2] == (409, "conflict"), "its first pass is under way"
        async with database.tenant_tx(owner.tenant_id) as tx:
            await tx.execute("UPDATE passes SET state = 'done'")
        for nobody in (member, viewer):
            assert (await library.refused(nobody, *ask))[:2] == (403, "forbidden")
        assert (await library.refused(stranger, *ask))[:2] == (404, "not_found")
        assert library.rereads == 0
        assert await library.ok(admin, *ask) == {"recording_id": "talk"}
        assert library.rereads == 1
        assert (await library.refused(owner, *ask))[:2] == (409, "conflict")
        async with database.tenant_tx(owner.tenant_id) as tx:
            row = await passes.get(tx, owner.tenant_id, "talk")
        assert (row.state, row.round, row.merged_pieces) == ("waiting", 2, 0)
    async with open_library(database, rereads=False) as library:
        who = await library.member("ann", Role.OWNER)
        assert (await library.refused(who, *ask))[:2] == (409, "conflict"), "it is switched off"
