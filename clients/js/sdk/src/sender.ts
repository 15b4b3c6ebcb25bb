/**
 * Which bytes of a stream go out next.
 *
 * A client may send up to `received_bytes + credit_bytes`; `durable_bytes` alone frees the ring; after a takeover the
 * server says at which offset it goes on; an `offset_mismatch` says where a piece went missing.
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
  #allowed = 0;
  #rewoundTo: number | null = null;
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

  /** Bytes that were not handed to the connection yet. */
  get unsentBytes(): number {
    return this.#ring.end - this.#next;
  }

  /** Take sound from the source; false when the ring is full. */
  append(bytes: Uint8Array): boolean {
    return this.#ring.append(bytes);
  }

  /**
   * The server opened the stream, or gave it back after an interruption, and goes on at `offset`.
   * Throws as `restart` does.
   */
  open(offset: number, creditBytes: number): void {
    this.restart(offset);
    this.#allowed = offset + creditBytes;
    this.#rewoundTo = null;
  }

  acknowledge(ack: Pick<RecordingAck, "received_bytes" | "durable_bytes" | "credit_bytes">): void {
    this.#ring.free(ack.durable_bytes);
    this.#allowed = ack.received_bytes + ack.credit_bytes;
    this.#next = Math.max(this.#next, this.#ring.start);
    this.#rewoundTo = null;
  }

  /**
   * The server misses bytes from `offset` on. Every chunk that was under way reports the same hole: only the first
   * report rewinds, until an acknowledgement shows that the server went on. Throws as `restart` does.
   */
  rewind(offset: number): void {
    if (this.#rewoundTo === offset) return;
    this.restart(offset);
    this.#rewoundTo = offset;
  }

  /** Send everything from `offset` on once more. Throws `offset_mismatch` when those bytes are no longer here. */
  restart(offset: number): void {
    if (offset < this.#ring.start || offset > this.#ring.end) {
      throw new ParlanceError(
        "offset_mismatch",
        `The server goes on at byte ${offset}, but this device holds ${this.#ring.start} to ${this.#ring.end}.`,
        { expected: offset },
      );
    }
    this.#next = offset;
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
    return chunk;
  }
}
