/**
 * Where this client stands in the log of each joined room.
 *
 * Durable events carry `seq`, growing by exactly 1 per room. What was seen is dropped, what is missing is asked for by
 * joining again after the last event that was delivered.
 *
 * Pure: `accept` returns a verdict; `client.ts` delivers and joins.
 * Invariant: a room's durable events are delivered in `seq` order, each once.
 */

/** `lost`: still missing after joining again, so the log cannot be followed. */
export type Verdict = "deliver" | "duplicate" | "gap" | "lost" | "foreign";

interface Place {
  /** Last `seq` that was delivered; null until the first join without `after_seq` is answered. */
  seq: number | null;
  /** `seq` before the newest hole, and the same when the room was joined again because of it. */
  gapAt: number | null;
  healedAt: number | null;
}

export class RoomLog {
  readonly #places = new Map<string, Place>();

  /** Begin to follow `room`. `afterSeq`: everything later is wanted; null: only what is still to come. */
  follow(room: string, afterSeq: number | null): void {
    this.#places.set(room, { seq: afterSeq, gapAt: null, healedAt: null });
  }

  /** The server's answer to a join: with no place of our own yet, events count from its `seq`. */
  joined(room: string, seq: number): void {
    const place = this.#places.get(room);
    if (!place) return;
    place.seq ??= seq;
    place.healedAt = place.gapAt;
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
    if (seq <= place.seq) return "duplicate";
    if (place.healedAt === place.seq) return "lost";
    place.gapAt = place.seq;
    return "gap";
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
