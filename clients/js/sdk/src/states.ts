/**
 * The states of a recording, as the Python client has them too (`states.py`; both pass tests/golden/states.json).
 *
 *               no connection                 taken over
 *     live, catching up, paused  ---->  reconnecting  ---->  live, catching up, paused
 *
 *     live  -- more than 3 s wait -->  catching up  -- less than 1.2 s wait -->  live
 *     live, catching up  -- pause -->  paused  -- resume -->  live, catching up
 *
 *     any of these four  -- stop -->  stopping  -- the server has all -->  stopped
 *     any but stopped  -- given up -->  lost
 *
 * `reconnecting`: no connection, or the stream is being taken over; sound is still taken and kept here. `catching up`:
 * connected, and sound that waited here is still being delivered. `stopping`: the source is off, the rest is being
 * delivered, over lost connections too. `lost`: given up for good; what the server had not called safe may be lost.
 *
 * Pure: facts in, a state out. Invariant: every change is in `NEXT`; nothing leaves `stopped` and `lost`.
 */

export type RecordingState = "live" | "reconnecting" | "catching up" | "paused" | "stopping" | "stopped" | "lost";

/** What a state is made of. `waitingMs`: sound that was taken and that the server does not have yet. */
export interface Facts {
  connected: boolean;
  waitingMs: number;
  paused: boolean;
  stopping: boolean;
  stopped: boolean;
  lost: boolean;
}

/** What may follow a state; anything else is refused. */
export const NEXT: Readonly<Record<RecordingState, readonly RecordingState[]>> = {
  live: ["reconnecting", "catching up", "paused", "stopping", "lost"],
  reconnecting: ["live", "catching up", "paused", "stopping", "lost"],
  "catching up": ["live", "reconnecting", "paused", "stopping", "lost"],
  paused: ["live", "reconnecting", "catching up", "stopping", "lost"],
  stopping: ["stopped", "lost"],
  stopped: [],
  lost: [],
};

/** Acknowledgements come once a second while audio flows; a second of network and two of them always wait. */
const WAITING_MS = { on: 3_000, off: 1_200 };

/** The state after `state` that the facts ask for; `state` itself where it may not follow. */
export function following(state: RecordingState, facts: Facts): RecordingState {
  const wanted = wantedBy(state, facts);
  return NEXT[state].includes(wanted) ? wanted : state;
}

function wantedBy(state: RecordingState, facts: Facts): RecordingState {
  if (facts.lost) return "lost";
  if (facts.stopped) return "stopped";
  if (facts.stopping) return "stopping";
  if (!facts.connected) return "reconnecting";
  if (facts.paused) return "paused";
  const limit = state === "catching up" ? WAITING_MS.off : WAITING_MS.on;
  return facts.waitingMs > limit ? "catching up" : "live";
}
