/** The server's HTTP interface, as far as only this page uses it. */

import { httpRequest, type CaptionSegment, type Recording } from "@parlance/client";

/** `expires_at`: Unix seconds. */
export interface Session {
  token: string;
  expires_at: number;
  user: { id: string; name: string };
  tenant: { id: string; name: string };
}

export interface RecordingPage {
  recordings: Recording[];
  next_cursor?: string;
}

/**
 * `speakers`: names by label; `merged`: labels that are other ones now; `seq`: the place in the room's log up to which
 * the rest tells everything.
 */
export interface Transcript {
  recording: Recording;
  segments: CaptionSegment[];
  speakers: Record<string, string>;
  merged: Record<string, string>;
  seq: number;
}

export function signInByLink(code: string): Promise<Session> {
  return request("/v1/auth/link", { method: "POST", body: { code } });
}

export function refreshSession(token: string): Promise<Session> {
  return request("/v1/auth/refresh", { method: "POST", token });
}

export function listRecordings(token: string, cursor?: string): Promise<RecordingPage> {
  return request(`/v1/recordings${cursor === undefined ? "" : `?cursor=${encodeURIComponent(cursor)}`}`, { token });
}

export function readTranscript(token: string, recordingId: string): Promise<Transcript> {
  return request(`/v1/recordings/${encodeURIComponent(recordingId)}/transcript.json`, { token });
}

/** Of one day (UTC): `clicked`: searches of which a place was opened. */
export interface SearchDay {
  day: string;
  searches: number;
  without_hits: number;
  clicked: number;
}

export interface SearchCount {
  text: string;
  searches: number;
  without_hits: number;
  clicks: number;
}

export interface SearchAnalytics {
  days: SearchDay[];
  top: SearchCount[];
  without_hits: SearchCount[];
}

/** For owners and admins. */
export function readAnalytics(token: string, days: number): Promise<SearchAnalytics> {
  return request(`/v1/search/analytics?days=${days}`, { token });
}

export interface Ticket {
  ticket: string;
  /** Unix seconds. */
  expires_at: number;
}

/** A key to one recording's sound for an element that cannot send a token. */
export async function mediaTicket(token: string, recordingId: string): Promise<Ticket & { url: string }> {
  const path = `/v1/recordings/${encodeURIComponent(recordingId)}/media`;
  const given = await request<Ticket>("/v1/tickets", { method: "POST", body: { path }, token });
  return { ...given, url: `${path}?ticket=${encodeURIComponent(given.ticket)}` };
}

function request<T>(path: string, options: Parameters<typeof httpRequest>[2]): Promise<T> {
  return httpRequest<T>("", path, options);
}
