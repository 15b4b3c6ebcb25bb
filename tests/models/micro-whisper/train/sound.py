"""What happens to a sound on its way to the server, and sounds that nobody says.

Pure, with the random numbers it is given. All sounds are (n,) float32 at 16 kHz, full scale 1.0.
"""

import io
import math
import random
from typing import Any

import av
import numpy as np
import scipy.fft

RATE = 16_000
BANK_S = 60

Wave = Any


def resample(x: Wave, rate: int, to: int, edge: float = 0.92) -> Wave:
    """By the spectrum, with a soft end from `edge` to 1 of the band that both rates carry."""
    step = 2 * rate // math.gcd(rate, to)
    n = scipy.fft.next_fast_len((len(x) + 200) // step + 1) * step
    m = n * to // rate
    spectrum = scipy.fft.rfft(x, n)[: m // 2 + 1]
    bins = np.arange(len(spectrum)) / (min(n, m) / 2)
    spectrum *= (0.5 + 0.5 * np.cos(np.pi * np.clip((bins - edge) / (1 - edge), 0, 1))).astype(np.float32)
    return scipy.fft.irfft(spectrum, m).astype(np.float32)[: round(len(x) * to / rate)] * np.float32(to / rate)


def mulaw(x: Wave) -> Wave:
    """Through the 8 bits of G.711."""
    whole = np.clip(np.rint(x * 32_768), -32_635, 32_635).astype(np.int64)
    biased = np.abs(whole) + 132
    exponent = np.floor(np.log2(biased)).astype(np.int64) - 7
    back = ((((biased >> (exponent + 3)) & 15) << 3) + 132 << exponent) - 132
    return (np.sign(whole) * back / 32_768).astype(np.float32)


def opus(x: Wave, bit_rate: int) -> Wave:
    """Through Ogg Opus at 48 kHz."""
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as out:
        stream = out.add_stream("libopus", rate=48_000, layout="mono", bit_rate=bit_rate)
        data = np.clip(resample(x, RATE, 48_000) * 32_767, -32_768, 32_767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(data[None], format="s16", layout="mono")
        frame.sample_rate = 48_000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as back:
        parts = [np.asarray(frame.to_ndarray(), np.float32).reshape(-1) for frame in back.decode(audio=0)]
    return fitted(resample(np.concatenate(parts), 48_000, RATE), len(x))


def channel(x: Wave, rng: random.Random) -> Wave:
    """What is left of a sound behind one of the ways to the server: telephone, other rates, Opus, or 16 bits alone."""
    way, edge = rng.random(), rng.uniform(0.86, 0.98)
    if way < 0.24:
        rate = rng.choice((8_000,) * 7 + (11_025, 12_000))
        low = resample(x, RATE, rate, edge)
        if rate == 8_000 and rng.random() < 0.6:
            low = mulaw(low)
        x = fitted(resample(low, rate, RATE, rng.uniform(0.88, 0.98)), len(x))
    elif way < 0.40:
        x = resample(x, RATE, RATE, edge)
    elif way < 0.45:
        x = opus(x, rng.choice((24_000, 32_000, 48_000, 64_000)))
    return np.clip(np.rint(x * 32_768), -32_768, 32_767).astype(np.float32) / 32_768


def fitted(x: Wave, n: int) -> Wave:
    """Cut or filled up with zeros to `n` samples."""
    return np.pad(x[:n], (0, max(0, n - len(x))))


class Noises:
    """Noise of power 1, cut out of a long piece of each colour: far cheaper than new noise for each window."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        n = RATE * BANK_S
        white, soft, pink = (rng.standard_normal(n, np.float32) for _ in range(3))
        soft = np.convolve(soft, np.ones(4, np.float32), "same")
        spectrum = scipy.fft.rfft(pink)
        pink = scipy.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) / len(spectrum) * 400 + 8), n)
        self._bank = [(x / x.std()).astype(np.float32) for x in (white, soft, pink)]

    def cut(self, n: int, rng: random.Random) -> Wave:
        colour = rng.choice(self._bank)
        start = rng.randrange(len(colour) - n)
        return colour[start : start + n]


def hum(n: int, rng: random.Random) -> Wave:
    """Mains hum and its overtones, of power 1."""
    t = np.arange(n, dtype=np.float32) / RATE
    mains = rng.choice((50.0, 60.0)) * rng.uniform(0.99, 1.01)
    x = sum(rng.random() / (1 + k / 4) * np.sin(2 * np.pi * mains * k * t + rng.uniform(0, 6.3)) for k in range(1, 12))
    return (x / (np.std(x) + 1e-6)).astype(np.float32)


def music(n: int, rng: random.Random) -> Wave:
    """Chords of tones with overtones that sound and fade, of power about 1."""
    x = np.zeros(n, np.float32)
    at = 0
    while at < n:
        length = min(n - at, round(rng.uniform(0.1, 1.2) * RATE))
        t = np.arange(length, dtype=np.float32) / RATE
        fade = np.exp(-t * rng.uniform(0, 6)) * np.minimum(1, t * 100)
        for _ in range(rng.randint(1, 4)):
            pitch = 55 * 2 ** (rng.randint(0, 60) / 12)
            for k in range(1, rng.randint(2, 6)):
                x[at : at + length] += (fade * np.sin(2 * np.pi * pitch * k * t) / k).astype(np.float32)
        at += length
    return x / np.float32(x.std() + 1e-6)


def wordless(n: int, noises: Noises, rng: random.Random) -> Wave:
    """A sound without words: silence, noise, hum, music, a single tone or clicks."""
    kind = rng.random()
    if kind < 0.25:
        x = np.zeros(n, np.float32)
    elif kind < 0.5:
        x = noises.cut(n, rng)
    elif kind < 0.65:
        x = hum(n, rng)
    elif kind < 0.9:
        x = music(n, rng)
    else:
        x = np.zeros(n, np.float32)
        for _ in range(rng.randint(1, 20)):
            x[rng.randrange(n)] = rng.uniform(-9, 9)
    return x * np.float32(10 ** rng.uniform(-3, -0.7))
