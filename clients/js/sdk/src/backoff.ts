/** When and where to connect next. Pure: times and random numbers are the caller's. */

/** Exponential with full jitter, so that the clients of a restarted server do not come back in step. */
export interface Backoff {
  /** Ceiling of the first wait; it doubles up to `maxMs`. */
  firstMs: number;
  maxMs: number;
}

export const BACKOFF: Backoff = { firstMs: 500, maxMs: 15_000 };

/** A connection that the server sent away sooner is a failed attempt: the next one waits longer. */
const STEADY_MS = 10_000;

/** Wait before attempt number `attempt` (from 1); `random` in [0, 1). */
export function delayMs({ firstMs, maxMs }: Backoff, attempt: number, random: number): number {
  return Math.min(maxMs, firstMs * 2 ** Math.min(attempt - 1, 30)) * random;
}

/** The addresses of one service, tried in turn; one that named a time is not asked before it. */
export class Route {
  readonly #urls: string[];
  readonly #notBefore: number[];
  readonly #backoff: Backoff;
  #at = 0;
  #failures = 0;
  #connectedAt = 0;

  constructor(urls: readonly string[], backoff: Backoff) {
    this.#urls = [...new Set(urls)];
    if (this.#urls.length === 0) throw new TypeError("a client needs an address");
    this.#notBefore = this.#urls.map(() => 0);
    this.#backoff = backoff;
  }

  /** Where to connect now. */
  get url(): string {
    return this.#urls[this.#at]!;
  }

  /** How long the address that is next wants to be left alone. */
  toldMs(now: number): number {
    return Math.max(0, this.#notBefore[this.#at]! - now);
  }

  /** How long to wait before the next attempt, which goes to `url`. */
  waitMs(now: number, random: number): number {
    const count = this.#urls.length;
    const turn = (index: number): number => (index - this.#at + count) % count;
    const told = (index: number): number => Math.max(0, this.#notBefore[index]! - now);
    const order = this.#urls.map((_, index) => index).sort((a, b) => told(a) - told(b) || turn(a) - turn(b));
    this.#at = order[0]!;
    const round = Math.floor(Math.max(0, this.#failures - 1) / count);
    return told(this.#at) + delayMs(this.#backoff, 1 + round, random);
  }

  connected(now: number): void {
    this.#connectedAt = now;
  }

  /** The connection went; `isSentAway`: the server closed it and said why. */
  lost(now: number, isSentAway: boolean): void {
    if (!isSentAway || now - this.#connectedAt >= STEADY_MS) this.#failures = 0;
    this.#failures += 1;
    this.#turn();
  }

  /** An attempt failed; `retryAfterMs`: when this address wants to be asked again. */
  failed(now: number, retryAfterMs = 0): void {
    this.#notBefore[this.#at] = now + retryAfterMs;
    this.#failures += 1;
    this.#turn();
  }

  #turn(): void {
    this.#at = (this.#at + 1) % this.#urls.length;
  }
}
