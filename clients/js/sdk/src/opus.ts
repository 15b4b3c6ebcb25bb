/**
 * Sound to Opus in a container, by the browser's MediaRecorder.
 *
 * Policy: the container is the first of WebM and Ogg that this browser writes; pieces leave in the order they were
 * made, although reading a blob takes a turn of its own; a recorder that breaks is replaced, and its container with it.
 *
 * Boundary: MediaRecorder alone. Invariant: bytes of two containers are never mixed without `newContainer` between.
 */

import { ParlanceError } from "./errors.js";

/** Speech stays clear at this rate; PCM of 48 kHz takes 24 times as much. */
export const OPUS_BITS_PER_SECOND = 32_000;

/** How much sound a piece holds: captions cannot be faster than this. */
const PIECE_MS = 200;

/** How long a recorder may take to hand over its last piece; it takes milliseconds unless the page is being closed. */
const FLUSH_MS_MAX = 1_000;

const CONTAINERS = [
  { encoding: "webm_opus", type: "audio/webm;codecs=opus" },
  { encoding: "ogg_opus", type: "audio/ogg;codecs=opus" },
] as const;

export type OpusContainer = (typeof CONTAINERS)[number];

/** What this browser can write; null when it writes no Opus (Safari). */
export function opusContainer(): OpusContainer | null {
  if (typeof MediaRecorder === "undefined") return null;
  return CONTAINERS.find(({ type }) => MediaRecorder.isTypeSupported(type)) ?? null;
}

export interface OpusEvents {
  piece(bytes: Uint8Array): void;
  newContainer(): void;
  failed(error: ParlanceError): void;
}

export class OpusRecorder {
  readonly #stream: MediaStream;
  readonly #type: string;
  readonly #events: OpusEvents;
  #recorder: MediaRecorder;
  #reading: Promise<void> = Promise.resolve();
  #isOver = false;

  constructor(stream: MediaStream, container: OpusContainer, events: OpusEvents) {
    this.#stream = stream;
    this.#type = container.type;
    this.#events = events;
    this.#recorder = this.#begin();
  }

  /** Resolves when everything before it was delivered. */
  async pause(): Promise<void> {
    if (this.#recorder.state !== "recording") return;
    // Pieces that were under way come before the `pause`, the one that is asked for comes after it.
    const recorder = this.#recorder;
    const handed = happened(recorder, "pause").then(() => happened(recorder, "dataavailable"));
    recorder.pause();
    recorder.requestData();
    await atMost(handed);
    await this.#reading;
  }

  resume(): void {
    if (this.#recorder.state === "paused") this.#recorder.resume();
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    if (this.#recorder.state === "inactive") return this.#reading;
    const stopped = happened(this.#recorder, "stop");
    this.#recorder.stop(); // Hands over the last piece, then says `stop`.
    await atMost(stopped);
    await this.#reading;
  }

  #begin(): MediaRecorder {
    const recorder = new MediaRecorder(this.#stream, {
      mimeType: this.#type,
      audioBitsPerSecond: OPUS_BITS_PER_SECOND,
    });
    recorder.addEventListener("dataavailable", ({ data }) => this.#take(data));
    recorder.addEventListener("error", () => this.#broke(recorder));
    recorder.start(PIECE_MS);
    return recorder;
  }

  #take(data: Blob): void {
    this.#reading = this.#reading.then(async () => {
      if (data.size > 0) this.#events.piece(new Uint8Array(await data.arrayBuffer()));
    });
  }

  #broke(broken: MediaRecorder): void {
    if (this.#isOver || broken !== this.#recorder) return;
    try {
      this.#recorder = this.#begin();
      this.#reading = this.#reading.then(() => this.#events.newContainer());
    } catch {
      this.#events.failed(new ParlanceError("source_failed", "The browser's recorder broke and cannot be started again."));
    }
  }
}

function happened(recorder: MediaRecorder, event: string): Promise<void> {
  return new Promise((resolve) => recorder.addEventListener(event, () => resolve(), { once: true }));
}

function atMost(wanted: Promise<void>): Promise<void> {
  return Promise.race([wanted, new Promise<void>((resolve) => setTimeout(resolve, FLUSH_MS_MAX))]);
}
