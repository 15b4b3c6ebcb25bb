"""Every encoding through the one way in: recordings of browsers, files of FFmpeg, any split, any place to begin."""

import io
from collections.abc import Iterable, Iterator
from itertools import pairwise

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streaming.audio.decode import DecodeStart, OpusReader, begin_at, decoder_for, scan, sniff
from streaming.audio.parts import PREROLL_SAMPLES
from streaming.audio.pcm import Pcm16
from streaming.audio.timeline import Reel
from streaming.errors import BadRequest, DecodeFailed
from streaming.limits import LIMITS
from streaming.model import AudioFormat, Encoding, Part
from tests.data.containers import build
from tests.data.containers.build import OGG, RECORDED, WEBM, ffmpeg, format_of, packets, pieces, recorded, reference

MADE = (
    ("webm", 3.0, 1, ()),
    ("webm", 3.0, 2, (("cluster_time_limit", "1000"),)),
    ("webm", 3.0, 2, (("live", "1"),)),
    ("matroska", 3.01, 1, ()),
    ("ogg", 3.0, 1, ()),
    ("ogg", 3.013, 2, (("page_duration", "300000"),)),
    ("ogg", 2.0, 6, ()),
    ("ogg", 1.5, 1, ()),
)
SHAPES = [
    *(pytest.param(name, id=name) for name in RECORDED),
    *(pytest.param(m, id="-".join(map(str, m[:3]))) for m in MADE),
]
NEAR = 328
"""1% of full scale: how far a decoder that began in the middle may be off after its run-up."""
Shape = str | tuple[str, float, int, tuple[tuple[str, str], ...]]


def load(shape: Shape) -> tuple[AudioFormat, bytes]:
    if isinstance(shape, str):
        return format_of(shape), recorded(shape)
    return (OGG if shape[0] == "ogg" else WEBM), ffmpeg(*shape)


def decode(fmt: AudioFormat, data: Iterable[bytes], start: DecodeStart | None = None) -> Pcm16:
    decoder = decoder_for(fmt, start)
    out = [decoder.feed(piece) for piece in data]
    out.append(decoder.finish())
    heard = np.concatenate(out)
    assert heard.dtype == np.int16
    first = 0 if start is None else start.sample
    assert abs(first + len(heard) - decoder.sample_end) <= 1
    assert decoder.damaged_samples == 0
    return heard


def split(data: bytes, step: int) -> Iterator[bytes]:
    return (data[at : at + step] for at in range(0, len(data), step))


def resampled(sound: NDArray[np.float32]) -> Pcm16:
    """48 kHz to ours, as raw samples go."""
    data = (sound / 32_768).astype("<f4").tobytes()
    return decode(AudioFormat(Encoding.PCM_F32LE, 48_000, 1), [data])


def difference(a: Pcm16, b: Pcm16) -> int:
    n = min(len(a), len(b))
    return int(np.abs(a[:n].astype(int) - b[:n]).max(initial=0))


def likeness(a: Pcm16, b: Pcm16) -> float:
    n = min(len(a), len(b))
    x, y = a[:n].astype(float), b[:n].astype(float)
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_sounds_as_the_whole_file_does(shape: Shape) -> None:
    """Against FFmpeg's demuxer with libopus to the value, against FFmpeg's own decoder in length and likeness."""
    fmt, data = load(shape)
    heard = decode(fmt, split(data, 1_000))
    expected = resampled(reference(data))
    assert abs(len(heard) - len(expected)) <= 1
    assert difference(heard, expected) <= 4, "rounded to int16 before the mean of two channels, or after"
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray().mean(axis=0) for frame in container.decode(audio=0)]
    own = resampled(np.concatenate(frames).astype(np.float32) * 32_768)
    assert abs(len(heard) - len(own)) <= 320, "20 ms"
    assert likeness(heard, own) > 0.95, "FFmpeg's decoder puts speech two samples later"


def test_the_recordings_are_speech_of_eight_seconds() -> None:
    heard = {name: decode(format_of(name), pieces(name)) for name in RECORDED}
    for samples in heard.values():
        assert 8 * 16_000 < len(samples) < 9 * 16_000
        assert np.abs(samples.astype(int)).max() > 5_000
    assert likeness(heard["chromium.webm"], heard["chromium-mono.webm"]) > 0.95


@pytest.mark.parametrize("name", RECORDED)
def test_the_pieces_of_a_browser_are_as_good_as_the_whole(name: str) -> None:
    whole = decode(format_of(name), [recorded(name)])
    np.testing.assert_array_equal(decode(format_of(name), pieces(name)), whole)


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=4, deadline=None)
@given(cuts=st.lists(st.floats(0, 1), max_size=30))
def test_any_split_of_the_bytes_gives_the_same_samples_and_parts(shape: Shape, cuts: list[float]) -> None:
    fmt, data = load(shape)
    edges = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    whole, cut_up = decoder_for(fmt), decoder_for(fmt)
    expected = np.concatenate([whole.feed(data), whole.finish()])
    heard = [cut_up.feed(data[a:b]) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate([*heard, cut_up.finish()]), expected)
    assert cut_up.take_parts() == whole.take_parts()
    assert cut_up.sample_end == whole.sample_end


@pytest.mark.parametrize("fmt", [WEBM, OGG], ids=["webm", "ogg"])
def test_byte_by_byte_is_the_same_too(fmt: AudioFormat) -> None:
    data = ffmpeg("ogg" if fmt is OGG else "webm", 0.5)
    np.testing.assert_array_equal(decode(fmt, split(data, 1)), decode(fmt, [data]))


def parts_of(fmt: AudioFormat, data: bytes) -> list[Part]:
    decoder = decoder_for(fmt)
    decoder.feed(data)
    return decoder.take_parts()


def start_at(data: bytes, part: Part, sample: int, containers: tuple[int, ...] = (0,)) -> DecodeStart:
    header = data[part.container : part.container + part.header_bytes]
    return DecodeStart(sample=sample, offset=part.offset, containers=containers, part=part, header=header)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_part_is_a_place_to_begin_at(shape: Shape) -> None:
    """Opus goes on from its past, so a decoder that begins in the middle is near, not equal."""
    fmt, data = load(shape)
    whole = decode(fmt, [data])
    parts = parts_of(fmt, data)
    assert parts
    assert parts[0].sample == 0
    for part in parts:
        sample = (part.sample + PREROLL_SAMPLES + 2) // 3
        heard = decode(fmt, split(data[part.offset :], 2_000), start_at(data, part, sample))
        expected = whole[sample:]
        assert abs(len(heard) - len(expected)) <= 1
        assert difference(heard, expected) <= NEAR
        if len(expected) > 1_600:
            assert likeness(heard, expected) > 0.999


@pytest.mark.parametrize("name", RECORDED)
def test_the_first_sample_handed_out_is_the_one_asked_for(name: str) -> None:
    fmt, data = format_of(name), recorded(name)
    whole = decode(fmt, [data])
    parts = parts_of(fmt, data)
    for sample in (0, 1, 1_279, 1_280, 40_001, 77_777, len(whole) - 5, len(whole) + 9):
        part = begin_at(parts, sample * 3)
        start = DecodeStart(sample=sample) if part is None else start_at(data, part, sample)
        decoder = decoder_for(fmt, start)
        heard = np.concatenate([decoder.feed(data[start.offset :]), decoder.finish()])
        expected = whole[sample:]
        assert len(heard) == len(expected)
        assert difference(heard, expected) <= NEAR
        if part is None:
            assert difference(heard, expected) <= min(sample, 1), "only rounded otherwise"


@pytest.mark.parametrize("shape", SHAPES)
def test_whoever_resumes_finds_the_same_later_parts(shape: Shape) -> None:
    fmt, data = load(shape)
    parts = parts_of(fmt, data)
    for i, part in enumerate(parts):
        scanner = scan(fmt, start_at(data, part, 0))
        scanner.feed(data[part.offset :])
        assert scanner.take_parts() == parts[i + 1 :]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_scan_stands_where_a_decoder_does(shape: Shape) -> None:
    fmt, data = load(shape)
    decoder, scanner, reader = decoder_for(fmt), scan(fmt), OpusReader(fmt, DecodeStart())
    heard = 0
    for piece in split(data, 777):
        decoder.feed(piece)
        scanner.feed(piece)
        heard += len(reader.feed(piece))
        assert round(scanner.sample_end_48k / 3) == decoder.sample_end
        assert heard == scanner.sample_end_48k == reader.sample_end_48k
    assert scanner.take_parts() == decoder.take_parts() == reader.take_parts() != []


@pytest.mark.parametrize("name", RECORDED)
def test_playback_from_a_part(name: str) -> None:
    fmt, data = format_of(name), recorded(name)
    whole = OpusReader(fmt, DecodeStart()).feed(data)
    assert whole.dtype == np.int16
    for part in parts_of(fmt, data):
        reader = OpusReader(fmt, start_at(data, part, 0))
        heard = np.concatenate([reader.feed(data[part.offset :]), reader.finish()])
        assert len(heard) == len(whole) - part.sample
        assert difference(heard[PREROLL_SAMPLES:], whole[part.sample + PREROLL_SAMPLES :]) <= NEAR


@pytest.mark.parametrize("name", RECORDED)
def test_a_container_begins_anew_and_time_goes_on(name: str) -> None:
    """The first one breaks off in the middle of a packet; the client takes the stream over with a new container."""
    fmt, data = format_of(name), recorded(name)
    broken_off = data[: len(data) // 2 + 11]
    stream = broken_off + data
    decoder = decoder_for(fmt, DecodeStart(containers=(0, len(broken_off))))
    first, whole = decode(fmt, [broken_off]), decode(fmt, [data])
    heard = np.concatenate([*map(decoder.feed, split(stream, 3_000)), decoder.finish()])
    assert abs(len(heard) - len(first) - len(whole)) <= 1
    assert difference(heard[: len(first) - 400], first) == 0
    assert likeness(heard[len(first) :], whole) > 0.999
    parts = decoder.take_parts()
    assert {part.container for part in parts} == {0, len(broken_off)}
    again = next(part for part in parts if part.container)
    sample = (again.sample + PREROLL_SAMPLES) // 3 + 1
    resumed = decoder_for(fmt, start_at(stream, again, sample, (0, len(broken_off))))
    tail = np.concatenate([resumed.feed(stream[again.offset :]), resumed.finish()])
    assert difference(tail, heard[sample:]) <= NEAR


@pytest.mark.parametrize("name", RECORDED)
def test_a_part_before_a_border_leads_over_it(name: str) -> None:
    fmt, data = format_of(name), recorded(name)
    stream, borders = data[:20_001] + data, (0, 20_001)
    decoder = decoder_for(fmt, DecodeStart(containers=borders))
    heard = np.concatenate([decoder.feed(stream), decoder.finish()])
    part = [part for part in decoder.take_parts() if not part.container][-1]
    sample = part.sample // 3 + 2_000
    resumed = decoder_for(fmt, start_at(stream, part, sample, borders))
    tail = np.concatenate([*map(resumed.feed, split(stream[part.offset :], 999)), resumed.finish()])
    assert len(tail) == len(heard) - sample
    assert difference(tail, heard[sample:]) <= NEAR


def test_a_container_that_begins_at_an_offset_stands_where_it_is_asked_for() -> None:
    data = recorded("chromium.webm")
    decoder = decoder_for(WEBM, DecodeStart(sample=5_000, offset=12_345, containers=(0, 12_345)))
    heard = np.concatenate([decoder.feed(data), decoder.finish()])
    np.testing.assert_array_equal(heard, decode(WEBM, [data]))
    assert decoder.sample_end == 5_000 + len(heard)
    assert decoder.take_parts()[0] == Part(12_345 + 146, 15_000, 12_345, 146)


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", ["webm", "ogg"])
def test_cut_off_anywhere_is_no_error(kind: str, step: int) -> None:
    """Any position of a small file: what is complete is heard, and it is the beginning of the whole."""
    fmt, data = (WEBM, ffmpeg("webm", 0.2)) if kind == "webm" else (OGG, ffmpeg("ogg", 0.2))
    whole = resampled(reference(data))
    lengths = []
    for end in (*range(0, len(data), step), len(data)):
        decoder = decoder_for(fmt)
        heard = np.concatenate([decoder.feed(data[:end]), decoder.finish()])
        lengths.append(len(heard))
        assert difference(heard[:-400], whole) <= 4
    most = lengths.index(max(lengths))
    assert lengths[:most] == sorted(lengths[:most])
    assert set(lengths[most:]) <= {max(lengths), len(whole)}, "the last bytes may say that the end is no audio"
    assert lengths[-1] == len(whole)


def test_a_file_of_one_page_needs_no_parts() -> None:
    """What is to be trimmed at the end depends on the page before, so the last page is no place to begin at."""
    data = ffmpeg("ogg", 0.05)
    decoder = decoder_for(OGG)
    assert abs(len(decoder.feed(data)) + len(decoder.finish()) - len(resampled(reference(data)))) <= 1
    assert decoder.take_parts() == []


@pytest.mark.parametrize("fmt", [WEBM, OGG], ids=["webm", "ogg"])
def test_a_packet_that_cannot_be_read_is_silence_and_counted(fmt: AudioFormat) -> None:
    good = list(packets(30))
    bad = [*good[:10], b"\x99\x00", *good[11:]]
    mux = build.webm if fmt is WEBM else build.ogg
    decoder = decoder_for(fmt)
    heard = np.concatenate([decoder.feed(mux(bad)), decoder.finish()])
    assert packets(1)[0][0] >> 3 in range(12, 32), "frames of 20 ms"
    assert decoder.damaged_samples == 2 * 320
    assert abs(len(heard) - 31 * 320) <= 1
    np.testing.assert_array_equal(heard[: 9 * 320], decode(fmt, [mux(good)])[: 9 * 320])
    assert difference(heard[3_600:3_700], np.zeros(100, np.int16)) < 300


@pytest.mark.parametrize("fmt", [WEBM, OGG], ids=["webm", "ogg"])
def test_too_many_of_them_in_a_row_are_not_opus(fmt: AudioFormat) -> None:
    mux = build.webm if fmt is WEBM else build.ogg
    bad, good = [b"\x99\x00"] * LIMITS.audio_bad_packets_max, list(packets(1))
    decoder = decoder_for(fmt)
    decoder.feed(mux(bad + good + bad + good))
    assert decoder.damaged_samples == 2 * LIMITS.audio_bad_packets_max * 640
    failing = decoder_for(fmt)
    data = mux([*good, *bad, b"\x99\x00", *good])
    assert len(failing.feed(data)), "what was good before it"
    for call in (lambda: failing.feed(data), failing.finish):
        with pytest.raises(DecodeFailed) as failed:
            call()
        assert failed.value.field == "audio"


def test_a_microphone_that_drops_out_leaves_silence() -> None:
    frames = packets(60)
    data = build.webm(frames[:30]) + build.webm(frames[30:], start_ms=600 + 2_000)[len(build.webm_header()) :]
    heard = decode(WEBM, split(data, 500))
    assert abs(len(heard) - (60 * 320 + 32_000)) <= 1
    assert difference(heard[30 * 320 + 400 : 30 * 320 + 31_600], np.zeros(31_200, np.int16)) == 0
    lost = build.ogg_pages(frames)
    heard = decode(OGG, [build.ogg_header() + lost[0] + b"".join(lost[2:])])
    assert abs(len(heard) - 60 * 320) <= 1, "the granule position tells how much a lost page held"
    assert difference(heard[3_600:6_000], np.zeros(2_400, np.int16)) == 0


def test_a_few_bytes_cannot_become_hours() -> None:
    """Timestamps that jump 10 s at every packet: silence stays below what is heard, and the credit."""
    frame = packets(1)[0]
    data = build.webm_header() + b"".join(build.cluster(build.block(frame), 10_000 * i) for i in range(500))
    scanner = scan(WEBM)
    scanner.feed(data)
    assert scanner.sample_end_48k <= 2 * 500 * 960 + 480_000
    reel = Reel(WEBM, DecodeStart())
    assert max(stretch.silence for stretch in reel.feed(data)) <= 480_000


def test_a_stream_that_is_something_else_fails_at_once() -> None:
    for fmt, data in ((WEBM, recorded("firefox.opus")), (OGG, recorded("firefox.webm"))):
        for begin in (decoder_for, scan):
            with pytest.raises(DecodeFailed):
                begin(fmt).feed(data)
        with pytest.raises(DecodeFailed):
            OpusReader(fmt, DecodeStart()).feed(data)


def test_a_part_without_its_header_fails() -> None:
    part = Part(146, 0, 0, 146)
    for fmt in (WEBM, OGG):
        with pytest.raises(DecodeFailed):
            decoder_for(fmt, DecodeStart(offset=146, part=part))


def test_the_format_of_a_container_is_its_own() -> None:
    """Rate and channels stand in the container; for raw samples they are checked."""
    assert decoder_for(AudioFormat(Encoding.WEBM_OPUS, 0, 0)).sample_end == 0
    with pytest.raises(BadRequest) as refused:
        decoder_for(AudioFormat(Encoding.PCM_F32LE, 16_000, 9))
    assert refused.value.field == "channels"


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "a WAV file"),
        (b"RF64\xff\xff\xff\xffWAVEds64", "a WAV file"),
        (b"RIFF\x24\x00\x00\x00WAV", None),
        (b"RIFF\x24\x00\x00\x00AVI LIST", None),
        (b"xxxxxxxxWAVE", None),
        (b"FORM\x00\x00\x00\x00AIFFCOMM", "an AIFF file"),
        (b"ID3\x04\x00", "an MP3 file with tags"),
        (b"fLaC\x00", "a FLAC file"),
        (b"\x00\x00\x00\x18ftypmp42", "an MP4 file"),
        (b"", None),
        (bytes(64), None),
        (b"\xff" * 64, None),
    ],
)
def test_files_that_are_sent_as_raw_samples_are_named(first: bytes, name: str | None) -> None:
    for encoding in (Encoding.PCM_S16LE, Encoding.PCM_F32LE, Encoding.MULAW):
        assert sniff(encoding, first) == name


def test_recordings_are_named_and_containers_find_out_themselves() -> None:
    assert [sniff(Encoding.PCM_S16LE, recorded(name)[:12]) for name in RECORDED] == ["a WebM file"] * 3 + [
        "an Ogg file"
    ]
    assert sniff(Encoding.WEBM_OPUS, b"RIFF\x24\x00\x00\x00WAVE") is None


@given(first=st.lists(st.integers(-300, 300), min_size=6, max_size=20))
def test_quiet_samples_are_never_taken_for_a_file(first: list[int]) -> None:
    assert sniff(Encoding.PCM_S16LE, np.array(first, "<i2").tobytes()) is None
