/** The server's HTTP interface, request by request. Errors are problem details (RFC 9457) with a `code`. */

import { ParlanceError } from "./errors.js";
import type { WireError } from "./protocol.js";

/** `base`: where the server is; empty for the page that it serves. An answer without a body is null. */
export async function httpRequest<T>(
  base: string,
  path: string,
  { method = "GET", body, token }: { method?: string; body?: unknown; token?: string | undefined } = {},
): Promise<T> {
  const headers: Record<string, string> = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (token !== undefined) headers["authorization"] = `Bearer ${token}`;
  let response: Response;
  try {
    response = await fetch(base + path, { method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
  } catch {
    throw new ParlanceError("disconnected", "The server cannot be reached.", { retryable: true });
  }
  if (!response.ok) throw await problem(response);
  return (response.status === 204 ? null : await response.json()) as T;
}

async function problem(response: Response): Promise<ParlanceError> {
  const details = (await response.json().catch(() => ({}))) as Partial<WireError> & { title?: string };
  return ParlanceError.fromWire({
    ...details,
    code: details.code ?? (response.status === 401 ? "unauthenticated" : "unavailable"),
    message: details.message ?? details.title ?? `The server answered with ${response.status}.`,
    retryable: response.status >= 500,
  });
}
