/**
 * Which bytes of a stream go out next.
 *
 * A client may send up to `received_bytes + credit_bytes`; `durable_bytes` alone frees the ring; after a takeover the
 * server says at which offset it goes on: also further back than before, when a node took bytes with it that were not
 * durable.
 *
 * Pure: bytes and acknowledgements in, chunks out; `recording.ts` sends them.
 * Invariant: chunks leave without a hole between them, and none reaches beyond the credit.
 */

import { ParlanceError } from "./errors.js";
import type { RecordingAck } from "./protocol.js";
import { Ring } from "./ring.js";

export interface Chunk {
  offset: number;
  audio: Uint8Array;
}

/**
 * Largest chunk in bytes, used to catch up after an interruption: 0.7 s of 48 kHz mono s16le. Far below the server's
 * 512 KiB, so that other messages get a turn between two chunks.
 */
export const CHUNK_BYTES_MAX = 64 * 1024;

export class Sender {
  readonly #ring: Ring;
  readonly #frameBytes: number;
  #next = 0;
  /** Bytes that ever left. */
  #reach = 0;
  #received = 0;
  #allowed = 0;
  #border: number | null = null;

  /** `frameBytes`: bytes of one sample of all channels; chunks end at such borders. */
  constructor(limitBytes: number, frameBytes: number) {
    this.#ring = new Ring(limitBytes);
    this.#frameBytes = frameBytes;
  }

  /** Bytes taken from the source so far. */
  get end(): number {
    return this.#ring.end;
  }

  /** Bytes that the server has not yet called durable. */
  get unsafeBytes(): number {
    return this.#ring.size;
  }

  /** Bytes that can still be taken. */
  get roomBytes(): number {
    return this.#ring.limitBytes - this.#ring.size;
  }

  /** Bytes that were not handed to the connection yet. */
  get unsentBytes(): number {
    return this.#ring.end - this.#next;
  }

  /** Bytes that the server does not have yet, as far as it said. */
  get undeliveredBytes(): number {
    return this.#ring.end - this.#received;
  }

  /** Take sound from the source; false when the ring is full. */
  append(bytes: Uint8Array): boolean {
    return this.#ring.append(bytes);
  }

  /**
   * The server opened the stream, or gave it back after an interruption, and goes on at `offset`. Throws
   * `offset_mismatch` when that lies before what is kept, or when it has bytes that never left from here.
   */
  open(offset: number, creditBytes: number): void {
    const { start } = this.#ring;
    if (offset < start) {
      const gone = `bytes ${offset} to ${start} are not kept here any more: it had called them safe`;
      throw disagreement(`The server goes on at byte ${offset}, but ${gone}.`, offset);
    }
    if (offset > this.#reach) {
      const told = `only ${this.#reach} left from here: somebody else sent the rest`;
      throw disagreement(`The server has ${offset} bytes of this recording, but ${told}.`, offset);
    }
    this.#next = this.#received = offset;
    this.#allowed = offset + creditBytes;
  }

  /** Figures beyond what was sent are cut down to it: they can free nothing more. */
  acknowledge(ack: Pick<RecordingAck, "received_bytes" | "durable_bytes" | "credit_bytes">): void {
    this.#received = Math.min(ack.received_bytes, this.#next);
    this.#allowed = this.#received + ack.credit_bytes;
    this.#ring.free(Math.min(ack.durable_bytes, this.#next));
  }

  /** What is appended from now on waits until `endContainer`; returns where it begins. */
  beginContainer(): number {
    this.#border = this.#ring.end;
    return this.#border;
  }

  /** The server expects a new container: what waited may go. */
  endContainer(): null {
    this.#border = null;
    return null;
  }

  /** The next chunk to send; null when there is nothing to send, or no credit for it. */
  take(): Chunk | null {
    const room = Math.min(this.#allowed - this.#next, CHUNK_BYTES_MAX, (this.#border ?? Infinity) - this.#next);
    const bytes = room - (room % this.#frameBytes);
    if (bytes <= 0 || this.unsentBytes === 0) return null;
    const chunk = { offset: this.#next, audio: this.#ring.read(this.#next, bytes) };
    this.#next += chunk.audio.byteLength;
    this.#reach = Math.max(this.#reach, this.#next);
    return chunk;
  }
}

function disagreement(message: string, expected: number): ParlanceError {
  return new ParlanceError("offset_mismatch", message, { expected });
}
