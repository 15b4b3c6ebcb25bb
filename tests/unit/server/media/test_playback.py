"""Kept containers as samples, without a server: whatever the list of parts says and however the audio is damaged."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from server.media.audiolog import MediaStore
from server.media.parts import PartTable, record_of
from server.media.playback import HEADER_BYTES, Playback, Track
from server.media.seek import BLOCK_SAMPLES, Index
from streaming.errors import NotFound
from streaming.limits import LIMITS
from streaming.model import Encoding, Part
from tests.fakes.opus import format_of, length_48k, packed
from tests.fakes.tones import random_sentences, talk

SAID = talk(random_sentences(40, 6))
CONTAINERS = [Encoding.WEBM_OPUS, Encoding.OGG_OPUS]


@pytest.fixture
def media(tmp_path: Path) -> Iterator[MediaStore]:
    with ThreadPoolExecutor(1) as executor:
        yield MediaStore(tmp_path, executor)


async def keep(media: MediaStore, data: bytes, encoding: Encoding, *, name: str = "r") -> Track:
    log = await media.open("t", name)
    log.append(data)
    await log.seal()
    return Track("t", name, format_of(encoding), (0,), len(data), True)


async def whole(playback: Playback, track: Track) -> bytes:
    wav = await playback.open(track)
    return b"".join([piece async for piece in wav.pieces(HEADER_BYTES, wav.total_bytes)])


@pytest.mark.parametrize("encoding", CONTAINERS)
async def test_one_endless_cluster_is_played_from_anywhere(media: MediaStore, encoding: Encoding) -> None:
    data = packed(SAID.audio, encoding, cluster_ms=30_000)
    track = await keep(media, data, encoding)
    sound = await whole(Playback(media), track)
    assert len(sound) == 2 * length_48k(data, encoding) > 4 * BLOCK_SAMPLES
    wav = await Playback(media).open(track)
    for start in (len(sound) - 10, len(sound) // 2 + 1, 0):
        end = min(len(sound), start + 1_001)
        got = b"".join([piece async for piece in wav.pieces(HEADER_BYTES + start, HEADER_BYTES + end)])
        assert got == sound[start:end]


@pytest.mark.parametrize("encoding", CONTAINERS)
@pytest.mark.parametrize(
    "parts",
    [
        [Part(7_000, 480_000, 0, 100)],
        [Part(7_000, 2**50, 0, 6_000)],
        [Part(7_000, 2**30, 0, 6_000)],
        [Part(3_000, 48_000, 500, 200), Part(9_000, 96_000, 500, 200)],
    ],
)
async def test_a_list_of_other_audio_is_found_out(media: MediaStore, encoding: Encoding, parts: list[Part]) -> None:
    data = packed(SAID.audio, encoding)
    track = await keep(media, data, encoding)
    sound = await whole(Playback(media), track)
    media.save_parts_now("t", "r", PartTable(b"".join(map(record_of, parts))))
    assert await whole(Playback(media), track) == sound


async def test_a_long_recording_whose_list_was_lost_gets_it_again(media: MediaStore, tmp_path: Path) -> None:
    silence = np.zeros(70 * 16_000, np.int16)
    track = await keep(media, packed(silence, Encoding.WEBM_OPUS), Encoding.WEBM_OPUS)
    sound = await whole(Playback(media), track)
    assert (tmp_path / "t" / "r" / "audio.parts").stat().st_size > 60 * 32
    assert await whole(Playback(media), track) == sound


async def test_damage_is_silence_of_its_length(media: MediaStore) -> None:
    """Audio behind unreadable packets stays where it was said."""
    data = bytearray(packed(SAID.audio, Encoding.WEBM_OPUS))
    sound = await whole(Playback(media), await keep(media, bytes(data), Encoding.WEBM_OPUS))
    track = await keep(media, bytes(data[: len(data) // 2]) + bytes(500_000), Encoding.WEBM_OPUS, name="broken")
    heard = await whole(Playback(media), track)
    assert heard[:-20_000] == sound[: len(heard) - 20_000], "what can be played is"
    assert len(heard) > len(sound) // 3


async def test_what_is_nothing_plays_nothing_and_what_is_gone_is_not_found(media: MediaStore) -> None:
    playback = Playback(media)
    for number, data in enumerate([b"", b"\0", b"RIFF" * 100, packed(SAID.audio, Encoding.OGG_OPUS)]):
        track = await keep(media, data, Encoding.WEBM_OPUS, name=f"r{number}")
        assert await whole(playback, track) == b""
    gone = msgspec.structs.replace(track, recording_id="gone")
    with pytest.raises(NotFound):
        await playback.open(gone)


async def test_remembered_recordings_are_bounded(media: MediaStore) -> None:
    playback = Playback(media, msgspec.structs.replace(LIMITS, playback_indexes_max=2))
    data = packed(SAID.audio[:16_000], Encoding.OGG_OPUS)
    tracks = [await keep(media, data, Encoding.OGG_OPUS, name=f"r{n}") for n in range(4)]
    sounds = {await whole(playback, track) for track in tracks}
    assert len(sounds) == 1
    assert len(playback._indexes) == 2
    assert all(isinstance(index, Index) for index in playback._indexes.values())
