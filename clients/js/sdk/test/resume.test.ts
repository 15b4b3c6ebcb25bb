/** Ten minutes without a network, in virtual time: a link and a server that are only numbers. */

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { AckOf, AcknowledgedEvent } from "../src/acks.js";
import { Emitter } from "../src/emitter.js";
import type { ConnectionState, Link } from "../src/link.js";
import type { ClientEvents, RecordingAck, RecordingChunk, RecordingError } from "../src/protocol.js";
import { LiveRecording } from "../src/recording.js";
import type { AudioSource, SourceEvents, SourceFormat } from "../src/source.js";

const RATE = 48_000;
const BYTES_PER_S = RATE * 2;
const CHUNK_MS = 100;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** The byte at any place of the sound. */
const soundAt = (offset: number): number => (offset * 7 + (offset >> 16)) % 251;

/** Speaks all the time, 100 ms at a time. */
class Speaker implements AudioSource {
  #timer: ReturnType<typeof setInterval> | undefined;
  spoken = 0;

  async open(): Promise<SourceFormat> {
    return { encoding: "pcm_s16le", sampleRate: RATE, channels: 1 };
  }

  start(events: SourceEvents): void {
    this.#timer = setInterval(() => {
      const sound = Uint8Array.from({ length: (BYTES_PER_S * CHUNK_MS) / 1000 }, (_, at) => soundAt(this.spoken + at));
      this.spoken += sound.length;
      events.chunk(sound, CHUNK_MS);
    }, CHUNK_MS);
  }

  async pause(): Promise<void> {}
  resume(): void {}

  async stop(): Promise<void> {
    clearInterval(this.#timer);
  }
}

interface Told {
  state: ConnectionState;
  ack: RecordingAck;
  error: RecordingError;
}

/** A connection and its server: 20 s of credit, an acknowledgement every half second, durable a second later. */
class Network implements Link {
  isLive = true;
  received = 0;
  durable = 0;
  wrong = 0;
  beyondCredit = 0;
  isStopped = false;
  streams = 0;
  readonly #told = new Emitter<Told>();
  readonly #credit = 20 * BYTES_PER_S;

  constructor() {
    setInterval(() => this.#acknowledge(), 500);
  }

  cut(): void {
    this.isLive = false;
    this.received = this.durable; // The node went with it.
    this.#told.emit("state", "reconnecting");
  }

  heal(): void {
    this.isLive = true;
    this.#told.emit("state", "live");
  }

  async call<E extends AcknowledgedEvent>(
    event: E,
    body: ClientEvents[E],
    onAck?: (ack: AckOf<E>) => void,
  ): Promise<AckOf<E>> {
    const ack = this.#answer(event, body);
    onAck?.(ack);
    return ack;
  }

  #answer<E extends AcknowledgedEvent>(event: E, body: ClientEvents[E]): AckOf<E> {
    if (event === "voice:recording:start") {
      this.streams += 1;
      const place = { offset: this.received, credit_bytes: this.#granted - this.received };
      const ids = { recording_id: "r", stream_id: `st_${this.streams}`, resume_token: "t" };
      return { ...ids, ...place, engine: { name: "", model: "", state: "ready", notice: null } } as unknown as AckOf<E>;
    }
    if (event === "voice:recording:stop") {
      expect((body as ClientEvents["voice:recording:stop"]).offset).toBe(this.received);
      this.isStopped = true;
    }
    return {} as AckOf<E>;
  }

  sendChunk({ stream_id, offset, audio }: RecordingChunk): void {
    expect([stream_id, offset]).toEqual([`st_${this.streams}`, this.received]);
    const bytes = audio as Uint8Array;
    for (let at = 0; at < bytes.length; at += 997) if (bytes[at] !== soundAt(offset + at)) this.wrong += 1;
    this.received += bytes.length;
    if (this.received > this.#granted) this.beyondCredit += 1;
  }

  move(): void {}
  onState = (listener: (state: ConnectionState) => void) => this.#told.on("state", listener);
  onAck = (listener: (ack: RecordingAck) => void) => this.#told.on("ack", listener);
  onError = (listener: (error: RecordingError) => void) => this.#told.on("error", listener);

  get #granted(): number {
    return this.durable + this.#credit;
  }

  #acknowledge(): void {
    if (!this.isLive) return;
    const ack = { stream_id: `st_${this.streams}`, received_bytes: this.received, durable_bytes: this.durable };
    this.#told.emit("ack", {
      ...ack,
      credit_bytes: this.#granted - this.received,
      ...{ received_ms: 0, processed_ms: 0, committed_ms: 0, lag_ms: 0, degraded: false },
    });
    this.durable = this.received;
  }
}

test("ten minutes without a network are delivered whole, faster than they were spoken", async () => {
  const [network, speaker] = [new Network(), new Speaker()];
  const recording = await LiveRecording.begin(network, speaker);
  const states: [string, number][] = [];
  const since = Date.now();
  recording.on("state", (state) => states.push([state, (Date.now() - since) / 1000]));

  await vi.advanceTimersByTimeAsync(30_000);
  expect(states).toEqual([]); // On time, nothing flickers.
  network.cut();
  await vi.advanceTimersByTimeAsync(600_000);
  expect(recording.progress.keptMs).toBeGreaterThanOrEqual(600_000);
  expect(recording.progress.roomMs).toBeGreaterThan(60_000);
  network.heal();
  await vi.advanceTimersByTimeAsync(30_000);
  expect(states.map(([state]) => state)).toEqual(["reconnecting", "catching up", "live"]);
  expect(states[2]![1] - states[1]![1]).toBeLessThan(600 / 20); // More than twenty times as fast as it was spoken.

  const stopped = recording.stop();
  await vi.advanceTimersByTimeAsync(2_000);
  await stopped;
  expect(recording.state).toBe("stopped");
  expect([network.received, network.wrong, network.beyondCredit]).toEqual([speaker.spoken, 0, 0]);
  expect(speaker.spoken).toBe(660 * BYTES_PER_S);
});

test("longer than the ring lasts: what was taken is delivered, and the reason is told", async () => {
  const [network, speaker] = [new Network(), new Speaker()];
  const recording = await LiveRecording.begin(network, speaker, { ringBytesMax: 60 * BYTES_PER_S });
  const told: string[] = [];
  recording.on("error", ({ code }) => told.push(code));
  await vi.advanceTimersByTimeAsync(5_000);
  network.cut();
  await vi.advanceTimersByTimeAsync(120_000);
  expect([told, recording.state]).toEqual([["ring_full"], "stopping"]);
  const taken = Math.round((recording.progress.capturedMs / 1000) * BYTES_PER_S);
  network.heal();
  await vi.advanceTimersByTimeAsync(10_000);
  await recording.finished;
  expect([recording.state, network.received, network.wrong]).toEqual(["stopped", taken, 0]);
});

test("a flickering network neither loses nor doubles", async () => {
  const [network, speaker] = [new Network(), new Speaker()];
  const recording = await LiveRecording.begin(network, speaker);
  for (let round = 0; round < 200; round += 1) {
    await vi.advanceTimersByTimeAsync(((round * 7_919) % 37) * 100);
    network.cut();
    await vi.advanceTimersByTimeAsync(((round * 104_729) % 53) * 100);
    network.heal();
  }
  const stopped = recording.stop();
  await vi.advanceTimersByTimeAsync(10_000);
  await stopped;
  expect([network.received, network.wrong, network.streams]).toEqual([speaker.spoken, 0, 201]);
});
