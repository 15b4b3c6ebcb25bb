/**
 * One recording: from the source into the ring, from the ring to the server, across interruptions.
 *
 * Policy: sound is taken from the first moment and never dropped; when the ring is full the source is stopped with
 * `ring_full`, and what was taken is still delivered. After an interruption the stream is taken over with its token and
 * goes on where the server says. The same takeover heals everything that the two sides disagree about (an offset, whether
 * the stream has ended): its answer alone counts, and it gives a new stream id, so what is told late of the old one is
 * known. A stream that somebody else took is not taken back: `lost`. Pause, resume and stop take their turn after the
 * sound before them. The states are those of `states.ts`.
 *
 * Boundary: `Link` is the connection, `AudioSource` the device; the arithmetic is in `sender.ts`.
 */

import type { AckOf } from "./acks.js";
import { Emitter, type Unsubscribe } from "./emitter.js";
import { wasStopped } from "./ended.js";
import { asParlanceError, ParlanceError } from "./errors.js";
import { isLost, type ConnectionState, type Link } from "./link.js";
import { Progress, type RecordingProgress } from "./progress.js";
import type { EngineInfo, RecordingAck, RecordingError, RecordingStart } from "./protocol.js";
import { Sender } from "./sender.js";
import type { AudioSource, SourceFormat } from "./source.js";
import { following, type RecordingState } from "./states.js";

type Managed = "encoding" | "sample_rate" | "channels" | "recording_id" | "resume_token" | "new_container";

export interface RecordingOptions extends Omit<RecordingStart, Managed> {
  /** Sound kept on this device until the server has it safe, in bytes. */
  ringBytesMax?: number;
}

/** 64 MiB: 11 minutes of 48 kHz mono s16le, while a server that is gone longer ends the recording after 15. */
export const RING_BYTES_MAX = 64 * 1024 * 1024;

/** Pause before a call is tried again, unless the server names one; twice that at random. */
const RETRY_MS = 1_000;
/** Takeovers because of a refusal, in a row, without one new byte received: the two sides will not agree any more. */
const DISAGREEMENTS_MAX = 8;
/** Refusals of a chunk after which the following ones cannot fit either. */
const OFFSET_CODES = new Set(["offset_mismatch", "credit_exceeded"]);
/** What is said of a stream that this connection does not have (any more). */
const GONE_CODES = new Set(["stream_ended", "not_found"]);

interface Events {
  state: RecordingState;
  progress: RecordingProgress;
  /** An input of the source went away; null: it was replaced. The recording goes on. */
  input: ParlanceError | null;
  /** A fatal error comes with the state `lost`; the others are for the reader's information. */
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
  #state: RecordingState = "live";
  #recordingId = "";
  #resumeToken = "";
  /** Null while the stream is not ours: no connection, or a takeover under way. */
  #streamId: string | null = null;
  #engine: EngineInfo | null = null;
  /** Grows with each interruption and takeover: an answer from before it no longer counts. */
  #era = 0;
  #disagreements = 0;
  #isSourceOff = false;
  #isStopping = false;
  #isStopAsked = false;
  #wasStopAsked = false;
  #wantsPause = false;
  #isPausedThere = false;
  /** Where the source began a new container that the server has not been told of. */
  #containerAt: number | null = null;
  #end: "stopped" | "lost" | null = null;

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

  /** Whether a pause was asked for, also while the state says something else. */
  get isPaused(): boolean {
    return this.#wantsPause;
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
    this.#pump();
    this.#changed();
  }

  resume(): void {
    if (this.#isSourceOff || !this.#wantsPause) return;
    this.#wantsPause = false;
    this.#pump();
    this.#source.resume();
    this.#changed();
  }

  /** Stop taking sound, deliver what was taken, and end the recording. */
  async stop(): Promise<void> {
    if (!this.#isStopping && this.#end === null) {
      this.#isStopping = true;
      this.#changed();
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
        lost: (error) => this.#emitter.emit("input", error),
        failed: (error) => this.#sourceFailed(error),
        newContainer: () => (this.#containerAt = this.#sender.beginContainer()),
      });
      await this.#link.call("voice:recording:start", this.#request, (ack) => this.#opened(ack));
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
    this.#changed();
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
    this.#isStopAsked = this.#wasStopAsked = true;
    const era = this.#era;
    try {
      await this.#link.call("voice:recording:stop", { stream_id: this.#streamId!, offset: this.#sender.end });
      this.#close("stopped");
    } catch (thrown) {
      if (era !== this.#era) return; // A takeover asks again.
      this.#isStopAsked = false;
      const error = asParlanceError(thrown);
      if (error.code === "offset_mismatch" || GONE_CODES.has(error.code)) this.#disagree(error);
      else if (error.retryable || isLost(error)) setTimeout(() => era === this.#era && this.#pump(), retryMs(error));
      else this.#fail(error);
    }
  }

  // --- from the server ----------------------------------------------------------------------------------------------

  #opened(ack: AckOf<"voice:recording:start">): void {
    this.#recordingId = ack.recording_id;
    this.#resumeToken = ack.resume_token;
    this.#engine = ack.engine;
    try {
      this.#sender.open(ack.offset, ack.credit_bytes);
    } catch (thrown) {
      // What the server has is transcribed, and it waits for nobody.
      this.#link.call("voice:recording:stop", { stream_id: ack.stream_id, offset: ack.offset }).catch(() => undefined);
      this.#fail(asParlanceError(thrown));
      return;
    }
    this.#streamId = ack.stream_id;
    this.#isPausedThere = false;
    this.#isStopAsked = false;
    if (ack.offset === this.#containerAt) {
      void this.#changeContainer();
      return;
    }
    this.#changed();
    this.#pump();
  }

  #acknowledged(ack: RecordingAck): void {
    if (ack.stream_id !== this.#streamId) return;
    const before = this.#sender.undeliveredBytes;
    this.#progress.acknowledged(ack);
    this.#sender.acknowledge(ack);
    if (this.#sender.undeliveredBytes < before) this.#disagreements = 0;
    if (ack.received_bytes === this.#containerAt) void this.#changeContainer();
    else this.#pump();
    this.#changed();
  }

  #refused({ stream_id, error: wire, fatal }: RecordingError): void {
    if (stream_id !== this.#streamId) return;
    const error = ParlanceError.fromWire(wire);
    if (fatal) this.#fail(error);
    else if (error.retryable || OFFSET_CODES.has(error.code) || GONE_CODES.has(error.code)) this.#disagree(error);
    // Anything else, as a piece of sound that could not be understood, was taken all the same.
    else this.#emitter.emit("error", error);
  }

  /** Take the stream over anew; at once, or, when the server only cannot take it now, a little later. */
  #disagree(error: ParlanceError): void {
    if (!error.retryable) this.#disagreements += 1;
    if (this.#disagreements > DISAGREEMENTS_MAX) {
      this.#fail(new ParlanceError("offset_mismatch", "The server and this device do not agree where the sound stands."));
      return;
    }
    this.#interrupted();
    const era = this.#era;
    if (error.retryable) setTimeout(() => era === this.#era && void this.#reopen(), retryMs(error));
    else void this.#reopen();
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
    this.#changed();
  }

  /** The server has the old container whole: open the stream anew, so that it expects another one. */
  async #changeContainer(): Promise<void> {
    this.#streamId = null;
    await this.#reopen(true);
  }

  /** Take the stream over; tries until it works, the connection goes, or the server refuses. */
  async #reopen(isNewContainer = false): Promise<void> {
    if (this.#resumeToken === "" || this.#streamId !== null) return;
    this.#era += 1;
    const era = this.#era;
    const place: Partial<RecordingStart> = { recording_id: this.#recordingId, resume_token: this.#resumeToken };
    if (isNewContainer) place.new_container = true;
    while (era === this.#era && this.#link.isLive) {
      try {
        await this.#link.call("voice:recording:start", { ...this.#request, ...place }, (ack) => {
          if (era !== this.#era) return;
          if (isNewContainer && ack.offset === this.#containerAt) this.#containerAt = this.#sender.endContainer();
          this.#opened(ack);
        });
        return;
      } catch (thrown) {
        let error = asParlanceError(thrown);
        if (era !== this.#era) return;
        if (error.code === "stream_ended" && this.#wasStopAsked) {
          try {
            if (await wasStopped(this.#link, this.#recordingId)) return this.#close("stopped");
          } catch (reason) {
            error = asParlanceError(reason);
          }
          if (era !== this.#era) return;
        }
        if (!error.retryable && !isLost(error)) {
          this.#fail(error);
          return;
        }
        if (error.code === "draining") this.#link.move(error.retryAfterMs ?? RETRY_MS);
        await new Promise((resolve) => setTimeout(resolve, retryMs(error)));
      }
    }
  }

  // --- the end ------------------------------------------------------------------------------------------------------

  #fail(error: ParlanceError): void {
    if (!this.#finish) return;
    this.#isSourceOff = true;
    void this.#source.stop();
    const told = this.#recordingId === "" ? error : withLoss(error, this.#progress.now());
    this.#close("lost", told);
    this.#emitter.emit("error", told);
  }

  #close(end: "stopped" | "lost", error?: ParlanceError): void {
    if (this.#end !== null) return;
    this.#era += 1;
    this.#streamId = null;
    this.#end = end;
    for (const unsubscribe of this.#subscriptions) unsubscribe();
    this.#changed();
    if (error) this.#finish?.reject(error);
    else this.#finish?.resolve();
    this.#finish = null;
  }

  /** Whatever changed: the state follows it, and listeners are told. */
  #changed(): void {
    const state = following(this.#state, {
      connected: this.#link.isLive && this.#streamId !== null,
      waitingMs: this.#progress.waitingMs,
      paused: this.#wantsPause,
      stopping: this.#isStopping,
      stopped: this.#end === "stopped",
      lost: this.#end === "lost",
    });
    if (state !== this.#state) {
      this.#state = state;
      this.#emitter.emit("state", state);
    }
    this.#report();
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

function retryMs({ retryAfterMs = RETRY_MS }: ParlanceError): number {
  return retryAfterMs * (1 + Math.random());
}

/** The error, with what is safe and what may be lost. */
function withLoss(error: ParlanceError, { capturedMs, keptMs }: RecordingProgress): ParlanceError {
  const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
  const told = `Safe at the server: ${seconds(capturedMs - keptMs)}. Taken here and not known to be safe: ${seconds(keptMs)}.`;
  const { retryable, retryAfterMs, field, expected, firstSeq } = error;
  return new ParlanceError(error.code, `${error.message} ${told}`, { retryable, retryAfterMs, field, expected, firstSeq });
}
