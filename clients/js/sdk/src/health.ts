/**
 * How a recording stands, said so that it does not flicker.
 *
 * Acknowledgements come twice a second and jitter; a word on the screen should change only when something changed.
 * Each word therefore appears at one threshold and goes at a lower one, and "busy" follows only acknowledgements that
 * agree. Pure: `(health, what was seen) -> health`, the same object when nothing changed that a reader could see.
 */

import type { RecordingAck } from "./protocol.js";

export interface Health {
  /** Smoothed distance of the captions behind the sound that the server has. */
  readonly lagMs: number;
  /** The captions are noticeably late. */
  readonly isBehind: boolean;
  /** The server is busy: captions change less often; nothing is lost. */
  readonly isBusy: boolean;
  /** Acknowledgements in a row that contradict `isBusy`. */
  readonly contradictions: number;
}

export const FINE: Health = { lagMs: 0, isBehind: false, isBusy: false, contradictions: 0 };

/** Below the first a delay is what listening for the end of a word takes; saying so would only worry. */
const BEHIND_MS = { on: 2_000, off: 1_200 };
/** Acknowledgements (half a second each) that must agree: quick to warn, slow to call it over. */
const AGREEING = { on: 2, off: 4 };
/** Weight of the newest acknowledgement: half of a jump is shown after a second. */
const WEIGHT = 0.3;

export function withAck(health: Health, { lag_ms, degraded }: Pick<RecordingAck, "degraded" | "lag_ms">): Health {
  const lagMs = health.lagMs + (lag_ms - health.lagMs) * WEIGHT;
  const contradictions = degraded === health.isBusy ? 0 : health.contradictions + 1;
  const isTurning = contradictions >= (degraded ? AGREEING.on : AGREEING.off);
  return {
    ...health,
    lagMs,
    isBehind: past(health.isBehind, lagMs, BEHIND_MS),
    isBusy: isTurning ? degraded : health.isBusy,
    contradictions: isTurning ? 0 : contradictions,
  };
}

function past(isOn: boolean, value: number, { on, off }: { on: number; off: number }): boolean {
  return isOn ? value > off : value >= on;
}
