"""The wire, version 1, as types: the single source of PROTOCOL.md's shapes.

Client messages refuse unknown fields; server messages are what clients may rely on. The JSON Schema and the TypeScript
types are generated from this module (`scripts/schema.py`). What all messages are made of is in `base`, the messages of
search are in `searches`.

Pure. Invariant: `CLIENT_EVENTS` and `SERVER_EVENTS` name every event of this version, each once.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType, field

from streaming.limits import LIMITS
from streaming.protocol import searches
from streaming.protocol.base import ClientMessage as ClientMessage  # all of the wire is known by this module's name
from streaming.protocol.base import Id as Id
from streaming.protocol.base import Offset as Offset
from streaming.protocol.base import RoomName as RoomName
from streaming.protocol.base import Seq as Seq
from streaming.protocol.base import ServerMessage as ServerMessage
from streaming.protocol.base import WireError as WireError


# --- connect ------------------------------------------------------------------------------------------------------
class ConnectAuth(ClientMessage, frozen=True):
    """The `auth` object of the Socket.IO connect packet."""

    token: Annotated[str, Meta(min_length=1, max_length=LIMITS.token_chars_max)]
    protocol: Literal[1] = 1
    client: Annotated[str, Meta(max_length=200)] | None = None


class AuthRefresh(ClientMessage, frozen=True):
    token: Annotated[str, Meta(min_length=1, max_length=LIMITS.token_chars_max)]


class UserInfo(ServerMessage, frozen=True):
    id: str
    name: str
    roles: list[str]


class TenantInfo(ServerMessage, frozen=True):
    id: str
    name: str


class EngineInfo(ServerMessage, frozen=True):
    """`state`: "starting", "ready" or "down". `notice`: one sentence a person should read about this engine. `tier`:
    which one chose the model, null where the settings name it or nothing was to be chosen."""

    name: str
    model: str
    state: str
    notice: str | None = None
    tier: Literal["fast", "balanced", "accurate"] | None = None


class SpeakersInfo(ServerMessage, frozen=True):
    """Whether finals say who spoke. `state`: "ready"; "starting" or "down": perhaps soon; "off". `notice`: one sentence
    for a person where it is not ready."""

    state: Literal["ready", "starting", "down", "off"]
    notice: str | None = None


class Ready(ServerMessage, frozen=True):
    """`speakers`: as it is now (feature "speakers"); later changes come as `server:status`."""

    protocol: int
    features: list[str]
    session_id: str
    user: UserInfo
    tenant: TenantInfo
    engine: EngineInfo
    limits: dict[str, int]
    speakers: SpeakersInfo
    server_time: int


class ServerClosing(ServerMessage, frozen=True):
    code: str
    message: str


class ServerDraining(ServerMessage, frozen=True):
    reconnect_after_ms: int


class StatusTask(ServerMessage, frozen=True):
    """Long work of the server on itself. `name`: "models_environment", "whisper_model", "whisper_padding", "vectors";
    `state`: "waiting", "running", "done" or "failed"; `fraction`: 0..1, null while it cannot be told; `text`: one
    sentence for a person."""

    name: str
    state: Literal["waiting", "running", "done", "failed"]
    fraction: float | None
    text: str


class ServerStatus(ServerMessage, frozen=True):
    """What the server can do now: after `ready`, and whenever it changes (feature "server_status"). `vectors`: search
    by meaning works; `alignment`: languages whose finals get exact word times by a later `transcript:revised`;
    `speakers`: finals say who spoke, `speakers_notice`: why they do not, one sentence for a person."""

    engine: EngineInfo
    vectors: bool
    alignment: list[str]
    speakers: bool
    speakers_notice: str | None
    tasks: list[StatusTask]


# --- rooms and the event log --------------------------------------------------------------------------------------
class RoomJoin(ClientMessage, frozen=True):
    room: RoomName
    after_seq: Seq | None = None


class RoomLeave(ClientMessage, frozen=True):
    room: RoomName


class EventsRead(ClientMessage, frozen=True):
    room: RoomName
    after_seq: Seq
    limit: Annotated[int, Meta(ge=1)] = LIMITS.events_read_max


class RoomTruncated(ServerMessage, frozen=True):
    """Events of a joined room became too old before they could be told: this connection is in the room no more, and may
    join again with `after_seq` from `first_seq` - 1 on (feature "history_truncated")."""

    room: str
    first_seq: int


# --- live audio ---------------------------------------------------------------------------------------------------
class RecordingStart(ClientMessage, frozen=True):
    """`task`: "translate" writes English whatever is spoken (feature "translate"); `preset`: when a pause ends a
    sentence (feature "presets"), `endpointing_ms` rules over it."""

    encoding: Literal["pcm_s16le", "pcm_f32le", "mulaw", "webm_opus", "ogg_opus"]
    title: Annotated[str, Meta(max_length=LIMITS.title_chars_max)] | None = None
    visibility: Literal["tenant", "private"] = "tenant"
    language: Annotated[str, Meta(min_length=2, max_length=35)] = "auto"
    sample_rate: Annotated[int, Meta(ge=LIMITS.sample_rate_hz_min, le=LIMITS.sample_rate_hz_max)] | None = None
    channels: Annotated[int, Meta(ge=1, le=LIMITS.channels_max)] | None = None
    diarize: bool = True
    endpointing_ms: Annotated[int, Meta(ge=100, le=5_000)] | None = None
    vocabulary: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=LIMITS.vocabulary_term_chars_max)]],
        Meta(max_length=LIMITS.vocabulary_terms_max),
    ] = field(default_factory=list)
    words: bool = False
    task: Literal["transcribe", "translate"] = "transcribe"
    preset: Literal["conversation", "dictation", "lecture"] = "conversation"
    recording_id: Id | None = None
    resume_token: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    new_container: bool = False


class RecordingChunk(ClientMessage, frozen=True):
    stream_id: Id
    offset: Offset
    audio: bytes


class RecordingFlush(ClientMessage, frozen=True):
    stream_id: Id
    marker: Annotated[str, Meta(min_length=1, max_length=LIMITS.marker_chars_max)]


class RecordingPause(ClientMessage, frozen=True):
    stream_id: Id


class RecordingResume(ClientMessage, frozen=True):
    stream_id: Id


class RecordingStop(ClientMessage, frozen=True):
    stream_id: Id
    offset: Offset


class RecordingAck(ServerMessage, frozen=True):
    stream_id: str
    received_bytes: int
    durable_bytes: int
    credit_bytes: int
    received_ms: int
    processed_ms: int
    committed_ms: int
    lag_ms: int
    degraded: bool


class RecordingError(ServerMessage, frozen=True):
    stream_id: str
    error: WireError
    fatal: bool
    expected_offset: int | UnsetType = UNSET


class WireWord(ServerMessage, frozen=True):
    w: str
    start_ms: int
    end_ms: int
    p: float


class TranscriptPartial(ServerMessage, frozen=True):
    room: str
    after_seq: int
    recording_id: str
    stream_id: str
    segment_id: str
    rev: int
    start_ms: int
    end_ms: int
    stable: str
    unstable: str
    speaker: str | None = None
    words: list[WireWord] | UnsetType = UNSET


class TranscriptFlushed(ServerMessage, frozen=True):
    room: str
    after_seq: int
    recording_id: str
    marker: str


class TranscriptFinal(ServerMessage, frozen=True):
    """Body of the durable event; `event`, `room`, `seq` and `at` are added by the feed."""

    recording_id: str
    segment_id: str
    ordinal: int
    rev: int
    start_ms: int
    end_ms: int
    text: str
    words: list[WireWord]
    speaker: str | None
    language: str
    confidence: float


class TranscriptRevised(ServerMessage, frozen=True):
    """Body of the durable event. Whole segments as in `transcript:final`; a new id inserts; at most 200 an event."""

    recording_id: str
    pass_id: str
    part: int
    parts: int
    segments: list[TranscriptFinal]
    removed: list[str]
    reason: Literal["alignment", "diarisation", "second_pass", "edit"]


class SpeakerRenamed(ServerMessage, frozen=True):
    """Body of the durable event. `speaker`: the label; `name`: null where it was taken away."""

    recording_id: str
    speaker: str
    name: str | None


class SpeakerMerged(ServerMessage, frozen=True, rename={"from_": "from"}):
    """Body of the durable event: two labels are one speaker. The segments follow as `transcript:revised`."""

    recording_id: str
    from_: str
    into: str


class RecordingSpeaker(ServerMessage, frozen=True):
    """Who speaks in a recording. `voice_id`: the enrolled voice that this is; `clean_ms`: speech without others that
    was heard so far, of which an enrolment wants some."""

    label: str
    name: str | None
    voice_id: str | None
    spoken_ms: int
    clean_ms: int


class Recording(ServerMessage, frozen=True):
    """A recording as members see it. `state`: "live", "ended". Times `*_at` are Unix milliseconds."""

    id: str
    title: str
    owner: UserInfo
    visibility: str
    language: str
    state: str
    engine: str
    started_at: int
    ended_at: int | None
    duration_ms: int
    segment_count: int


class RecordingStarted(ServerMessage, frozen=True):
    recording: Recording


class RecordingUpdated(ServerMessage, frozen=True):
    recording: Recording


class RecordingEnded(ServerMessage, frozen=True):
    recording: Recording
    reason: str
    duration_ms: int
    segment_count: int


CLIENT_EVENTS: dict[str, type[ClientMessage]] = {
    "auth:refresh": AuthRefresh,
    "room:join": RoomJoin,
    "room:leave": RoomLeave,
    "events:read": EventsRead,
    "voice:recording:start": RecordingStart,
    "voice:recording:chunk": RecordingChunk,
    "voice:recording:flush": RecordingFlush,
    "voice:recording:pause": RecordingPause,
    "voice:recording:resume": RecordingResume,
    "voice:recording:stop": RecordingStop,
    **searches.CLIENT_EVENTS,
}

UNACKNOWLEDGED = frozenset({"voice:recording:chunk"})
"""High-rate audio events: no acknowledgement, errors come as events."""

SERVER_EVENTS: dict[str, type[ServerMessage]] = {
    "ready": Ready,
    "server:closing": ServerClosing,
    "server:draining": ServerDraining,
    "server:status": ServerStatus,
    "history_truncated": RoomTruncated,
    "voice:recording:ack": RecordingAck,
    "voice:recording:error": RecordingError,
    "transcript:partial": TranscriptPartial,
    "transcript:flushed": TranscriptFlushed,
    "transcript:final": TranscriptFinal,
    "transcript:revised": TranscriptRevised,
    "speaker:renamed": SpeakerRenamed,
    "speaker:merged": SpeakerMerged,
    "recording:started": RecordingStarted,
    "recording:updated": RecordingUpdated,
    "recording:ended": RecordingEnded,
    **searches.SERVER_EVENTS,
}

DURABLE_EVENTS = frozenset(
    {
        "transcript:final",
        "transcript:revised",
        "speaker:renamed",
        "speaker:merged",
        "recording:started",
        "recording:updated",
        "recording:ended",
    }
)
"""Events of the log: on the wire each also carries `event`, `room`, `seq` and `at`."""
