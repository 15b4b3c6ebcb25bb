/**
 * What the browser hears: a microphone, the sound of a tab, or both mixed.
 *
 *     microphone ─┐
 *                 ├─ mix ─┬─ worklet: 100 ms of s16le, and the level
 *     tab ────────┘       └─ MediaRecorder: Opus, when less data is wanted
 *
 * Policy: inputs can be changed while it runs, the stream of bytes goes on without a seam; an input that goes away is
 * told, never replaced silently by another one, and while none is left no sound is made up.
 *
 * Boundary: the browser's audio graph; permissions are in `devices.ts`.
 */

import { CAPTURE_PROCESSOR, type CaptureCommand, type CaptureMessage } from "./capture.worklet.js";
import { askForMicrophone, askForSharedSound } from "./devices.js";
import { ParlanceError } from "./errors.js";
import { opusContainer, OpusRecorder, type OpusContainer } from "./opus.js";
import type { AudioSource, SourceEvents, SourceFormat } from "./source.js";

export interface CaptureOptions {
  /** Device id, "default" for the one the browser prefers, null for none. Default: "default". */
  microphone?: string | null;
  /** Ask for the sound of a tab or the device too. Default: false. */
  shared?: boolean;
  /** A stream that was opened elsewhere (a call's sound); it is not stopped at the end. */
  stream?: MediaStream;
  constraints?: MediaTrackConstraints;
  /** "pcm": best accuracy. "opus": about a twentieth of the data. Default: "pcm". */
  encoding?: "opus" | "pcm";
}

type InputName = "microphone" | "shared" | "given";

interface Input {
  stream: MediaStream;
  node: MediaStreamAudioSourceNode;
}

/** How long a worklet may take to hand over its last chunk; it takes a few milliseconds unless the context is dead. */
const FLUSH_MS_MAX = 500;

export function microphoneSource(options: Omit<CaptureOptions, "shared"> = {}): CaptureSource {
  return new CaptureSource(options);
}

export class CaptureSource implements AudioSource {
  readonly #options: CaptureOptions;
  readonly #inputs = new Map<InputName, Input>();
  #streams: [InputName, MediaStream][] = [];
  #context: AudioContext | null = null;
  #mix: GainNode | null = null;
  #worklet: AudioWorkletNode | null = null;
  #container: OpusContainer | null = null;
  #opus: OpusRecorder | null = null;
  #events: SourceEvents | null = null;
  #flushed: (() => void) | null = null;
  /** Sound since the last piece of the container. */
  #pendingMs = 0;
  #isPaused = false;

  constructor(options: CaptureOptions = {}) {
    this.#options = options;
  }

  /** The microphone in use; null when there is none. */
  get microphoneId(): string | null {
    return this.#inputs.get("microphone")?.stream.getAudioTracks()[0]?.getSettings().deviceId ?? null;
  }

  async open(): Promise<SourceFormat> {
    if (this.#options.encoding === "opus") {
      this.#container = opusContainer();
      if (!this.#container) throw new ParlanceError("source_failed", "This browser cannot write Opus. Choose PCM instead.");
    }
    try {
      await this.#ask();
      this.#context = new AudioContext();
      await this.#context.audioWorklet.addModule(new URL("./capture.worklet.js", import.meta.url));
      await this.#context.resume();
    } catch (thrown) {
      await this.#release();
      if (thrown instanceof ParlanceError) throw thrown;
      throw new ParlanceError("source_failed", `The browser could not start its audio engine: ${String(thrown)}`);
    }
    if (this.#container) return { encoding: this.#container.encoding };
    return { encoding: "pcm_s16le", sampleRate: this.#context.sampleRate, channels: 1 };
  }

  /** A tab first: browsers ask for it only right after the press of a button. */
  async #ask(): Promise<void> {
    const { stream, shared = false, microphone = "default", constraints } = this.#options;
    if (stream) this.#streams.push(["given", stream]);
    if (shared) this.#streams.push(["shared", await askForSharedSound()]);
    if (!stream && microphone !== null) {
      this.#streams.push(["microphone", await askForMicrophone(exactId(microphone), constraints)]);
    }
  }

  start(events: SourceEvents): void {
    const context = this.#context;
    if (!context) throw new ParlanceError("source_failed", "The microphone is not open.");
    this.#events = events;
    this.#mix = new GainNode(context);
    this.#worklet = new AudioWorkletNode(context, CAPTURE_PROCESSOR, { numberOfOutputs: 0 });
    this.#worklet.port.onmessage = ({ data }: MessageEvent<CaptureMessage>) => this.#heard(data);
    this.#mix.connect(this.#worklet);
    for (const [name, stream] of this.#streams) this.#plug(name, stream);
    if (this.#container) this.#opus = this.#startOpus(context, this.#container, events);
  }

  /** Go on with another microphone. Throws ParlanceError, and then everything is as it was. */
  async useMicrophone(deviceId: string): Promise<void> {
    const stream = await askForMicrophone(exactId(deviceId), this.#options.constraints);
    if (!this.#events) {
      for (const track of stream.getTracks()) track.stop();
      return;
    }
    this.#unplug("microphone");
    this.#plug("microphone", stream);
    this.#events.lost(null);
    if (!this.#isPaused) this.#flow();
  }

  async pause(): Promise<void> {
    this.#isPaused = true;
    await this.#halt();
  }

  resume(): void {
    this.#isPaused = false;
    if (this.#inputs.size > 0) this.#flow();
  }

  async stop(): Promise<void> {
    await this.#deliver("flush");
    await this.#opus?.stop();
    if (this.#worklet) {
      this.#worklet.port.onmessage = null;
      this.#worklet.disconnect();
    }
    this.#events = null;
    await this.#release();
  }

  #flow(): void {
    this.#worklet?.port.postMessage("resume" satisfies CaptureCommand);
    this.#opus?.resume();
  }

  async #halt(): Promise<void> {
    await this.#deliver("pause");
    await this.#opus?.pause();
  }

  #heard(message: CaptureMessage): void {
    if (message === "flushed") {
      this.#flushed?.();
      return;
    }
    const ms = (message.pcm.byteLength / 2 / this.#context!.sampleRate) * 1000;
    this.#events?.level(message.peak);
    if (this.#container) this.#pendingMs += ms;
    else this.#events?.chunk(new Uint8Array(message.pcm), ms);
  }

  #startOpus(context: AudioContext, container: OpusContainer, events: SourceEvents): OpusRecorder {
    const destination = new MediaStreamAudioDestinationNode(context, { channelCount: 1 });
    this.#mix!.connect(destination);
    return new OpusRecorder(destination.stream, container, {
      piece: (bytes) => {
        const ms = this.#pendingMs;
        this.#pendingMs = 0;
        events.chunk(bytes, ms);
      },
      newContainer: () => events.newContainer(),
      failed: (error) => events.failed(error),
    });
  }

  // --- inputs -------------------------------------------------------------------------------------------------------

  #plug(name: InputName, stream: MediaStream): void {
    const node = new MediaStreamAudioSourceNode(this.#context!, { mediaStream: stream });
    node.connect(this.#mix!);
    this.#inputs.set(name, { stream, node });
    const [track] = stream.getAudioTracks();
    if (track) track.onended = () => this.#gone(name);
  }

  #unplug(name: InputName): void {
    const input = this.#inputs.get(name);
    if (!input) return;
    this.#inputs.delete(name);
    input.node.disconnect();
    for (const track of input.stream.getTracks()) {
      track.onended = null;
      if (name !== "given") track.stop();
    }
  }

  #gone(name: InputName): void {
    if (!this.#events) return;
    this.#unplug(name);
    if (this.#inputs.size === 0) {
      void this.#halt();
      this.#events.level(0);
    }
    if (name === "microphone") {
      const message = "The microphone was disconnected. Choose another one; the recording waits for it.";
      this.#events.lost(new ParlanceError("source_failed", message));
    } else if (this.#inputs.size === 0) this.#events.ended();
    else this.#events.lost(new ParlanceError("source_failed", "The tab is no longer shared. The microphone goes on."));
  }

  /** Let the worklet hand over what it has. */
  async #deliver(command: CaptureCommand): Promise<void> {
    if (!this.#worklet) return;
    const flushed = new Promise<void>((resolve) => (this.#flushed = resolve));
    this.#worklet.port.postMessage(command);
    await Promise.race([flushed, new Promise((resolve) => setTimeout(resolve, FLUSH_MS_MAX))]);
  }

  async #release(): Promise<void> {
    for (const name of [...this.#inputs.keys()]) this.#unplug(name);
    for (const [name, stream] of this.#streams) {
      if (name !== "given") for (const track of stream.getTracks()) track.stop();
    }
    this.#streams = [];
    if (this.#context && this.#context.state !== "closed") await this.#context.close();
    this.#context = null;
  }
}

function exactId(deviceId: string): string | undefined {
  return deviceId === "default" ? undefined : deviceId;
}
