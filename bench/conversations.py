"""Conversations composed of clips, with reference turns that are exact: what thresholds of the diariser are tuned on.

A folder's clips belong to a person by their names (`PEOPLE`); each person is also heard at other speeds, which a
speaker model takes for other people (it was trained so). People take turns with pauses and overlaps, some say a short
thing while another speaks, each at a level of his own, in a quiet room. A scene changes the channel: what telephones,
noise, distance, a mixed call or a room make of it. A room is a synthetic impulse response for each person: what comes
straight, and noise that dies away.

Pure: seeded. Invariant: the recordings that thresholds are judged by are never among the clips.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random

import msgspec
import numpy as np
import soxr
from numpy.typing import NDArray

from streaming.model import SAMPLE_RATE, Turn, samples_of

PEOPLE = ("spk1", "spk2", "lj001", "austen")
"""Prefixes of the clips' ids."""
SPEEDS = (1.0, 0.87, 1.14)
SCENES = ("clean", "telephone", "noise", "mixed", "quiet", "room")
ROOM_RMS = 8.0
LEVEL_RMS = 2_000.0
LEVELS_DB = (-8.0, 2.0)
"""Of a person against the others."""
NOISE_DB = (8.0, 18.0)
"""How far below the talk."""
QUIET_DB = -32.0
EDGE_DB, FRAME_MS, JOIN_MS = 35.0, 10, 400
"""Speech is what comes within 35 dB of a clip's loudest 10 ms; pauses up to 0.4 s belong to it."""
BAND_HZ = (300.0, 3_400.0)
DIES_S = (0.3, 0.8)
"""Until a room's echo is 60 dB down: an office to a meeting room."""
STRAIGHT_DB = (-3.0, 8.0)
"""Of what comes straight, against the echo: a microphone on the table, near and far."""

Wave = NDArray[np.float32]
Channel = Callable[[Wave], Wave]
"""What becomes of a person's clip on its way; it may get longer."""


class Conversation(msgspec.Struct, frozen=True):
    """`audio`: int16, 16 kHz; `turns`: who speaks when, by name of the voice."""

    id: str
    audio: NDArray[np.int16]
    turns: tuple[Turn, ...]
    scene: str


def voices(clips: Mapping[str, NDArray[np.int16]]) -> dict[str, list[Wave]]:
    """Everybody who can take part, at one level: {"spk1@0.87": [clip, ...]}."""
    found: dict[str, list[Wave]] = {}
    for person in PEOPLE:
        own = [clip for name, clip in sorted(clips.items()) if name.startswith(person)]
        for speed in SPEEDS:
            made = [_trimmed(_at_speed(clip.astype(np.float32), speed)) for clip in own]
            found[f"{person}@{speed:g}"] = [clip * (LEVEL_RMS / np.sqrt(np.mean(clip**2))) for clip in made]
    return {name: made for name, made in found.items() if made}


def compose(people: Mapping[str, Sequence[Wave]], number: int, seed: int, *, seconds: float = 60.0) -> Conversation:
    """The `number`th conversation: two, three or four people, one scene after the other. It ends when there are no more
    clips: the same one again would be more like itself than anybody is."""
    draw = Random(f"{seed}/{number}")
    scene = SCENES[number % len(SCENES)]
    takes_part = _cast(draw, sorted(people), 2 + number // len(SCENES) % 3)
    gains = {name: 10 ** (draw.uniform(*LEVELS_DB) / 20) for name in takes_part}
    narrow = {name for name in takes_part if scene == "telephone" or (scene == "mixed" and draw.random() < 0.5)}
    ways: dict[str, Channel] = dict.fromkeys(narrow, _narrowed)
    if scene == "room":
        ways = {name: _room(draw, dies_s) for dies_s in [draw.uniform(*DIES_S)] for name in takes_part}
    audio = np.zeros(samples_of(int((seconds + 30) * 1000)), np.float32)
    turns: list[Turn] = []
    at = end = samples_of(draw.randint(200, 2_000))
    clips = {name: draw.sample(list(people[name]), len(people[name])) for name in takes_part}
    speaker = draw.choice(takes_part)
    while end < seconds * SAMPLE_RATE and clips[speaker]:
        clip = clips[speaker].pop() * gains[speaker]
        end = at + len(clip)
        _add(audio, at, clip, ways.get(speaker))
        turns += [Turn(at + a, at + b, speaker) for a, b in _speech(clip)]
        others = [name for name in takes_part if name != speaker]
        if draw.random() < 0.2 and len(clip) > 3 * SAMPLE_RATE:
            turns += _aside(draw, audio, people, gains, ways, draw.choice(others), at, end)
        left = [name for name in others if clips[name]]
        speaker = draw.choice(left) if left and (draw.random() < 0.8 or not clips[speaker]) else speaker
        shift_ms = draw.randint(-900, -150) if draw.random() < 0.25 else draw.randint(80, 1_500)
        at = end + samples_of(shift_ms)
    audio = audio[: max(turn.end_sample for turn in turns) + SAMPLE_RATE]
    noise = np.random.default_rng(draw.getrandbits(32)).standard_normal(len(audio)).astype(np.float32)
    audio += ROOM_RMS * noise
    if scene == "noise":
        audio += _hiss(noise) * LEVEL_RMS * 10 ** (-draw.uniform(*NOISE_DB) / 20)
    if scene == "quiet":
        audio *= 10 ** (QUIET_DB / 20)
    return Conversation(
        f"{number:02d}-{len(takes_part)}-{scene}",
        np.clip(audio, -32_768, 32_767).astype(np.int16),
        _sorted(turns),
        scene,
    )


def _cast(draw: Random, names: Sequence[str], count: int) -> list[str]:
    """Different people first; one person at two speeds only where there are too few."""
    drawn = draw.sample(names, len(names))
    person = [name.split("@")[0] for name in drawn]
    order = sorted(range(len(drawn)), key=lambda at: person[:at].count(person[at]))
    return [drawn[at] for at in order[:count]]


def _aside(
    draw: Random,
    audio: Wave,
    people: Mapping[str, Sequence[Wave]],
    gains: Mapping[str, float],
    ways: Mapping[str, Channel],
    name: str,
    start: int,
    end: int,
) -> list[Turn]:
    """A short thing said by another meanwhile."""
    length = samples_of(draw.randint(350, 1_000))
    clip = draw.choice(people[name])[:length] * gains[name]
    at = draw.randint(start + SAMPLE_RATE // 2, max(start + SAMPLE_RATE // 2, end - length - SAMPLE_RATE // 2))
    _add(audio, at, clip, ways.get(name))
    return [Turn(at, at + len(clip), name)]


def _add(audio: Wave, at: int, clip: Wave, way: Channel | None) -> None:
    wave = clip if way is None else way(clip)
    audio[at : at + len(wave)] += wave[: len(audio) - at]


def _sorted(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """In order; what one speaker says over himself is one turn."""
    out: list[Turn] = []
    for turn in sorted(turns, key=lambda turn: (turn.speaker, turn.start_sample)):
        if out and out[-1].speaker == turn.speaker and turn.start_sample <= out[-1].end_sample:
            last = out.pop()
            turn = Turn(last.start_sample, max(last.end_sample, turn.end_sample), turn.speaker)
        out.append(turn)
    return tuple(sorted(out, key=lambda turn: (turn.start_sample, turn.speaker)))


def _at_speed(clip: Wave, speed: float) -> Wave:
    return clip if speed == 1.0 else np.asarray(soxr.resample(clip, SAMPLE_RATE * speed, SAMPLE_RATE), np.float32)


def _speech(clip: Wave) -> list[tuple[int, int]]:
    """Where in a clip somebody speaks, in samples."""
    frame = samples_of(FRAME_MS)
    power = np.mean(clip[: len(clip) // frame * frame].reshape(-1, frame) ** 2, axis=1)
    loud = power > power.max() * 10 ** (-EDGE_DB / 10)
    edges = np.flatnonzero(np.diff(loud.astype(np.int8), prepend=0, append=0)) * frame
    out: list[tuple[int, int]] = []
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if out and start - out[-1][1] <= samples_of(JOIN_MS):
            start = out.pop()[0]
        out.append((start, end))
    return [(start, end) for start, end in out if end - start >= samples_of(50)]


def _trimmed(clip: Wave) -> Wave:
    parts = _speech(clip)
    return clip[parts[0][0] : parts[-1][1]]


def _narrowed(clip: Wave) -> Wave:
    """What a telephone leaves of it: 300 to 3,400 Hz in eight bits."""
    spectrum = np.fft.rfft(clip)
    hz = np.fft.rfftfreq(len(clip), 1 / SAMPLE_RATE)
    spectrum[(hz < BAND_HZ[0]) | (hz > BAND_HZ[1])] = 0
    wave = np.fft.irfft(spectrum, len(clip)) / 32_768
    law = np.sign(wave) * np.log1p(255 * np.abs(wave)) / np.log(256)
    law = np.round(law * 127) / 127
    return np.asarray(np.sign(law) * (256 ** np.abs(law) - 1) / 255 * 32_768, np.float32)


def _room(draw: Random, dies_s: float) -> Channel:
    """Where one person sits in a room."""
    length = int(dies_s * SAMPLE_RATE)
    noise = np.random.default_rng(draw.getrandbits(32)).standard_normal(length)
    echo = noise * 10 ** (-3 * np.arange(length) / length)
    echo[: samples_of(draw.randint(2, 8))] = 0
    echo *= 10 ** (-draw.uniform(*STRAIGHT_DB) / 20) / np.sqrt(np.sum(echo**2))
    echo[0] = 1
    echo /= np.sqrt(np.sum(echo**2))

    def heard(clip: Wave) -> Wave:
        size = len(clip) + length - 1
        return np.asarray(np.fft.irfft(np.fft.rfft(clip, size) * np.fft.rfft(echo, size), size), np.float32)

    return heard


def _hiss(noise: Wave) -> Wave:
    """Noise that falls by 3 dB an octave, as of rooms, of unit power."""
    spectrum = np.fft.rfft(noise)
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    wave = np.fft.irfft(spectrum, len(noise))
    return np.asarray(wave / np.sqrt(np.mean(wave**2)), np.float32)
