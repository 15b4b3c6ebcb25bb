/** The one error a caller sees, whether the server refused, the connection failed, or this device cannot do it. */

import type { WireError } from "./protocol.js";

/** Codes of the protocol that callers tell apart; the server may send others. */
export type ServerCode =
  | "bad_request"
  | "unauthenticated"
  | "forbidden"
  | "not_found"
  | "conflict"
  | "offset_mismatch"
  | "credit_exceeded"
  | "stream_ended"
  | "recording_busy"
  | "overloaded"
  | "rate_limited"
  | "quota_exceeded"
  | "history_truncated"
  | "slow_consumer"
  | "draining"
  | "unavailable"
  | "internal";

/**
 * Codes that arise here: `disconnected` (nothing was sent, or its answer is unknown), `timeout` (no answer in time),
 * `closed` (the client was closed), `ring_full` (too much audio waits for the server), `source_failed` (microphone or
 * file), `cancelled`.
 */
export type LocalCode = "disconnected" | "timeout" | "closed" | "ring_full" | "source_failed" | "cancelled";

// The intersection keeps completion for the known codes while any string is accepted.
export type ErrorCode = ServerCode | LocalCode | (string & Record<never, never>);

export interface ErrorDetails {
  retryable?: boolean | undefined;
  retryAfterMs?: number | undefined;
  field?: string | undefined;
  expected?: number | undefined;
  firstSeq?: number | undefined;
}

/**
 * `expected`: the byte offset at which the server goes on; `firstSeq`: the oldest event left; where the code has them.
 */
export class ParlanceError extends Error {
  override readonly name = "ParlanceError";
  readonly code: ErrorCode;
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;
  readonly field: string | undefined;
  readonly expected: number | undefined;
  readonly firstSeq: number | undefined;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message);
    this.code = code;
    this.retryable = details.retryable ?? false;
    this.retryAfterMs = details.retryAfterMs;
    this.field = details.field;
    this.expected = details.expected;
    this.firstSeq = details.firstSeq;
  }

  /** From the `error` object of an acknowledgement or event. */
  static fromWire(error: WireError): ParlanceError {
    return new ParlanceError(error.code, error.message, {
      retryable: error.retryable,
      retryAfterMs: error.retry_after_ms,
      field: error.field,
      expected: error.expected,
      firstSeq: error.first_seq,
    });
  }
}

/** Any thrown value as a ParlanceError; unknown ones become `internal`. */
export function asParlanceError(thrown: unknown): ParlanceError {
  if (thrown instanceof ParlanceError) return thrown;
  return new ParlanceError("internal", thrown instanceof Error ? thrown.message : String(thrown));
}
