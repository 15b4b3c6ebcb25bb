/** What a recording needs of the connection. */

import type { AckOf, AcknowledgedEvent } from "./acks.js";
import type { Unsubscribe } from "./emitter.js";
import type { ParlanceError } from "./errors.js";
import type { ClientEvents, RecordingAck, RecordingChunk, RecordingError } from "./protocol.js";

/** `live`: the server said `ready`. `closed` is final. */
export type ConnectionState = "connecting" | "live" | "reconnecting" | "closed";

export interface Link {
  readonly isLive: boolean;
  /** `onAck` sees the acknowledgement before any event that arrived after it. */
  call<E extends AcknowledgedEvent>(event: E, body: ClientEvents[E], onAck?: (ack: AckOf<E>) => void): Promise<AckOf<E>>;
  sendChunk(chunk: RecordingChunk): void;
  /** Leave this server, which is about to stop; another connection follows. */
  move(withinMs: number): void;
  onState(listener: (state: ConnectionState) => void): Unsubscribe;
  onAck(listener: (ack: RecordingAck) => void): Unsubscribe;
  onError(listener: (error: RecordingError) => void): Unsubscribe;
}

/** The answer is unknown: the same call may be made again. */
export function isLost(error: ParlanceError): boolean {
  return error.code === "disconnected" || error.code === "timeout";
}
