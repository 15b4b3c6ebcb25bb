/**
 * Where in a transcript a moment is, and where in its text the words are. Pure.
 *
 * Engines tell words beside the text; a text that does not contain them in order (numbers written out, an edit) is
 * shown whole and can only be played from its start.
 */

import type { CaptionSegment } from "@parlance/client";

export interface Piece {
  text: string;
  /** Where the word begins in the recording; null for what stands between words. */
  atMs: number | null;
}

/** `segment.text` cut at its words; joined, the pieces are the text. */
export function piecesOf({ text, words }: Pick<CaptionSegment, "text" | "words">): Piece[] {
  const pieces: Piece[] = [];
  let at = 0;
  for (const { w, start_ms } of words) {
    const wanted = w.trim();
    const from = wanted === "" ? -1 : text.indexOf(wanted, at);
    if (from < 0) return [{ text, atMs: null }];
    if (from > at) pieces.push({ text: text.slice(at, from), atMs: null });
    pieces.push({ text: wanted, atMs: start_ms });
    at = from + wanted.length;
  }
  if (at < text.length) pieces.push({ text: text.slice(at), atMs: null });
  return pieces;
}

/** The segment that is heard at `ms`, or was heard last; null before the first. */
export function segmentAt(segments: readonly CaptionSegment[], ms: number): CaptionSegment | null {
  return segments[lastAtOrBefore(segments, ms)] ?? null;
}

/** The index in `words` of what is heard at `ms`, or was heard last; -1 before the first. */
export function wordAt(words: CaptionSegment["words"], ms: number): number {
  return lastAtOrBefore(words, ms);
}

function lastAtOrBefore(items: readonly { start_ms: number }[], ms: number): number {
  let [low, high] = [0, items.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (items[middle]!.start_ms <= ms) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
