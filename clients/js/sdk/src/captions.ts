/**
 * What a reader of one recording sees: finished segments, and the captions of those still being spoken.
 *
 * Pure: `(state, event) -> state`; an event that changes nothing returns the same object, so views may compare by
 * identity. Invariants: no partial is shown beside or after its final; a new `stream_id` voids what the old stream left
 * unfinished, also what comes late of it; of two revisions of a segment the higher `rev` is shown, whichever came last.
 */

import type { TranscriptFinal, TranscriptPartial, TranscriptRevised } from "./protocol.js";

/** A stream this many takeovers ago has nothing under way any more. */
const VOIDED_MAX = 32;

export type CaptionSegment = Omit<TranscriptFinal, "recording_id">;

export interface CaptionState {
  /** Finished segments in the order they were spoken. */
  readonly segments: readonly CaptionSegment[];
  /** Captions under way, in the order they began. */
  readonly partials: readonly TranscriptPartial[];
  /** The stream that captions come from at present. */
  readonly streamId: string | null;
  /** Streams before it, newest last: what they still tell counts no more. */
  readonly voided: readonly string[];
  readonly index: ReadonlyMap<string, CaptionSegment>;
  /** Removed by a revision: a late event does not bring them back. */
  readonly removed: ReadonlySet<string>;
}

export type CaptionEvent =
  | { type: "partial"; body: TranscriptPartial }
  | { type: "final"; body: CaptionSegment }
  | { type: "revised"; body: Pick<TranscriptRevised, "removed"> & { segments: CaptionSegment[] } }
  | { type: "ended" };

export const NO_CAPTIONS: CaptionState = {
  segments: [],
  partials: [],
  streamId: null,
  voided: [],
  index: new Map(),
  removed: new Set(),
};

/** The state of a transcript that was read whole. */
export function captionsOf(segments: readonly CaptionSegment[]): CaptionState {
  return withSegments(NO_CAPTIONS, segments);
}

export function reduceCaptions(state: CaptionState, event: CaptionEvent): CaptionState {
  switch (event.type) {
    case "partial":
      return onPartial(state, event.body);
    case "final":
      return withSegments(state, [event.body]);
    case "revised":
      return onRevised(state, event.body);
    case "ended":
      return state.partials.length === 0 ? state : { ...state, partials: [] };
  }
}

function onPartial(state: CaptionState, partial: TranscriptPartial): CaptionState {
  if (state.index.has(partial.segment_id) || state.removed.has(partial.segment_id)) return state;
  const { stream_id: streamId } = partial;
  if (state.voided.includes(streamId)) return state;
  const isSame = streamId === state.streamId;
  const kept = isSame ? state.partials : [];
  const voided = isSame || state.streamId === null ? state.voided : [...state.voided, state.streamId].slice(-VOIDED_MAX);
  const at = kept.findIndex((other) => other.segment_id === partial.segment_id);
  if (at >= 0 && kept[at]!.rev >= partial.rev) return state;
  const partials = at >= 0 ? kept.with(at, partial) : [...kept, partial].sort((a, b) => a.start_ms - b.start_ms);
  return { ...state, partials, streamId, voided };
}

function onRevised(state: CaptionState, revised: Extract<CaptionEvent, { type: "revised" }>["body"]): CaptionState {
  const gone = new Set(revised.removed);
  const kept = gone.size === 0 ? state : without(state, gone);
  return withSegments(kept, revised.segments);
}

function without(state: CaptionState, gone: ReadonlySet<string>): CaptionState {
  const segments = state.segments.filter((segment) => !gone.has(segment.segment_id));
  return {
    ...state,
    segments,
    index: new Map(segments.map((segment) => [segment.segment_id, segment])),
    partials: state.partials.filter((partial) => !gone.has(partial.segment_id)),
    removed: new Set([...state.removed, ...gone]),
  };
}

/** Insert or replace segments. Nearly always this appends one at the end. */
function withSegments(state: CaptionState, incoming: readonly CaptionSegment[]): CaptionState {
  const fresh = incoming.filter((segment) => {
    const known = state.index.get(segment.segment_id);
    return !state.removed.has(segment.segment_id) && (known === undefined || known.rev < segment.rev);
  });
  if (fresh.length === 0) return state;
  const index = new Map(state.index);
  for (const segment of fresh) index.set(segment.segment_id, segment);
  const settled = new Set(fresh.map((segment) => segment.segment_id));
  const kept = state.segments.filter((segment) => !settled.has(segment.segment_id));
  const segments = [...kept, ...fresh].sort((a, b) => a.start_ms - b.start_ms || a.ordinal - b.ordinal);
  const partials = state.partials.some((partial) => settled.has(partial.segment_id))
    ? state.partials.filter((partial) => !settled.has(partial.segment_id))
    : state.partials;
  return { ...state, segments, partials, index };
}
