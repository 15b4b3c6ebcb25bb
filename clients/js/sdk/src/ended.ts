/** How a recording ended, as its room's log says. */

import type { Link } from "./link.js";

const PAGE = 200;

/** Whether it was stopped, as its client asked, and not abandoned or failed. Throws ParlanceError. */
export async function wasStopped(link: Link, recordingId: string): Promise<boolean> {
  const room = `recording:${recordingId}`;
  const head = await link.call("events:read", { room, after_seq: Number.MAX_SAFE_INTEGER, limit: 1 });
  for (let before = head.seq; before > 0; ) {
    const after = Math.max(0, before - PAGE); // The end is among the last events; revisions may follow it.
    const page = await link.call("events:read", { room, after_seq: after, limit: before - after });
    const ended = page.events.find(({ event }) => event === "recording:ended");
    if (ended) return ended["reason"] === "stopped";
    before = after;
  }
  return false;
}
