/** Recording, against a real Socket.IO server: every byte arrives once, in order, whatever happens to the line. */

import { afterEach, beforeEach, expect, test } from "vitest";
import {
  connect,
  type AudioSource,
  type LiveRecording,
  type Parlance,
  type RecordingOptions,
  type SourceEvents,
  type SourceFormat,
} from "../src/index.js";
import { asVector, clientVectors } from "./golden.js";
import { FakeServer, refusal } from "./server.js";

/** A source that the test plays by hand: 100 ms of numbered samples at a time. */
class HandSource implements AudioSource {
  events: SourceEvents | null = null;
  isStopped = false;
  isPaused = false;
  played = Buffer.alloc(0);

  constructor(
    readonly rate = 48_000,
    readonly encoding?: "webm_opus",
  ) {}

  async open(): Promise<SourceFormat> {
    return this.encoding ? { encoding: this.encoding } : { encoding: "pcm_s16le", sampleRate: this.rate, channels: 1 };
  }

  start(events: SourceEvents): void {
    this.events = events;
  }

  async pause(): Promise<void> {
    this.isPaused = true;
  }

  resume(): void {
    this.isPaused = false;
  }

  async stop(): Promise<void> {
    if (!this.isStopped) this.play(1, 10); // The last, short chunk.
    this.isStopped = true;
  }

  play(chunks: number, samples = this.rate / 10): void {
    for (let at = 0; at < chunks; at += 1) {
      const first = this.played.length / 2;
      const pcm = Int16Array.from({ length: samples }, (_, sample) => (first + sample) % 30_000);
      const bytes = new Uint8Array(pcm.buffer);
      this.played = Buffer.concat([this.played, bytes]);
      this.events!.level(0.5);
      this.events!.chunk(bytes, (samples / this.rate) * 1000);
    }
  }
}

const QUICK = { firstMs: 20, maxMs: 100 };

let server: FakeServer;
let client: Parlance;
let source: HandSource;

beforeEach(async () => {
  server = await FakeServer.start();
  client = connect({ url: server.url, token: "tok", backoff: QUICK });
  source = new HandSource();
  await client.ready;
});

afterEach(async () => {
  client.close();
  await server.close();
});

const record = (options: RecordingOptions = {}): Promise<LiveRecording> => client.record(source, options);
const arrived = (): number => server.stream!.bytes.length;

test("every byte arrives, and the stop comes after the last", async () => {
  const recording = await record({ title: "Stand-up" });
  source.play(5);
  await recording.stop();
  expect(server.stream!.bytes.equals(source.played)).toBe(true);
  expect([server.stream!.isStopped, recording.state, source.isStopped]).toEqual([true, "stopped", true]);
  expect(recording.progress.capturedMs).toBeCloseTo(500.2, 1);
});

test("what it sends equals the golden vectors", async () => {
  source = new HandSource(48_000);
  const recording = await record({ title: "Stand-up" });
  source.events!.chunk(Uint8Array.from([0, 0, 1, 0, 255, 127, 0, 128]), 0);
  await recording.flush("m_1");
  await recording.pause();
  await server.until(() => server.sent("voice:recording:pause").length === 1);
  recording.resume();
  await server.until(() => server.sent("voice:recording:resume").length === 1);
  server.cut();
  await server.until(() => server.sent("voice:recording:start").length === 2);
  const valid = (event: string, name: string) => [event, clientVectors[event]!.valid[name]];
  expect(server.received.map(([event, body]) => [event, asVector(body)])).toEqual([
    valid("voice:recording:start", "microphone"),
    valid("voice:recording:chunk", "first"),
    valid("voice:recording:flush", "minimal"),
    valid("voice:recording:pause", "minimal"),
    valid("voice:recording:resume", "minimal"),
    valid("voice:recording:start", "taken over"),
  ]);
});

test("sound is taken while the line is cut, and goes on where the server stands", async () => {
  const recording = await record();
  const states: string[] = [];
  recording.on("state", (state) => states.push(state));
  for (let round = 0; round < 3; round += 1) {
    source.play(4);
    await server.until(() => arrived() >= source.played.length / 2);
    if (round === 1) server.acknowledge();
    server.cut();
    source.play(3);
    await server.until(() => arrived() === source.played.length);
  }
  await recording.stop();
  expect(server.stream!.bytes.equals(source.played)).toBe(true);
  expect(states.filter((state) => state === "reconnecting")).toHaveLength(3);
  expect(server.streams).toBe(4);
});

test("a lost chunk is sent again", async () => {
  const recording = await record();
  server.lost.add(9_600);
  source.play(6);
  await server.until(() => arrived() === source.played.length);
  await recording.stop();
  expect(server.stream!.bytes.equals(source.played)).toBe(true);
});

test("a lost tail is sent again when the stop is refused", async () => {
  const recording = await record();
  source.play(2);
  server.lost.add(9_600);
  await recording.stop();
  expect(server.stream!.bytes.equals(source.played)).toBe(true);
  expect(server.sent("voice:recording:stop")).toHaveLength(2);
});

test("never sends beyond the credit", async () => {
  server.credit = 25_000;
  const recording = await record();
  source.play(20);
  const stopped = recording.stop();
  while (recording.state !== "stopped") {
    const before = arrived();
    server.acknowledge();
    await server.until(() => recording.state === "stopped" || arrived() > before);
  }
  await stopped;
  expect(server.stream!.bytes.equals(source.played)).toBe(true);
  expect(server.beyondCredit).toBe(0);
});

test("a full ring ends the recording with a reason and loses nothing that was taken", async () => {
  server.credit = 10_000;
  const recording = await record({ ringBytesMax: 48_000 });
  const errors: string[] = [];
  recording.on("error", (error) => errors.push(error.code));
  source.play(6);
  await server.until(() => errors.length === 1);
  expect([errors, recording.state, source.isStopped]).toEqual([["ring_full"], "stopping", true]);
  while (recording.state !== "stopped") {
    const before = arrived();
    server.acknowledge();
    await server.until(() => recording.state === "stopped" || arrived() > before);
  }
  expect(server.stream!.bytes.equals(source.played.subarray(0, 48_000))).toBe(true);
});

test("only what is durable leaves the ring", async () => {
  server.credit = 48_000;
  const recording = await record({ ringBytesMax: 48_000 });
  const lags: number[] = [];
  recording.on("progress", ({ health }) => lags.push(health.lagMs));
  source.play(5);
  await server.until(() => arrived() === 48_000);
  server.acknowledge(9_600);
  await server.until(() => (lags.at(-1) ?? 0) > 0);
  source.play(1);
  expect(recording.state).toBe("live");
  source.play(1);
  expect(recording.state).toBe("stopping");
});

test("pause and resume take their turn with the sound", async () => {
  server.credit = 9_600;
  const recording = await record();
  source.play(2);
  await recording.pause();
  expect([recording.state, source.isPaused]).toEqual(["paused", true]);
  await server.until(() => arrived() === 9_600);
  expect(server.sent("voice:recording:pause")).toEqual([]);
  server.acknowledge();
  await server.until(() => server.sent("voice:recording:pause").length === 1);
  expect(arrived()).toBe(19_200);
  recording.resume();
  server.acknowledge();
  await server.until(() => server.sent("voice:recording:resume").length === 1);
  source.play(1);
  await server.until(() => arrived() === 28_800);
  const order = server.received.map(([event]) => event.replace("voice:recording:", ""));
  expect(order).toEqual(["start", "chunk", "chunk", "pause", "resume", "chunk"]);
});

test("a stop whose answer was lost counts", async () => {
  const recording = await record();
  source.play(1);
  server.overrides.set("voice:recording:stop", (_, socket) => {
    server.overrides.delete("voice:recording:stop");
    server.end();
    socket.conn.close();
    return null;
  });
  await recording.stop();
  expect([recording.state, server.sent("voice:recording:start").length]).toEqual(["stopped", 2]);
});

test("a stop while the line is cut is delivered later", async () => {
  const recording = await record();
  source.play(1);
  await server.until(() => arrived() === 9_600);
  server.cut();
  source.play(3);
  await recording.stop();
  expect(server.stream!.bytes.equals(source.played)).toBe(true);
});

test("a busy server is asked again, a refusal ends it", async () => {
  const recording = await record();
  let refusals = 0;
  server.overrides.set("voice:recording:start", () => {
    refusals += 1;
    if (refusals === 1) return refusal("overloaded", { retryable: true, retry_after_ms: 5 });
    return refusal("stream_ended");
  });
  server.cut();
  await expect(recording.finished).rejects.toMatchObject({ code: "stream_ended" });
  expect([refusals, recording.state, source.isStopped]).toEqual([2, "lost", true]);
});

test("a fatal error ends it, another is only told", async () => {
  const recording = await record();
  const errors: string[] = [];
  recording.on("error", ({ code }) => errors.push(code));
  const tell = (code: string, fatal: boolean): void => {
    const error = { code, message: "", retryable: false };
    server.emit("voice:recording:error", { stream_id: "st_1", error, fatal });
  };
  tell("decode_failed", false);
  tell("internal", true);
  await expect(recording.finished).rejects.toMatchObject({ code: "internal" });
  expect([errors, recording.state]).toEqual([["decode_failed", "internal"], "lost"]);
});

test("a client that is closed takes the source with it", async () => {
  const recording = await record();
  client.close();
  await expect(recording.finished).rejects.toMatchObject({ code: "closed" });
  expect([recording.state, source.isStopped]).toEqual(["lost", true]);
});

test("a refused start closes the source", async () => {
  server.overrides.set("voice:recording:start", () => refusal("quota_exceeded"));
  await expect(record()).rejects.toMatchObject({ code: "quota_exceeded" });
  expect(source.isStopped).toBe(true);
});

test("a microphone that is pulled out ends the recording with what it heard", async () => {
  const recording = await record();
  source.play(2);
  const { ParlanceError } = await import("../src/index.js");
  source.events!.failed(new ParlanceError("source_failed", "The microphone was disconnected."));
  await recording.finished;
  expect(server.stream!.bytes.equals(source.played)).toBe(true);
});

test("a file that ends stops its recording", async () => {
  const recording = await record();
  source.play(2);
  source.events!.ended();
  await recording.finished;
  expect(server.stream!.isStopped).toBe(true);
});

test("a container says so when it opens, and what it holds is told in sound, not in bytes", async () => {
  source = new HandSource(48_000, "webm_opus");
  const recording = await record();
  expect(server.sent("voice:recording:start")[0]).toEqual({ encoding: "webm_opus" });
  source.events!.chunk(Uint8Array.from({ length: 801 }), 200);
  await server.until(() => arrived() === 801);
  expect([recording.progress.capturedMs, recording.progress.keptMs]).toEqual([200, 200]);
  server.cut();
  await server.until(() => recording.state === "reconnecting");
  source.events!.chunk(Uint8Array.from({ length: 801 }), 200);
  expect(recording.progress.waitingMs).toBe(400);
  await recording.stop();
});

test("a container that begins anew waits until the server has the old one whole, and is announced", async () => {
  source = new HandSource(48_000, "webm_opus");
  server.credit = 20_000;
  const recording = await record();
  source.play(3);
  source.events!.newContainer();
  const border = source.played.length;
  source.play(2);
  for (let sent = 0; server.sent("voice:recording:start").length === 1; sent = arrived()) {
    expect(sent).toBeLessThanOrEqual(border);
    server.acknowledge();
    await server.until(() => arrived() > sent || server.sent("voice:recording:start").length === 2);
  }
  expect(arrived()).toBe(border);
  expect(server.sent("voice:recording:start")[1]).toMatchObject({ recording_id: "r_1", new_container: true });
  const stopped = recording.stop();
  while (recording.state !== "stopped") {
    const before = arrived();
    server.acknowledge();
    await server.until(() => recording.state === "stopped" || arrived() > before);
  }
  await stopped;
  expect(server.stream!.bytes.equals(source.played)).toBe(true);
});

test("after an interruption at the border the new container is announced too", async () => {
  source = new HandSource(48_000, "webm_opus");
  const recording = await record();
  source.play(2);
  await server.until(() => arrived() === source.played.length);
  source.events!.newContainer();
  source.play(1);
  server.cut();
  await server.until(() => arrived() === source.played.length);
  expect(server.sent("voice:recording:start").map((start) => start["new_container"] ?? false)).toEqual([false, false, true]);
  await recording.stop();
});

test("a piece that could not be understood is told, and not sent again", async () => {
  const recording = await record();
  source.play(2);
  await server.until(() => arrived() === source.played.length);
  const told: string[] = [];
  recording.on("error", ({ code }) => told.push(code));
  const error = { code: "decode_failed", message: "", retryable: false, field: "audio" };
  server.emit("voice:recording:error", { stream_id: "st_1", error, fatal: false, expected_offset: 9_600 });
  await server.until(() => told.length === 1);
  await recording.stop();
  expect(server.sent("voice:recording:chunk")).toHaveLength(3);
  expect(server.stream!.bytes.equals(source.played)).toBe(true);
});

test("an input that goes away is told and does not end the recording", async () => {
  const recording = await record();
  const told: (string | null)[] = [];
  recording.on("input", (error) => told.push(error && error.message));
  const { ParlanceError } = await import("../src/index.js");
  source.events!.lost(new ParlanceError("source_failed", "gone"));
  source.events!.lost(null);
  expect([told, recording.state]).toEqual([["gone", null], "live"]);
  await recording.stop();
});

test("bytes that come out of a pause wait for its end, and a stop is such an end", async () => {
  const recording = await record();
  source.play(1);
  await recording.pause();
  await server.until(() => server.sent("voice:recording:pause").length === 1);
  source.play(1);
  await recording.stop();
  const order = server.received.map(([event]) => event.replace("voice:recording:", ""));
  expect(order).toEqual(["start", "chunk", "pause", "resume", "chunk", "stop"]);
  expect(server.stream!.bytes.equals(source.played)).toBe(true);
});

test("bytes that a node took with it are sent again, and its late answers count for nothing", async () => {
  const recording = await record();
  source.play(4);
  await server.until(() => arrived() === source.played.length);
  server.acknowledge(9_600);
  const late = { received_bytes: 38_400, durable_bytes: 38_400, credit_bytes: 0, lag_ms: 0, degraded: false };
  server.stream!.bytes = server.stream!.bytes.subarray(0, 9_600);
  server.cut();
  await server.until(() => recording.state === "live" && arrived() === source.played.length);
  server.emit("voice:recording:ack", { stream_id: "st_1", ...late });
  const error = { code: "internal", message: "", retryable: false };
  server.emit("voice:recording:error", { stream_id: "st_1", error, fatal: true });
  source.play(1);
  await recording.stop();
  expect(server.stream!.bytes.equals(source.played)).toBe(true);
});

test("bytes that nobody has any more end the recording, and name what is missing", async () => {
  const recording = await record();
  source.play(4);
  await server.until(() => arrived() === source.played.length);
  server.acknowledge();
  await server.until(() => recording.progress.keptMs === 0);
  server.stream!.bytes = server.stream!.bytes.subarray(0, 9_600);
  server.cut();
  await expect(recording.finished).rejects.toMatchObject({
    code: "offset_mismatch",
    message: expect.stringContaining("bytes 9600 to 38400"),
  });
  expect([recording.state, source.isStopped]).toEqual(["lost", true]);
  await server.until(() => server.stream!.isStopped); // It does not wait for this client for ever.
});

test("somebody else's bytes are not mixed with ours", async () => {
  const recording = await record();
  source.play(1);
  await server.until(() => arrived() === 9_600);
  server.stream!.bytes = Buffer.concat([server.stream!.bytes, Buffer.alloc(20)]);
  server.cut();
  await expect(recording.finished).rejects.toThrow("somebody else");
  expect(recording.state).toBe("lost");
});

test("two clients with one token do not take the stream from each other for ever", async () => {
  const first = await record();
  const told: string[] = [];
  first.on("error", ({ code, message }) => told.push(`${code} ${message}`));
  source.play(2);
  await server.until(() => arrived() === source.played.length);
  // The other one takes the stream over; the server tells the first.
  const other = connect({ url: server.url, token: "tok", backoff: QUICK });
  await other.ready;
  const { recordingId } = first;
  const start = { encoding: "pcm_s16le", sample_rate: 48_000, channels: 1 } as const;
  const taken = await other.call("voice:recording:start", { ...start, recording_id: recordingId, resume_token: "res_1" });
  const error = { code: "recording_busy", message: "Another connection took this stream over.", retryable: false };
  server.emit("voice:recording:error", { stream_id: "st_1", error, fatal: true });
  await expect(first.finished).rejects.toMatchObject({ code: "recording_busy" });
  expect([first.state, source.isStopped, told.length]).toEqual(["lost", true, 1]);
  expect(told[0]).toMatch(/Safe at the server: 0\.0 s\. Taken here and not known to be safe: 0\.2 s\./);
  server.cut(); // Both come back; only one wants the stream.
  await server.until(() => client.state === "live" && other.state === "live" && server.connections === 4);
  await other.call("events:read", { room: "tenant:t_1", after_seq: 0 });
  await client.call("events:read", { room: "tenant:t_1", after_seq: 0 });
  expect([server.streams, taken.stream_id]).toEqual([2, "st_2"]);
  other.close();
});

test("a server that cannot take sound for a while is asked again, and takes all of it", async () => {
  const recording = await record();
  source.play(1);
  await server.until(() => arrived() === 9_600);
  const states: string[] = [];
  recording.on("state", (state) => states.push(state));
  let refusals = 0;
  server.overrides.set("voice:recording:chunk", (_, socket) => {
    refusals += 1;
    const error = { code: "unavailable", message: "The disk is full.", retryable: true, retry_after_ms: 5 };
    const { streamId: stream_id } = server.stream!;
    socket.emit("voice:recording:error", { stream_id, error, fatal: false, expected_offset: arrived() });
    return null;
  });
  source.play(3);
  await server.until(() => refusals >= 40); // More often than two sides may disagree.
  server.overrides.delete("voice:recording:chunk");
  await recording.stop();
  expect(server.stream!.bytes.equals(source.played)).toBe(true);
  expect(states).toContain("reconnecting");
});

test("two sides that never agree end it", async () => {
  const recording = await record();
  source.play(1);
  await server.until(() => arrived() === 9_600);
  server.overrides.set("voice:recording:stop", () => refusal("offset_mismatch", { expected: 0 }));
  await expect(recording.stop()).rejects.toThrow("do not agree");
  expect([recording.state, server.streams]).toEqual(["lost", 9]);
});

test("interruptions without a byte in between are no disagreement", async () => {
  const recording = await record();
  source.play(1);
  await recording.pause();
  await server.until(() => server.sent("voice:recording:pause").length === 1);
  for (let cuts = 1; cuts <= 12; cuts += 1) {
    server.cut();
    await server.until(() => server.sent("voice:recording:pause").length === 1 + cuts); // The new stream pauses too.
    expect(recording.state).toBe("paused");
  }
  recording.resume();
  source.play(1);
  await recording.stop();
  expect(server.stream!.bytes.equals(source.played)).toBe(true);
});

test("a stop that never arrived before the stream was given up is no stop", async () => {
  const recording = await record();
  source.play(1);
  await server.until(() => arrived() === 9_600);
  server.overrides.set("voice:recording:start", () => refusal("overloaded", { retryable: true, retry_after_ms: 5 }));
  server.cut();
  source.play(3);
  const stopped = recording.stop();
  server.end("abandoned");
  server.overrides.delete("voice:recording:start");
  await expect(stopped).rejects.toMatchObject({ code: "stream_ended" });
  expect(recording.state).toBe("lost");
});

test("a stop whose answer was lost counts only if the log agrees", async () => {
  const recording = await record();
  source.play(1);
  server.overrides.set("voice:recording:stop", (_, socket) => {
    server.overrides.delete("voice:recording:stop");
    server.end("abandoned");
    server.append(`recording:${recording.recordingId}`, 250); // Revisions that came later.
    socket.conn.close();
    return null;
  });
  await expect(recording.stop()).rejects.toMatchObject({ code: "stream_ended" });
  expect(recording.state).toBe("lost");
});

test("a stream that this connection does not have any more is taken over", async () => {
  const recording = await record();
  source.play(1);
  await server.until(() => arrived() === 9_600);
  const error = { code: "stream_ended", message: "", retryable: false };
  server.emit("voice:recording:error", { stream_id: "st_1", error, fatal: false });
  await server.until(() => server.streams === 2 && recording.state === "live");
  source.play(1);
  await recording.stop();
  expect(server.stream!.bytes.equals(source.played)).toBe(true);
});

test("a server that is about to stop is left", async () => {
  const recording = await record();
  source.play(1);
  server.overrides.set("voice:recording:start", () => {
    server.overrides.delete("voice:recording:start");
    return refusal("draining", { retryable: true, retry_after_ms: 20 });
  });
  server.cut();
  await server.until(() => server.connections === 3 && recording.state === "live");
  await recording.stop();
  expect(server.stream!.bytes.equals(source.played)).toBe(true);
});
