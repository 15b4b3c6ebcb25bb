/**
 * What somebody wants to be told of, and what was told. Pure.
 *
 * The list lives on this device, one for each tenant and user, and all tabs share it. Invariant: a place is counted once
 * by an alert, however often it is told: after a reload, by another tab, or in a later revision.
 */

import type { SearchFilters, SearchHit, SearchMatch } from "@parlance/client";
import type { Wanted } from "../search/asking.js";

export interface AlertMatch {
  hit: SearchHit;
  /** Unix milliseconds. */
  toldAt: number;
  isNew: boolean;
}

export interface Alert {
  id: string;
  text: string;
  /** Only in this recording. */
  recordingId: string | null;
  /** Only what this person says, by name or label; empty: anybody. */
  speaker: string;
  language: string;
  /** Where the subscription goes on; null: from now on. */
  cursor: string | null;
  /** Newest first, at most `KEPT_MAX`. */
  matches: AlertMatch[];
  /** Some may have been missed: the page was away for longer than the server remembers. */
  isBroken: boolean;
}

export const ALERTS_MAX = 30;
/** Per alert. What was told longer ago is found by a search. */
const KEPT_MAX = 50;

export function alertsKey(tenantId: string, userId: string): string {
  return `parlance.alerts ${tenantId} ${userId}`;
}

/** A list that cannot be read counts as none; so does an entry. */
export function parseAlerts(stored: string | null): Alert[] {
  try {
    const read = JSON.parse(stored ?? "[]") as Alert[];
    return read.filter(({ id, text, matches }) => typeof id === "string" && typeof text === "string" && Array.isArray(matches));
  } catch {
    return [];
  }
}

export function alertFor(text: string, wanted: Wanted, recordingId: string | null, id: string): Alert {
  const { speaker, language, inRecording } = wanted;
  return {
    ...{ id, text, speaker, language, cursor: null, matches: [], isBroken: false },
    recordingId: inRecording ? recordingId : null,
  };
}

export function sameAlert(alerts: readonly Alert[], { text, recordingId, speaker, language }: Alert): Alert | null {
  const is = (other: Alert): boolean =>
    other.text.toLowerCase() === text.toLowerCase() &&
    other.recordingId === recordingId &&
    other.speaker === speaker &&
    other.language === language;
  return alerts.find(is) ?? null;
}

export function filtersOfAlert({ recordingId, speaker, language }: Alert): SearchFilters {
  return {
    ...(recordingId !== null && { recording_ids: [recordingId] }),
    ...(speaker !== "" && { speakers: [speaker] }),
    ...(language !== "" && { languages: [language] }),
  };
}

export function withAlert(alerts: readonly Alert[], alert: Alert): Alert[] {
  return [alert, ...alerts].slice(0, ALERTS_MAX);
}

export function withChange(alerts: readonly Alert[], id: string, change: Partial<Alert>): Alert[] {
  return alerts.map((alert) => (alert.id === id ? { ...alert, ...change } : alert));
}

/** `isNew` false: this place was told before; then its newer text is taken. */
export function withMatch(alerts: readonly Alert[], id: string, match: SearchMatch, now: number): { alerts: Alert[]; isNew: boolean } {
  const alert = alerts.find((other) => other.id === id);
  if (!alert) return { alerts: [...alerts], isNew: false };
  const { hit, cursor } = match;
  const known = alert.matches.find((other) => other.hit.segment_id === hit.segment_id);
  const matches = known
    ? alert.matches.map((other) => (other === known && other.hit.rev < hit.rev ? { ...other, hit } : other))
    : [{ hit, toldAt: now, isNew: true }, ...alert.matches].slice(0, KEPT_MAX);
  return { alerts: withChange(alerts, id, { matches, cursor }), isNew: known === undefined };
}

/** Everything was seen. */
export function seen(alerts: readonly Alert[]): Alert[] {
  return alerts.map((alert) => ({
    ...alert,
    isBroken: false,
    matches: alert.matches.map((match) => (match.isNew ? { ...match, isNew: false } : match)),
  }));
}

export function newCount(alerts: readonly Alert[]): number {
  return alerts.reduce((sum, { matches }) => sum + matches.filter(({ isNew }) => isNew).length, 0);
}

/** What was told since somebody looked: the texts of the alerts, the newest last. */
export function newsWords(told: readonly string[]): string {
  const text = `“${told.at(-1)}”`;
  if (told.length === 1) return `${text} was said`;
  if (told.every((other) => other === told[0])) return `${text} was said ${told.length} times`;
  return `${told.length} places for your alerts, the newest for ${text}`;
}
