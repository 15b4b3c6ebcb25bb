/**
 * Audio that the server may still ask for again: the bytes [start, end) of one encoded stream.
 *
 * Bytes enter at the end and leave at the start, and only what the server calls durable leaves: nothing is dropped to
 * make room. When the limit is reached `append` refuses, and the recording must stop taking sound. They lie in blocks of
 * a fixed size under their number, so appending, reading and freeing cost what they touch, however much waits.
 *
 * Pure. Invariant: `end - start` bytes are held, never more than `limitBytes`, in at most two blocks more than they fill.
 */

/** As large as the largest chunk, which so lies in two blocks at most. */
export const BLOCK_BYTES = 64 * 1024;

export class Ring {
  readonly #blocks = new Map<number, Uint8Array>();
  #start = 0;
  #end = 0;

  constructor(readonly limitBytes: number) {}

  get start(): number {
    return this.#start;
  }

  get end(): number {
    return this.#end;
  }

  /** Bytes held. */
  get size(): number {
    return this.#end - this.#start;
  }

  /** Memory that the blocks take. */
  get heldBytes(): number {
    return this.#blocks.size * BLOCK_BYTES;
  }

  /** Append a copy of `bytes`; false when they do not fit, and then nothing was taken. */
  append(bytes: Uint8Array): boolean {
    if (this.size + bytes.byteLength > this.limitBytes) return false;
    for (let done = 0; done < bytes.byteLength; ) {
      const [block, at] = this.#place(this.#end);
      const part = bytes.subarray(done, done + BLOCK_BYTES - at);
      block.set(part, at);
      done += part.byteLength;
      this.#end += part.byteLength;
    }
    return true;
  }

  /** At most `maxBytes` from `offset`, which lies in [start, end]; empty when there are none. A copy. */
  read(offset: number, maxBytes: number): Uint8Array {
    if (offset < this.#start || offset > this.#end) {
      throw new RangeError(`offset ${offset} is outside of [${this.#start}, ${this.#end}]`);
    }
    const out = new Uint8Array(Math.max(0, Math.min(maxBytes, this.#end - offset)));
    for (let filled = 0; filled < out.byteLength; ) {
      const [block, at] = this.#place(offset + filled);
      const part = block.subarray(at, at + out.byteLength - filled);
      out.set(part, filled);
      filled += part.byteLength;
    }
    return out;
  }

  /** The server will not ask for bytes before `offset` again. */
  free(offset: number): void {
    const start = Math.max(this.#start, Math.min(offset, this.#end));
    for (let number = numberOf(this.#start); number < numberOf(start); number += 1) this.#blocks.delete(number);
    this.#start = start;
  }

  #place(offset: number): [block: Uint8Array, at: number] {
    const number = numberOf(offset);
    let block = this.#blocks.get(number);
    if (!block) this.#blocks.set(number, (block = new Uint8Array(BLOCK_BYTES)));
    return [block, offset % BLOCK_BYTES];
  }
}

function numberOf(offset: number): number {
  return Math.floor(offset / BLOCK_BYTES);
}
