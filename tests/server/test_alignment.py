"""Finals get exact word times after they were shown, whatever dies meanwhile: worker, database, this process."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import av
import msgspec
import numpy as np
import pytest

from auth.model import Identity
from server.app import LogReader
from server.jobs.align import AlignmentFiller, retimed, window
from server.jobs.audio import RecordedAudio
from server.media.audiolog import MediaStore
from server.media.playback import Playback
from server.rooms.hub import Hub
from server.store import feed, revisions, segments
from server.store.pool import Connection, Database
from server.store.revisions import Claimed
from server.store.segments import FinalWrite
from server.workers.aligner import LocalAligner
from server.workers.calls import CallFailed
from streaming.aio import Scope
from streaming.errors import NotFound, Unavailable, WorkerLost
from streaming.limits import LIMITS
from streaming.model import Segment, Word, samples_of
from streaming.ports import Pcm16
from streaming.recogniser.alignment import Times
from tests.fakes import aligner as fake
from tests.fakes.tones import Talk, hear, labels_of, talk
from tests.server.test_commits import begin, write
from tests.support.node import Peer, log_of, somebody
from tests.support.told import Told
from tests.support.waiting import until

HANG_S = 60.0
QUICK = msgspec.structs.replace(LIMITS, align_stall_ms=500)
"""What a dead process had claimed is free again after half a second."""
SENTENCES = (("alpha", "bravo", "charlie"), ("delta", "echo"), ("foxtrot", "golf", "hotel", "india"))
TALK = talk(SENTENCES)


def coarse(said: Talk = TALK, *, extra: str | None = None) -> list[Segment]:
    """The sentences as a recogniser without word times would have them: spread evenly. `extra`: one more word in the
    second."""
    made = []
    for number, sentence in enumerate(said.sentences, start=1):
        texts = [word.text for word in sentence] + ([extra] if extra and number == 2 else [])
        start, end = sentence[0].start_ms, sentence[-1].end_ms
        edges = [start + (end - start) * n // len(texts) for n in range(len(texts) + 1)]
        words = tuple(Word(text, edges[n], edges[n + 1], 0.5) for n, text in enumerate(texts))
        made.append(Segment(f"s{number}", number, 1, start, end, " ".join(texts), words, None, "en", 0.5))
    return made


async def record(
    database: Database, media: MediaStore, who: Identity, made: Sequence[Segment], name: str = "a", said: Talk = TALK
) -> None:
    """A recording with its audio and these finals."""
    await begin(database, who, name)
    kept = await media.open(who.tenant_id, name)
    kept.append(said.audio.tobytes())
    await kept.seal()
    await write(database, who, *(FinalWrite(who.tenant_id, name, 1, s, s.ordinal * 16_000) for s in made))


class Exact:
    """The port `Aligner` in this process; `before` runs in every call. Notes the audio it was given."""

    def __init__(self, before: Callable[[Sequence[str]], Awaitable[None]] | None = None) -> None:
        self.languages: tuple[str, ...] = ("en",)
        self.given: list[Pcm16] = []
        self._before = before

    async def align(self, _language: str, words: Sequence[str], audio: Pcm16) -> Times | None:
        self.given.append(audio)
        if self._before is not None:
            await self._before(words)
        heard = hear(audio, labels_of(audio))
        if [text for text, _, _ in heard] != list(words):
            return None
        return tuple((start // 16, end // 16) for _, start, end in heard)


def source(database: Database, media: MediaStore) -> RecordedAudio:
    return RecordedAudio(database, media, Playback(media))


@asynccontextmanager
async def filling(database: Database, media: MediaStore, aligner: Any, announcer: Any = None) -> AsyncIterator[Any]:
    announcer = announcer or Told()
    filler = AlignmentFiller(database, aligner, source(database, media), announcer, QUICK)
    errors: list[BaseException] = []
    async with Scope("test", on_error=lambda _, error: errors.append(error)) as scope:
        scope.spawn(filler.run(), name="filler")
        filler.nudge()
        yield announcer
    assert not errors, errors


async def states(owner: Connection) -> dict[str, str | None]:
    return dict(await owner.fetch("SELECT segment_id, alignment FROM segments"))


async def settled(owner: Connection) -> bool:
    return None not in (await states(owner)).values()


async def rows(database: Database, who: Identity, name: str = "a") -> list[dict[str, Any]]:
    async with database.tenant_tx(who.tenant_id) as connection:
        return await segments.of_recording(connection, who.tenant_id, name)


async def revised(database: Database, who: Identity, name: str = "a") -> list[feed.Event]:
    return [e for e in await log_of(database, who, f"recording:{name}") if e.event == "transcript:revised"]


async def exactly_once(database: Database, who: Identity, count: int = len(SENTENCES)) -> None:
    """Every segment was revised once, and its words are where they were said."""
    told = [s["segment_id"] for event in await revised(database, who) for s in event.body["segments"]]
    assert sorted(told) == [f"s{n}" for n in range(1, count + 1)]
    found = await rows(database, who)
    assert [row["rev"] for row in found] == [2] * count
    for row, sentence in zip(found, TALK.sentences, strict=True):
        for word, said in zip(row["words"], sentence, strict=True):
            assert word["w"] == said.text
            assert abs(word["start_ms"] - said.start_ms) <= 10
            assert abs(word["end_ms"] - said.end_ms) <= 10


# --- the way of a final -----------------------------------------------------------------------------------------------
async def test_finals_get_the_times_at_which_their_words_were_said(
    database: Database, media: MediaStore, who: Identity, owner: Connection
) -> None:
    before = coarse()
    await record(database, media, who, before)
    peer, hub = Peer(), Hub(LogReader(database), LIMITS)
    key = (who.tenant_id, "recording:a")
    await hub.join(peer, key, after_seq=None)
    await hub.catch_up(peer, key)
    async with filling(database, media, Exact(), hub):
        await peer.until(lambda: peer.events)
    (event,) = peer.events
    assert (event["event"], event["reason"], event["part"], event["parts"]) == (
        "transcript:revised", "alignment", 1, 1
    )  # fmt: skip
    await exactly_once(database, who)
    found = await rows(database, who)
    assert [row["text"] for row in found] == [segment.text for segment in before]
    assert sorted(event["segments"], key=lambda s: s["ordinal"]) == found
    jobs = await owner.fetch("SELECT payload FROM pgqueuer WHERE entrypoint = 'index_segments'")
    assert [msgspec.json.decode(job["payload"])["segment_ids"] for job in jobs] == [["s1", "s2", "s3"]]
    assert set((await states(owner)).values()) == {"done"}


async def test_audio_is_read_with_a_margin_but_never_from_a_neighbour(
    database: Database, media: MediaStore, who: Identity, owner: Connection
) -> None:
    first, second, third = coarse()
    close = msgspec.structs.replace(first, end_ms=second.start_ms - 30)
    await record(database, media, who, [close, second, third])
    aligner = Exact()
    async with filling(database, media, aligner):
        await until(lambda: settled(owner))
    by_length = sorted(len(audio) for audio in aligner.given)
    length = [segment.end_ms - segment.start_ms for segment in (close, second, third)]
    assert by_length == sorted(samples_of(ms) for ms in (length[0] + 130, length[1] + 130, length[2] + 200))


async def test_what_is_not_to_be_had_is_not_asked_again(
    database: Database, media: MediaStore, who: Identity, owner: Connection
) -> None:
    async def refuse(words: Sequence[str]) -> None:
        if "echo" in words:
            raise CallFailed("no")

    first, second, third = coarse()
    wrong = msgspec.structs.replace(third, words=tuple(reversed(third.words)))
    await record(database, media, who, [first, second, wrong])
    await begin(database, who, "silent")
    lost = msgspec.structs.replace(first, segment_id="silent")
    await write(database, who, FinalWrite(who.tenant_id, "silent", 1, lost, 1))
    async with filling(database, media, Exact(refuse)):
        await until(lambda: settled(owner))
    assert await states(owner) == {"s1": "done", "s2": "failed", "s3": "none", "silent": "none"}
    assert [s["segment_id"] for event in await revised(database, who) for s in event.body["segments"]] == ["s1"]


class German(Exact):
    """Speaks another language than the finals; `looks` counts how often the filler asked."""

    looks = 0

    @property
    def languages(self) -> tuple[str, ...]:
        self.looks += 1
        return ("de",)

    @languages.setter
    def languages(self, _languages: tuple[str, ...]) -> None:
        """Stays German."""


async def test_without_languages_nothing_is_claimed(
    database: Database, media: MediaStore, who: Identity, owner: Connection
) -> None:
    await record(database, media, who, coarse())
    aligner = German()

    async def came_round() -> bool:
        return aligner.looks > 2  # once before the query and once in it: the third stands behind a whole round

    async with filling(database, media, aligner):
        await until(came_round)
    assert await owner.fetchval("SELECT max(alignment_tries) FROM segments") == 0
    assert not aligner.given


async def test_a_final_that_changed_meanwhile_keeps_what_it_has(
    database: Database, media: MediaStore, who: Identity, owner: Connection
) -> None:
    first, *others = coarse()

    async def edit(words: Sequence[str]) -> None:
        if "alpha" not in words or (await rows(database, who))[0]["rev"] > 1:
            return
        new = msgspec.structs.replace(first, rev=2, speaker="S1")
        async with database.tenant_tx(who.tenant_id) as connection:
            await revisions.revise(connection, who.tenant_id, "a", [new], reason="diarisation", pass_id="p", at_ms=1)

    await record(database, media, who, [first, *others])
    async with filling(database, media, Exact(edit)) as told:
        await until(lambda: _all_but_first(owner))
        assert told.resynced == ["recording:a"], "the result was made from revision 1"
        await until(lambda: settled(owner))  # the next try is made from revision 2
    assert [row["rev"] for row in await rows(database, who)] == [3, 2, 2]
    assert (await rows(database, who))[0]["speaker"] == "S1"


async def _all_but_first(owner: Connection) -> bool:
    found = await states(owner)
    return found["s2"] == found["s3"] == "done"


# --- what may die -----------------------------------------------------------------------------------------------------
@asynccontextmanager
async def program(folder: Path) -> AsyncIterator[LocalAligner]:
    """A real worker program, which hears tones."""
    (folder / "languages").write_text("en")
    aligner = LocalAligner(fake.interpreter(folder), model=str(folder / "languages"), limits=LIMITS)
    async with Scope("test") as scope:
        scope.spawn(aligner.run(), name="aligner")
        yield aligner


async def test_a_final_that_kills_workers_is_set_aside_and_the_others_are_aligned(
    database: Database, media: MediaStore, who: Identity, owner: Connection, tmp_path: Path
) -> None:
    await record(database, media, who, coarse(extra=fake.KILLS))
    async with program(tmp_path) as aligner, filling(database, media, aligner):
        await until(lambda: settled(owner))
    assert await states(owner) == {"s1": "done", "s2": "failed", "s3": "done"}
    assert await owner.fetchval("SELECT alignment_tries FROM segments WHERE segment_id = 's2'") == QUICK.align_tries_max


async def test_killed_workers_lose_nothing(
    database: Database, media: MediaStore, who: Identity, owner: Connection, tmp_path: Path
) -> None:
    await record(database, media, who, coarse())
    async with program(tmp_path) as aligner, filling(database, media, aligner):
        for _ in range(3):
            await until(lambda: _is(aligner.pid is not None))
            assert aligner.pid
            os.kill(aligner.pid, signal.SIGKILL)
            await until(lambda: _is(aligner.state != "ready"))
        await until(lambda: settled(owner))
    await exactly_once(database, who)


async def _is(value: bool) -> bool:
    return value


async def test_killed_database_connections_lose_and_double_nothing(
    database: Database, database_dsn: str, media: MediaStore, who: Identity, owner: Connection
) -> None:
    await record(database, media, who, coarse())
    killer = await asyncpg.connect(database_dsn)  # one of its own: `owner` is asked meanwhile
    cuts = 0

    async def cut(_words: Sequence[str]) -> None:
        nonlocal cuts
        if cuts < 4:
            cuts += 1
            await killer.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name LIKE 'parlance%'"""
            )

    async with filling(database, media, Exact(cut)):
        await until(lambda: settled(owner))
    await killer.close()
    await exactly_once(database, who)
    assert cuts == 4


class Forgetful(Database):
    """Loses the answer to a commit that revised something, once."""

    lost = False

    @asynccontextmanager
    async def tenant_tx(self, tenant_id: str) -> AsyncIterator[Connection]:
        async with super().tenant_tx(tenant_id) as connection:
            yield connection
            done = await connection.fetchval("SELECT count(*) FROM events WHERE event = 'transcript:revised'")
        if done and not self.lost:
            self.lost = True
            raise Unavailable("the answer was lost")


async def test_a_commit_whose_answer_was_lost_is_told_from_the_log(
    database_dsn: str, media: MediaStore, owner: Connection
) -> None:
    database = Forgetful(database_dsn)
    await database.open()
    try:
        who = await somebody(database)
        await record(database, media, who, coarse())
        async with filling(database, media, Exact()) as told:
            await until(lambda: _is(bool(told.resynced)))
        assert told.events == []
        assert told.resynced == ["recording:a"]
        await exactly_once(database, who)
    finally:
        await database.close()


async def test_what_a_killed_process_had_claimed_is_done_by_the_next(
    database: Database, media: MediaStore, who: Identity, owner: Connection
) -> None:
    await record(database, media, who, coarse())
    reached = asyncio.Event()

    async def hang(words: Sequence[str]) -> None:
        if "delta" in words:
            reached.set()
            await asyncio.Event().wait()

    async with filling(database, media, Exact(hang)):
        await asyncio.wait_for(reached.wait(), HANG_S)
    async with filling(database, media, Exact()):
        await until(lambda: settled(owner))
    await exactly_once(database, who)


async def test_a_lost_worker_counts_and_unreadable_audio_does_not(
    database: Database, media: MediaStore, who: Identity, owner: Connection
) -> None:
    class Once:
        """Fails the first reads."""

        def __init__(self) -> None:
            self.reads = 0
            self.inner = source(database, media)

        async def samples(self, *where: Any) -> Pcm16:
            self.reads += 1
            if self.reads < 6:
                raise Unavailable("the storage is away")
            return await self.inner.samples(*where)

    losses = 0

    async def lose(_words: Sequence[str]) -> None:
        nonlocal losses
        losses += 1
        if losses < 3:
            raise WorkerLost("gone")

    await record(database, media, who, coarse()[:1])
    filler = AlignmentFiller(database, Exact(lose), Once(), Told(), QUICK)
    async with Scope("test") as scope:
        scope.spawn(filler.run(), name="filler")
        await until(lambda: settled(owner))
    assert await states(owner) == {"s1": "done"}
    assert await owner.fetchval("SELECT alignment_tries FROM segments") == 3


# --- parts ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
async def test_audio_is_read_where_it_was_said(
    database: Database, media: MediaStore, who: Identity, owner: Connection, rate: int
) -> None:
    said = talk(SENTENCES, sample_rate=rate)
    await record(database, media, who, [], said=msgspec.structs.replace(said, audio=np.repeat(said.audio, 2)))
    await owner.execute("UPDATE recordings SET sample_rate = $1, channels = 2", rate)
    word = said.sentences[1][1]
    audio = await source(database, media).samples(who.tenant_id, "a", word.start_ms - 50, word.end_ms + 50)
    assert abs(len(audio) - samples_of(word.end_ms - word.start_ms + 100)) <= 2
    ((text, start, _),) = hear(audio, labels_of(audio))
    assert text == word.text
    assert abs(start - samples_of(50)) <= 160
    beyond = await source(database, media).samples(who.tenant_id, "a", 600_000, 601_000)
    assert not len(beyond)
    with pytest.raises(NotFound):
        await source(database, media).samples(who.tenant_id, "b", 0, 1)


@pytest.mark.parametrize("kind", ["webm", "ogg"])
async def test_containers_are_read_where_it_was_said(
    database: Database, media: MediaStore, who: Identity, owner: Connection, kind: str
) -> None:
    said = talk(SENTENCES, sample_rate=48_000)
    file = contained(said.audio, kind)
    await record(
        database, media, who, coarse(), said=msgspec.structs.replace(said, audio=np.frombuffer(file, np.uint8))
    )
    await owner.execute("UPDATE recordings SET encoding = $1, sample_rate = 48000", f"{kind}_opus")
    async with filling(database, media, Exact()):
        await until(lambda: settled(owner))
    assert set((await states(owner)).values()) == {"done"}
    await exactly_once(database, who)


def contained(audio: Pcm16, kind: str) -> bytes:
    """48 kHz mono as Opus in a container."""
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(audio.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = 48_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return out.getvalue()


def test_a_revision_keeps_words_and_the_order_by_start() -> None:
    old = Segment(
        "s", 1, 4, 1_000, 2_000, "a b", (Word("a", 1_000, 1_500, 0.3), Word("b", 1_500, 2_000)), "S1", "en", 0.6
    )
    new = retimed(old, ((120, 300), (480, 700)), 900)
    assert new.words == (Word("a", 1_020, 1_200, 0.3), Word("b", 1_380, 1_600))
    assert (new.rev, new.start_ms, new.end_ms, new.text, new.speaker) == (5, 1_020, 1_600, "a b", "S1")
    late = retimed(old, ((1_150, 1_160), (1_170, 1_200)), 900)
    assert late.start_ms <= old.end_ms, "it does not change places with the next one"


@pytest.mark.parametrize(
    ("after_ms", "before_ms", "expected"),
    [(None, None, (900, 2_100)), (950, 2_020, (950, 2_020)), (1_200, 1_800, (1_000, 2_000)), (0, 9_000, (900, 2_100))],
)
def test_the_window_stays_off_the_neighbours(
    after_ms: int | None, before_ms: int | None, expected: tuple[int, int]
) -> None:
    segment = Segment("s", 1, 1, 1_000, 2_000, "", (), None, "en", 1.0)
    assert window(Claimed(segment, 1, after_ms, before_ms)) == expected
