/** How far a recording is, in milliseconds of sound. Pure bookkeeping over what was taken and what waits. */

import { FINE, withAck, type Health } from "./health.js";
import type { RecordingAck } from "./protocol.js";
import type { Sender } from "./sender.js";

/** All times on the recording's own clock. */
export interface RecordingProgress {
  /** Sound taken from the source. */
  capturedMs: number;
  /** Of that, not yet at the server, as far as it said. */
  waitingMs: number;
  /** Of that, kept here because the server does not call it safe yet. */
  keptMs: number;
  /** How much more this device can keep. */
  roomMs: number;
  health: Health;
  /** Largest magnitude of the newest 100 ms, 0 to 1. */
  level: number;
}

export class Progress {
  level = 0;
  capturedMs = 0;
  readonly #sender: Sender;
  #health = FINE;

  constructor(sender: Sender) {
    this.#sender = sender;
  }

  acknowledged(ack: RecordingAck): void {
    this.#health = withAck(this.#health, ack);
  }

  now(): RecordingProgress {
    const { capturedMs, level, waitingMs } = this;
    const keptMs = this.msOf(this.#sender.unsafeBytes);
    const roomMs = this.#sender.end === 0 ? Infinity : this.msOf(this.#sender.roomBytes);
    return { capturedMs, waitingMs, keptMs, roomMs, health: this.#health, level };
  }

  get waitingMs(): number {
    return this.msOf(this.#sender.undeliveredBytes);
  }

  /** Exact for samples; for a container by its average rate. */
  msOf(bytes: number): number {
    return this.#sender.end === 0 ? 0 : (bytes / this.#sender.end) * this.capturedMs;
  }
}
