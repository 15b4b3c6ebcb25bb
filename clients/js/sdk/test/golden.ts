/** The golden vectors of tests/golden, with binary turned into what Socket.IO delivers. */

import { readFileSync } from "node:fs";

export interface Refusal {
  message: unknown;
  code: string;
  field: string | null;
  /** JSON Schema cannot express it; the server refuses it all the same. */
  beyond_schema?: boolean;
}

export interface ClientVectors {
  valid: Record<string, unknown>;
  invalid: Record<string, Refusal>;
}

function read<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`../../../../tests/golden/${name}.json`, import.meta.url), "utf8")) as T;
}

export const clientVectors = read<Record<string, ClientVectors>>("client_events");
/** Facts of a recording and the state after them, one walk after the other; both clients take them. */
export const stateWalks = read<{ walk: string; steps: [Record<string, boolean | number>, string][] }[]>("states");
export const serverVectors = read<Record<string, Record<string, unknown>[]>>("server_events");

/** `{"$b64": ...}` becomes what `use` makes of it. */
export function withBinary(value: unknown, use: (base64: string) => unknown): unknown {
  if (Array.isArray(value)) return value.map((item) => withBinary(item, use));
  if (typeof value !== "object" || value === null) return value;
  if ("$b64" in value) return use(value.$b64 as string);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, withBinary(item, use)]));
}

/** A message as the server received it, in the vectors' notation. */
export function asVector(value: unknown): unknown {
  if (Buffer.isBuffer(value)) return { $b64: value.toString("base64") };
  if (Array.isArray(value)) return value.map(asVector);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, asVector(item)]));
}
