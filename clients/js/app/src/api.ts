/** The server's HTTP interface, as far as this page uses it. Errors are problem details (RFC 9457) with a `code`. */

import { ParlanceError, type CaptionSegment, type Recording } from "@parlance/client";

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

/** `seq`: the place in the room's log up to which `segments` tell everything. */
export interface Transcript {
  recording: Recording;
  segments: CaptionSegment[];
  seq: number;
}

export function signInByLink(code: string): Promise<Session> {
  return request("/v1/auth/link", { method: "POST", body: JSON.stringify({ code }) });
}

export function refreshSession(token: string): Promise<Session> {
  return request("/v1/auth/refresh", { method: "POST" }, token);
}

export function listRecordings(token: string, cursor?: string): Promise<RecordingPage> {
  return request(`/v1/recordings${cursor === undefined ? "" : `?cursor=${encodeURIComponent(cursor)}`}`, {}, token);
}

export function readTranscript(token: string, recordingId: string): Promise<Transcript> {
  return request(`/v1/recordings/${encodeURIComponent(recordingId)}/transcript.json`, {}, token);
}

export interface Ticket {
  ticket: string;
  /** Unix seconds. */
  expires_at: number;
}

/** A key to one recording's sound for an element that cannot send a token. */
export async function mediaTicket(token: string, recordingId: string): Promise<Ticket & { url: string }> {
  const path = `/v1/recordings/${encodeURIComponent(recordingId)}/media`;
  const given = await request<Ticket>("/v1/tickets", { method: "POST", body: JSON.stringify({ path }) }, token);
  return { ...given, url: `${path}?ticket=${encodeURIComponent(given.ticket)}` };
}

async function request<T>(path: string, init: RequestInit, token?: string): Promise<T> {
  const headers: Record<string, string> = { accept: "application/json" };
  if (init.body) headers["content-type"] = "application/json";
  if (token !== undefined) headers["authorization"] = `Bearer ${token}`;
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch {
    throw new ParlanceError("disconnected", "The server cannot be reached.", { retryable: true });
  }
  if (!response.ok) throw await problem(response);
  return (await response.json()) as T;
}

async function problem(response: Response): Promise<ParlanceError> {
  const details = (await response.json().catch(() => ({}))) as { code?: string; detail?: string; title?: string };
  const code = details.code ?? (response.status === 401 ? "unauthenticated" : "unavailable");
  const message = details.detail ?? details.title ?? `The server answered with ${response.status}.`;
  return new ParlanceError(code, message, { retryable: response.status >= 500 });
}
