/** What a reader looks for besides words, and what the server is asked for it. Pure. */

import type { SearchFilters, SearchOptions } from "@parlance/client";

export type Since = "all" | "month" | "today" | "week";

export type Order = "newest" | "relevance";

export interface Wanted {
  /** Only in the recording on screen, while there is one. */
  inRecording: boolean;
  /** A name or a label; empty: anybody. */
  speaker: string;
  since: Since;
  /** Empty: any. */
  language: string;
  order: Order;
  isGrouped: boolean;
}

export const EVERYTHING: Wanted = {
  inRecording: false,
  speaker: "",
  since: "all",
  language: "",
  order: "relevance",
  isGrouped: false,
};

const DAYS: Record<Since, number | null> = { all: null, today: 0, week: 6, month: 29 };

/** The beginning of the first day that counts, by this device's calendar; null: no limit. */
export function sinceMs(since: Since, now: number): number | null {
  const days = DAYS[since];
  if (days === null) return null;
  const day = new Date(now);
  return new Date(day.getFullYear(), day.getMonth(), day.getDate() - days).getTime();
}

/** Null where nothing is filtered. */
export function filtersOf(wanted: Wanted, recordingId: string | null, now: number): SearchFilters | null {
  const from = sinceMs(wanted.since, now);
  const filters: SearchFilters = {
    ...(wanted.inRecording && recordingId !== null && { recording_ids: [recordingId] }),
    ...(wanted.speaker !== "" && { speakers: [wanted.speaker] }),
    ...(wanted.language !== "" && { languages: [wanted.language] }),
    ...(from !== null && { from }),
  };
  return Object.keys(filters).length === 0 ? null : filters;
}

/** What stands in the way of more hits, in words, each with what takes it away. */
export function narrowed(wanted: Wanted, isRecordingOpen: boolean): { words: string; undo: Partial<Wanted> }[] {
  const since = { all: "", today: "Today", week: "Last 7 days", month: "Last 30 days" }[wanted.since];
  return [
    { words: wanted.inRecording && isRecordingOpen ? "In this recording" : "", undo: { inRecording: false } },
    { words: wanted.speaker, undo: { speaker: "" } },
    { words: since, undo: { since: "all" as const } },
    { words: wanted.language, undo: { language: "" } },
  ].filter(({ words }) => words !== "");
}

/** In one recording or not; a label means somebody there only, and leads nowhere in the others. */
export function within(wanted: Wanted, inRecording: boolean): Partial<Wanted> {
  return { inRecording, ...(!inRecording && /^[SP][1-9]\d*$/.test(wanted.speaker) && { speaker: "" }) };
}

/** The options of a query; grouping one recording would hide all of its hits but one. */
export function optionsOf(wanted: Wanted, recordingId: string | null, now: number): SearchOptions {
  const filters = filtersOf(wanted, recordingId, now);
  return {
    ...(filters === null ? {} : { filters }),
    ...(wanted.order === "newest" && { sort: wanted.order }),
    ...(wanted.isGrouped && !filters?.recording_ids && { group_by: "recording" as const }),
  };
}

/** `text` with one of its words replaced by another. */
export function respelled(text: string, typed: string, used: string): string {
  const at = text.toLowerCase().lastIndexOf(typed.toLowerCase());
  return at < 0 ? used : text.slice(0, at) + used + text.slice(at + typed.length);
}
