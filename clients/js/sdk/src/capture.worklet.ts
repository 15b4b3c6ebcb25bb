/**
 * Sound to chunks: Float32 channels in, mono s16le out, 100 ms at a time.
 *
 * This file is loaded twice: as the AudioWorklet module of a microphone (a file of its own, so it imports nothing), and
 * by `file.ts` for files. Policy: channels are averaged, samples beyond [-1, 1] are clipped.
 */

/** `pcm`: s16le, mono. `peak`: the largest magnitude in it, 0 to 1. */
export interface CapturedChunk {
  pcm: ArrayBuffer;
  peak: number;
}

/** 100 ms: short enough for captions to keep up, long enough that a message's envelope does not matter. */
const CHUNKS_PER_SECOND = 10;

export class Chunker {
  readonly #samples: number;
  readonly #emit: (chunk: CapturedChunk) => void;
  #view: DataView;
  #filled = 0;
  #peak = 0;

  constructor(sampleRate: number, emit: (chunk: CapturedChunk) => void) {
    this.#samples = Math.round(sampleRate / CHUNKS_PER_SECOND);
    this.#view = new DataView(new ArrayBuffer(this.#samples * 2));
    this.#emit = emit;
  }

  /** Take the samples [from, to) of every channel. */
  push(channels: readonly Float32Array[], from = 0, to = channels[0]?.length ?? 0): void {
    for (let at = from; at < to; at += 1) {
      let sum = 0;
      for (const channel of channels) sum += channel[at]!;
      const sample = Math.max(-1, Math.min(1, sum / channels.length));
      this.#peak = Math.max(this.#peak, Math.abs(sample));
      this.#view.setInt16(this.#filled * 2, Math.round(sample * (sample < 0 ? 32768 : 32767)), true);
      this.#filled += 1;
      if (this.#filled === this.#samples) this.flush();
    }
  }

  /** Emit what is there, if anything. */
  flush(): void {
    if (this.#filled === 0) return;
    const pcm = this.#view.buffer.slice(0, this.#filled * 2) as ArrayBuffer;
    this.#emit({ pcm, peak: this.#peak });
    this.#view = new DataView(new ArrayBuffer(this.#samples * 2));
    this.#filled = 0;
    this.#peak = 0;
  }
}

/** What goes to the processor, and what comes back: `flushed` after the last chunk of a flush or pause. */
export type CaptureCommand = "flush" | "pause" | "resume";
export type CaptureMessage = CapturedChunk | "flushed";

export const CAPTURE_PROCESSOR = "parlance-capture";

// The worklet's global scope, which TypeScript's DOM library does not describe.
declare const sampleRate: number;
declare const registerProcessor: ((name: string, processor: unknown) => void) | undefined;
declare const AudioWorkletProcessor: { new (): { readonly port: MessagePort } };

if (typeof registerProcessor === "function") {
  class CaptureProcessor extends AudioWorkletProcessor {
    readonly #chunker = new Chunker(sampleRate, (chunk) => this.port.postMessage(chunk, [chunk.pcm]));
    #paused = false;

    constructor() {
      super();
      this.port.onmessage = ({ data }: MessageEvent<CaptureCommand>) => {
        this.#paused = data === "pause" || (data === "flush" && this.#paused);
        if (data === "resume") return;
        this.#chunker.flush();
        this.port.postMessage("flushed" satisfies CaptureMessage);
      };
    }

    /** Called by the browser with 128 samples at a time; true keeps the node alive. */
    process(inputs: Float32Array[][]): boolean {
      const channels = inputs[0];
      if (!this.#paused && channels && channels.length > 0) this.#chunker.push(channels);
      return true;
    }
  }
  registerProcessor(CAPTURE_PROCESSOR, CaptureProcessor);
}
