/**
 * When a token ends, and when to ask for the next one: between 70 and 80% of its time, so that a crowd of clients (and
 * the tabs of one) does not ask at once. Pure.
 */

const REFRESH_SHARES = { first: 0.7, last: 0.8 };
/** A source that gives the same token again and again is not asked in a tight loop. */
const REFRESH_MS_MIN = 1_000;
/** The longest delay that timers take. */
const TIMER_MS_MAX = 2 ** 31 - 1;

/** `exp` of a JWT in Unix milliseconds, not verified; null for an API key, which does not end. */
export function expiryOf(token: string): number | null {
  const parts = token.split(".");
  if (parts.length !== 3) return null;
  try {
    const claims = JSON.parse(atob(parts[1]!.replaceAll("-", "+").replaceAll("_", "/"))) as { exp?: unknown };
    return typeof claims.exp === "number" ? claims.exp * 1000 : null;
  } catch {
    return null;
  }
}

/** When to ask for the next token of one that ends in `leftMs`; `random` in [0, 1). */
export function refreshInMs(leftMs: number, random: number): number {
  const share = REFRESH_SHARES.first + (REFRESH_SHARES.last - REFRESH_SHARES.first) * random;
  return Math.min(TIMER_MS_MAX, Math.max(REFRESH_MS_MIN, leftMs * share));
}
