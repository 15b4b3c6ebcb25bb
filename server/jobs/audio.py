"""What was said between two moments of a recording, as samples: playback's WAV, heard as the recogniser hears it.

Boundary: `server.media.playback`, which knows every encoding. Raw encodings cost a read; containers are decoded from
the nearest part before, in its threads.
"""

import struct

import numpy as np

from server.media.playback import HEADER_BYTES, Playback, Track, WavFile
from server.media.ports import Media
from server.store import recordings
from server.store.pool import Database
from streaming.audio.decode import decoder_for
from streaming.errors import Unavailable
from streaming.model import AudioFormat, Encoding, samples_of
from streaming.ports import Pcm16

SHORT_MS = 500
"""What may be missing at the end without waiting for it, because a stream that pauses gets no more: the margin around a
final (100 ms), and the silence that fills its last frames."""


class RecordedAudio:
    """`server.jobs.align.AudioSource`."""

    def __init__(self, database: Database, media: Media, playback: Playback) -> None:
        self._database = database
        self._media = media
        self._playback = playback

    async def samples(self, tenant_id: str, recording_id: str, start_ms: int, end_ms: int) -> Pcm16:
        wav, whole = await self._open(tenant_id, recording_id)
        header = await _read(wav, 0, HEADER_BYTES)
        channels, rate = struct.unpack_from("<HI", header, 22)
        fmt = AudioFormat(Encoding.PCM_S16LE, rate, channels)
        first, last = (HEADER_BYTES + at_ms * rate // 1000 * fmt.frame_bytes for at_ms in (start_ms, end_ms))
        if not whole and wav.total_bytes < last - SHORT_MS * rate // 1000 * fmt.frame_bytes:
            raise Unavailable("This audio is not kept yet.")  # it is on its way from another node
        data = await _read(wav, first, min(last, wav.total_bytes))
        decoder = decoder_for(fmt)
        return np.concatenate([decoder.feed(data), decoder.finish()])[: samples_of(end_ms - start_ms)]

    async def _open(self, tenant_id: str, recording_id: str) -> tuple[WavFile, bool]:
        """Its audio as it is now, and whether that is all: of a final, all is there before the final is, but for other
        nodes than the stream's some seconds later."""
        kept = await self._media.kept(tenant_id, recording_id)  # before the row: see `Track`
        async with self._database.tenant_tx(tenant_id) as connection:
            row = await recordings.get(connection, tenant_id, recording_id)
        ended = row.state != "live"
        if ended:
            kept = await self._media.kept(tenant_id, recording_id)
        track = Track(
            tenant_id=tenant_id,
            recording_id=recording_id,
            format=row.format,
            containers=row.containers,
            kept_bytes=kept.size,
            ended=ended,
        )
        return await self._playback.open(track), ended or kept.whole


async def _read(wav: WavFile, start: int, end: int) -> bytes:
    return b"".join([piece async for piece in wav.pieces(start, end)]) if start < end else b""
