"""What a client may send, and where a stream that is taken over goes on.

A raw encoding goes on at the committed sample. A container goes on at the last part before it (or, after the client's
recorder began anew, in another container behind what is kept), and everything up to the committed sample is left out.
"""

import msgspec

from server.media.audiolog import AudioLog, MediaStore
from server.media.parts import PartLog, PartTable, is_part
from server.store import recordings
from streaming.audio.decode import DecodeStart, begin_at, decoder_for
from streaming.audio.parts import OPUS_PER_SAMPLE
from streaming.errors import BadRequest, DecodeFailed
from streaming.model import OPUS_SAMPLE_RATE, SAMPLE_RATE, AudioFormat, Encoding
from streaming.protocol.messages import RecordingStart

MULAW_RATE = 8_000
"""Hz. What telephones send; PCM without a rate is taken as our own."""


class Opening(msgspec.Struct, frozen=True):
    """A stream's audio, open. `parts` and `begin` are for containers only."""

    log: AudioLog
    parts: PartLog | None = None
    begin: DecodeStart | None = None


def format_of(wanted: RecordingStart) -> AudioFormat:
    """What is announced. A container knows its rate and channels itself.

    Raises `UnsupportedEncoding`, `BadRequest` (field `new_container`)."""
    encoding = Encoding(wanted.encoding)
    if encoding.is_container:
        fmt = AudioFormat(encoding=encoding, sample_rate=OPUS_SAMPLE_RATE, channels=1)
    else:
        if wanted.new_container:
            raise BadRequest(f"{encoding.value} has no containers.", field="new_container")
        usual = MULAW_RATE if encoding is Encoding.MULAW else SAMPLE_RATE
        fmt = AudioFormat(encoding=encoding, sample_rate=wanted.sample_rate or usual, channels=wanted.channels or 1)
    decoder_for(fmt)  # may not be there
    return fmt


def check_same(wanted: RecordingStart, fmt: AudioFormat) -> None:
    """A stream that is taken over keeps its format; what is not repeated stays. Raises `BadRequest`."""
    format_of(wanted)
    same = Encoding(wanted.encoding) is fmt.encoding
    if same and not fmt.encoding.is_container:
        same = (wanted.sample_rate or fmt.sample_rate, wanted.channels or fmt.channels) == (
            fmt.sample_rate,
            fmt.channels,
        )
    if not same:
        raise BadRequest("A resumed stream keeps its encoding, sample rate and channels.", field="encoding")


async def open_stream(
    media: MediaStore, row: recordings.RecordingRow, stream: recordings.StreamRow, log: AudioLog
) -> Opening:
    """`log` with what it takes to go on from the stream's committed sample."""
    if not row.format.encoding.is_container:
        return Opening(log)
    parts, table = await media.open_parts(
        row.tenant_id, row.recording_id, log_end=log.end, containers=stream.containers
    )
    begin = begin_of(log, table, stream)
    try:
        part = begin.part
        if part is not None and not is_part(row.format.encoding, log.read_range(part.offset, part.offset + 4)):
            raise DecodeFailed("There is no such part.", field="audio")
        decoder_for(row.format, begin)
    except DecodeFailed:  # the list is of other audio
        parts.reset()
        begin = begin_of(log, PartTable(), stream)
    return Opening(log, parts, begin)


def begin_of(log: AudioLog, table: PartTable, stream: recordings.StreamRow) -> DecodeStart:
    part = begin_at(table, stream.committed_sample * OPUS_PER_SAMPLE)
    if part is None:
        return DecodeStart(sample=stream.committed_sample, containers=stream.containers)
    return DecodeStart(
        sample=stream.committed_sample,
        offset=part.offset,
        containers=stream.containers,
        part=part,
        header=log.read_range(part.container, part.container + part.header_bytes),
    )
