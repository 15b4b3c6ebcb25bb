/**
 * Where sound comes from: a microphone, or a file played in real time. Both give mono s16le in chunks of 100 ms.
 *
 * Boundary: the browser's audio. What it refuses becomes a ParlanceError `source_failed` with a sentence for a person.
 */

import { CAPTURE_PROCESSOR, Chunker, type CapturedChunk, type CaptureCommand, type CaptureMessage } from "./capture.worklet.js";
import { ParlanceError } from "./errors.js";
import { parseWav, type DecodedAudio } from "./wav.js";

export interface SourceEvents {
  /** `level`: the largest magnitude in the chunk, 0 to 1. */
  chunk(pcm: Uint8Array, level: number): void;
  /** The source has no more sound: a file's end. */
  ended(): void;
  /** The source broke off: a microphone was pulled out. */
  failed(error: ParlanceError): void;
}

/** Mono s16le. Life: `open` once, `start` once, `pause` and `resume` in turn, `stop` once; `stop` delivers the rest. */
export interface AudioSource {
  /** Ask for the device or read the file. Resolves to the sample rate in Hz; throws ParlanceError. */
  open(): Promise<number>;
  start(events: SourceEvents): void;
  /** Resolves when the sound before it was delivered. */
  pause(): Promise<void>;
  resume(): void;
  stop(): Promise<void>;
}

export interface MicrophoneOptions {
  /** A stream that was opened elsewhere (a tab's or a call's sound); it is not stopped at the end. */
  stream?: MediaStream;
  constraints?: MediaTrackConstraints;
}

/** How long a worklet may take to hand over its last chunk; it takes a few milliseconds unless the context is dead. */
const FLUSH_MS_MAX = 500;

export function microphoneSource(options: MicrophoneOptions = {}): AudioSource {
  return new MicrophoneSource(options);
}

class MicrophoneSource implements AudioSource {
  readonly #options: MicrophoneOptions;
  #stream: MediaStream | null = null;
  #context: AudioContext | null = null;
  #node: AudioWorkletNode | null = null;
  #events: SourceEvents | null = null;
  #flushed: (() => void) | null = null;

  constructor(options: MicrophoneOptions) {
    this.#options = options;
  }

  async open(): Promise<number> {
    this.#stream = this.#options.stream ?? (await askForMicrophone(this.#options.constraints));
    try {
      this.#context = new AudioContext();
      await this.#context.audioWorklet.addModule(new URL("./capture.worklet.js", import.meta.url));
      await this.#context.resume();
    } catch (thrown) {
      await this.#release();
      throw new ParlanceError("source_failed", `The browser could not start its audio engine: ${describe(thrown)}`);
    }
    return this.#context.sampleRate;
  }

  start(events: SourceEvents): void {
    const [context, stream] = [this.#context, this.#stream];
    if (!context || !stream) throw new ParlanceError("source_failed", "The microphone is not open.");
    this.#events = events;
    this.#node = new AudioWorkletNode(context, CAPTURE_PROCESSOR, { numberOfOutputs: 0 });
    this.#node.port.onmessage = ({ data }: MessageEvent<CaptureMessage>) => {
      if (data === "flushed") this.#flushed?.();
      else events.chunk(new Uint8Array(data.pcm), data.peak);
    };
    context.createMediaStreamSource(stream).connect(this.#node);
    for (const track of stream.getAudioTracks()) {
      track.onended = () => {
        this.#events?.failed(new ParlanceError("source_failed", "The microphone was disconnected."));
      };
    }
  }

  pause(): Promise<void> {
    return this.#deliver("pause");
  }

  resume(): void {
    this.#node?.port.postMessage("resume" satisfies CaptureCommand);
  }

  async stop(): Promise<void> {
    await this.#deliver("flush");
    if (this.#node) {
      this.#node.port.onmessage = null;
      this.#node.disconnect();
    }
    this.#events = null;
    await this.#release();
  }

  /** Let the worklet hand over what it has. */
  async #deliver(command: CaptureCommand): Promise<void> {
    if (!this.#node) return;
    const flushed = new Promise<void>((resolve) => (this.#flushed = resolve));
    this.#node.port.postMessage(command);
    await Promise.race([flushed, delay(FLUSH_MS_MAX)]);
  }

  async #release(): Promise<void> {
    for (const track of this.#stream?.getAudioTracks() ?? []) {
      track.onended = null;
      if (!this.#options.stream) track.stop();
    }
    if (this.#context && this.#context.state !== "closed") await this.#context.close();
    this.#context = null;
  }
}

async function askForMicrophone(constraints: MediaTrackConstraints | undefined): Promise<MediaStream> {
  // Absent in pages that are neither https nor localhost, whatever TypeScript says.
  const devices = navigator.mediaDevices as MediaDevices | undefined;
  if (!devices) {
    throw new ParlanceError("source_failed", "Browsers give the microphone only to pages on localhost or over https.");
  }
  try {
    return await devices.getUserMedia({ audio: { channelCount: 1, ...constraints } });
  } catch (thrown) {
    throw new ParlanceError("source_failed", MICROPHONE_REFUSALS[nameOf(thrown)] ?? describe(thrown));
  }
}

const MICROPHONE_REFUSALS: Record<string, string> = {
  NotAllowedError: "The browser was not allowed to use the microphone. Allow it in the address bar and try again.",
  NotFoundError: "No microphone was found on this device.",
  NotReadableError: "The microphone is in use by another program.",
};

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

  async open(): Promise<number> {
    this.#audio = await decode(await this.#file.arrayBuffer());
    return this.#audio.sampleRate;
  }

  start(events: SourceEvents): void {
    if (!this.#audio) throw new ParlanceError("source_failed", "The file is not open.");
    this.#events = events;
    this.#chunker = new Chunker(this.#audio.sampleRate, ({ pcm, peak }: CapturedChunk) => {
      events.chunk(new Uint8Array(pcm), peak);
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

function nameOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.name : "";
}

function describe(thrown: unknown): string {
  return thrown instanceof Error && thrown.message ? thrown.message : String(thrown);
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
