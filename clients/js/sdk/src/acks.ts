/** What acknowledgements carry besides `ok: true` (PROTOCOL.md); events without an entry carry nothing. */

import type { ClientEvents, EngineInfo, Logged, RecordingChunk } from "./protocol.js";

export interface JoinAck {
  room: string;
  seq: number;
  first_seq: number;
}

export interface EventsReadAck {
  events: (Logged & Record<string, unknown>)[];
  /** Where this page ends: the next page's `after_seq`. */
  seq: number;
  first_seq: number;
  more: boolean;
}

export interface StartAck {
  recording_id: string;
  stream_id: string;
  resume_token: string;
  offset: number;
  credit_bytes: number;
  engine: EngineInfo;
}

export interface RefreshAck {
  /** Unix seconds. */
  expires_at: number;
}

export interface SuggestAck {
  suggestions: string[];
}

/** A search of one's own. `at`: Unix milliseconds. */
export interface PastSearch {
  text: string;
  at: number;
  hits: number;
}

export interface HistoryAck {
  /** What was searched for, the newest first, each once. */
  queries: string[];
  entries: PastSearch[];
}

/** `cursor`: where the index's feed stood. */
export interface SubscribeAck {
  cursor: string;
}

interface AckBodies {
  "auth:refresh": RefreshAck;
  "room:join": JoinAck;
  "events:read": EventsReadAck;
  "voice:recording:start": StartAck;
  "search:suggest": SuggestAck;
  "search:history": HistoryAck;
  "search:subscribe": SubscribeAck;
}

/** Events that are answered; the high-rate audio events are not. */
export type AcknowledgedEvent = {
  [E in keyof ClientEvents]: ClientEvents[E] extends RecordingChunk ? never : E;
}[keyof ClientEvents];

export type AckOf<E extends keyof ClientEvents> = E extends keyof AckBodies ? AckBodies[E] : Record<never, never>;
