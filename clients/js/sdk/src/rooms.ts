/**
 * Where this client stands in the log of each joined room.
 *
 * Durable events carry `seq`, growing by exactly 1 per room. What was seen is dropped, what is missing is asked for by
 * joining again after the last event that was delivered.
 *
 * Pure: `accept` returns a verdict; `client.ts` delivers and joins.
 * Invariant: a room's durable events are delivered in `seq` order, each once.
 */

export type Verdict = "deliver" | "duplicate" | "gap" | "foreign";

interface Place {
  /** Last `seq` that was delivered; null until the first join without `after_seq` is answered. */
  seq: number | null;
}

export class RoomLog {
  readonly #places = new Map<string, Place>();

  /** Begin to follow `room`. `afterSeq`: everything later is wanted; null: only what is still to come. */
  follow(room: string, afterSeq: number | null): void {
    this.#places.set(room, { seq: afterSeq });
  }

  /** The server's answer to a join: with no place of our own yet, events count from its `seq`. */
  joined(room: string, seq: number): void {
    const place = this.#places.get(room);
    if (place) place.seq ??= seq;
  }

  forget(room: string): void {
    this.#places.delete(room);
  }

  /** What to do with the durable event `seq` of `room`; `deliver` moves the place on. */
  accept(room: string, seq: number): Verdict {
    const place = this.#places.get(room);
    if (!place) return "foreign";
    if (place.seq === null || seq === place.seq + 1) {
      place.seq = seq;
      return "deliver";
    }
    return seq <= place.seq ? "duplicate" : "gap";
  }

  has(room: string): boolean {
    return this.#places.has(room);
  }

  /** The `after_seq` with which to join again; null: live events only. */
  after(room: string): number | null {
    return this.#places.get(room)?.seq ?? null;
  }

  get rooms(): string[] {
    return [...this.#places.keys()];
  }
}
