/* Generated from streaming/protocol/messages.py by scripts/schema.py: change it there. */

/** Binary as a client may send it. */
export type Binary = ArrayBuffer | Uint8Array;

export interface AuthRefresh {
  token: string;
}

/** The `auth` object of the Socket.IO connect packet. */
export interface ConnectAuth {
  token: string;
  /** Default: 1. */
  protocol?: 1;
  client?: string | null;
}

/**
 * `state`: "starting", "ready" or "down". `notice`: one sentence a person should read about this engine. `tier`: which
 * one chose the model, null where the settings name it or nothing was to be chosen.
 */
export interface EngineInfo {
  name: string;
  model: string;
  state: string;
  notice: string | null;
  tier: "accurate" | "balanced" | "fast" | null;
}

export interface EventsRead {
  room: string;
  after_seq: number;
  /** Default: 1000. */
  limit?: number;
}

/** `speakers`: as it is now (feature "speakers"); later changes come as `server:status`. */
export interface Ready {
  protocol: number;
  features: string[];
  session_id: string;
  user: UserInfo;
  tenant: TenantInfo;
  engine: EngineInfo;
  limits: Record<string, number>;
  speakers: SpeakersInfo;
  server_time: number;
}

/** A recording as members see it. `state`: "live", "ended". Times `*_at` are Unix milliseconds. */
export interface Recording {
  id: string;
  title: string;
  owner: UserInfo;
  visibility: string;
  language: string;
  state: string;
  engine: string;
  started_at: number;
  ended_at: number | null;
  duration_ms: number;
  segment_count: number;
}

export interface RecordingAck {
  stream_id: string;
  received_bytes: number;
  durable_bytes: number;
  credit_bytes: number;
  received_ms: number;
  processed_ms: number;
  committed_ms: number;
  lag_ms: number;
  degraded: boolean;
}

export interface RecordingChunk {
  stream_id: string;
  offset: number;
  audio: Binary;
}

export interface RecordingEnded {
  recording: Recording;
  reason: string;
  duration_ms: number;
  segment_count: number;
}

export interface RecordingError {
  stream_id: string;
  error: WireError;
  fatal: boolean;
  expected_offset?: number;
}

export interface RecordingFlush {
  stream_id: string;
  marker: string;
}

export interface RecordingPause {
  stream_id: string;
}

export interface RecordingResume {
  stream_id: string;
}

/**
 * `task`: "translate" writes English whatever is spoken (feature "translate"); `preset`: when a pause ends a sentence
 * (feature "presets"), `endpointing_ms` rules over it.
 */
export interface RecordingStart {
  encoding: "mulaw" | "ogg_opus" | "pcm_f32le" | "pcm_s16le" | "webm_opus";
  title?: string | null;
  /** Default: "tenant". */
  visibility?: "private" | "tenant";
  /** Default: "auto". */
  language?: string;
  sample_rate?: number | null;
  channels?: number | null;
  /** Default: true. */
  diarize?: boolean;
  endpointing_ms?: number | null;
  vocabulary?: string[];
  /** Default: false. */
  words?: boolean;
  /** Default: "transcribe". */
  task?: "transcribe" | "translate";
  /** Default: "conversation". */
  preset?: "conversation" | "dictation" | "lecture";
  recording_id?: string | null;
  resume_token?: string | null;
  /** Default: false. */
  new_container?: boolean;
}

export interface RecordingStarted {
  recording: Recording;
}

export interface RecordingStop {
  stream_id: string;
  offset: number;
}

export interface RecordingUpdated {
  recording: Recording;
}

export interface RoomJoin {
  room: string;
  after_seq?: number | null;
}

export interface RoomLeave {
  room: string;
}

/**
 * Events of a joined room became too old before they could be told: this connection is in the room no more, and may
 * join again with `after_seq` from `first_seq` - 1 on (feature "history_truncated").
 */
export interface RoomTruncated {
  room: string;
  first_seq: number;
}

/** What was said just before or after a hit. */
export interface SearchBeside {
  segment_id: string;
  speaker: string | null;
  start_ms: number;
  end_ms: number;
  text: string;
}

export interface SearchCancel {
  request_id: string;
}

/** Somebody opened a hit of a query that this connection was answered. */
export interface SearchClicked {
  request_id: string;
  segment_id: string;
}

export interface SearchFailed {
  request_id: string;
  error: WireError;
}

/** `from` and `to`: Unix milliseconds, the start of the segment lies in [from, to). */
export interface SearchFilters {
  recording_ids?: string[] | null;
  speakers?: string[] | null;
  languages?: string[] | null;
  tags?: string[] | null;
  from?: number | null;
  to?: number | null;
}

/** `clear`: forget all of it; then the answer is empty. */
export interface SearchHistory {
  /** Default: 20. */
  limit?: number;
  /** Default: false. */
  clear?: boolean;
}

/**
 * `highlights`: [from, to) in Unicode code points of `text`; `before`, `after`: neighbours in order, when they were
 * asked for; `more`: further hits in this recording, when hits are grouped.
 */
export interface SearchHit {
  segment_id: string;
  recording_id: string;
  title: string;
  speaker: string | null;
  start_ms: number;
  end_ms: number;
  rev: number;
  text: string;
  highlights: [number, number][];
  score: number;
  before?: SearchBeside[];
  after?: SearchBeside[];
  more?: number;
}

/**
 * A new or revised segment that a subscription matches (feature "subscriptions"). `hit.score`: the cosine where its
 * meaning matches, 1 where its words do.
 */
export interface SearchMatch {
  subscription_id: string;
  cursor: string;
  hit: SearchHit;
}

/**
 * `neighbours`: so many segments before and after each hit; `group_by`: the best hit of each recording, with how many
 * `more` there are (feature "search_context").
 */
export interface SearchQuery {
  request_id: string;
  text: string;
  /** Default: "default". */
  slot?: string;
  /** Default: "hybrid". */
  mode?: "hybrid" | "keyword" | "semantic";
  filters?: SearchFilters | null;
  /** Default: "relevance". */
  sort?: "newest" | "relevance";
  /** Default: 20. */
  limit?: number;
  cursor?: string | null;
  /** Default: 0. */
  neighbours?: number;
  group_by?: "recording" | null;
}

/**
 * `corrections`: words that nobody said, each with what was looked for as well; `loosened`: no segment has all of the
 * words, these have some.
 */
export interface SearchResults {
  request_id: string;
  phase: "full" | "instant";
  hits: SearchHit[];
  took_ms: number;
  next_cursor?: string;
  degraded?: boolean;
  corrections?: [string, string][];
  loosened?: boolean;
}

/**
 * `min_score`: the least cosine of a match by meaning; `after`: the `cursor` of the last match that was seen, or of an
 * earlier acknowledgement.
 */
export interface SearchSubscribe {
  subscription_id: string;
  text: string;
  /** Default: "hybrid". */
  mode?: "hybrid" | "keyword" | "semantic";
  filters?: SearchFilters | null;
  min_score?: number | null;
  after?: string | null;
}

export interface SearchSuggest {
  text: string;
  /** Default: 8. */
  limit?: number;
}

export interface SearchSuperseded {
  request_id: string;
}

export interface SearchUnsubscribe {
  subscription_id: string;
}

/** The server ended a subscription: what it should have been told is gone, or could not be read. */
export interface SearchUnsubscribed {
  subscription_id: string;
  error: WireError;
}

export interface ServerClosing {
  code: string;
  message: string;
}

export interface ServerDraining {
  reconnect_after_ms: number;
}

/**
 * What the server can do now: after `ready`, and whenever it changes (feature "server_status"). `vectors`: search by
 * meaning works; `alignment`: languages whose finals get exact word times by a later `transcript:revised`; `speakers`:
 * finals say who spoke, `speakers_notice`: why they do not, one sentence for a person.
 */
export interface ServerStatus {
  engine: EngineInfo;
  vectors: boolean;
  alignment: string[];
  speakers: boolean;
  speakers_notice: string | null;
  tasks: StatusTask[];
}

/** Body of the durable event: two labels are one speaker. The segments follow as `transcript:revised`. */
export interface SpeakerMerged {
  recording_id: string;
  from: string;
  into: string;
}

/** Body of the durable event. `speaker`: the label; `name`: null where it was taken away. */
export interface SpeakerRenamed {
  recording_id: string;
  speaker: string;
  name: string | null;
}

/**
 * Whether finals say who spoke. `state`: "ready"; "starting" or "down": perhaps soon; "off". `notice`: one sentence for
 * a person where it is not ready.
 */
export interface SpeakersInfo {
  state: "down" | "off" | "ready" | "starting";
  notice: string | null;
}

/**
 * Long work of the server on itself. `name`: "models_environment", "whisper_model", "whisper_padding", "vectors";
 * `state`: "waiting", "running", "done" or "failed"; `fraction`: 0..1, null while it cannot be told; `text`: one
 * sentence for a person.
 */
export interface StatusTask {
  name: string;
  state: "done" | "failed" | "running" | "waiting";
  fraction: number | null;
  text: string;
}

export interface TenantInfo {
  id: string;
  name: string;
}

/** Body of the durable event; `event`, `room`, `seq` and `at` are added by the feed. */
export interface TranscriptFinal {
  recording_id: string;
  segment_id: string;
  ordinal: number;
  rev: number;
  start_ms: number;
  end_ms: number;
  text: string;
  words: WireWord[];
  speaker: string | null;
  language: string;
  confidence: number;
}

export interface TranscriptFlushed {
  room: string;
  after_seq: number;
  recording_id: string;
  marker: string;
}

export interface TranscriptPartial {
  room: string;
  after_seq: number;
  recording_id: string;
  stream_id: string;
  segment_id: string;
  rev: number;
  start_ms: number;
  end_ms: number;
  stable: string;
  unstable: string;
  speaker: string | null;
  words?: WireWord[];
}

/** Body of the durable event. Whole segments as in `transcript:final`; a new id inserts; at most 200 an event. */
export interface TranscriptRevised {
  recording_id: string;
  pass_id: string;
  part: number;
  parts: number;
  segments: TranscriptFinal[];
  removed: string[];
  reason: "alignment" | "diarisation" | "edit" | "second_pass";
}

export interface UserInfo {
  id: string;
  name: string;
  roles: string[];
}

/** The `error` object of acknowledgements and events. */
export interface WireError {
  code: string;
  message: string;
  retryable: boolean;
  retry_after_ms?: number;
  field?: string;
  expected?: number;
  first_seq?: number;
}

export interface WireWord {
  w: string;
  start_ms: number;
  end_ms: number;
  p: number;
}

/** What the room's log adds to a durable event. `at`: Unix milliseconds. */
export interface Logged {
  event: string;
  room: string;
  seq: number;
  at: number;
}

/** What a client may send. */
export interface ClientEvents {
  "auth:refresh": AuthRefresh;
  "room:join": RoomJoin;
  "room:leave": RoomLeave;
  "events:read": EventsRead;
  "voice:recording:start": RecordingStart;
  "voice:recording:chunk": RecordingChunk;
  "voice:recording:flush": RecordingFlush;
  "voice:recording:pause": RecordingPause;
  "voice:recording:resume": RecordingResume;
  "voice:recording:stop": RecordingStop;
  "search:query": SearchQuery;
  "search:cancel": SearchCancel;
  "search:clicked": SearchClicked;
  "search:suggest": SearchSuggest;
  "search:history": SearchHistory;
  "search:subscribe": SearchSubscribe;
  "search:unsubscribe": SearchUnsubscribe;
}

/** What the server sends, as it arrives. */
export interface ServerEvents {
  "ready": Ready;
  "server:closing": ServerClosing;
  "server:draining": ServerDraining;
  "server:status": ServerStatus;
  "history_truncated": RoomTruncated;
  "voice:recording:ack": RecordingAck;
  "voice:recording:error": RecordingError;
  "transcript:partial": TranscriptPartial;
  "transcript:flushed": TranscriptFlushed;
  "transcript:final": TranscriptFinal & Logged;
  "transcript:revised": TranscriptRevised & Logged;
  "speaker:renamed": SpeakerRenamed & Logged;
  "speaker:merged": SpeakerMerged & Logged;
  "recording:started": RecordingStarted & Logged;
  "recording:updated": RecordingUpdated & Logged;
  "recording:ended": RecordingEnded & Logged;
  "search:results": SearchResults;
  "search:failed": SearchFailed;
  "search:superseded": SearchSuperseded;
  "search:match": SearchMatch;
  "search:unsubscribed": SearchUnsubscribed;
}

/** Client events without an acknowledgement. */
export const UNACKNOWLEDGED = ["voice:recording:chunk"] as const;

/** Server events of a room's log. */
export const DURABLE_EVENTS = ["recording:ended", "recording:started", "recording:updated", "speaker:merged", "speaker:renamed", "transcript:final", "transcript:revised"] as const;
