"""What a stream's bytes amount to, and what is wrong with them.

Pure: figures of a stream in, milliseconds or an error out.
"""

from streaming.audio.sniff import SNIFF_BYTES, sniff
from streaming.errors import BadRequest, DecodeFailed, ParlanceError, QuotaExceeded, UnsupportedMedia
from streaming.limits import Limits
from streaming.model import AudioFormat, Encoding, ms_of
from streaming.pipeline import Progress


def received_ms(fmt: AudioFormat, received: int, progress: Progress, *, failed: bool) -> int:
    """How long `received` bytes are. Containers: what is decoded, and the rest at the mean rate so far; after a
    failure nothing more comes of the rest."""
    if not fmt.encoding.is_container:
        return fmt.ms_of_bytes(received)
    decoded_ms = ms_of(progress.decoded_sample)
    waiting = 0 if failed else max(0, received - progress.decoded_byte)
    if decoded_ms and progress.decoded_byte:
        return decoded_ms + waiting * decoded_ms // progress.decoded_byte
    return decoded_ms + waiting * 1000 // fmt.bytes_per_second


def check_length(fmt: AudioFormat, offset: int, progress: Progress, limits: Limits) -> None:
    """Raises `QuotaExceeded` when a chunk at `offset` begins after the longest recording."""
    if fmt.encoding.is_container:
        too_long = (
            ms_of(progress.decoded_sample) > limits.recording_ms_max
            or offset > limits.recording_ms_max // 1000 * fmt.bytes_per_second
        )
    else:
        too_long = fmt.ms_of_bytes(offset) > limits.recording_ms_max
    if too_long:
        raise QuotaExceeded("A recording lasts at most 12 hours.")


def check_beginning(encoding: Encoding, kept: bytes, fresh: bytes) -> None:
    """Raw samples that are a file are refused before they are taken, as soon as their first bytes are here: `kept`
    are those before `fresh`. Raises `UnsupportedMedia`."""
    first = kept + fresh[:SNIFF_BYTES]
    found = sniff(encoding, first) if len(kept) < SNIFF_BYTES <= len(first) else None
    if found is not None:
        instead = "or name its encoding" if found in ("a WebM file", "an Ogg file") else "or its content as raw samples"
        raise UnsupportedMedia(
            f"This is {found}, not {encoding.value}: send the samples without the header, {instead}.", field="audio"
        )


def damage_of(encoding: Encoding, samples: int) -> ParlanceError:
    """What the client is told once about audio that was taken as silence."""
    if encoding.is_container:
        return DecodeFailed(f"Packets that cannot be read are taken as silence: {ms_of(samples)} ms.", field="audio")
    return BadRequest(f"Samples that are no finite numbers are taken as silence: {samples} so far.", field="audio")
