/** How a recording stands, in words, and only when there is something to tell. Pure. */

import type { ConnectionState, RecordingProgress } from "@parlance/client";
import { duration } from "../shell/format.js";
import type { Recorder } from "./useRecorder.js";

/** Less room than this on the device is worth a word. */
const ROOM_MS = 3 * 60_000;

/** Whole seconds, so that a screen reader is not told every tenth. */
export function standing(state: Recorder["state"], progress: RecordingProgress, connection: ConnectionState): string {
  const { keptMs, waitingMs, roomMs, health } = progress;
  const kept = `${duration(keptMs)} of sound wait on this device`;
  if (state === "stopping") {
    if (connection !== "live") return `No connection. ${kept} and are sent when it is back: leave this page open.`;
    return waitingMs >= 1_000 ? `Sending the last ${duration(waitingMs)}…` : "Finishing…";
  }
  if (connection !== "live" || state === "reconnecting") {
    const room = roomMs < ROOM_MS ? ` There is room for ${duration(roomMs)} more.` : "";
    return `No connection. Recording goes on: ${keptMs >= 1_000 ? `${kept}, ` : ""}nothing is lost.${room}`;
  }
  if (state === "catching up") return `Connected again. Catching up: ${kept}, nothing is lost.`;
  if (state === "paused") return "Paused";
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
