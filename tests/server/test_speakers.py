"""Who spoke, live, on a real database: labels in finals, finals that are split, and what may come between."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from auth.model import Identity
from server.live.speakers import LiveSpeakers
from server.store import recordings, revisions, segments, speakers
from server.store.pool import Connection, Database
from server.store.segments import FinalWrite
from streaming.aio import Scope
from streaming.diariser.voices import Known, Merged, Recognised, Speaker
from streaming.errors import Unavailable
from streaming.limits import LIMITS
from streaming.listener import Found, Listener, Settled
from streaming.model import Segment, Turn, Word
from tests.fakes.diariser import INFO, FakeDiariser, mark, turn, vector
from tests.fakes.recogniser import ToneRecogniser
from tests.fakes.tones import talk
from tests.server.test_commits import begin, end, take_over, write
from tests.support.node import Node, Peer, log_of, node
from tests.support.told import Told

HANG_S = 30.0


# --- what is written --------------------------------------------------------------------------------------------------
class Desk:
    """`LiveSpeakers` at work, and a way to wait until it is through."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.told = Told()
        self.speakers = LiveSpeakers(FakeDiariser(), database, self.told, LIMITS)

    async def listener(self, who: Identity, name: str = "a", *, epoch: int = 1) -> Listener:
        async with self.database.tenant_tx(who.tenant_id) as connection:
            row = await recordings.get(connection, who.tenant_id, name)
        stream = recordings.StreamRow(stream_id="st", epoch=epoch, committed_sample=0, next_ordinal=1, idle_ms=0)
        listener = await self.speakers.listener(row, stream)
        assert listener is not None
        return listener

    async def through(self) -> None:
        """All that was offered is written."""
        async with asyncio.timeout(HANG_S):
            await self.speakers._queue.join()


@asynccontextmanager
async def desk(database: Database) -> AsyncIterator[Desk]:
    made = Desk(database)
    errors: list[BaseException] = []
    async with Scope("test", on_error=lambda _, error: errors.append(error)) as scope:
        scope.spawn(made.speakers.run(), name="speakers")
        yield made
    assert not errors, errors


def segment(ordinal: int = 1, *, speaker: str | None = None) -> Segment:
    """Words of 500 ms each, from `ordinal` x 10 s on."""
    start, words = ordinal * 10_000, ("so", "ready?", "yes,", "go")
    said = tuple(Word(text, start + 500 * n, start + 500 * n + 500, 0.5) for n, text in enumerate(words))
    return Segment(f"s{ordinal}", ordinal, 1, start, said[-1].end_ms, " ".join(words), said, speaker, "en", 0.5)


def final_of(who: Identity, made: Segment, name: str = "a") -> FinalWrite:
    return FinalWrite(who.tenant_id, name, 1, made, made.ordinal * 160_000)


def turns(ordinal: int = 1) -> tuple[Turn, ...]:
    """Two words of S1, two of S2."""
    start = ordinal * 10_000
    return turn("S1", start, start + 1_000), turn("S2", start + 1_000, start + 2_000)


def found(*finals: Segment, changes: Sequence[Merged | Recognised] = (), heard: Sequence[str] = ()) -> Found:
    settled = tuple(Settled(final, turns(final.ordinal)) for final in finals)
    return Found(INFO.model, settled, tuple(changes), tuple(Speaker(label, vector("a"), 5_000) for label in heard))


async def rows(database: Database, who: Identity, name: str = "a") -> list[tuple[str, str | None, str]]:
    """(id, speaker, text), as transcripts list them."""
    async with database.tenant_tx(who.tenant_id) as connection:
        made = await segments.of_recording(connection, who.tenant_id, name)
    return [(row["segment_id"], row["speaker"], row["text"]) for row in made]


SPLIT = [("s1", "S1", "so ready?"), ("s1~2", "S2", "yes, go")]


async def test_a_final_is_split_whole_and_told(database: Database, who: Identity, owner: Connection) -> None:
    """Row, event and index job; the pieces count, and stand between their neighbours."""
    await begin(database, who, "a")
    await write(database, who, final_of(who, segment(1, speaker="S1")), final_of(who, segment(2)))
    async with desk(database) as one:
        listener = await one.listener(who)
        listener.state = b"state"
        listener._book.offer(found(segment(1, speaker="S1")))
        await one.through()
        (event,) = one.told.events
    assert await rows(database, who) == [*SPLIT, ("s2", None, "so ready? yes, go")]
    assert event.event == "transcript:revised"
    assert (event.body["reason"], event.body["removed"]) == ("diarisation", [])
    told = event.body["segments"]
    assert [(one["segment_id"], one["rev"], one["ordinal"], one["text"]) for one in told] == [
        ("s1", 2, 1, "so ready?"), ("s1~2", 1, 1, "yes, go"),
    ]  # fmt: skip
    assert [word["w"] for one in told for word in one["words"]] == ["so", "ready?", "yes,", "go"]
    jobs = [msgspec.json.decode(row["payload"]) for row in await owner.fetch("SELECT payload FROM pgqueuer")]
    assert [job["segment_ids"] for job in jobs if job["recording_id"] == "a"] == [["s1", "s1~2"]]
    row = await end(database, who, "a", 1)
    assert row.segment_count == 3
    assert await owner.fetchval("SELECT speakers FROM streams") == b"state"


async def test_pieces_of_a_recording_that_has_ended_count_too(database: Database, who: Identity) -> None:
    await begin(database, who, "a")
    await write(database, who, final_of(who, segment()))
    await end(database, who, "a", 1)
    async with desk(database) as one:
        (await one.listener(who))._book.offer(found(segment()))
        await one.through()
    assert await rows(database, who) == SPLIT
    async with database.tenant_tx(who.tenant_id) as connection:
        assert (await recordings.get(connection, who.tenant_id, "a")).segment_count == 2


async def test_what_alignment_moved_meanwhile_is_split_as_it_is_now(database: Database, who: Identity) -> None:
    await begin(database, who, "a")
    await write(database, who, final_of(who, segment()))
    moved = [Word(word.text, word.start_ms + 30, word.end_ms + 20, word.p) for word in segment().words]
    aligned = msgspec.structs.replace(segment(), rev=2, start_ms=10_030, end_ms=12_020, words=tuple(moved))
    async with database.tenant_tx(who.tenant_id) as connection:
        await revisions.revise(connection, who.tenant_id, "a", [aligned], reason="alignment", pass_id="p", at_ms=1)
    async with desk(database) as one:
        (await one.listener(who))._book.offer(found(segment()))
        await one.through()
        (event,) = one.told.events
    assert await rows(database, who) == SPLIT
    words = [word for each in event.body["segments"] for word in each["words"]]
    assert [(word["start_ms"], word["end_ms"]) for word in words] == [(w.start_ms, w.end_ms) for w in moved]
    assert [each["rev"] for each in event.body["segments"]] == [3, 1]


async def test_exact_times_stay_exact_and_others_are_still_wanted(
    database: Database, who: Identity, owner: Connection
) -> None:
    await begin(database, who, "a")
    await write(database, who, *(final_of(who, segment(number)) for number in (1, 2)))
    await owner.execute("UPDATE segments SET alignment = 'done' WHERE segment_id = 's1'")
    await owner.execute("UPDATE segments SET alignment_due = now() + interval '1 hour', alignment_tries = 2")
    async with desk(database) as one:
        (await one.listener(who))._book.offer(found(segment(1), segment(2)))
        await one.through()
    states = await owner.fetch(
        "SELECT segment_id, alignment, alignment_due <= now() AS due, alignment_tries FROM segments"
    )
    assert {row["segment_id"]: (row["alignment"], row["due"], row["alignment_tries"]) for row in states} == {
        "s1": ("done", True, 0), "s1~2": ("done", True, 0), "s2": (None, True, 0), "s2~2": (None, True, 0),
    }  # fmt: skip
    async with database.tenant_tx(who.tenant_id) as connection:
        claimed = await revisions.claim(connection, who.tenant_id, "s2", hold_s=60)
        assert claimed is not None
        assert (claimed.after_ms, claimed.before_ms) == (12_000, 21_000), "its neighbours are pieces"
        claimed = await revisions.claim(connection, who.tenant_id, "s2~2", hold_s=60)
        assert claimed is not None
        assert (claimed.after_ms, claimed.before_ms) == (21_000, None)


@pytest.mark.parametrize("change", ["edited = true", "text = 'somebody else wrote this'"])
async def test_what_is_not_ours_any_more_is_left_alone(
    database: Database, who: Identity, owner: Connection, change: str
) -> None:
    await begin(database, who, "a")
    await write(database, who, final_of(who, segment(1)), final_of(who, segment(2)))
    await owner.execute(f"UPDATE segments SET {change} WHERE segment_id = 's1'")
    async with desk(database) as one:
        (await one.listener(who))._book.offer(found(segment(1), segment(2)))
        await one.through()
    listed = await rows(database, who)
    assert [segment_id for segment_id, _, _ in listed] == ["s1", "s2", "s2~2"]
    assert listed[0][1] is None


async def test_who_lost_the_stream_writes_nothing(database: Database, who: Identity, owner: Connection) -> None:
    await begin(database, who, "a")
    await write(database, who, final_of(who, segment()))
    async with desk(database) as one:
        listener = await one.listener(who)
        listener.state = b"old"
        await take_over(database, who, "a")
        listener._book.offer(found(segment(), changes=[Merged("S1", "S2")], heard=["S1"]))
        await one.through()
        assert one.told.events == []
    assert await rows(database, who) == [("s1", None, "so ready? yes, go")]
    assert await owner.fetchval("SELECT speakers FROM streams") == b""
    assert await owner.fetchval("SELECT count(*) FROM recording_speakers") == 0


async def test_labels_that_proved_one_are_one_in_every_final(database: Database, who: Identity) -> None:
    """Also in what was found out just before, and for who says the old label later."""
    await begin(database, who, "a")
    await write(database, who, final_of(who, segment(1, speaker="S1")), final_of(who, segment(2, speaker="S2")))
    async with desk(database) as one:
        book = (await one.listener(who))._book
        book.offer(found(segment(1, speaker="S1"), heard=["S1", "S2"]))
        book.offer(found(changes=[Merged("S2", "S1")]))
        await one.through()
        names = [event.event for event in one.told.events]
        merged = next(event.body for event in one.told.events if event.event == "speaker:merged")
    assert names == ["transcript:revised", "speaker:merged", "transcript:revised"]
    assert merged == {"recording_id": "a", "from": "S2", "into": "S1"}
    await write(database, who, final_of(who, segment(3, speaker="S2")))
    assert [speaker for _, speaker, _ in await rows(database, who)] == ["S1"] * 4


async def test_a_recognised_voice_gives_its_name(database: Database, who: Identity, owner: Connection) -> None:
    await begin(database, who, "a")
    await owner.execute(
        "INSERT INTO voices (tenant_id, voice_id, name, model, vector, clean_ms, enrolled_by) "
        "VALUES ($1, 'v1', 'Ann', $2, $3, 9000, 'u')", who.tenant_id, INFO.model, vector("a"),
    )  # fmt: skip
    async with desk(database) as one:
        book = (await one.listener(who))._book
        assert await book.known(INFO.model) == [Known("v1", vector("a"))]
        assert await book.known("another") == []
        book.offer(found(changes=[Recognised("S1", "v1")], heard=["S1"]))
        await one.through()
        (event,) = one.told.events
    assert (event.event, event.body) == ("speaker:renamed", {"recording_id": "a", "speaker": "S1", "name": "Ann"})


async def test_a_lost_database_is_waited_out_and_everything_is_written_once(
    database: Database, who: Identity, owner: Connection
) -> None:
    await begin(database, who, "a")
    await write(database, who, *(final_of(who, segment(number)) for number in range(1, 6)))
    async with desk(database) as one:
        book = (await one.listener(who))._book
        for number in range(1, 6):
            book.offer(found(segment(number), heard=["S1", "S2"]))
            await owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0)
        await one.through()
    listed = await rows(database, who)
    assert [each[0] for each in listed] == [f"s{n}{tail}" for n in range(1, 6) for tail in ("", "~2")]
    log = [event for event in await log_of(database, who, "recording:a") if event.event == "transcript:revised"]
    told = [one["segment_id"] for event in log for one in event.body["segments"]]
    assert sorted(told) == sorted(each[0] for each in listed), "each once"


class Forgetful:
    """A database whose answer to the first commit is lost."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.lost = 0

    @asynccontextmanager
    async def tenant_tx(self, tenant_id: str) -> AsyncIterator[Connection]:
        async with self._database.tenant_tx(tenant_id) as connection:
            yield connection
        if not self.lost:
            self.lost += 1
            raise Unavailable("written, but nobody hears of it")


async def test_after_a_lost_answer_the_room_reads_its_log(database: Database, who: Identity) -> None:
    await begin(database, who, "a")
    await write(database, who, final_of(who, segment()))
    async with desk(database) as one:
        book = (await one.listener(who))._book
        one.speakers.database = cast(Database, Forgetful(database))
        book.offer(found(segment()))
        await one.through()
        assert (one.told.events, one.told.resynced) == ([], ["recording:a"])
    assert await rows(database, who) == SPLIT


async def test_whoever_goes_on_has_the_state_and_what_may_be_open(database: Database, who: Identity) -> None:
    """The state of the last final that had one; finals that it hears again, but for those of a person."""
    await begin(database, who, "a")
    items = [msgspec.structs.replace(final_of(who, segment(number)), speakers=b"state") for number in (1, 2)]
    await write(database, who, *items)
    await write(database, who, final_of(who, segment(3)))
    stream = await take_over(database, who, "a")
    assert (stream.speakers, stream.committed_sample) == (b"state", 480_000)
    async with desk(database) as one:
        async with database.tenant_tx(who.tenant_id) as connection:
            row = await recordings.get(connection, who.tenant_id, "a")
        listener = await one.speakers.listener(row, stream)
        assert listener is not None
        assert listener.state == b"state"
        assert [final.segment_id for final in listener._finals] == ["s2", "s3"], "9 s are heard again"


async def test_a_full_queue_sends_listeners_away(database: Database, who: Identity) -> None:
    await begin(database, who, "a")
    one = Desk(database)  # nobody works here
    book = (await one.listener(who))._book
    assert all(book.offer(found()) for _ in range(LIMITS.speaker_findings_max))
    assert not book.offer(found())


async def test_a_recording_that_is_gone_is_no_trouble(database: Database, who: Identity, owner: Connection) -> None:
    await begin(database, who, "a")
    await write(database, who, final_of(who, segment()))
    async with desk(database) as one:
        book = (await one.listener(who))._book
        await owner.execute("DELETE FROM recordings")
        book.offer(found(segment(), changes=[Merged("S2", "S1")], heard=["S1"]))
        await one.through()
        assert one.told.events == []


# --- whole streams ----------------------------------------------------------------------------------------------------
SENTENCES = (
    ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett", "kilo", "lima"),
    ("mike", "november", "oscar", "papa"),
    ("quebec", "romeo", "sierra", "tango"),
    ("uniform", "victor", "whiskey", "yankee"),
)
SPOKEN_BY = ("aabbbbbbbbbb", "aaaa", "bbbb", "aaaa")
"""Who says each word: the first sentence changes hands in its beginning."""
SAID = talk(SENTENCES, silence_ms=900)
SCRIPT = tuple(
    turn(by, word.start_ms, word.end_ms)
    for sentence, bys in zip(SAID.sentences, SPOKEN_BY, strict=True)
    for word, by in zip(sentence, bys, strict=True)
)
AUDIO = mark(SAID.audio, SCRIPT).tobytes()
PIECES = [
    ("S1", "alpha bravo"),
    ("S2", "charlie delta echo foxtrot golf hotel india juliett kilo lima"),
    ("S1", "mike november oscar papa"),
    ("S2", "quebec romeo sierra tango"),
    ("S1", "uniform victor whiskey yankee"),
]


async def speak(one: Node, peer: Peer, stream: Any, *, start: int = 0, end: int = len(AUDIO)) -> None:
    """As fast as everybody can follow, the listener included."""
    for at in range(start, end, 3_200):
        stream.chunk(at, AUDIO[at : min(at + 3_200, end)])
        async with asyncio.timeout(HANG_S):
            while stream._pipeline.progress.processed_sample < (at - 32_000) // 2 or behind(stream):
                await asyncio.sleep(0.002)


def behind(stream: Any) -> bool:
    """The diariser has something left to hear, and is there."""
    listener = stream.listener
    return listener is not None and listener._diariser.gate.is_set() and listener.lag_ms > 2_000


async def until_told(database: Database, who: Identity, name: str, wanted: Any) -> None:
    told: list[tuple[str | None, str]] = []
    try:
        async with asyncio.timeout(HANG_S):
            while told != wanted:
                told = [(speaker, text) for _, speaker, text in await rows(database, who, name)]
                await asyncio.sleep(0.05)
    except TimeoutError:
        assert told == wanted, "and nothing more came"


async def test_speakers_of_a_stream_are_told_apart(database: Database, who: Identity, tmp_path: Path) -> None:
    """The final that two people share is committed whole, so that nobody waits for it, and told again as two."""
    async with node(database, tmp_path, ToneRecogniser(), diariser=FakeDiariser()) as one:
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        await one.watch(peer, who, stream.row.room)
        await speak(one, peer, stream)
        stream.stop(len(AUDIO))
        await until_told(database, who, stream.recording_id, PIECES)
    finals = [event for event in peer.events if event["event"] == "transcript:final"]
    assert [final["text"] for final in finals] == SAID.texts
    revised = [event for event in peer.events if event["event"] == "transcript:revised"]
    assert {event["reason"] for event in revised} == {"diarisation"}
    (made,) = [each for event in revised for each in event["segments"] if each["segment_id"].endswith("~2")]
    assert (made["text"], made["ordinal"]) == (PIECES[1][1], 1)
    async with database.tenant_tx(who.tenant_id) as connection:
        heard = await speakers.of_model(connection, who.tenant_id, stream.recording_id, INFO.model)
        row = await recordings.get(connection, who.tenant_id, stream.recording_id)
    assert [speaker.label for speaker in heard] == ["S1", "S2"]
    assert row.segment_count == 5


async def test_who_does_not_want_labels_is_not_listened_to(database: Database, who: Identity, tmp_path: Path) -> None:
    diariser = FakeDiariser()
    async with node(database, tmp_path, ToneRecogniser(), diariser=diariser) as one:
        peer = Peer()
        stream = (await one.start(peer, who, diarize=False)).stream
        await one.watch(peer, who, stream.row.room)
        await speak(one, peer, stream)
        stream.stop(len(AUDIO))
        await peer.until(lambda: any(event["event"] == "recording:ended" for event in peer.events))
    assert diariser.calls == 0
    assert [(speaker, text) for _, speaker, text in await rows(database, who, stream.recording_id)] == [
        (None, text) for text in SAID.texts
    ]


@pytest.mark.parametrize("cut_ms", [3_000, 7_000])
async def test_labels_are_the_same_at_another_node(
    database: Database, who: Identity, tmp_path: Path, cut_ms: int
) -> None:
    """Cut within the sentence that two people share, and after it: what was not settled is settled by the other."""
    cut = cut_ms * 32
    async with (
        node(database, tmp_path, ToneRecogniser(), name="one", diariser=FakeDiariser()) as one,
        node(database, tmp_path, ToneRecogniser(), name="two", diariser=FakeDiariser()) as two,
    ):
        peer = Peer()
        started = await one.start(peer, who)
        name = started.stream.recording_id
        await speak(one, peer, started.stream, end=cut)
        await peer.until(lambda: peer.acks and peer.acks[-1].durable_bytes == cut)
        await one.crash()
        again = await two.resume(peer, who, started)
        await speak(two, peer, again.stream, start=again.offset)
        again.stream.stop(len(AUDIO))
        await until_told(database, who, name, PIECES)


async def test_captions_notice_nothing_of_a_diariser_that_hangs(
    database: Database, who: Identity, tmp_path: Path
) -> None:
    """Finals come without labels, the stream ends, and only then, when it answers at last, labels arrive or do not."""
    diariser = FakeDiariser()
    diariser.gate.clear()
    async with node(database, tmp_path, ToneRecogniser(), diariser=diariser) as one:
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        await one.watch(peer, who, stream.row.room)
        await speak(one, peer, stream)
        stream.stop(len(AUDIO))
        await peer.until(lambda: any(event["event"] == "recording:ended" for event in peer.events))
        finals = [event for event in peer.events if event["event"] == "transcript:final"]
        assert [(final["speaker"], final["text"]) for final in finals] == [(None, text) for text in SAID.texts]
        assert diariser.calls == 0
