/** How a recording stands, in words, and only when there is something to tell. Pure. */

import type { ConnectionState, RecordingProgress } from "@parlance/client";
import { duration } from "../shell/format.js";
import type { Recorder } from "./useRecorder.js";

/** Whole seconds, so that a screen reader is not told every tenth. */
export function standing(state: Recorder["state"], progress: RecordingProgress, connection: ConnectionState): string {
  const { keptMs, unsentMs, health } = progress;
  if (connection !== "live" || state === "reconnecting") {
    const kept = keptMs >= 1_000 ? `${duration(keptMs)} kept here, ` : "";
    return `No connection. Recording goes on: ${kept}nothing is lost.`;
  }
  if (state === "stopping") return unsentMs >= 1_000 ? `Sending the last ${duration(unsentMs)}…` : "Finishing…";
  if (state === "paused") return "Paused";
  if (health.isCatchingUp) return `Catching up: ${duration(unsentMs)} to send.`;
  const behind = health.isBehind ? `Captions are ${duration(health.lagMs)} behind. ` : "";
  if (health.isBusy) return `${behind}Server busy: captions change less often, nothing is lost.`;
  return behind.trim();
}

/** -50 dB: below this a voice at a microphone is not what is heard. */
const QUIET_PEAK = 0.003;
/** Pauses in speech are shorter; a muted microphone is longer. */
const QUIET_MS = 6_000;

/** Since when only silence came, on the recording's clock. */
export function quietSince(since: number, { level, capturedMs }: RecordingProgress): number {
  return level >= QUIET_PEAK ? capturedMs : Math.min(since, capturedMs);
}

export function isQuiet(since: number, { capturedMs }: RecordingProgress): boolean {
  return capturedMs - since >= QUIET_MS;
}
