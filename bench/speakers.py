"""Who speaks when, and who said it: live and after the pass.

Thresholds are tuned on conversations composed of clips (`bench.conversations`) and on nothing else; `sweep` shows that
they lie on a plateau. Then the recordings with reference turns run unchanged.

Windows are heard by the server's own worker at the live hop and given to the track in order (a stream also asks where
an utterance ends). `live` is what was settled, `shown` what the first window says that ends a second later or more,
`after` what clustering makes of all windows, which lie on the pass's grid, with the live labels as anchors.

Switches: how often the label of one speaker changes from turn to turn. Words: said exactly,
evenly over their turns, and given to who is heard there, so that nothing but the speakers is measured.

Raw results hold rates and times, no speech.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.conversations import PEOPLE, compose, voices
from bench.engines import read_audio
from bench.report import ROOT, Figure, Result
from bench.speakerwords import Spoken, Talk, cpwer, tcpwer
from server.workers.diariser import LocalDiariser
from streaming.aio import Scope
from streaming.diariser import offline, track
from streaming.diariser.heard import Heard
from streaming.limits import LIMITS
from streaming.model import SAMPLE_RATE, Turn, samples_of
from streaming.ports import Pcm16

MODELS_PYTHON = ROOT / ".venv-models" / "bin" / "python"
RECORDINGS = ("libri-2spk", "libri-4spk", "telephone-pair", "ami-dev00", "ami-dev01", "nagg-nell")
PROMISES = {"libri-2spk": 0.20, "libri-4spk": 0.35, "telephone-pair": 0.20, "ami-dev00": 0.20, "ami-dev01": 0.20}
SHOWN_S = 1.0
READY_S = 120.0
SWEPT: dict[str, tuple[float, ...]] = {
    "same": (0.40, 0.45, 0.50, 0.55, 0.60),
    "joins": (0.55, 0.60, 0.65, 0.70),
    "new_ms": (1_000, 1_500, 2_000),
    "settle_ms": (2_000, 3_000, 4_000),
}
SWEPT_AFTER: dict[str, tuple[float, ...]] = {
    "same": (0.45, 0.50, 0.55, 0.60, 0.65),
    "continues": (0.2, 0.3, 0.4),
    "apart": (2, 3, 5, 1_000),
}


class Talked(msgspec.Struct, frozen=True):
    """What is heard and who speaks in it; `turns` empty where nobody knows. `words`: (speaker, start_s, end_s,
    text)."""

    id: str
    audio: Pcm16
    turns: tuple[Turn, ...]
    words: tuple[tuple[str, float, float, str], ...] = ()


class Row(msgspec.Struct):
    """Of one conversation. Rates by `bench.der`."""

    id: str
    rates: dict[str, dict[str, float]]
    speakers: dict[str, int]
    true_speakers: int | None
    switches: dict[str, int]
    words: dict[str, dict[str, float]]
    cpu_per_s: float = 0.0


async def benchmark(folder: Path, composed: int, seed: int) -> Result:
    """`composed`: how many conversations."""
    made, real = await asyncio.to_thread(_material, folder, composed, seed)
    heard, cpu = await _listen([*made, *real])
    if heard is None:
        return Result("speakers", [], {}, {}, skipped="the models environment has no diarisation weights")
    rows = [_row(talked, heard[talked.id], cpu[talked.id]) for talked in (*made, *real)]
    await _rate([*made, *real], heard, rows)
    sweep = await _sweep(made, heard)
    settings = {
        "composed": composed,
        "hop_ms": LIMITS.diariser_hop_ms,
        "live": msgspec.to_builtins(track.POLICY),
        "after": msgspec.to_builtins(offline.POLICY),
    }
    return Result("speakers", _figures(rows, composed), settings, {"rows": msgspec.to_builtins(rows), "sweep": sweep})


# --- material ---------------------------------------------------------------------------------------------------------
def _material(folder: Path, composed: int, seed: int) -> tuple[list[Talked], list[Talked]]:
    manifest: list[dict[str, Any]] = json.loads((folder / "manifest.json").read_text())
    clips = {entry["id"]: read_audio(folder / entry["file"]) for entry in manifest if entry["id"].startswith(PEOPLE)}
    people = voices(clips)
    made = []
    for number in range(composed):
        conversation = compose(people, number, seed)
        made.append(Talked(conversation.id, conversation.audio, conversation.turns))
    real = []
    for entry in manifest:
        if entry["id"] in RECORDINGS:
            turns = tuple(
                Turn(round(turn["start"] * SAMPLE_RATE), round(turn["end"] * SAMPLE_RATE), turn["speaker"])
                for turn in entry.get("turns") or ()
            )
            real.append(Talked(entry["id"], read_audio(folder / entry["file"]), turns, _stm(entry.get("note"))))
    return made, real


def _stm(note: str | None) -> tuple[tuple[str, float, float, str], ...]:
    """Words of a note that holds a transcript with speakers, evenly over their turns."""
    if note is None or not note.startswith("stm: "):
        return ()
    out = []
    for said in json.loads(note.removeprefix("stm: ")):
        words = re.findall(r"[a-z']+", said["text"].lower())
        step = (said["end"] - said["start"]) / max(1, len(words))
        out += [
            (said["speaker"], said["start"] + at * step, said["start"] + (at + 1) * step, word)
            for at, word in enumerate(words)
        ]
    return tuple(out)


async def _listen(all_: Sequence[Talked]) -> tuple[dict[str, list[tuple[int, Heard]]] | None, dict[str, float]]:
    """Windows of everything, through the worker, and CPU seconds per second of audio."""
    diariser = LocalDiariser(MODELS_PYTHON, limits=LIMITS, nice=5)
    heard: dict[str, list[tuple[int, Heard]]] = {}
    cpu: dict[str, float] = {}
    async with Scope("speakers") as scope:
        scope.spawn(diariser.run(), name="diariser")
        try:
            async with asyncio.timeout(READY_S):
                while diariser.info is None:  # noqa: ASYNC110 - its state has no event
                    await asyncio.sleep(0.1)
        except TimeoutError:
            return None, {}
        window = samples_of(diariser.info.window_ms)
        for talked in all_:
            before = _cpu_s(diariser.pid)
            heard[talked.id] = []
            for end in _ends(len(talked.audio)):
                start = max(0, end - window)
                heard[talked.id].append((start, await diariser.listen(talked.audio[start:end])))
            cpu[talked.id] = (_cpu_s(diariser.pid) - before) / (len(talked.audio) / SAMPLE_RATE)
    return heard, cpu


def _ends(samples: int) -> list[int]:
    hop = samples_of(LIMITS.diariser_hop_ms)
    return [*range(hop, samples, hop), samples]


def _cpu_s(pid: int | None) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


# --- what is made of it -----------------------------------------------------------------------------------------------
def told(
    talked: Talked,
    heard: Sequence[tuple[int, Heard]],
    live: track.Policy = track.POLICY,
    after: offline.Policy = offline.POLICY,
) -> dict[str, tuple[Turn, ...]]:
    """Turns `live`, as `shown`, and `after` the pass."""
    follows = track.SpeakerTrack("bench", policy=live)
    shown: list[Turn] = []
    until = 0
    for start, window in heard:
        follows.hear(start, window)
        upto = max(until, start + window.samples - int(SHOWN_S * SAMPLE_RATE))
        shown += follows.turns(until, upto)
        until = upto
    follows.finish()
    shown += follows.turns(until, len(talked.audio))
    passed = offline.cluster(heard, anchors=follows.speakers(), policy=after)
    return {"live": follows.turns(0, len(talked.audio)), "shown": tuple(shown), "after": passed.turns}


def _row(talked: Talked, heard: Sequence[tuple[int, Heard]], cpu_per_s: float) -> Row:
    row = Row(talked.id, {}, {}, len({turn.speaker for turn in talked.turns}) or None, {}, {}, round(cpu_per_s, 4))
    for name, turns in told(talked, heard).items():
        row.speakers[name] = len({turn.speaker for turn in turns})
        row.switches[name] = switches(talked.turns or turns, turns)
        if talked.words:
            reference, given = attributed(talked.words, turns)
            row.words[name] = {"cpwer": cpwer(reference, given), "tcpwer": tcpwer(reference, given)}
    return row


def switches(reference: Sequence[Turn], turns: Sequence[Turn]) -> int:
    """How often one speaker's label changes from one of his turns to the next."""
    last: dict[str, str] = {}
    count = 0
    for said in reference:
        shares = Counter[str]()
        for turn in turns:
            shared = min(said.end_sample, turn.end_sample) - max(said.start_sample, turn.start_sample)
            if shared > 0:
                shares[turn.speaker] += shared
        if shares:
            label = shares.most_common(1)[0][0]
            count += last.get(said.speaker, label) != label
            last[said.speaker] = label
    return count


def attributed(words: Sequence[tuple[str, float, float, str]], turns: Sequence[Turn]) -> tuple[Talk, Talk]:
    """The reference, and each word with the label that speaks most of it, else the nearest turn's."""
    reference: dict[str, list[Spoken]] = {}
    given: dict[str, list[Spoken]] = {}
    for speaker, start, end, text in words:
        word = Spoken(text, start, end)
        reference.setdefault(speaker, []).append(word)
        a, b = start * SAMPLE_RATE, end * SAMPLE_RATE
        near = max(turns, key=lambda turn: min(b, turn.end_sample) - max(a, turn.start_sample), default=None)
        given.setdefault(near.speaker if near is not None else "", []).append(word)
    return reference, given


async def _der(pairs: Sequence[tuple[Talked, Sequence[Turn]]]) -> list[dict[str, float]]:
    def spoken(turns: Sequence[Turn]) -> list[Any]:
        return [[turn.start_sample / SAMPLE_RATE, turn.end_sample / SAMPLE_RATE, turn.speaker] for turn in turns]

    asked = [
        {"seconds": len(talked.audio) / SAMPLE_RATE, "reference": spoken(talked.turns), "told": spoken(turns)}
        for talked, turns in pairs
    ]
    process = await asyncio.create_subprocess_exec(
        str(MODELS_PYTHON), "-m", "bench.der", cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    answer, _ = await process.communicate(json.dumps(asked).encode())
    if process.returncode:
        raise RuntimeError("pyannote.metrics failed")
    rates: list[dict[str, float]] = json.loads(answer)
    return [{name: round(rate, 4) for name, rate in found.items()} for found in rates]


async def _rate(all_: Sequence[Talked], heard: dict[str, list[tuple[int, Heard]]], rows: Sequence[Row]) -> None:
    asked = [
        (row, name, talked, turns)
        for talked, row in zip(all_, rows, strict=True)
        if talked.turns
        for name, turns in told(talked, heard[talked.id]).items()
    ]
    for (row, name, _, _), rates in zip(asked, await _der([(t, turns) for _, _, t, turns in asked]), strict=True):
        row.rates[name] = rates


async def _sweep(made: Sequence[Talked], heard: dict[str, list[tuple[int, Heard]]]) -> list[dict[str, Any]]:
    """Error rate of all composed conversations together, one threshold moved at a time."""
    tries: list[tuple[str, str, float, list[tuple[Talked, Sequence[Turn]]]]] = []
    for name, swept in (("live", SWEPT), ("after", SWEPT_AFTER)):
        for field, values in swept.items():
            for value in values:
                live, after = track.POLICY, offline.POLICY
                if name == "live":
                    live = msgspec.structs.replace(live, **{field: value})
                else:
                    after = msgspec.structs.replace(after, **{field: value})
                pairs = [(talked, told(talked, heard[talked.id], live, after)[name]) for talked in made]
                tries.append((name, field, value, list(pairs)))
    rates = iter(await _der([pair for *_, pairs in tries for pair in pairs]))
    out = []
    for name, field, value, pairs in tries:
        found = [next(rates) for _ in pairs]
        chosen = getattr(track.POLICY if name == "live" else offline.POLICY, field) == value
        out.append({"of": name, "threshold": field, "value": value, "chosen": chosen, "der": round(pooled(found), 4)})
    return out


def pooled(rates: Sequence[dict[str, float]], part: str = "der") -> float:
    total = sum(found["total_s"] for found in rates)
    return sum(found[part] * found["total_s"] for found in rates) / total if total else float("nan")


def _figures(rows: Sequence[Row], composed: int) -> list[Figure]:
    out = []
    for name in ("live", "shown", "after"):
        found = [row.rates[name] for row in rows[:composed]]
        out.append(Figure(f"composed, DER {name}", round(pooled(found), 3), "share", composed))
    for row in rows[composed:]:
        for name, rates in row.rates.items():
            most = None if name == "shown" else PROMISES[row.id]
            out.append(Figure(f"{row.id}, DER {name}", round(rates["der"], 3), "share", 1, most))
        for name, words in row.words.items():
            out += [Figure(f"{row.id}, {rate} {name}", round(value, 3), "share", 1) for rate, value in words.items()]
        out.append(Figure(f"{row.id}, label switches live", row.switches["live"], "times", 1))
        out.append(Figure(f"{row.id}, speakers live ({row.true_speakers or '?'} are)", row.speakers["live"], "", 1))
    out.append(
        Figure("CPU of the worker", round(float(np.median([row.cpu_per_s for row in rows])), 3), "s/audio s", len(rows))
    )
    return out
