/**
 * Where the reader is: the part of the address after `#`.
 *
 *     #/                   the start
 *     #/r/<id>             a recording
 *     #/r/<id>/<segment>   one of its segments, from a search hit
 *     #/r/<id>?t=83.5      a moment of it, in seconds
 */

import { useSyncExternalStore } from "react";

/** `recordingId` null: the start screen. */
export interface Route {
  recordingId: string | null;
  segmentId: string | null;
  atMs: number | null;
}

const START: Route = { recordingId: null, segmentId: null, atMs: null };

export function parseRoute(hash: string): Route {
  const [path = "", query = ""] = hash.split("?");
  const [kind, recordingId, segmentId] = path.replace(/^#\/?/, "").split("/").map(decode);
  if (kind !== "r" || !recordingId) return START;
  const seconds = Number(new URLSearchParams(query).get("t") ?? Number.NaN);
  return { recordingId, segmentId: segmentId || null, atMs: seconds >= 0 ? Math.round(seconds * 1000) : null };
}

export function hrefOf(recordingId: string | null, place: { segmentId?: string; atMs?: number } = {}): string {
  if (recordingId === null) return "#/";
  const segment = place.segmentId === undefined ? "" : `/${encodeURIComponent(place.segmentId)}`;
  const moment = place.atMs === undefined ? "" : `?t=${Math.round(place.atMs) / 1000}`;
  return `#/r/${encodeURIComponent(recordingId)}${segment}${moment}`;
}

/** The whole address of a moment, for other people. */
export function linkTo(recordingId: string, atMs: number): string {
  return window.location.origin + window.location.pathname + hrefOf(recordingId, { atMs });
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
