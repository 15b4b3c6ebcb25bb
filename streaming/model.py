"""The vocabulary of live speech. Frozen values, no behaviour beyond arithmetic on them.

Media time is a sample count at `SAMPLE_RATE`; milliseconds appear only on the wire.
"""

from enum import Enum

import msgspec

SAMPLE_RATE = 16_000
"""Hz. Everything behind the decoder is mono int16 at this rate."""

FRAME_SAMPLES = 512
"""Samples in one voice-activity frame: silero takes exactly 512 at 16 kHz (32 ms)."""


def ms_of(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE


def samples_of(ms: int) -> int:
    return ms * SAMPLE_RATE // 1000


class Encoding(Enum):
    PCM_S16LE = "pcm_s16le"
    PCM_F32LE = "pcm_f32le"
    MULAW = "mulaw"
    WEBM_OPUS = "webm_opus"
    OGG_OPUS = "ogg_opus"

    @property
    def is_container(self) -> bool:
        """Packets of any size in a container, instead of samples of one size."""
        return self in (Encoding.WEBM_OPUS, Encoding.OGG_OPUS)


CONTAINER_BYTES_PER_SECOND = 32_000
"""What a container encoding is taken to need where a rate is wanted: 256 kbit/s, twice what browsers send."""

OPUS_SAMPLE_RATE = 48_000
"""Hz. Opus always decodes to this rate; sample positions inside containers count in it."""


class AudioFormat(msgspec.Struct, frozen=True):
    """What a client sends. `sample_rate` in Hz; channels are interleaved."""

    encoding: Encoding
    sample_rate: int
    channels: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels; raw encodings only."""
        assert not self.encoding.is_container, "packets have no fixed size"
        width = {Encoding.PCM_S16LE: 2, Encoding.PCM_F32LE: 4, Encoding.MULAW: 1}[self.encoding]
        return width * self.channels

    @property
    def bytes_per_second(self) -> int:
        """Exact for raw encodings, a ceiling for what browsers send in containers."""
        return CONTAINER_BYTES_PER_SECOND if self.encoding.is_container else self.frame_bytes * self.sample_rate

    def ms_of_bytes(self, n_bytes: int) -> int:
        return n_bytes // self.frame_bytes * 1000 // self.sample_rate


class Part(msgspec.Struct, frozen=True):
    """A place in a container encoding at which decoding may begin: a WebM cluster or an Ogg page.

    `offset`: its first byte in the encoded stream; `sample`: index (48 kHz, on the recording's clock) of its first
    decoded sample; `container`: byte offset at which its container begins; `header_bytes`: length of what stands there
    before the first cluster or audio page (the init bytes that a decoder needs first)."""

    offset: int
    sample: int
    container: int
    header_bytes: int


class Word(msgspec.Struct, frozen=True):
    """One recognised word on the recording's clock. `p`: confidence in 0..1."""

    text: str
    start_ms: int
    end_ms: int
    p: float = 1.0


class Hypothesis(msgspec.Struct, frozen=True):
    """What a recogniser makes of an utterance so far.

    `until_sample`: audio before this sample of the recording was taken into account; `fixed`: so many of the first
    words the engine will not change any more (0 where it cannot tell); `hops`: after so many hops of audio the next one
    is wanted, in parts of a hop: more than 1 where the recogniser cannot keep up, less where it has time to spare.
    """

    words: tuple[Word, ...]
    until_sample: int
    language: str = "en"
    confidence: float = 1.0
    fixed: int = 0
    hops: float = 1


class Capabilities(msgspec.Struct, frozen=True):
    """What an engine can do, as data. The pipeline asks these values, never the engine's name.

    `languages`: BCP 47 codes, empty means any; `hop_ms`: audio between two partial hypotheses;
    `agreement`: number of consecutive hypotheses that must agree before a word is stable, 0: only `Hypothesis.fixed`;
    `holdback_words`: trailing words never committed from a partial;
    `activity`: "speech" wants a voice detector, "sound" any sound above the floor;
    `utterances_max`: utterances decoded at once by one worker; `utterance_ms_max`: longest utterance it takes;
    `in_order`: an utterance begins when the one before it has its final, whose context it wants; `batch_max`: windows
    that its model decodes in one call; `tasks`: what `UtteranceSpec.task` may be; `parts`: of a hop, at whose ends
    hypotheses may be wanted (`Hypothesis.hops`).
    """

    name: str
    model: str
    languages: tuple[str, ...]
    hop_ms: int
    agreement: int
    holdback_words: int
    activity: str
    utterances_max: int
    utterance_ms_max: int
    notice: str | None = None
    in_order: bool = False
    batch_max: int = 1
    tasks: tuple[str, ...] = ("transcribe",)
    parts: int = 1


class UtteranceSpec(msgspec.Struct, frozen=True):
    """Everything a recogniser needs to begin an utterance.

    `start_sample`: where its first fed sample stands on the recording's clock;
    `context`: opaque state that the engine returned with the stream's previous final (cepstral mean, prompt);
    `tenant`: whose it is, so that tenants get equal shares of a model; `task`: "transcribe", or "translate" into
    English; `words`: the times of words are wanted in partials too; `alone`: a worker died over this audio, so it is
    decoded together with no other.
    """

    utterance_id: str
    start_sample: int
    language: str
    vocabulary: tuple[str, ...] = ()
    context: bytes = b""
    tenant: str = ""
    task: str = "transcribe"
    words: bool = False
    alone: bool = False


class Turn(msgspec.Struct, frozen=True):
    """Somebody speaks: samples of the recording, the end not included. Turns of several speakers may overlap.
    `speaker`: a label, "S1", "S2" and so on in the order of their first turns."""

    start_sample: int
    end_sample: int
    speaker: str


class Final(msgspec.Struct, frozen=True):
    """The last hypothesis of an utterance and the `context` for the stream's next one."""

    hypothesis: Hypothesis
    context: bytes = b""


class Segment(msgspec.Struct, frozen=True):
    """One finished piece of talk: what `transcript:final` carries and what is indexed."""

    segment_id: str
    ordinal: int
    rev: int
    start_ms: int
    end_ms: int
    text: str
    words: tuple[Word, ...]
    speaker: str | None
    language: str
    confidence: float


class Partial(msgspec.Struct, frozen=True):
    """The changing caption of the utterance under way. Shown text is `stable + unstable`; `words` are its words,
    `speaker` who said most of them, as far as it is known."""

    segment_id: str
    rev: int
    start_ms: int
    end_ms: int
    stable: str
    unstable: str
    words: tuple[Word, ...] = ()
    speaker: str | None = None
