/** Client for a Parlance speech server. Start with `connect`. */

export { connect, Parlance, type ConnectOptions, type ParlanceEvents } from "./client.js";
export type { AckOf, AcknowledgedEvent, EventsReadAck, JoinAck, StartAck } from "./acks.js";
export {
  captionsOf,
  NO_CAPTIONS,
  reduceCaptions,
  type CaptionEvent,
  type CaptionSegment,
  type CaptionState,
  type TranscriptRevised,
} from "./captions.js";
export type { Unsubscribe } from "./emitter.js";
export { asParlanceError, ParlanceError, type ErrorCode, type ErrorDetails } from "./errors.js";
export * from "./protocol.js";
export {
  LiveRecording,
  RING_BYTES_MAX,
  type ConnectionState,
  type RecordingOptions,
  type RecordingProgress,
  type RecordingState,
} from "./recording.js";
export type { Search, SearchOptions, SearchOutcome } from "./search.js";
export { fileSource, microphoneSource, type AudioSource, type MicrophoneOptions, type SourceEvents } from "./sources.js";
export { highlightRuns, type Run } from "./text.js";
