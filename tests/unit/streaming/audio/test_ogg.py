"""Ogg by hand: pages, packets over pages, what is lost, what is beside, and what only a stranger would send."""

from collections.abc import Iterable

import numpy as np
import pytest

from streaming.audio.container import Event, Opened, Packet, Place
from streaming.audio.ogg import OggDemuxer, checksum
from streaming.audio.opus import read_head
from streaming.errors import DecodeFailed
from streaming.limits import LIMITS
from streaming.model import Part
from tests.data.containers import build
from tests.data.containers.build import FRAME, head, ogg, ogg_header, ogg_pages, page, recorded

HELD_MAX = 2 * LIMITS.container_element_bytes_max
TAGS = b"OpusTags" + bytes(8)
START = len(ogg_header())


def demux(data: bytes, step: int = 0) -> list[Event]:
    """All events of `data`, fed whole or in pieces of `step` bytes."""
    demuxer = OggDemuxer()
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


def frames(n: int) -> list[bytes]:
    """Packets of 20 ms that can be told apart; never decoded."""
    return [b"\x98" + i.to_bytes(2, "big") * 20 for i in range(n)]


def slow_checksum(data: bytes) -> int:
    """RFC 3533 as it is written."""
    crc = 0
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return crc


@pytest.mark.parametrize("n", [0, 1, 27, 1_000])
def test_the_checksum_is_that_of_the_standard(n: int) -> None:
    data = np.random.default_rng(n).integers(0, 256, n, np.uint8).tobytes()
    assert checksum(data) == slow_checksum(data)


def test_pages_places_and_times() -> None:
    a = frames(4)
    pages = ogg_pages(a, per_page=2)
    assert demux(ogg_header() + b"".join(pages)) == [
        Opened(read_head(head())),
        Place(START, 0, START),
        Packet(a[0], 0),
        Packet(a[1]),
        Place(START + len(pages[0]), 0, START),
        Packet(a[2], 2 * FRAME),
        Packet(a[3]),
    ]


@pytest.mark.parametrize("step", [1, 2, 27, 1_000])
def test_any_split_tells_the_same(step: int) -> None:
    data = recorded("firefox.opus")[:10_000]
    assert demux(data, step) == demux(data)


def test_a_packet_goes_on_over_pages() -> None:
    """Over three pages; a page that only continues is no place to begin at."""
    long = b"\x98" + bytes(range(255)) * 4
    parts = [long[:510], long[510:765], long[765:]]
    data = ogg_header() + page([b"\x98a", parts[0]], FRAME, 2, open_end=True)
    data += page([parts[1]], -1, 3, flags=1, open_end=True) + page([parts[2], b"\x98b"], 3 * FRAME, 4, flags=1)
    for step in (0, 11):
        events = demux(data, step)
        assert heard(events) == [b"\x98a", long, b"\x98b"]
        assert [event.at for event in events if isinstance(event, Packet)] == [0, FRAME, None]
        assert sum(isinstance(event, Place) for event in events) == 1


def test_the_end_is_trimmed() -> None:
    """RFC 7845, 4.4: the granule position of the last page says how much of it is audio."""
    a = frames(4)
    end = page(a[2:], 2 * FRAME + 700, 3, flags=4)
    events = demux(ogg_header() + ogg_pages(a[:2])[0] + end)
    assert events[-2:] == [Packet(a[2], None, trim=FRAME - 700), Packet(a[3], None, trim=FRAME)]
    alone = demux(ogg_header() + page(a, 4 * FRAME - 100, 2, flags=4))
    assert alone[-1] == Packet(a[3], None, trim=100)


def test_a_lost_page_shows_in_sequence_and_time() -> None:
    a = frames(30)
    pages = ogg_pages(a)
    events = demux(ogg_header() + pages[0] + pages[2])
    assert events[-10] == Packet(a[20], 20 * FRAME, lost=True)
    assert sum(isinstance(event, Packet) and event.lost for event in events) == 1


def test_a_packet_whose_page_is_lost_is_dropped_with_it() -> None:
    long = b"\x98" + bytes(254)
    data = ogg_header() + page([b"\x98a", long], FRAME, 2, open_end=True)
    data += page([long, b"\x98c"], 9 * FRAME, 4, flags=1, open_end=False)
    events = demux(data)
    assert heard(events) == [b"\x98a", b"\x98c"], "the end of a packet without its beginning is none"
    assert events[-1] == Packet(b"\x98c", 8 * FRAME, lost=True)
    never_continued = ogg_header() + page([b"\x98a", long], FRAME, 2, open_end=True) + page([b"\x98c"], 9 * FRAME, 3)
    assert demux(never_continued)[-1] == Packet(b"\x98c", 8 * FRAME, lost=True)


def test_a_damaged_page_is_a_lost_one() -> None:
    pages = [bytearray(one) for one in ogg_pages(frames(30))]
    pages[1][-5] ^= 1
    for step in (0, 1):
        events = demux(ogg_header() + b"".join(pages), step)
        assert heard(events) == frames(30)[:10] + frames(30)[20:]
        assert sum(isinstance(event, Packet) and event.lost for event in events) == 1


def test_garbage_between_pages_is_searched_for_the_next() -> None:
    pages = ogg_pages(frames(30))
    garbage = b"OggOggS garbage OggS\x00" + bytes(40_000) + b"Og"
    for step in (0, 3):
        assert heard(demux(ogg_header() + pages[0] + garbage + pages[1] + garbage + pages[2], step)) == frames(30)


def test_garbage_ends_somewhere() -> None:
    start = ogg_header() + ogg_pages(frames(1))[0]
    fits = start + bytes(LIMITS.container_garbage_bytes_max)
    for step in (0, 10_000):
        assert heard(demux(fits + ogg_pages(frames(1))[0], step)) == frames(1) * 2
        assert "no further page" in failure(fits + bytes(1) + ogg_pages(frames(1))[0], step)
    false = page([bytes(200)], 0, 9, crc=1) * (LIMITS.container_false_pages_max + 1)
    assert "wrong checksums" in failure(start + false)


def test_tags_of_any_size_are_not_held() -> None:
    tags = TAGS + bytes(255 * 255 * 8 - len(TAGS))
    cuts = [tags[at : at + 255 * 255] for at in range(0, len(tags), 255 * 255)]
    data = page([head()], 0, 0, flags=2) + page([cuts[0]], -1, 1, open_end=True)
    for i, cut in enumerate(cuts[1:]):
        data += page([cut], -1, 2 + i, flags=1, open_end=True)
    data += page([b"end"], 0, 9, flags=1) + page(frames(2), 2 * FRAME, 10) + page(frames(2), 4 * FRAME, 11)
    demuxer = OggDemuxer()
    for at in range(0, len(data), 30_000):
        events = list(demuxer.feed(data[at : at + 30_000]))
        assert demuxer.held_bytes < 66_000
    assert heard(events) == frames(2) * 2
    kept = [event.header_bytes for event in events if isinstance(event, Place)]
    assert kept == [len(page([head()], 0, 0, flags=2))], "decoding may begin behind the first page, with the head alone"


def test_a_stream_without_tags_is_played_too() -> None:
    data = page([head()], 0, 0, flags=2) + b"".join(ogg_pages(frames(3), per_page=1))
    events = demux(data)
    assert heard(events) == frames(3)
    assert sum(isinstance(event, Place) for event in events) == 3


def test_streams_beside_are_ignored() -> None:
    other = page([b"\x80theora" + bytes(30)], 0, 0, flags=2, serial=1)
    second = page([head()], 0, 0, flags=2, serial=3)
    data = other + page([head()], 0, 0, flags=2) + second + page([b"\x81theora"], 0, 1, serial=1) + page([TAGS], 0, 1)
    data += page([bytes(60_000)], 5, 2, serial=1) + ogg_pages(frames(10))[0] + page([b"\x98x"], 5, 2, serial=3)
    for step in (0, 100):
        events = demux(data, step)
        assert heard(events) == frames(10)
        assert sum(isinstance(event, Opened) for event in events) == 1


def test_a_chained_stream_is_a_container_in_place() -> None:
    first = ogg(frames(10))
    second = ogg_header(serial=8, preskip=312) + b"".join(ogg_pages(frames(20)[10:], serial=8))
    events = demux(first + second)
    assert heard(events) == frames(20)
    assert [event.head.preskip for event in events if isinstance(event, Opened)] == [0, 312]
    places = [event for event in events if isinstance(event, Place)]
    assert places[-1].container == len(first)
    assert all(place.is_first for place in places)


def test_decoding_begins_again_at_a_page() -> None:
    pages = ogg_pages(frames(30))
    part = Part(START + len(pages[0]), 10 * FRAME, 0, START)
    demuxer = OggDemuxer()
    list(demuxer.feed(ogg_header()[: len(page([head()], 0, 0, flags=2)) + 5]))
    demuxer.jump(part)
    events = list(demuxer.feed(b"".join(pages[1:])))
    assert events[:2] == [Place(part.offset, 0, START), Packet(frames(11)[10], 10 * FRAME)]
    assert heard(events) == frames(30)[10:]
    with pytest.raises(DecodeFailed):
        OggDemuxer().jump(part)


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "a WAV file"),
        (b"\x1a\x45\xdf\xa3\x9f", "a WebM file"),
        (b"ID3\x04\x00\x00", "an MP3 file with tags"),
        (b"\x00\x01\x02\x03", "something unknown"),
        (page([head()], 0, 0, flags=2, crc=5), "first page of this Ogg stream is damaged"),
        (page([head()[:-2]], 0, 0, flags=2), "header cannot be read"),
        (page([b"\x01vorbis" + bytes(23)], 0, 0, flags=2) + page([b"x"], 0, 1), "no Opus audio, but Vorbis"),
        (page([b"\x7fFLAC\x01"], 0, 0, flags=2) + page([b"x"], 0, 1), "FLAC"),
        (page([b"???"], 0, 0, flags=2) + page([b"x"], 0, 1), "something unknown"),
        (page([], 0, 0), "nothing known"),
    ],
)
def test_the_reason_is_named(data: bytes, names: str) -> None:
    assert names in failure(data)
    assert failure(data, 1)


def test_a_packet_has_a_greatest_size() -> None:
    big = bytes(255 * 255)
    data = ogg_header() + page([big], -1, 2, open_end=True) + page([big], -1, 3, flags=1, open_end=True)
    assert "larger than" in failure(data)
    assert "larger than" in failure(data, 5_000)


def test_empty_pages_and_pages_without_an_end() -> None:
    data = ogg_header() + page([], 0, 2) + page([], -1, 3) + page(frames(1), FRAME, 4) + page([], FRAME, 5, flags=4)
    assert heard(demux(data)) == frames(1)
    assert build.OGG.encoding.is_container
