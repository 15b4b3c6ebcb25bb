"""What a client may send, and where a stream that is taken over goes on.

A stream goes on at the committed sample, and hears again what leads to it (`streaming.pipeline.lead_in`). A container
is decoded from the last part before that (or, after the client's recorder began anew, in another container behind what
is kept).
"""

import msgspec

from server.media.parts import PartTable, is_part
from server.media.ports import AudioLog, Media, PartKeeper
from server.store import recordings
from streaming.audio.decode import DecodeStart, begin_at, decoder_for
from streaming.audio.parts import OPUS_PER_SAMPLE
from streaming.errors import BadRequest, DecodeFailed, NotFound, UnsupportedLanguage
from streaming.listener import Listener
from streaming.model import OPUS_SAMPLE_RATE, SAMPLE_RATE, AudioFormat, Capabilities, Encoding
from streaming.pipeline import lead_in
from streaming.protocol.messages import RecordingStart

MULAW_RATE = 8_000
"""Hz. What telephones send; PCM without a rate is taken as our own."""


class Opening(msgspec.Struct, frozen=True):
    """A stream's audio, open. `parts` and `begin` are for containers only; `listener`: who tells its speakers apart."""

    log: AudioLog
    parts: PartKeeper | None = None
    begin: DecodeStart | None = None
    listener: Listener | None = None


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


def check_engine(wanted: RecordingStart, engine: Capabilities) -> None:
    """What the engine cannot do is refused, not left out. Raises `UnsupportedLanguage`, `BadRequest` (field `task`)."""
    spoken = engine.languages
    if wanted.language != "auto" and spoken and wanted.language.split("-")[0].lower() not in spoken:
        raise UnsupportedLanguage(f"The engine {engine.name} understands {', '.join(spoken)} only.", field="language")
    if wanted.task not in engine.tasks:
        raise BadRequest(f"The engine {engine.name} with the model {engine.model} cannot {wanted.task}.", field="task")


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
    media: Media, row: recordings.RecordingRow, stream: recordings.StreamRow, log: AudioLog
) -> Opening:
    """`log` with what it takes to go on from the stream's committed sample. Raises `Unavailable`."""
    if not row.format.encoding.is_container:
        return Opening(log)
    parts, table = await log.open_parts(
        containers=stream.containers, sample_48k=lead_in(stream.committed_sample) * OPUS_PER_SAMPLE
    )
    try:
        begin = await _begin_of(media, row, table, stream)
        decoder_for(row.format, begin)
    except (DecodeFailed, NotFound):  # the list is of other audio
        parts.reset()
        begin = await _begin_of(media, row, PartTable(), stream)
    except BaseException:
        parts.close()
        raise
    return Opening(log, parts, begin)


async def _begin_of(
    media: Media, row: recordings.RecordingRow, table: PartTable, stream: recordings.StreamRow
) -> DecodeStart:
    sample = lead_in(stream.committed_sample)
    part = begin_at(table, sample * OPUS_PER_SAMPLE)
    if part is None:
        return DecodeStart(sample=sample, containers=stream.containers)
    tenant_id, recording_id = row.tenant_id, row.recording_id
    if not is_part(row.format.encoding, await media.read(tenant_id, recording_id, part.offset, part.offset + 4)):
        raise DecodeFailed("There is no such part.", field="audio")
    return DecodeStart(
        sample=sample,
        offset=part.offset,
        containers=stream.containers,
        part=part,
        header=await media.read(tenant_id, recording_id, part.container, part.container + part.header_bytes),
    )
