/**
 * Audio that the server may still ask for again: the bytes [start, end) of one encoded stream.
 *
 * Bytes enter at the end and leave at the start, and only what the server calls durable leaves: nothing is dropped to
 * make room. When the limit is reached `append` refuses, and the recording must stop taking sound.
 *
 * Pure. Invariant: `end - start` bytes are held, never more than `limitBytes`.
 */

export class Ring {
  #pieces: Uint8Array[] = [];
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

  /** Append `bytes` (kept, not copied); false when they do not fit, and then nothing was taken. */
  append(bytes: Uint8Array): boolean {
    if (this.size + bytes.byteLength > this.limitBytes) return false;
    if (bytes.byteLength > 0) this.#pieces.push(bytes);
    this.#end += bytes.byteLength;
    return true;
  }

  /** At most `maxBytes` from `offset`, which lies in [start, end]; empty when there are none. A copy. */
  read(offset: number, maxBytes: number): Uint8Array {
    if (offset < this.#start || offset > this.#end) {
      throw new RangeError(`offset ${offset} is outside of [${this.#start}, ${this.#end}]`);
    }
    const out = new Uint8Array(Math.max(0, Math.min(maxBytes, this.#end - offset)));
    let filled = 0;
    let at = this.#firstPieceStart;
    for (const piece of this.#pieces) {
      if (filled === out.byteLength) break;
      const from = offset + filled - at;
      if (from < piece.byteLength) {
        const part = piece.subarray(from, from + out.byteLength - filled);
        out.set(part, filled);
        filled += part.byteLength;
      }
      at += piece.byteLength;
    }
    return out;
  }

  /** The server will not ask for bytes before `offset` again. */
  free(offset: number): void {
    let at = this.#firstPieceStart;
    let whole = 0;
    for (const piece of this.#pieces) {
      if (at + piece.byteLength > offset) break;
      at += piece.byteLength;
      whole += 1;
    }
    if (whole > 0) this.#pieces = this.#pieces.slice(whole);
    this.#firstPieceStart = at;
    this.#start = Math.max(this.#start, Math.min(offset, this.#end));
  }

  /** Where the first kept piece begins: at or before `start`, because only whole pieces are let go. */
  #firstPieceStart = 0;
}
