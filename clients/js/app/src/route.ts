/** Where the reader is: the part of the address after `#`. */

import { useSyncExternalStore } from "react";

/** `recordingId` null: the start screen. `segmentId`: the segment to show. */
export interface Route {
  recordingId: string | null;
  segmentId: string | null;
}

export function parseRoute(hash: string): Route {
  const [kind, recordingId, segmentId] = hash.replace(/^#\/?/, "").split("/").map(decode);
  if (kind !== "r" || !recordingId) return { recordingId: null, segmentId: null };
  return { recordingId, segmentId: segmentId || null };
}

export function hrefOf(recordingId: string | null, segmentId?: string): string {
  if (recordingId === null) return "#/";
  const segment = segmentId === undefined ? "" : `/${encodeURIComponent(segmentId)}`;
  return `#/r/${encodeURIComponent(recordingId)}${segment}`;
}

export function useRoute(): Route {
  const hash = useSyncExternalStore(listen, () => window.location.hash);
  return parseRoute(hash);
}

function listen(onChange: () => void): () => void {
  window.addEventListener("hashchange", onChange);
  return () => window.removeEventListener("hashchange", onChange);
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}
