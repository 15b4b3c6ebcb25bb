"""WebM by hand: what browsers and files hold, and what only a stranger would send."""

from collections.abc import Iterable

import pytest

from streaming.audio.container import Event, Opened, Packet, Place
from streaming.audio.opus import read_head
from streaming.audio.webm import WebmDemuxer
from streaming.errors import DecodeFailed
from streaming.limits import LIMITS
from streaming.model import Part
from tests.data.containers import build
from tests.data.containers.build import block, cluster, ebml_header, element, head, number, track, webm_header

HELD_MAX = 2 * LIMITS.container_element_bytes_max
A, B, C = b"\x98first", b"\x98second", b"\x98third one"
INFO, CLUSTER, GROUP, VOID, CRC, CUES, TAGS = 0x1549A966, 0x1F43B675, 0xA0, 0xEC, 0xBF, 0x1C53BB6B, 0x1254C367


def demux(data: bytes, step: int = 0) -> list[Event]:
    """All events of `data`, fed whole or in pieces of `step` bytes."""
    demuxer = WebmDemuxer()
    events: list[Event] = []
    for at in range(0, len(data), step or max(1, len(data))):
        events += demuxer.feed(data[at : at + step] if step else data)
        assert demuxer.held_bytes <= HELD_MAX
    return [*events, *demuxer.finish()]


def heard(events: Iterable[Event]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, Packet)]


def failure(data: bytes, step: int = 0) -> str:
    with pytest.raises(DecodeFailed) as failed:
        demux(data, step)
    assert failed.value.field == "audio"
    return failed.value.message


def test_what_a_browser_sends() -> None:
    data = webm_header() + cluster(block(A) + block(B, 20)) + cluster(block(C), 40)
    start = len(webm_header())
    assert demux(data) == [
        Opened(read_head(head())),
        Place(start, 0, start),
        Packet(A, 0),
        Packet(B, 960),
        Place(start + len(cluster(block(A) + block(B, 20))), 0, start),
        Packet(C, 1_920),
    ]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64])
def test_any_split_tells_the_same(step: int) -> None:
    data = build.recorded("firefox.webm")[:9_000]
    assert demux(data, step) == demux(data)


def test_known_sizes_groups_and_everything_that_is_stepped_over() -> None:
    """As FFmpeg and mkvtoolnix write: sizes, Void, CRC-32, seek head, cues, tags, chapters, unknown elements."""
    junk = element(VOID, bytes(50)) + element(CRC, bytes(4)) + element(0x4DBB, bytes(70_000))
    group = element(GROUP, block(B, 20, ident=0xA1) + element(0xFB, b"\x01") + junk)
    content = element(INFO, number(0x2AD7B1, 1_000_000)) + junk + element(0x1654AE6B, track()) + element(TAGS, junk)
    content += cluster(junk + block(A) + junk + group, known=True) + element(CUES, bytes(90_000))
    content += cluster(block(C), 40, known=True) + element(CUES, bytes(10))
    data = ebml_header() + element(0x18538067, content) + element(VOID, bytes(9))
    for step in (0, 1_000, 4_097):
        assert [(event.data, event.at) for event in demux(data, step) if isinstance(event, Packet)] == [
            (A, 0),
            (B, 960),
            (C, 1_920),
        ]


def test_timestamps_follow_their_scale() -> None:
    info = element(INFO, number(0x2AD7B1, 500_000))
    data = webm_header(before=info) + cluster(block(A, -10), 100)
    assert demux(data)[-1] == Packet(A, 90 * 24)


def test_other_tracks_are_stepped_over_whatever_their_size() -> None:
    """The first Opus track is taken; a video frame may be larger than anything we hold."""
    tracks = track(1, b"V_VP8") + track(2) + track(3)
    video = element(0xA3, b"\x81" + bytes(300_000))
    group = element(GROUP, element(0xA1, b"\x81" + bytes(200_000)) + block(B, 20, track_number=2, ident=0xA1))
    blocks = video + block(A, track_number=2) + block(C, track_number=3) + group + block(C, track_number=3)
    data = webm_header(element(0xAE, number(0xD7, 1) + element(0x86, b"V_VP9")) + tracks) + cluster(blocks)
    for step in (0, 1_000):
        assert heard(demux(data, step)) == [A, B]


def test_padding_at_the_end_is_trimmed() -> None:
    packet = build.packets(1)[0]
    group = block(packet, ident=0xA1) + element(0x75A2, (10_000_000).to_bytes(8, "big"))
    assert demux(webm_header() + cluster(element(GROUP, group)))[-1] == Packet(packet, 0, trim=480)
    negative = block(packet, ident=0xA1) + element(0x75A2, (-10_000_000).to_bytes(8, "big", signed=True))
    assert demux(webm_header() + cluster(element(GROUP, negative)))[-1] == Packet(packet, 0)


@pytest.mark.parametrize("sizes", [(5, 300, 255, 9), (1,), (40, 40, 40, 40), (0, 3)])
def test_lacing(sizes: tuple[int, ...]) -> None:
    frames = [bytes([0x98]) * size for size in sizes]
    xiph = b"".join(b"\xff" * (size // 255) + bytes([size % 255]) for size in sizes[:-1])
    ebml = b""
    for i, size in enumerate(sizes[:-1]):
        value = size if i == 0 else size - sizes[i - 1] + (1 << 13) - 1
        ebml += (value | 1 << 14).to_bytes(2, "big")
    shapes = {0x02: xiph, 0x06: ebml} | ({0x04: b""} if len(set(sizes)) == 1 else {})
    for flags, table in shapes.items():
        laced = bytes([len(frames) - 1]) + table + b"".join(frames)
        events = demux(webm_header() + cluster(block(laced, 100, flags=flags)))
        assert heard(events) == frames
        assert [event.at for event in events if isinstance(event, Packet)] == [4_800] + [None] * (len(frames) - 1)


@pytest.mark.parametrize(
    ("flags", "laced"),
    [
        (0x02, b""),
        (0x02, b"\x01"),
        (0x02, b"\x01\xff\xff"),
        (0x02, b"\x01\x09abc"),
        (0x04, b"\x01abc"),
        (0x06, b"\x01\x00"),
        (0x06, b"\x01\x41"),
        (0x06, b"\x02\x81\x81abc"),
        (0x06, b"\xff" + b"\xff" * 300),
    ],
)
def test_lacing_that_does_not_fit(flags: int, laced: bytes) -> None:
    failure(webm_header() + cluster(block(laced, flags=flags)))


def test_a_container_in_the_place_of_another_begins_anew() -> None:
    first = webm_header() + cluster(block(A))
    second = webm_header(track(5)) + cluster(block(B, track_number=5), 9_000)
    events = demux(first + second)
    assert heard(events) == [A, B]
    assert events[-2] == Place(len(first) + len(webm_header(track(5))), len(first), len(webm_header(track(5))))
    assert sum(isinstance(event, Opened) for event in events) == 2


def test_a_container_behind_a_finished_one() -> None:
    whole = ebml_header() + element(0x18538067, element(0x1654AE6B, track()) + cluster(block(A), known=True))
    assert heard(demux(whole + whole)) == [A, A]
    assert "not a WebM" in failure(whole + b"\x00garbage")


def test_decoding_begins_again_at_a_cluster() -> None:
    clusters = [cluster(block(A)), cluster(block(B), 20), cluster(block(C), 40)]
    data = webm_header() + b"".join(clusters)
    start = len(webm_header())
    part = Part(start + len(clusters[0]), 960, 0, start)
    demuxer = WebmDemuxer()
    list(demuxer.feed(data[: start + 7]))
    demuxer.jump(part)
    events = list(demuxer.feed(data[part.offset :]))
    assert events[:2] == [Place(part.offset, 0, start), Packet(B, 960)]
    assert heard(events) == [B, C]
    with pytest.raises(DecodeFailed):
        WebmDemuxer().jump(part)


def test_a_block_that_is_complete_is_used_although_its_group_is_not() -> None:
    group = element(GROUP, block(B, 20, ident=0xA1) + element(VOID, bytes(50)))
    data = webm_header() + cluster(block(A) + group)
    assert heard(demux(data[:-20])) == [A, B]
    assert heard(demux(data[: -len(group) + 12])) == [A]


def test_a_long_header_keeps_no_more_than_a_decoder_needs() -> None:
    """Pictures before the first cluster: that cluster is no place to begin at, the next one is."""
    header = webm_header()
    attachments = element(0x1941A469, bytes(LIMITS.container_header_bytes_max))
    data = header + attachments + cluster(block(A)) + cluster(block(B), 20)
    places = [event for event in demux(data, 5_000) if isinstance(event, Place)]
    assert [(place.offset, place.header_bytes) for place in places] == [
        (len(data) - len(cluster(b"" + block(B), 20)), len(header))
    ]
    before = webm_header(before=attachments) + cluster(block(A)) + cluster(block(B), 20)
    assert heard(demux(before, 5_000)) == [A, B]
    assert not [event for event in demux(before) if isinstance(event, Place)], "the tracks come too late to be kept"


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "a WAV file"),
        (b"OggS\x00\x02", "an Ogg file"),
        (b"\x00\x00\x00\x20ftypisom", "an MP4 file"),
        (b"\xff\xfb\x90\x64", "something unknown"),
        (ebml_header(b"other"), "neither WebM nor Matroska"),
        (webm_header(track(1, b"V_VP9") + track(2, b"A_VORBIS")) + cluster(b""), "V_VP9, A_VORBIS"),
        (webm_header(track(1, b"<b>\xff") * 9) + cluster(b""), "but b, b, b, b."),
        (webm_header(b""), "no track at all"),
        (ebml_header() + element(0x18538067, size=None) + cluster(block(A)), "no tracks"),
        (ebml_header() + cluster(block(A)), "not in order"),
        (webm_header(track(extra=element(0x6D80, element(0x6240, bytes(20))))), "compressed or encrypted"),
        (webm_header(track(private=b"OpusHead\x01\x09")), "header cannot be read"),
    ],
)
def test_the_reason_is_named(data: bytes, names: str) -> None:
    assert names in failure(data)
    assert failure(data, 1)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(element(0x1A45DFA3, size=2**56 - 2), id="header of 2^56"),
        pytest.param(element(0x1A45DFA3, size=None), id="header without size"),
        pytest.param(ebml_header() + element(0x18538067, size=None) + element(0x1654AE6B, size=2**40), id="tracks"),
        pytest.param(webm_header() + cluster(element(0xA3, b"\x81", size=2**17)), id="block"),
        pytest.param(webm_header() + cluster(element(0xA3, size=2**56 - 2)), id="block of 2^56"),
        pytest.param(webm_header() + element(TAGS, size=2**56 - 2), id="tags of 2^56"),
        pytest.param(webm_header() + element(TAGS, size=None), id="tags without size"),
        pytest.param(webm_header() + cluster(element(GROUP, size=None)), id="group without size"),
        pytest.param(webm_header() + cluster(element(GROUP, element(0xA1, b"\x81", size=99))), id="larger than parent"),
        pytest.param(webm_header() + element(CLUSTER, element(0xE7, bytes(9))), id="timestamp of 9 bytes"),
        pytest.param(webm_header() + b"\x00" * 20, id="zeros"),
        pytest.param(webm_header() + b"\x0f\xff\xff\xff\xff", id="id of 5 bytes"),
        pytest.param(webm_header() + b"\xec\x00", id="size of 9 bytes"),
        pytest.param(webm_header(element(0xAE, b"\xd7\x88\x01")), id="track cut off"),
        pytest.param(webm_header(before=element(INFO, number(0x2AD7B1, 0))), id="scale of 0"),
    ],
)
@pytest.mark.parametrize("step", [0, 1])
def test_what_nobody_sends_is_refused_at_once(data: bytes, step: int) -> None:
    failure(data, step)


def test_what_claims_to_be_large_is_not_held() -> None:
    demuxer = WebmDemuxer()
    list(demuxer.feed(webm_header() + element(TAGS, size=2**31)))
    for _ in range(50):
        assert list(demuxer.feed(bytes(100_000))) == []
        assert demuxer.held_bytes == 0


def test_nesting_needs_no_stack() -> None:
    nested = b""
    for _ in range(2_000):
        nested = element(0x6D80, nested)
    assert "compressed" in failure(webm_header(track(extra=nested)))
    deep = b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" * 5_000
    assert "not in order" in failure(ebml_header() + deep)
    clusters = element(CLUSTER, size=None) * 5_000
    assert heard(demux(webm_header() + clusters + cluster(block(A)))) == [A]
