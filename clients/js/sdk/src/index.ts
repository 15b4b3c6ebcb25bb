/** Client for a Parlance speech server. Start with `connect`. */

export { BACKOFF, type Backoff } from "./backoff.js";
export { connect, Parlance, type ParlanceEvents } from "./client.js";
export { VERSION, type ConnectOptions } from "./connection.js";
export type { AckOf, AcknowledgedEvent, EventsReadAck, HistoryAck, JoinAck, PastSearch, StartAck } from "./acks.js";
export {
  captionsOf,
  NO_CAPTIONS,
  reduceCaptions,
  type CaptionEvent,
  type CaptionSegment,
  type CaptionState,
} from "./captions.js";
export type { Unsubscribe } from "./emitter.js";
export { asParlanceError, ParlanceError, type ErrorCode, type ErrorDetails } from "./errors.js";
export type { RecordingProgress } from "./progress.js";
export * from "./protocol.js";
export {
  LiveRecording,
  RING_BYTES_MAX,
  type RecordingOptions,
} from "./recording.js";
export type { RecordingState } from "./states.js";
export type { Search, SearchOptions, SearchOutcome } from "./search.js";
export { CaptureSource, microphoneSource, type CaptureOptions } from "./capture.js";
export {
  canShareSound,
  listMicrophones,
  recordingObstacle,
  watchMicrophones,
  type Microphone,
  type Obstacle,
} from "./devices.js";
export { fileSource } from "./file.js";
export { FINE, type Health } from "./health.js";
export { httpRequest } from "./http.js";
export type { ConnectionState } from "./link.js";
export { opusContainer } from "./opus.js";
export { People, type EnrolledVoice, type SegmentHistory, type SegmentVersion, type Speaker } from "./people.js";
export type { AudioSource, SourceEvents, SourceFormat } from "./source.js";
export type { SubscribeOptions, Subscription } from "./subscriptions.js";
export { highlightRuns, type Run } from "./text.js";
