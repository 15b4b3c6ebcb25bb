"""Containers from strangers: whatever the bytes are, there are samples or `DecodeFailed`, little memory, and an end.

Mutated recordings keep their shape, so most of the damage is met deep inside; their Ogg pages get right checksums again
half of the time, else nothing behind the checksum would ever be reached.
"""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.audio.decode import DecodeStart, decoder_for, scan
from streaming.audio.ogg import checksum
from streaming.audio.timeline import GAP_SAMPLES_MAX, Reel
from streaming.errors import DecodeFailed
from streaming.limits import LIMITS
from streaming.model import AudioFormat
from tests.data.containers.build import OGG, RECORDED, WEBM, ffmpeg, format_of, ogg, packets, recorded, webm

HELD_MAX = 2 * LIMITS.container_element_bytes_max + 512
FORMATS = [pytest.param(WEBM, id="webm"), pytest.param(OGG, id="ogg")]
ANY = settings(max_examples=150, deadline=None)


def survive(fmt: AudioFormat, data: bytes, step: int) -> None:
    """Decode and scan; both agree on positions and parts as far as both get."""
    decoder, scanner = decoder_for(fmt), scan(fmt)
    reel = Reel(fmt, DecodeStart())
    heard, failure = 0, None
    try:
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            for stretch in reel.feed(piece):
                assert stretch.silence <= GAP_SAMPLES_MAX
            assert reel.held_bytes <= HELD_MAX
            scanner.feed(piece)
            heard += len(decoder.feed(piece))
        heard += len(decoder.finish())
        scanner.finish()
    except DecodeFailed as error:
        failure = error
    assert heard <= decoder.sample_end + 1
    if failure is not None:
        assert (failure.field, failure.message[-1]) == ("audio", ".")
    else:
        assert abs(heard - decoder.sample_end) <= 1
        assert decoder.sample_end == round(scanner.sample_end_48k / 3)
        assert decoder.take_parts() == scanner.take_parts()


@pytest.mark.parametrize("fmt", FORMATS)
@ANY
@given(data=st.binary(max_size=400), step=st.integers(1, 400))
def test_random_bytes(fmt: AudioFormat, data: bytes, step: int) -> None:
    survive(fmt, data, step)


@pytest.mark.parametrize("fmt", FORMATS)
@ANY
@given(data=st.binary(max_size=400), step=st.integers(1, 400))
def test_random_bytes_behind_a_beginning(fmt: AudioFormat, data: bytes, step: int) -> None:
    begun = webm(packets(3)) if fmt is WEBM else ogg(packets(3))
    survive(fmt, begun + data, step)


def mutated(data: bytes, seed: int) -> bytes:
    """Bits turned, bytes replaced, pieces removed, doubled and exchanged."""
    rng = random.Random(seed)
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at, length = rng.randrange(len(out)), rng.choice((1, 2, 4, 8, 30, 300))
        match rng.randrange(5):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del out[at : at + length]
            case 3:
                out[at:at] = out[at : at + length]
            case _:
                out[at : at + length] = rng.randbytes(length)
    return bytes(out)


def with_checksums(data: bytes) -> bytes:
    """Ogg whose pages are right again, wherever one seems to begin."""
    starts = [at for at in range(len(data)) if data.startswith(b"OggS", at)]
    out = data[: starts[0]] if starts else data
    for a, b in pairwise([*starts, len(data)]):
        page = bytearray(data[a:b])
        if len(page) > 27:
            length = 27 + page[26] + sum(page[27 : 27 + page[26]])
            page[22:26] = bytes(4)
            page[22:26] = checksum(bytes(page[:length])).to_bytes(4, "little")
        out += bytes(page)
    return out


@pytest.mark.parametrize("name", [*RECORDED, "made.webm", "made.opus"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), start=st.floats(0, 0.5), step=st.integers(1, 5_000))
def test_mutated_containers(name: str, seed: int, start: float, step: int) -> None:
    """The beginning is hurt as often as the rest: only the first 6 kB are used, some from anywhere in between."""
    fmt = format_of(name)
    whole = recorded(name) if name in RECORDED else ffmpeg("webm" if fmt is WEBM else "ogg", 0.5, 2)
    begin = 500 + int(start * len(whole))
    data = mutated(whole[:500] + whole[begin : begin + 5_500], seed)
    if fmt is OGG and seed % 2:
        data = with_checksums(data)
    survive(fmt, data, step)


def test_checksums_are_put_right() -> None:
    data = recorded("firefox.opus")
    assert with_checksums(data) == data
    assert with_checksums(data[:22] + bytes(4) + data[26:]) == data


@pytest.mark.parametrize("fmt", FORMATS)
@ANY
@given(packets_=st.lists(st.binary(max_size=60), min_size=1, max_size=60), seed=st.integers(0, 100))
def test_any_packets_in_a_good_container(fmt: AudioFormat, packets_: list[bytes], seed: int) -> None:
    mux = webm if fmt is WEBM else ogg
    good = list(packets(seed % 5))
    survive(fmt, mux(good + packets_), 1_000)
