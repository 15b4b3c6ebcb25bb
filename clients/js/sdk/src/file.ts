/**
 * A file, played in real time as if it were spoken now: mono s16le in chunks of 100 ms.
 *
 * Boundary: the browser's decoder, for everything that is not WAV.
 */

import { Chunker, type CapturedChunk } from "./capture.worklet.js";
import { ParlanceError } from "./errors.js";
import type { AudioSource, SourceEvents, SourceFormat } from "./source.js";
import { parseWav, type DecodedAudio } from "./wav.js";

/** A file, streamed as if it were spoken now. */
export function fileSource(file: Blob): AudioSource {
  return new FileSource(file);
}

/** Timers come late in hidden pages (once a second): each tick catches up with the clock. */
const TICK_MS = 100;

class FileSource implements AudioSource {
  readonly #file: Blob;
  #audio: DecodedAudio | null = null;
  #timer: ReturnType<typeof setInterval> | undefined;
  #events: SourceEvents | null = null;
  #chunker: Chunker | null = null;
  /** Samples played, and the clock's milliseconds that they stand for. */
  #played = 0;
  #startedAt = 0;

  constructor(file: Blob) {
    this.#file = file;
  }

  async open(): Promise<SourceFormat> {
    this.#audio = await decode(await this.#file.arrayBuffer());
    return { encoding: "pcm_s16le", sampleRate: this.#audio.sampleRate, channels: 1 };
  }

  start(events: SourceEvents): void {
    if (!this.#audio) throw new ParlanceError("source_failed", "The file is not open.");
    this.#events = events;
    const { sampleRate } = this.#audio;
    this.#chunker = new Chunker(sampleRate, ({ pcm, peak }: CapturedChunk) => {
      events.level(peak);
      events.chunk(new Uint8Array(pcm), (pcm.byteLength / 2 / sampleRate) * 1000);
    });
    this.resume();
  }

  async pause(): Promise<void> {
    this.#halt();
    this.#chunker?.flush();
  }

  resume(): void {
    if (!this.#audio || !this.#events || this.#timer !== undefined) return;
    this.#startedAt = performance.now() - (this.#played / this.#audio.sampleRate) * 1000;
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  async stop(): Promise<void> {
    await this.pause();
    this.#events = null;
  }

  #halt(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #tick(): void {
    const { sampleRate, channels } = this.#audio!;
    const length = channels[0]?.length ?? 0;
    const due = Math.floor(((performance.now() - this.#startedAt) / 1000) * sampleRate);
    const to = Math.min(due, length);
    this.#chunker!.push(channels, this.#played, to);
    this.#played = to;
    if (to === length) {
      this.#halt();
      this.#chunker!.flush();
      this.#events?.ended();
    }
  }
}

async function decode(bytes: ArrayBuffer): Promise<DecodedAudio> {
  const wav = parseWav(bytes);
  if (wav) return wav;
  const context = new AudioContext();
  try {
    const buffer = await context.decodeAudioData(bytes);
    const channels = Array.from({ length: buffer.numberOfChannels }, (_, at) => buffer.getChannelData(at));
    return { sampleRate: buffer.sampleRate, channels };
  } catch {
    throw new ParlanceError("source_failed", "This browser cannot read the file. WAV, MP3, M4A and Ogg usually work.");
  } finally {
    await context.close();
  }
}
