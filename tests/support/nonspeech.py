"""Sounds in which nobody speaks: rooms, machines, music, signals. Made minute by minute, each minute another one.

Policy: a kind draws its levels, pitches, timbres and tempi anew for every minute from its seed, so that half an hour is
thirty variations and not one sound thirty times. The second half of each minute is 30 dB quieter, as behind a door.
Nothing is recorded.

Pure. Invariant: equal (kind, seed, minute) are equal samples, (60 * 16,000,) int16.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from streaming.model import SAMPLE_RATE
from streaming.ports import Pcm16

Wave = NDArray[np.float64]
"""Full scale is 1."""

MINUTE = 60 * SAMPLE_RATE
QUIETER = 10 ** (-30 / 20)
_T = np.arange(MINUTE) / SAMPLE_RATE


def minute(kind: str, number: int, *, seed: int = 0) -> Pcm16:
    """One of `KINDS` or `VOICE_LIKE`; `number`: which minute of it."""
    rng = np.random.default_rng([seed, number, *kind.encode()])
    sound = (KINDS | VOICE_LIKE)[kind](rng)
    sound[MINUTE // 2 :] *= QUIETER
    return np.clip(np.rint(sound * 32_768), -32_768, 32_767).astype(np.int16)


def minutes(kind: str, count: int, *, seed: int = 0) -> Iterator[Pcm16]:
    return (minute(kind, number, seed=seed) for number in range(count))


def at_level(wave: Wave, dbfs: float) -> Wave:
    """With this RMS over the whole."""
    rms = np.sqrt(np.mean(wave**2))
    return wave * (10 ** (dbfs / 20) / rms) if rms else wave


def shaped(rng: np.random.Generator, gain: Callable[[Wave], Wave], n: int = MINUTE) -> Wave:
    """Noise whose spectrum is `gain` of the frequencies in Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    return np.fft.irfft(spectrum * gain(np.fft.rfftfreq(n, 1 / SAMPLE_RATE)), n)


def _tilt(exponent: float) -> Callable[[Wave], Wave]:
    return lambda hz: np.where(hz < 20, 0, np.maximum(hz, 20) ** -exponent)


def _band(low_hz: float, high_hz: float) -> Callable[[Wave], Wave]:
    """Third-order slopes on either side."""
    return lambda hz: 1 / np.sqrt(1 + (low_hz / np.maximum(hz, 1)) ** 6) / np.sqrt(1 + (hz / high_hz) ** 6)


def _placed(rng: np.random.Generator, gap_s: tuple[float, float], sound: Callable[[], Wave]) -> Wave:
    """`sound` anew again and again, with random gaps between the beginnings."""
    out = np.zeros(MINUTE)
    at = rng.uniform(*gap_s)
    while at < 60:
        begin = int(at * SAMPLE_RATE)
        piece = sound()[: MINUTE - begin]
        out[begin : begin + len(piece)] += piece
        at += rng.uniform(*gap_s)
    return out


def _decay(seconds: float, length_s: float) -> Wave:
    t = np.arange(int(length_s * SAMPLE_RATE)) / SAMPLE_RATE
    return np.asarray(np.minimum(1, t / 0.002) * np.exp(-t / seconds))


# --- rooms and noise --------------------------------------------------------------------------------------------------
def _silence(_rng: np.random.Generator) -> Wave:
    return np.zeros(MINUTE)


def _dither(rng: np.random.Generator) -> Wave:
    """The last bit, as converters leave it."""
    return rng.integers(-1, 2, MINUTE) / 32_768


def _room(rng: np.random.Generator) -> Wave:
    """Air, a distant street, now and then a creak."""
    air = at_level(shaped(rng, lambda hz: _tilt(0.7)(hz) * _band(40, 5_000)(hz)), rng.uniform(-70, -40))
    creak = _placed(rng, (4, 15), lambda: rng.uniform(0.5, 3) * _decay(0.05, 0.3) * rng.standard_normal(4_800))
    return air + creak * np.std(air)


def _noise(exponent: float, quietest: float, loudest: float) -> Callable[[np.random.Generator], Wave]:
    return lambda rng: at_level(shaped(rng, _tilt(exponent)), rng.uniform(quietest, loudest))


def _swelling(rng: np.random.Generator) -> Wave:
    """Wind and passing cars: coloured noise whose loudness and colour move slowly."""
    slow = [0.5 - 0.5 * np.cos(2 * np.pi * (_T * rng.uniform(0.05, 0.4) + rng.uniform())) for _ in range(3)]
    bands = [shaped(rng, _band(low, 2.5 * low)) for low in rng.uniform(80, 2_000, 3)]
    return at_level(sum((s * b / np.std(b) for s, b in zip(slow, bands, strict=True)), np.zeros(MINUTE)), -25)


def _hum(rng: np.random.Generator) -> Wave:
    """Mains at 50 or 60 Hz with harmonics, and the hiss of the same cable."""
    base_hz = rng.choice([50.0, 60.0]) * rng.uniform(0.999, 1.001)
    tilt = rng.uniform(0.5, 1.5)
    tones = [
        rng.uniform(0.2, 1) * k**-tilt * np.sin(2 * np.pi * (k * base_hz * _T + rng.uniform()))
        for k in range(1, rng.integers(2, 40))
    ]
    hum = at_level(np.sum(tones, axis=0), rng.uniform(-50, -8))
    return hum + at_level(shaped(rng, _tilt(0)), rng.uniform(-80, -55))


def _fan(rng: np.random.Generator) -> Wave:
    """Broad noise, a motor's tone, blades that beat."""
    blades_hz = rng.uniform(15, 150)
    air = shaped(rng, lambda hz: _tilt(0.5)(hz) * _band(60, rng.uniform(500, 4_000))(hz))
    air *= 1 + rng.uniform(0, 0.6) * np.sin(2 * np.pi * blades_hz * _T)
    motor = sum(np.sin(2 * np.pi * k * blades_hz * 3 * _T) / k for k in range(1, 6))
    return at_level(air / np.std(air) + rng.uniform(0, 0.5) * motor, rng.uniform(-50, -15))


def _syllables(rng: np.random.Generator) -> Wave:
    """Noise with the long-term spectrum and the rhythm of talk, but without any voice or word."""
    talk = shaped(rng, lambda hz: _band(120, 600)(hz) + 0.2 * _band(600, 4_000)(hz))
    steps = rng.uniform(0, 1, 60 * int(rng.integers(3, 7)))
    envelope = np.interp(_T, np.linspace(0, 60, len(steps)), steps**2)
    return at_level(talk * envelope, rng.uniform(-45, -15))


def _applause(rng: np.random.Generator) -> Wave:
    claps = _placed(rng, (0.001, 0.02), lambda: rng.uniform(0.2, 1) * _decay(0.006, 0.03) * rng.standard_normal(480))
    return at_level(claps, rng.uniform(-35, -12))


# --- things -----------------------------------------------------------------------------------------------------------
def _clicks(rng: np.random.Generator) -> Wave:
    click = lambda: rng.choice([-1, 1]) * rng.uniform(0.05, 1) * _decay(rng.uniform(0.0003, 0.003), 0.02)  # noqa: E731
    return _placed(rng, (0.05, 3), click) + at_level(shaped(rng, _tilt(0.5)), -65)


def _typing(rng: np.random.Generator) -> Wave:
    def key() -> Wave:
        body = np.sin(2 * np.pi * rng.uniform(150, 400) * np.arange(1_600) / SAMPLE_RATE)
        return rng.uniform(0.02, 0.3) * _decay(0.012, 0.1) * (rng.standard_normal(1_600) + body)

    return _placed(rng, (0.06, 0.35), key) + at_level(shaped(rng, _tilt(0.7)), rng.uniform(-65, -50))


def _knocks(rng: np.random.Generator) -> Wave:
    """Three or four on a door, thumps, a chair."""
    low_hz = rng.uniform(80, 250)

    def knock() -> Wave:
        out = np.zeros(SAMPLE_RATE)
        for at in np.cumsum(rng.uniform(0.12, 0.22, rng.integers(1, 5))):
            blow = _decay(rng.uniform(0.02, 0.06), 0.12)
            t = np.arange(len(blow)) / SAMPLE_RATE
            begin = int(at * SAMPLE_RATE)
            wood = sum(np.sin(2 * np.pi * k * low_hz * t) / k for k in (1, 2.3, 3.9))
            piece = (blow * (wood + 0.3 * rng.standard_normal(len(t))))[: max(0, len(out) - begin)]
            out[begin : begin + len(piece)] += piece
        return rng.uniform(0.1, 0.6) * out

    return _placed(rng, (1, 5), knock) + at_level(shaped(rng, _tilt(0.7)), -60)


def _sirens(rng: np.random.Generator) -> Wave:
    low_hz, high_hz, pace = rng.uniform(400, 700), rng.uniform(900, 1_600), rng.uniform(0.2, 4)
    swing = 0.5 + 0.5 * np.sin(2 * np.pi * pace * _T)
    if rng.random() < 0.5:
        swing = np.round(swing)
    phase = 2 * np.pi * np.cumsum(low_hz + (high_hz - low_hz) * swing) / SAMPLE_RATE
    horn = sum(np.sin(k * phase) / k for k in range(1, rng.integers(2, 6)))
    return at_level(horn * (0.6 + 0.4 * np.sin(2 * np.pi * 0.1 * _T)), rng.uniform(-35, -10))


def _dialling(rng: np.random.Generator) -> Wave:
    """DTMF digits, ringing and busy tones."""

    def tone(*hz: float, length_s: float) -> Wave:
        t = np.arange(int(length_s * SAMPLE_RATE)) / SAMPLE_RATE
        edge = np.minimum(1, np.minimum(t, length_s - t) / 0.005)
        return np.asarray(0.2 * edge * sum(np.sin(2 * np.pi * f * t) for f in hz))

    def digit() -> Wave:
        low_hz, high_hz = rng.choice([697, 770, 852, 941]), rng.choice([1_209, 1_336, 1_477, 1_633])
        return tone(float(low_hz), float(high_hz), length_s=rng.uniform(0.06, 0.3))

    signal = _placed(rng, (0.15, 0.8), digit)
    signal[MINUTE // 2 :] = 0.6 * _placed(rng, (1, 3), lambda: tone(440.0, 480.0, length_s=1.0))[MINUTE // 2 :]
    return signal + at_level(shaped(rng, _tilt(0.5)), -60)


# --- music ------------------------------------------------------------------------------------------------------------
def _hz(midi: float) -> float:
    return 440.0 * 2 ** ((midi - 69) / 12)


_CHORDS = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14), (2, 5, 9), (4, 7, 11))
_MAJOR = (0, 2, 4, 5, 7, 9, 11, 12)


def _partials(rng: np.random.Generator) -> Wave:
    """Strengths of the first ten partials: organ, flute, strings, reeds, brass."""
    k = np.arange(1, 11)
    return np.asarray(
        (1 / k, 1 / k**3, k**-0.7, np.where(k % 2, 1 / k, 0.02), np.exp(-((k - 3) ** 2) / 8))[rng.integers(5)]
    )


def _note(midi: float, length_s: float, partials: Wave, *, attack_s: float, decay_s: float, vibrato: float) -> Wave:
    """`vibrato`: depth in semitones, 5.5 Hz."""
    t = np.arange(int(length_s * SAMPLE_RATE)) / SAMPLE_RATE
    hz = _hz(midi) * 2 ** (vibrato * np.sin(2 * np.pi * 5.5 * t) / 12)
    phase = 2 * np.pi * np.cumsum(hz) / SAMPLE_RATE
    tone = sum(p * np.sin(k * phase) for k, p in enumerate(partials, 1) if k * _hz(midi) < 7_500)
    return np.asarray(tone * np.minimum(1, t / attack_s) * np.exp(-t / decay_s) * np.minimum(1, (length_s - t) / 0.02))


def _melody(rng: np.random.Generator) -> Wave:
    """One voice with vibrato, as a flute, a violin or a trumpet has."""
    partials, beat_s = _partials(rng), 60 / rng.uniform(60, 160)
    key, low = rng.integers(12), rng.choice([48, 60, 72])
    vibrato = rng.uniform(0, 0.6)
    out, at, step = np.zeros(MINUTE), 0.0, 0
    while at < 59:
        step = int(np.clip(step + rng.integers(-2, 3), -4, 9))
        length_s = beat_s * rng.choice([0.5, 1, 1, 2])
        if rng.random() > 0.1:
            midi = low + key + 12 * (step // 7) + _MAJOR[step % 7]
            note = _note(midi, length_s, partials, attack_s=rng.uniform(0.01, 0.08), decay_s=2, vibrato=vibrato)
            begin = int(at * SAMPLE_RATE)
            note = note[: MINUTE - begin]
            out[begin : begin + len(note)] += note
        at += length_s
    return at_level(out, rng.uniform(-35, -14))


def _chords(rng: np.random.Generator) -> Wave:
    partials, length_s, key = _partials(rng), rng.uniform(0.8, 4), rng.integers(48, 60)
    out = np.zeros(MINUTE)
    for number in range(int(60 / length_s)):
        begin = int(number * length_s * SAMPLE_RATE)
        for semitones in _CHORDS[rng.integers(len(_CHORDS))]:
            note = _note(key + semitones, length_s, partials, attack_s=0.05, decay_s=5, vibrato=rng.uniform(0, 0.1))
            out[begin : begin + len(note)] += note[: MINUTE - begin]
    return at_level(out, rng.uniform(-35, -14))


def _arpeggios(rng: np.random.Generator) -> Wave:
    """Plucked or struck: piano, guitar, music box."""
    partials, beat_s, key = _partials(rng), rng.uniform(0.1, 0.35), rng.integers(48, 66)
    out = np.zeros(MINUTE)
    for number in range(int(60 / beat_s) - 8):
        chord = _CHORDS[number // 8 % len(_CHORDS)]
        midi = key + chord[number % 3] + 12 * (number // 3 % 2)
        begin = int(number * beat_s * SAMPLE_RATE)
        note = _note(midi, 1.2, partials, attack_s=0.003, decay_s=0.35, vibrato=0)[: MINUTE - begin]
        out[begin : begin + len(note)] += note
    return at_level(out, rng.uniform(-35, -14))


_VOWELS_HZ = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
"""Formants of "father", "see", "boot", "bed", "law" (Peterson and Barney 1952, men)."""


def _wah(rng: np.random.Generator) -> Wave:
    """A buzzing synthesiser behind a filter that sweeps, as nearly a voice as an instrument comes."""
    base, pace = rng.uniform(36, 60), rng.uniform(0.3, 6)
    steps = rng.choice([0, 3, 5, 7, 10, 12], int(60 * rng.uniform(1, 5)))
    hz = _hz(base) * 2 ** (np.repeat(steps, -(-MINUTE // len(steps)))[:MINUTE] / 12)
    phase = np.cumsum(hz) / SAMPLE_RATE
    centre_hz = 400 * 6 ** (0.5 + 0.5 * np.sin(2 * np.pi * pace * _T))
    out = np.zeros(MINUTE)
    for k in range(1, 40):
        out += np.sin(2 * np.pi * k * phase) / k / (0.05 + np.abs(np.log2(k * hz / centre_hz))) * (k * hz < 7_500)
    return at_level(out, rng.uniform(-35, -14))


def _synthesiser(rng: np.random.Generator) -> Wave:
    """A bass line and a lead: saws and squares behind a low pass that opens with each note and closes again."""
    out, beat_s, key = np.zeros(MINUTE), rng.uniform(0.15, 0.6), rng.integers(12)
    for low, share, lengths in ((36, 1.0, (1, 2, 4)), (60, rng.uniform(0.2, 1), (1, 1, 2, 3))):
        k = np.arange(1, 41)
        saw = 1 / k if rng.random() < 0.5 else np.where(k % 2, 1 / k, 0)
        open_hz, close_s = rng.uniform(800, 5_000), rng.uniform(0.05, 0.5)
        at = 0.0
        while at < 59:
            length_s = beat_s * rng.choice(lengths)
            hz = _hz(low + key + rng.choice(_MAJOR))
            t = np.arange(int(length_s * SAMPLE_RATE)) / SAMPLE_RATE
            cut_hz = 200 + open_hz * np.exp(-t / close_s)
            note = sum(a * np.sin(2 * np.pi * n * hz * t) / (1 + (n * hz / cut_hz) ** 4)
                       for n, a in zip(k, saw, strict=True) if a and n * hz < 7_500)  # fmt: skip
            note = share * note * np.minimum(1, np.minimum(t, length_s - t) / 0.005)
            begin = int(at * SAMPLE_RATE)
            out[begin : begin + len(note)] += note[: MINUTE - begin]
            at += length_s
    return at_level(out, rng.uniform(-35, -14))


def _choir(rng: np.random.Generator) -> Wave:
    """The choir of a synthesiser: chords on one vowel each, with vibrato; no consonant, no word."""
    length_s, key = rng.uniform(1.5, 4), rng.integers(45, 60)
    out = np.zeros(MINUTE)
    for number in range(int(60 / length_s)):
        begin = int(number * length_s * SAMPLE_RATE)
        formants = _VOWELS_HZ[rng.integers(len(_VOWELS_HZ))]
        for semitones in _CHORDS[rng.integers(len(_CHORDS))]:
            k_hz = np.arange(1, 40) * _hz(key + semitones)
            vowel = sum(g / (1 + ((k_hz - f) / 90) ** 2) for g, f in zip((1, 0.5, 0.25), formants, strict=True))
            midi = key + semitones + rng.normal(0, 0.05)
            note = _note(midi, length_s, np.asarray(vowel), attack_s=0.15, decay_s=9, vibrato=rng.uniform(0.1, 0.4))
            out[begin : begin + len(note)] += note[: MINUTE - begin]
    return at_level(out, rng.uniform(-35, -14))


def _drums(rng: np.random.Generator) -> Wave:
    beat_s = 60 / rng.uniform(70, 170)
    out = np.zeros(MINUTE)
    t = np.arange(4_000) / SAMPLE_RATE
    kick = np.sin(2 * np.pi * (50 * t + 30 * (1 - np.exp(-t / 0.03)) * 0.06)) * np.exp(-t / 0.12)
    snare = (rng.standard_normal(4_000) + np.sin(2 * np.pi * 190 * t)) * np.exp(-t / 0.07)
    hat = np.diff(rng.standard_normal(4_001)) * np.exp(-t / 0.02)
    for eighth in range(int(120 / beat_s) - 2):
        begin = int(eighth * beat_s / 2 * SAMPLE_RATE)
        hit = 0.25 * hat + (kick if eighth % 8 in (0, 5) else 0) + (0.7 * snare if eighth % 8 in (2, 6) else 0)
        out[begin : begin + 4_000] += hit[: MINUTE - begin]
    return at_level(out, rng.uniform(-32, -14))


def _band_playing(rng: np.random.Generator) -> Wave:
    """Everything together."""
    mix = sum(rng.uniform(0.3, 1) * at_level(part(rng), -20) for part in (_melody, _chords, _arpeggios, _drums))
    return at_level(np.asarray(mix), rng.uniform(-35, -12))


KINDS: dict[str, Callable[[np.random.Generator], Wave]] = {
    "silence": _silence,
    "dither": _dither,
    "room": _room,
    "white-quiet": _noise(0, -70, -45),
    "white-loud": _noise(0, -40, -6),
    "pink-quiet": _noise(0.5, -70, -45),
    "pink-loud": _noise(0.5, -40, -8),
    "brown-quiet": _noise(1, -70, -45),
    "brown-loud": _noise(1, -40, -8),
    "wind": _swelling,
    "hum": _hum,
    "fan": _fan,
    "syllables": _syllables,
    "applause": _applause,
    "clicks": _clicks,
    "typing": _typing,
    "knocks": _knocks,
    "sirens": _sirens,
    "dialling": _dialling,
    "melody": _melody,
    "chords": _chords,
    "arpeggios": _arpeggios,
    "synthesiser": _synthesiser,
    "choir": _choir,
    "drums": _drums,
    "band": _band_playing,
}

VOICE_LIKE = {"wah": _wah}
"""Made to be taken for a voice, and taken for one."""
