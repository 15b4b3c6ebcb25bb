"""A meeting of four voices is read once more while four people talk live: what they notice, and what becomes of it.

The meeting is put into the store as kept audio with the transcript that live recognition would have left: its
utterances as the server cuts them, every 20th with a word misheard, every 25th missing. Then three control runs of the
live streams alone, and runs of the same streams as long as the pass lasts. What live people notice is the p95 of word
delay and of finals: with the pass it should lie within the spread of the controls.

CPU is that of the pass worker and its diariser; joints are where one piece ends and the next one begins.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import msgspec
import numpy as np

from auth.model import Identity, Role
from bench import metrics, speech
from bench.captions import say
from bench.load import Loaded, speak_all
from bench.meter import cpu_s
from bench.report import ROOT, Figure, Result
from bench.setups import WHISPER
from bench.speech import Clip, Said
from server.media.audiolog import MediaStore
from server.store import embedded
from server.store.pool import Database
from server.store.segments import FinalWrite
from streaming.model import Segment, Word, ms_of
from streaming.recogniser.engine import EngineUnavailable
from streaming.recogniser.place import find
from streaming.recogniser.whisper import WhisperEngine
from tests.server.test_commits import begin, end, write
from tests.support.process import ServerProcess, running
from tests.support.synth import Voice

MODELS_ENV = ROOT / ".venv-models"
VOICES = (
    Voice("en-us+m4", 160, 40), Voice("en-us+f3", 170, 62), Voice("en-us+m8", 150, 30), Voice("en-us+f5", 165, 75),
)  # fmt: skip
STREAMS, CONTROLS, ROUNDS_MAX = 4, 3, 40
TURN_S = (4.0, 25.0)
MISHEARD_EVERY, MISSED_EVERY = 20, 25
NAME = "meeting"
START_S_MAX, DONE_S_MAX = 300.0, 4 * 3_600.0
KEPT_LEAST = 0.95
NEAR_MS = 320 + 200 + 900
"""A joint can only harm what lies within pre-roll and post-roll of an utterance (320 and 200 ms), and one word, of a
cut: further away the same window is heard with and without it. (Of 878 words of such a meeting none has 900 ms.)"""


class Meeting(msgspec.Struct, frozen=True):
    """`speakers`: who says each word of the clip."""

    clip: Clip
    speakers: tuple[int, ...]


class Before(msgspec.Struct, frozen=True):
    """What live recognition left. `wrong`: ids of segments with a word misheard; `missed`: words of missing ones."""

    segments: list[Segment]
    wrong: set[str]
    missed: int


def meeting_of(speaker: speech.Speaker, seconds: float, seed: int) -> Meeting:
    """Turns of the four voices, nobody twice in a row."""
    draw = Random(seed)
    parts: list[Clip] = []
    speakers: list[int] = []
    last, spoken = -1, 0.0
    while spoken < seconds:
        who = draw.choice([n for n in range(len(VOICES)) if n != last])
        part = speaker.talk("turn", draw.uniform(*TURN_S), seed * 10_000 + len(parts), voice=VOICES[who])
        parts.append(part)
        speakers += [who] * len(part.words)
        spoken += part.seconds
        last = who
    return Meeting(speech.joined(NAME, parts), tuple(speakers))


def heard_live(clip: Clip) -> Before:
    segments: list[Segment] = []
    wrong: set[str] = set()
    missed, at = 0, 0
    for number, cut in enumerate(speech.cuts(clip.audio, WhisperEngine().capabilities), start=1):
        own: list[Said] = []
        while at < len(clip.words) and (clip.words[at].start_ms + clip.words[at].end_ms) / 2 < ms_of(cut.end):
            own.append(clip.words[at])
            at += 1
        if not own:
            continue
        if number % MISSED_EVERY == 0:
            missed += len(own)
            continue
        name = f"{NAME}.1.{len(segments) + 1}"
        texts = [word.text for word in own]
        if number % MISHEARD_EVERY == 0:
            texts[len(texts) // 2] = "mumble"
            wrong.add(name)
        words = tuple(
            Word(text, int(word.start_ms), int(word.end_ms), 0.9) for text, word in zip(texts, own, strict=True)
        )
        segments.append(
            Segment(
                name, len(segments) + 1, 1, words[0].start_ms, words[-1].end_ms, " ".join(texts), words, None, "en", 0.9
            )
        )
    return Before(segments, wrong, missed)


async def ask(server: ServerProcess, question: str) -> Any:
    async with embedded.use(server.data_dir / "postgres") as dsn:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetch(question)
        finally:
            await connection.close()


async def put(server: ServerProcess, meeting: Meeting, before: Before) -> None:
    """Into the store, with its pass not due yet."""
    # No other recording is read again, so that the controls are live talk alone.
    await ask(server, "ALTER TABLE passes ALTER COLUMN state SET DEFAULT 'done'")
    account = await server.account("bench")
    who = Identity(account.user_id, "owner", account.tenant_id, "bench", Role.OWNER, 2**40)
    audio = meeting.clip.audio
    with ThreadPoolExecutor(1) as executor:
        kept = await MediaStore(server.data_dir / "media", executor).open(who.tenant_id, NAME)
        kept.append(audio.tobytes())
        await kept.seal()
    async with embedded.use(server.data_dir / "postgres") as dsn:
        database = Database(dsn)
        await database.open()
        try:
            await begin(database, who, NAME)
            items = [FinalWrite(who.tenant_id, NAME, 1, each, len(audio)) for each in before.segments]
            for first in range(0, len(items), 200):
                await write(database, who, *items[first : first + 200])
            await end(database, who, NAME, 1)
        finally:
            await database.close()
    await ask(server, f"UPDATE recordings SET engine = 'whisperx', duration_ms = {ms_of(len(audio))}")


def p95s(loaded: Loaded) -> dict[str, float]:
    words = metrics.flat(metrics.word_delays, loaded.takes)
    finals = metrics.flat(metrics.final_delays, loaded.takes)
    return {
        "words": round(float(np.percentile(words, 95)), 1) if words else 0.0,
        "finals": round(float(np.percentile(finals, 95)), 1) if finals else 0.0,
    }


async def benchmark(model_name: str, seconds: float, live_s: float, seed: int) -> Result:
    """`seconds` of meeting, `live_s` of each live stream in a run."""
    try:
        model = find(model_name)
        speaker = speech.Speaker()
    except (EngineUnavailable, FileNotFoundError) as error:
        return Result("pass", [], {}, {}, skipped=" ".join(str(error).split()))
    if not (MODELS_ENV / "bin" / "python").exists():
        return Result("pass", [], {}, {}, skipped="the models environment is not installed")
    meeting = await asyncio.to_thread(meeting_of, speaker, seconds, seed)
    before = await asyncio.to_thread(heard_live, meeting.clip)
    clips = [speaker.talk(f"live {n}", live_s, seed + 100 + n) for n in range(STREAMS)]
    live = [(clip, speech.cuts(clip.audio, WhisperEngine().capabilities)) for clip in clips]
    say(f"{meeting.clip.seconds:.0f} s of meeting in {len(before.segments)} segments")
    with (
        TemporaryDirectory(prefix="parlance-bench-") as folder,
        running(
            Path(folder) / "data", engine=WHISPER, model=str(model), models_env=str(MODELS_ENV), second_pass="auto"
        ) as server,
    ):
        await put(server, meeting, before)
        await speak_all(server, live[:1], seed=seed)  # until everything is loaded
        controls = [p95s(await speak_all(server, live, seed=seed + n)) for n in range(CONTROLS)]
        say(f"alone: {controls}")
        watched = await watch(server, live, seed)
        here = f"WHERE recording_id = '{NAME}'"
        after = await ask(
            server, f"SELECT segment_id, rev, text, speaker, words FROM segments {here} ORDER BY start_ms"
        )
        told = await ask(server, f"SELECT count(*) FROM events WHERE room = 'recording:{NAME}' AND body ? 'pass_id'")
    return result_of(meeting, before, after, controls, watched, {"told": told[0][0], "seed": seed, "live_s": live_s})


class Watched(msgspec.Struct):
    """A pass under way. `joints`: where pieces begin, in ms; `loading`: until the first piece was read, `cpu_s`:
    behind."""

    rounds: list[dict[str, float]]
    joints: list[int]
    cpu_s: float = 0.0
    loading_s: float = 0.0
    loading_cpu_s: float = 0.0
    wall_s: float = 0.0


async def watch(server: ServerProcess, live: Sequence[Any], seed: int) -> Watched:
    """Begin the pass, speak as long as it lasts."""
    watched = Watched([], [])
    began = time.perf_counter()
    await ask(server, f"UPDATE passes SET state = 'waiting' WHERE recording_id = '{NAME}'")
    while not await pieces(server, watched):
        if time.perf_counter() - began > START_S_MAX:
            raise RuntimeError("the second pass does not begin")
        await asyncio.sleep(0.5)
    watched.loading_s, watched.loading_cpu_s = round(time.perf_counter() - began, 1), workers_cpu_s(server)
    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_look(server, watched, done))
        while not done.is_set() and len(watched.rounds) < ROUNDS_MAX:
            loaded = await speak_all(server, live, seed=seed + len(watched.rounds))
            if not done.is_set() or not watched.rounds:
                watched.rounds.append(p95s(loaded))
                say(f"with the pass: {watched.rounds[-1]}, {len(watched.joints)} pieces")
    watched.wall_s = round(time.perf_counter() - began, 1)
    return watched


async def _look(server: ServerProcess, watched: Watched, done: asyncio.Event) -> None:
    end = time.perf_counter() + DONE_S_MAX
    while time.perf_counter() < end:
        await pieces(server, watched)
        watched.cpu_s = max(watched.cpu_s, round(workers_cpu_s(server) - watched.loading_cpu_s, 2))
        if (await ask(server, f"SELECT state FROM passes WHERE recording_id = '{NAME}'"))[0][0] == "done":
            done.set()
            return
        await asyncio.sleep(0.5)
    raise RuntimeError("the second pass does not end")


def workers_cpu_s(server: ServerProcess) -> float:
    """Of the pass worker and its diariser."""
    commands = server.children().items()
    return cpu_s([pid for pid, command in commands if "second_pass" in command or "--idle" in command])


async def pieces(server: ServerProcess, watched: Watched) -> int:
    rows = await ask(server, f"SELECT start_sample FROM pass_pieces WHERE recording_id = '{NAME}' ORDER BY number")
    if len(rows) > len(watched.joints):
        watched.joints = [ms_of(row[0]) for row in rows]
    return len(rows)


def result_of(
    meeting: Meeting,
    before: Before,
    after: Sequence[Any],
    controls: list[dict[str, float]],
    watched: Watched,
    settings: dict[str, Any],
) -> Result:
    said = [metrics.plain(word.text) for word in meeting.clip.words]
    words = [(word["w"], row["speaker"]) for row in after for word in msgspec.json.decode(row["words"])]
    errors, lost = differences(meeting.clip.words, [metrics.plain(text) for text, _ in words], watched.joints[1:])
    by_id = {row["segment_id"]: row for row in after}
    unchanged = [s for s in before.segments if s.segment_id not in before.wrong]
    same = [s for s in unchanged if is_same(s.text, by_id.get(s.segment_id))]
    read_s = meeting.clip.seconds - (watched.joints[1] / 1_000 if len(watched.joints) > 1 else 0)
    mended = sum("mumble" not in by_id[name]["text"] for name in before.wrong if name in by_id)
    right = speakers_right(meeting, words)
    rows = [
        *(within(f"live {what} p95 with the pass", controls, watched.rounds, what) for what in ("words", "finals")),
        *(Figure(f"live {what} p95 alone, highest of {CONTROLS}", max(c[what] for c in controls), "ms", CONTROLS)
          for what in ("words", "finals")),
        Figure("words lost or doubled at a joint", lost, "words", len(watched.joints) - 1, most=0),
        Figure("word error rate after the pass", round(errors / len(said), 4), "share", len(said)),
        Figure("unchanged segments that keep their id and text", round(len(same) / max(1, len(unchanged)), 4), "share",
               len(unchanged), least=KEPT_LEAST),
        Figure("segments misheard live, mended", mended, "segments", len(before.wrong)),
        Figure("words with their speaker after the pass", round(right, 4), "share", len(words)),
        Figure("audio read per CPU second", round(read_s / max(0.01, watched.cpu_s), 1), "s", 1),
        Figure("from due to done", watched.wall_s, "s", 1),
    ]  # fmt: skip
    raw = {
        "controls": controls, "rounds": watched.rounds, "joints_ms": watched.joints, "cpu_s": watched.cpu_s,
        "loading_s": watched.loading_s, "loading_cpu_s": round(watched.loading_cpu_s, 1),
        "segments_before": len(before.segments), "segments_after": len(after), "words_missed_live": before.missed,
    }  # fmt: skip
    return Result("pass", rows, {"seconds": round(meeting.clip.seconds, 1), "streams": STREAMS, **settings}, raw)


def within(name: str, controls: list[dict[str, float]], rounds: list[dict[str, float]], what: str) -> Figure:
    """The median round, which should not be above the highest control."""
    value = float(np.median([each[what] for each in rounds])) if rounds else 0.0
    return Figure(name, round(value, 1), "ms", len(rounds), most=max(each[what] for each in controls))


def is_same(text: str, row: Any) -> bool:
    plain = [metrics.plain(word) for word in text.split()]
    return row is not None and [metrics.plain(word) for word in row["text"].split()] == plain


def differences(said: Sequence[Said], heard: Sequence[str], joints_ms: Sequence[int]) -> tuple[int, int]:
    """Wrong words in all, and words too few or too many within `NEAR_MS` of a joint."""
    ours = [metrics.plain(word.text) for word in said]
    errors = lost = 0
    for kind, a, b, c, d in SequenceMatcher(None, ours, heard, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        errors += max(b - a, d - c)
        beside = said[a:b] or said[max(0, a - 1) : a + 1]
        start_ms, end_ms = beside[0].start_ms - NEAR_MS, beside[-1].end_ms + NEAR_MS
        if any(start_ms <= joint <= end_ms for joint in joints_ms):
            lost += abs((b - a) - (d - c))
    return errors, lost


def speakers_right(meeting: Meeting, words: Sequence[tuple[str, str | None]]) -> float:
    """Share of words that are right and have the label which most words of their speaker have."""
    ours = [metrics.plain(word.text) for word in meeting.clip.words]
    matcher = SequenceMatcher(None, ours, [metrics.plain(text) for text, _ in words], autojunk=False)
    pairs = [(a + n, b + n) for a, b, size in matcher.get_matching_blocks() for n in range(size)]
    counts: dict[tuple[int, str | None], int] = {}
    for a, b in pairs:
        key = (meeting.speakers[a], words[b][1])
        counts[key] = counts.get(key, 0) + 1
    right = 0
    people: set[int] = set()
    labels: set[str | None] = {None}
    for (who, label), count in sorted(counts.items(), key=lambda item: -item[1]):
        if who not in people and label not in labels:
            people.add(who)
            labels.add(label)
            right += count
    return right / max(1, len(pairs))
