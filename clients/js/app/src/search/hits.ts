/**
 * Results that change under a reader's hands. Pure.
 *
 * The instant results are followed by the full ones, and by others when more was said. While somebody points at the
 * list or has the focus in it, what is shown keeps its place: known hits stay where they are, hits that are gone go,
 * new ones come below. Otherwise the newest order is shown.
 */

import type { SearchHit } from "@parlance/client";

export function mergeHits(shown: readonly SearchHit[] | null, incoming: readonly SearchHit[], isHeld: boolean): SearchHit[] {
  if (!shown || !isHeld) return [...incoming];
  const fresh = new Map(incoming.map((hit) => [hit.segment_id, hit]));
  const kept = shown.flatMap(({ segment_id }) => fresh.get(segment_id) ?? []);
  return withPage(kept, incoming);
}

/** The next page below; what is shown already keeps its place. */
export function withPage(shown: readonly SearchHit[], page: readonly SearchHit[]): SearchHit[] {
  const known = new Set(shown.map(({ segment_id }) => segment_id));
  return [...shown, ...page.filter(({ segment_id }) => !known.has(segment_id))];
}

export function placesWords(count: number, hasMore: boolean, isGrouped: boolean): string {
  const noun = isGrouped ? "recording" : "place";
  return `${count}${hasMore ? "+" : ""} ${count === 1 ? noun : `${noun}s`}`;
}
