/**
 * Where sound comes from, as a recording sees it.
 *
 * Life: `open` once, `start` once, `pause` and `resume` in turn, `stop` once. Nothing is dropped by a source: what was
 * heard before a pause or a stop is delivered before either resolves.
 */

import type { ParlanceError } from "./errors.js";

/** What the chunks are: samples, or the bytes of one container from its first byte on. */
export type SourceFormat =
  | { encoding: "pcm_s16le"; sampleRate: number; channels: 1 }
  | { encoding: "ogg_opus" | "webm_opus" };

export interface SourceEvents {
  /** The next bytes of the stream, and how many milliseconds of sound came with them. */
  chunk(sound: Uint8Array, ms: number): void;
  /** The largest magnitude of the newest 100 ms, 0 to 1. */
  level(peak: number): void;
  /** There is no more sound: a file's end, or the shared tab was closed. */
  ended(): void;
  /** An input went away (a microphone was pulled out) and can be replaced; null: it was. */
  lost(error: ParlanceError | null): void;
  /** The source broke off for good. */
  failed(error: ParlanceError): void;
  /** The next chunk is the first of a new container. */
  newContainer(): void;
}

export interface AudioSource {
  /** Ask for the device or read the file. Throws ParlanceError. */
  open(): Promise<SourceFormat>;
  start(events: SourceEvents): void;
  pause(): Promise<void>;
  resume(): void;
  stop(): Promise<void>;
}
