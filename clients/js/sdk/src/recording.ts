/**
 * One live recording: sound from a source into the ring, from the ring to the server, across interruptions.
 *
 * Policy: sound is taken from the first moment and never dropped; after an interruption the stream is taken over with
 * its token and goes on where the server says; when the ring is full the source is stopped with `ring_full`, and what
 * was taken is still delivered. Pause, resume and stop take their turn after the sound before them.
 *
 * Boundary: `Link` is the connection, `AudioSource` the device; the arithmetic is in `sender.ts`.
 */

import type { AckOf } from "./acks.js";
import { Emitter, type Unsubscribe } from "./emitter.js";
import { asParlanceError, ParlanceError } from "./errors.js";
import { isLost, type ConnectionState, type Link } from "./link.js";
import { Progress, type RecordingProgress } from "./progress.js";
import type { EngineInfo, RecordingAck, RecordingError, RecordingStart } from "./protocol.js";
import { Sender } from "./sender.js";
import type { AudioSource, SourceFormat } from "./source.js";

/** `reconnecting`: sound is still taken. `stopping`: the source is off, the rest is being delivered. */
export type RecordingState = "opening" | "live" | "paused" | "reconnecting" | "stopping" | "stopped" | "failed";

type Managed = "encoding" | "sample_rate" | "channels" | "recording_id" | "resume_token" | "new_container";

export interface RecordingOptions extends Omit<RecordingStart, Managed> {
  /** Sound kept on this device until the server has it safe, in bytes. */
  ringBytesMax?: number;
}

/** 64 MiB: 11 minutes of 48 kHz mono s16le, while a server that is gone longer ends the recording after 15. */
export const RING_BYTES_MAX = 64 * 1024 * 1024;

/** Pause before a call is tried again, unless the server names one. */
const RETRY_MS = 1_000;

interface Events {
  state: RecordingState;
  progress: RecordingProgress;
  /** An input of the source went away; null: it was replaced. The recording goes on. */
  lost: ParlanceError | null;
  /** A fatal error comes with the state `failed`; the others are for the reader's information. */
  error: ParlanceError;
}

export class LiveRecording {
  readonly #link: Link;
  readonly #source: AudioSource;
  readonly #request: RecordingStart;
  readonly #sender: Sender;
  readonly #progress: Progress;
  readonly #emitter = new Emitter<Events>();
  readonly #subscriptions: Unsubscribe[];
  readonly #finished: Promise<void>;
  #finish: { resolve(): void; reject(error: ParlanceError): void } | null = null;
  #state: RecordingState = "opening";
  #recordingId = "";
  #resumeToken = "";
  #streamId: string | null = null;
  #engine: EngineInfo | null = null;
  /** Grows with each interruption: an answer from before it no longer counts. */
  #era = 0;
  #isSourceOff = false;
  #isStopping = false;
  #isStopAsked = false;
  #wantsPause = false;
  #isPausedThere = false;
  /** Where the source began a new container that the server has not been told of. */
  #containerAt: number | null = null;

  /** Open the source, begin to take sound, and start the stream. Throws ParlanceError, and then everything is closed. */
  static async begin(link: Link, source: AudioSource, options: RecordingOptions = {}): Promise<LiveRecording> {
    const { ringBytesMax = RING_BYTES_MAX, ...rest } = options;
    const request: RecordingStart = { ...rest, ...wireFormat(await source.open()) };
    const recording = new LiveRecording(link, source, request, ringBytesMax);
    await recording.#begin();
    return recording;
  }

  private constructor(link: Link, source: AudioSource, request: RecordingStart, ringBytesMax: number) {
    this.#link = link;
    this.#source = source;
    this.#request = request;
    this.#sender = new Sender(ringBytesMax, request.encoding === "pcm_s16le" ? PCM_FRAME_BYTES : 1);
    this.#progress = new Progress(this.#sender);
    this.#finished = new Promise((resolve, reject) => (this.#finish = { resolve, reject }));
    this.#finished.catch(() => undefined); // `error` tells it too; a caller need not await both.
    this.#subscriptions = [
      link.onState((state) => this.#connectionChanged(state)),
      link.onAck((ack) => this.#acknowledged(ack)),
      link.onError((error) => this.#refused(error)),
    ];
  }

  get recordingId(): string {
    return this.#recordingId;
  }

  get engine(): EngineInfo | null {
    return this.#engine;
  }

  get state(): RecordingState {
    return this.#state;
  }

  get progress(): RecordingProgress {
    return this.#progress.now();
  }

  /** Resolves when the server has taken the stop, with all sound before it; rejects with the fatal error. */
  get finished(): Promise<void> {
    return this.#finished;
  }

  on<E extends keyof Events>(event: E, listener: (value: Events[E]) => void): Unsubscribe {
    return this.#emitter.on(event, listener);
  }

  async pause(): Promise<void> {
    if (this.#isSourceOff || this.#wantsPause) return;
    await this.#source.pause();
    this.#wantsPause = true;
    this.#progress.level = 0;
    if (this.#state === "live") this.#setState("paused");
    this.#pump();
    this.#report();
  }

  resume(): void {
    if (this.#isSourceOff || !this.#wantsPause) return;
    this.#wantsPause = false;
    if (this.#state === "paused") this.#setState("live");
    this.#pump();
    this.#source.resume();
  }

  /** Stop taking sound, deliver what was taken, and end the recording. */
  async stop(): Promise<void> {
    if (!this.#isStopping && this.#state !== "failed") {
      this.#isStopping = true;
      this.#setState("stopping");
      await this.#closeSource();
      this.#pump();
    }
    return this.#finished;
  }

  /** Ask for the finals of everything sent so far; `transcript:flushed` with `marker` follows them in the room. */
  async flush(marker: string): Promise<void> {
    if (this.#streamId === null) throw new ParlanceError("disconnected", "The recording is not connected.");
    await this.#link.call("voice:recording:flush", { stream_id: this.#streamId, marker });
  }

  async #begin(): Promise<void> {
    try {
      this.#source.start({
        chunk: (sound, ms) => this.#captured(sound, ms),
        level: (peak) => this.#heard(peak),
        ended: () => void this.stop().catch(() => undefined),
        lost: (error) => this.#emitter.emit("lost", error),
        failed: (error) => this.#sourceFailed(error),
        newContainer: () => (this.#containerAt = this.#sender.beginContainer()),
      });
      this.#opened(await this.#link.call("voice:recording:start", this.#request));
    } catch (thrown) {
      const error = asParlanceError(thrown);
      this.#fail(error);
      throw error;
    }
  }

  // --- from the source ----------------------------------------------------------------------------------------------

  #heard(level: number): void {
    if (this.#isSourceOff) return;
    this.#progress.level = level;
    this.#report();
  }

  #captured(sound: Uint8Array, ms: number): void {
    if (this.#isSourceOff) return;
    if (!this.#sender.append(sound)) {
      this.#isSourceOff = true;
      const minutes = Math.round(this.#progress.msOf(this.#sender.unsafeBytes) / 60_000);
      const message = `The server has not answered for ${minutes} minutes and this device can hold no more sound.`;
      this.#sourceFailed(new ParlanceError("ring_full", message));
      return;
    }
    this.#progress.capturedMs += ms;
    this.#pump();
    this.#report();
  }

  /** No more sound will come; what was taken is still delivered. */
  #sourceFailed(error: ParlanceError): void {
    this.#emitter.emit("error", error);
    void this.stop().catch(() => undefined);
  }

  async #closeSource(): Promise<void> {
    await this.#source.stop();
    this.#isSourceOff = true;
    this.#progress.level = 0;
    this.#report();
  }

  // --- to the server ------------------------------------------------------------------------------------------------

  /** Send what may be sent; then let pause, resume or stop follow. */
  #pump(): void {
    if (!this.#link.isLive || this.#streamId === null) return;
    // The last bytes of a container come with the stop, perhaps out of a pause.
    const hasRest = this.#isStopping && this.#sender.unsentBytes > 0;
    if (this.#isPausedThere && (!this.#wantsPause || hasRest)) this.#tellPause(false);
    if (this.#isPausedThere) return void (this.#isStopping && this.#isSourceOff && this.#askStop());
    for (let chunk = this.#sender.take(); chunk; chunk = this.#sender.take()) {
      this.#link.sendChunk({ stream_id: this.#streamId, offset: chunk.offset, audio: chunk.audio });
    }
    if (this.#sender.unsentBytes > 0) return;
    if (this.#isStopping && this.#isSourceOff) void this.#askStop();
    else if (this.#wantsPause && !this.#isStopping) this.#tellPause(true);
  }

  #tellPause(isPaused: boolean): void {
    this.#isPausedThere = isPaused;
    const event = isPaused ? "voice:recording:pause" : "voice:recording:resume";
    // No sound flows while paused, so a lost pause changes nothing; a refusal is worth telling.
    this.#link.call(event, { stream_id: this.#streamId! }).catch((thrown: unknown) => {
      const error = asParlanceError(thrown);
      if (!isLost(error)) this.#emitter.emit("error", error);
    });
  }

  async #askStop(): Promise<void> {
    if (this.#isStopAsked) return;
    this.#isStopAsked = true;
    const era = this.#era;
    try {
      await this.#link.call("voice:recording:stop", { stream_id: this.#streamId!, offset: this.#sender.end });
      this.#close("stopped");
    } catch (thrown) {
      this.#isStopAsked = false;
      this.#stopRefused(asParlanceError(thrown), era);
    }
  }

  #stopRefused(error: ParlanceError, era: number): void {
    if (error.code === "stream_ended") {
      this.#close("stopped"); // Our first stop arrived; its answer was lost.
    } else if (error.code === "offset_mismatch" && error.expected !== undefined) {
      const { expected } = error;
      this.#sendAgain(() => this.#sender.restart(expected));
    } else if (error.retryable || isLost(error)) {
      setTimeout(() => era === this.#era && this.#pump(), error.retryAfterMs ?? RETRY_MS);
    } else {
      this.#fail(error);
    }
  }

  // --- from the server ----------------------------------------------------------------------------------------------

  #opened(ack: AckOf<"voice:recording:start">): void {
    this.#sender.open(ack.offset, ack.credit_bytes);
    this.#recordingId = ack.recording_id;
    this.#resumeToken = ack.resume_token;
    this.#streamId = ack.stream_id;
    this.#engine = ack.engine;
    if (ack.offset === this.#containerAt) {
      void this.#changeContainer();
      return;
    }
    if (!this.#isStopping) this.#setState(this.#wantsPause ? "paused" : "live");
    this.#pump();
  }

  #acknowledged(ack: RecordingAck): void {
    if (ack.stream_id !== this.#streamId) return;
    this.#progress.acknowledged(ack);
    this.#sender.acknowledge(ack);
    if (ack.received_bytes === this.#containerAt) void this.#changeContainer();
    else this.#pump();
    this.#report();
  }

  #refused({ stream_id, error: wire, fatal, expected_offset }: RecordingError): void {
    if (stream_id !== this.#streamId) return;
    const error = ParlanceError.fromWire(wire);
    const offset = expected_offset ?? error.expected;
    if (fatal) this.#fail(error);
    // A piece of sound that could not be understood was taken all the same: sending it again would change nothing.
    else if (offset !== undefined && error.field !== "audio") this.#sendAgain(() => this.#sender.rewind(offset));
    else this.#emitter.emit("error", error);
  }

  #sendAgain(goBack: () => void): void {
    try {
      goBack();
    } catch (thrown) {
      this.#fail(asParlanceError(thrown));
      return;
    }
    this.#pump();
  }

  // --- interruptions ------------------------------------------------------------------------------------------------

  #connectionChanged(state: ConnectionState): void {
    if (state === "live") void this.#reopen();
    else if (state === "closed") this.#fail(new ParlanceError("closed", "The connection was closed."));
    else this.#interrupted();
  }

  #interrupted(): void {
    this.#era += 1;
    this.#streamId = null;
    this.#isStopAsked = false;
    if (this.#state === "live" || this.#state === "paused") this.#setState("reconnecting");
  }

  /** The server has the old container whole: open the stream anew, so that it expects another one. */
  async #changeContainer(): Promise<void> {
    this.#streamId = null;
    await this.#reopen(true);
  }

  /** Take the stream over after an interruption; tries until it works, the connection goes, or the server refuses. */
  async #reopen(isNewContainer = false): Promise<void> {
    if (this.#resumeToken === "" || this.#streamId !== null) return;
    this.#era += 1;
    const era = this.#era;
    const place: Partial<RecordingStart> = { recording_id: this.#recordingId, resume_token: this.#resumeToken };
    if (isNewContainer) place.new_container = true;
    while (era === this.#era && this.#link.isLive) {
      try {
        const ack = await this.#link.call("voice:recording:start", { ...this.#request, ...place });
        if (era !== this.#era) return;
        if (isNewContainer && ack.offset === this.#containerAt) this.#containerAt = this.#sender.endContainer();
        this.#opened(ack);
        return;
      } catch (thrown) {
        const error = asParlanceError(thrown);
        if (era !== this.#era) return;
        if (!error.retryable && !isLost(error)) {
          if (error.code === "stream_ended" && this.#isStopping) this.#close("stopped");
          else this.#fail(error);
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, error.retryAfterMs ?? RETRY_MS));
      }
    }
  }

  // --- the end ------------------------------------------------------------------------------------------------------

  #fail(error: ParlanceError): void {
    if (!this.#finish) return;
    this.#isSourceOff = true;
    void this.#source.stop();
    this.#close("failed", error);
    this.#emitter.emit("error", error);
  }

  #close(state: "stopped" | "failed", error?: ParlanceError): void {
    this.#era += 1;
    this.#streamId = null;
    for (const unsubscribe of this.#subscriptions) unsubscribe();
    this.#setState(state);
    if (error) this.#finish?.reject(error);
    else this.#finish?.resolve();
    this.#finish = null;
  }

  #setState(state: RecordingState): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#emitter.emit("state", state);
  }

  #report(): void {
    this.#emitter.emit("progress", this.progress);
  }
}

const PCM_FRAME_BYTES = 2;

function wireFormat(format: SourceFormat): Pick<RecordingStart, "channels" | "encoding" | "sample_rate"> {
  if (format.encoding !== "pcm_s16le") return { encoding: format.encoding };
  return { encoding: format.encoding, sample_rate: format.sampleRate, channels: format.channels };
}
