/**
 * What a reader of one recording sees: finished segments, and the captions of those still being spoken.
 *
 * Pure: `(state, event) -> state`; an event that changes nothing returns the same object, so views may compare by
 * identity. Invariants: no partial is shown beside or after its final; a new `stream_id` voids what the old stream left
 * unfinished, also what comes late of it; of two revisions of a segment the higher `rev` is shown, whichever came last;
 * a speaker that was merged into another one is shown as that one.
 */

import type { SpeakerMerged, SpeakerRenamed, TranscriptFinal, TranscriptPartial, TranscriptRevised } from "./protocol.js";

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
  /** Names of speakers by label; labels without one are not there. */
  readonly names: ReadonlyMap<string, string>;
  /** Labels that are other ones now. */
  readonly merged: ReadonlyMap<string, string>;
}

export type CaptionEvent =
  | { type: "partial"; body: TranscriptPartial }
  | { type: "final"; body: CaptionSegment }
  | { type: "revised"; body: Pick<TranscriptRevised, "removed"> & { segments: CaptionSegment[] } }
  | { type: "renamed"; body: Pick<SpeakerRenamed, "speaker" | "name"> }
  | { type: "merged"; body: Pick<SpeakerMerged, "from" | "into"> }
  | { type: "ended" };

export const NO_CAPTIONS: CaptionState = {
  segments: [],
  partials: [],
  streamId: null,
  voided: [],
  index: new Map(),
  removed: new Set(),
  names: new Map(),
  merged: new Map(),
};

/** The state of a transcript that was read whole; `speakers`: names by label, `merged`: what labels are other ones now. */
export function captionsOf(
  segments: readonly CaptionSegment[],
  { speakers = {}, merged = {} }: { speakers?: Record<string, string>; merged?: Record<string, string> } = {},
): CaptionState {
  const known = { names: new Map(Object.entries(speakers)), merged: new Map(Object.entries(merged)) };
  return withSegments({ ...NO_CAPTIONS, ...known }, segments);
}

export function reduceCaptions(state: CaptionState, event: CaptionEvent): CaptionState {
  switch (event.type) {
    case "partial":
      return onPartial(state, event.body);
    case "final":
      return withSegments(state, [event.body]);
    case "revised":
      return onRevised(state, event.body);
    case "renamed":
      return onRenamed(state, event.body);
    case "merged":
      return onMerged(state, event.body);
    case "ended":
      return state.partials.length === 0 ? state : { ...state, partials: [] };
  }
}

function onPartial(state: CaptionState, told: TranscriptPartial): CaptionState {
  const partial = spokenBy(state.merged, told);
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

function onRenamed(state: CaptionState, { speaker, name }: Pick<SpeakerRenamed, "speaker" | "name">): CaptionState {
  if ((state.names.get(speaker) ?? null) === name) return state;
  const names = new Map(state.names);
  if (name === null) names.delete(speaker);
  else names.set(speaker, name);
  return { ...state, names };
}

/** The segments follow as a revision; until then they are shown as they will be. */
function onMerged(state: CaptionState, { from, into }: Pick<SpeakerMerged, "from" | "into">): CaptionState {
  const merged = new Map([...state.merged].map(([label, means]) => [label, means === from ? into : means]));
  merged.set(from, into);
  merged.delete(into);
  const names = new Map(state.names);
  names.delete(from);
  const segments = state.segments.map((segment) => spokenBy(merged, segment));
  return {
    ...state,
    segments,
    index: new Map(segments.map((segment) => [segment.segment_id, segment])),
    partials: state.partials.map((partial) => spokenBy(merged, partial)),
    names,
    merged,
  };
}

function spokenBy<T extends { speaker?: string | null }>(merged: ReadonlyMap<string, string>, told: T): T {
  const into = told.speaker == null ? undefined : merged.get(told.speaker);
  return into === undefined ? told : { ...told, speaker: into };
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

/** The order of every transcript: pieces of a final have its ordinal, and ids that follow one another. */
function byPlace(a: CaptionSegment, b: CaptionSegment): number {
  return a.start_ms - b.start_ms || a.ordinal - b.ordinal || (a.segment_id < b.segment_id ? -1 : 1);
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
  const segments = [...kept, ...fresh].sort(byPlace);
  const partials = state.partials.some((partial) => settled.has(partial.segment_id))
    ? state.partials.filter((partial) => !settled.has(partial.segment_id))
    : state.partials;
  return { ...state, segments, partials, index };
}
