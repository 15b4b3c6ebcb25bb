"""Packet lengths from two bytes, heads, and packets through the codec."""

import io

import av
import numpy as np
import pytest

from streaming.audio.codec import PacketDecoder
from streaming.audio.opus import make_head, packet_samples, read_head
from streaming.errors import DecodeFailed
from tests.data.containers.build import FRAME, RECORDED, head, packets, recorded

MONO = read_head(head())


@pytest.mark.parametrize("toc", range(0, 256, 4))
def test_the_length_of_a_packet_is_what_libopus_decodes(toc: int) -> None:
    """Every configuration, with one frame of no bytes: libopus conceals it and gives its length."""
    codec = av.CodecContext.create("libopus", "r")
    codec.extradata = head()
    decoded = sum(frame.samples for frame in codec.decode(av.Packet(bytes([toc]))))
    assert packet_samples(bytes([toc])) == decoded > 0


@pytest.mark.parametrize(
    ("packet", "samples"),
    [
        (b"", 0),
        (b"\x91", 2 * 480),
        (b"\x92\x01", 2 * 480),
        (b"\x93", 0),
        (b"\x93\x00", 0),
        (b"\x93\x0c", 12 * 480),
        (b"\x93\x0d", 0),
        (b"\x1b\x02", 2 * 2_880),
        (b"\x1b\x83", 0),
        (b"\x83\xb0", 48 * 120),
    ],
)
def test_frames_are_counted_up_to_120_ms(packet: bytes, samples: int) -> None:
    assert packet_samples(packet) == samples


@pytest.mark.parametrize("name", RECORDED)
def test_lengths_in_recordings(name: str) -> None:
    with av.open(io.BytesIO(recorded(name))) as container:
        codec = av.CodecContext.create("libopus", "r")
        extradata = bytearray(container.streams.audio[0].codec_context.extradata)
        extradata[10:12] = b"\0\0"
        codec.extradata = bytes(extradata)
        for packet in container.demux(audio=0):
            if packet.size:
                data = bytes(packet)
                assert [frame.samples for frame in codec.decode(av.Packet(data))] == [packet_samples(data)]


def test_a_head_tells_channels_and_preskip() -> None:
    told = read_head(head(2, 312))
    assert (told.channels, told.preskip, told.family) == (2, 312, 0)
    assert make_head(2, 312) == told


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"OpusHead",
        head()[:-1],
        b"opushead" + head()[8:],
        b"OpusHead\x10" + head()[9:],
        head(channels=0),
        head(channels=3),
        head(channels=9, family=1) + bytes(20),
        head(channels=6, family=1),
    ],
)
def test_heads_that_cannot_be(data: bytes) -> None:
    with pytest.raises(DecodeFailed) as failed:
        read_head(data)
    assert failed.value.field == "audio"


def test_a_multichannel_head_that_makes_no_sense_fails_when_opened() -> None:
    with pytest.raises(DecodeFailed):
        PacketDecoder(read_head(head(channels=6, family=1) + bytes([1, 0]) + bytes([250] * 6)))


def test_nothing_is_skipped_and_nothing_is_stereo() -> None:
    decoder = PacketDecoder(read_head(head(2, 312)))
    sounds = [decoder.decode(packet, FRAME) for packet in packets(5)]
    assert [sound is not None and (sound.shape, sound.dtype) for sound in sounds] == [((FRAME,), np.dtype("f4"))] * 5


@pytest.mark.parametrize("packet", [b"", b"\x93\x00", b"\xff\xff", b"\x91\x00"])
def test_what_is_no_packet_is_none_and_the_decoder_goes_on(packet: bytes) -> None:
    decoder = PacketDecoder(MONO)
    assert decoder.decode(packet, packet_samples(packet)) is None
    assert decoder.decode(packets(1)[0], FRAME) is not None
