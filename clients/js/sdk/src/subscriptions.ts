/**
 * Subscriptions: what is said and matches is told, across reconnects.
 *
 * Policy: after a reconnect each one is asked for again with the cursor of its last match, at most `ASKED_MAX` at once;
 * a refusal that may pass is tried again, another one ends it and is told (`onEnded`), never a silence.
 * Invariant: a revision of a segment is told at most once by a subscription, of the last `TOLD_MAX` that it told.
 */

import type { AckOf, AcknowledgedEvent } from "./acks.js";
import { asParlanceError, type ParlanceError } from "./errors.js";
import type { ClientEvents, SearchFilters, SearchMatch } from "./protocol.js";

export interface SubscribeOptions {
  mode?: "hybrid" | "keyword" | "semantic";
  filters?: SearchFilters;
  /** The least cosine of a match by meaning, 0 to 1; the server's own where it is not given. */
  minScore?: number;
  /** A `cursor` that was kept: what was said since is told first. */
  after?: string | undefined;
  onMatch?: (match: SearchMatch) => void;
  /**
   * It ended, other than by `end()`: refused, or the client was closed. `history_truncated`: what was missed is not
   * there any more; subscribe anew without `after`.
   */
  onEnded?: (error: ParlanceError) => void;
}

export interface Subscription {
  readonly id: string;
  readonly text: string;
  /** Keep it to go on later with `after`; null before the server first answered. */
  readonly cursor: string | null;
  /** Settles when the server first took it; rejects with ParlanceError when it ends before. */
  readonly ready: Promise<void>;
  end(): void;
}

export interface Asking {
  isLive(): boolean;
  call<E extends AcknowledgedEvent>(event: E, body: ClientEvents[E], onAck?: (ack: AckOf<E>) => void): Promise<AckOf<E>>;
}

interface Held {
  readonly id: string;
  readonly text: string;
  readonly options: SubscribeOptions;
  cursor: string | null;
  readonly told: Set<string>;
  timer: ReturnType<typeof setTimeout> | undefined;
  resolve(): void;
  reject(error: ParlanceError): void;
}

/** A server resumes some at a time anyway; more would only fill its mailbox. */
const ASKED_MAX = 8;
/** A subscription that resumes may be told again what it was told just before: minutes of talk. */
const TOLD_MAX = 1_000;
const AGAIN_MS = 5_000;

export class Subscriptions {
  readonly #asking: Asking;
  readonly #held = new Map<string, Held>();
  /** To be asked for, in order. */
  readonly #waiting = new Set<Held>();
  readonly #asked = new Set<Held>();
  #count = 0;

  constructor(asking: Asking) {
    this.#asking = asking;
  }

  open(text: string, options: SubscribeOptions): Subscription {
    this.#count += 1;
    const id = `s${this.#count}`;
    let settle: Pick<Held, "resolve" | "reject">;
    const ready = new Promise<void>((resolve, reject) => (settle = { resolve, reject }));
    ready.catch(() => undefined); // `onEnded` tells it too.
    const held: Held = { id, text, options, cursor: options.after ?? null, told: new Set(), timer: undefined, ...settle! };
    this.#held.set(id, held);
    this.#ask(held);
    return {
      id,
      text,
      ready,
      get cursor() {
        return held.cursor;
      },
      end: () => {
        if (!this.#forget(held)) return;
        held.resolve();
        if (this.#asking.isLive()) this.#asking.call("search:unsubscribe", { subscription_id: id }).catch(() => undefined);
      },
    };
  }

  /** A connection began: nothing is subscribed there. */
  greeted(): void {
    for (const held of this.#held.values()) this.#ask(held);
  }

  /** Whether it is new, and was delivered to its subscription. */
  match(match: SearchMatch): boolean {
    const held = this.#held.get(match.subscription_id);
    if (!held) return false;
    held.cursor = match.cursor;
    const key = `${match.hit.rev} ${match.hit.segment_id}`;
    if (held.told.has(key)) return false;
    held.told.add(key);
    if (held.told.size > TOLD_MAX) held.told.delete(held.told.values().next().value!);
    held.options.onMatch?.(match);
    return true;
  }

  unsubscribed(id: string, error: ParlanceError): void {
    const held = this.#held.get(id);
    if (held) this.#failed(held, error);
  }

  /** The client is closed for good. */
  closed(error: ParlanceError): void {
    for (const held of [...this.#held.values()]) this.#end(held, error);
  }

  #ask(held: Held): void {
    clearTimeout(held.timer);
    this.#waiting.add(held);
    this.#pump();
  }

  #pump(): void {
    for (const held of this.#waiting) {
      if (!this.#asking.isLive() || this.#asked.size >= ASKED_MAX) return;
      this.#waiting.delete(held);
      this.#asked.add(held);
      void this.#subscribe(held);
    }
  }

  async #subscribe(held: Held): Promise<void> {
    const { mode, filters, minScore } = held.options;
    const body = {
      subscription_id: held.id,
      text: held.text,
      ...(mode === undefined ? {} : { mode }),
      ...(filters === undefined ? {} : { filters }),
      ...(minScore === undefined ? {} : { min_score: minScore }),
      ...(held.cursor === null ? {} : { after: held.cursor }),
    };
    try {
      // Only where nothing was known: what is told again comes after the answer, and may still be lost on the way.
      await this.#asking.call("search:subscribe", body, ({ cursor }) => (held.cursor ??= cursor));
      held.resolve();
    } catch (thrown) {
      this.#failed(held, asParlanceError(thrown));
    } finally {
      this.#asked.delete(held);
      this.#pump();
    }
  }

  #failed(held: Held, error: ParlanceError): void {
    // The next connection asks again.
    if (!this.#held.has(held.id) || error.code === "disconnected" || error.code === "closed") return;
    clearTimeout(held.timer);
    if (error.retryable || error.code === "timeout") {
      held.timer = setTimeout(() => this.#ask(held), error.retryAfterMs ?? AGAIN_MS);
    } else this.#end(held, error);
  }

  #end(held: Held, error: ParlanceError): void {
    if (!this.#forget(held)) return;
    held.reject(error);
    held.options.onEnded?.(error);
  }

  #forget(held: Held): boolean {
    clearTimeout(held.timer);
    this.#waiting.delete(held);
    return this.#held.delete(held.id);
  }
}
