/** The parts without a browser or a connection. */

import { describe, expect, test } from "vitest";
import { captionsOf, NO_CAPTIONS, reduceCaptions, type CaptionEvent, type CaptionSegment } from "../src/captions.js";
import { Chunker, type CapturedChunk } from "../src/capture.worklet.js";
import type { TranscriptPartial } from "../src/protocol.js";
import { delayMs, Route } from "../src/backoff.js";
import { BLOCK_BYTES, Ring } from "../src/ring.js";
import { RoomLog } from "../src/rooms.js";
import { SearchSlots } from "../src/search.js";
import { RING_BYTES_MAX } from "../src/recording.js";
import { CHUNK_BYTES_MAX, Sender } from "../src/sender.js";
import { following, NEXT, type Facts, type RecordingState } from "../src/states.js";
import { highlightRuns } from "../src/text.js";
import { expiryOf, refreshInMs } from "../src/tokens.js";
import { parseWav } from "../src/wav.js";
import { stateWalks } from "./golden.js";

const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);
const counted = (from: number, to: number): Uint8Array => Uint8Array.from({ length: to - from }, (_, at) => from + at);

describe("ring", () => {
  test("reads across pieces from any place it holds", () => {
    const ring = new Ring(100);
    ring.append(bytes(0, 1, 2));
    ring.append(bytes(3));
    ring.append(bytes(4, 5, 6, 7));
    expect([...ring.read(0, 100)]).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect([...ring.read(2, 3)]).toEqual([2, 3, 4]);
    expect([...ring.read(8, 5)]).toEqual([]);
  });

  test("lets go of nothing but what was freed, also inside a piece", () => {
    const ring = new Ring(8);
    ring.append(bytes(0, 1, 2, 3));
    ring.append(bytes(4, 5, 6, 7));
    expect(ring.append(bytes(8))).toBe(false);
    ring.free(5);
    expect([ring.start, ring.end, ring.size]).toEqual([5, 8, 3]);
    expect([...ring.read(5, 9)]).toEqual([5, 6, 7]);
    expect(() => ring.read(4, 1)).toThrow(RangeError);
    ring.free(2);
    expect(ring.start).toBe(5);
    expect(ring.append(bytes(8, 9))).toBe(true);
    ring.free(10);
    expect([ring.size, [...ring.read(10, 1)]]).toEqual([0, []]);
  });
});

describe("ring, full", () => {
  test("ten minutes of 48 kHz fit, in no more memory than their blocks", () => {
    const ring = new Ring(RING_BYTES_MAX);
    const chunk = new Uint8Array(9_600);
    for (let ms = 0; ms < 600_000; ms += 100) expect(ring.append(chunk)).toBe(true);
    expect(ring.size).toBe(57_600_000);
    expect(ring.heldBytes).toBeLessThanOrEqual(57_600_000 + 2 * BLOCK_BYTES);
    ring.free(57_000_000);
    expect(ring.heldBytes).toBeLessThanOrEqual(600_000 + 2 * BLOCK_BYTES);
  });

  test("reads what was written, wherever the blocks lie", () => {
    const ring = new Ring(4 * BLOCK_BYTES);
    const wanted = Uint8Array.from({ length: 3 * BLOCK_BYTES }, (_, at) => (at * 31) % 251);
    for (let at = 0; at < wanted.length; at += 9_999) ring.append(wanted.subarray(at, at + 9_999));
    for (const [from, count] of [[0, wanted.length], [BLOCK_BYTES - 1, 2], [BLOCK_BYTES, BLOCK_BYTES], [70_000, 65_536]] as const) {
      expect(Buffer.compare(ring.read(from, count), wanted.subarray(from, from + count))).toBe(0);
    }
  });
});

describe("states", () => {
  const nothing: Facts = { connected: true, waitingMs: 0, paused: false, stopping: false, stopped: false, lost: false };

  test.each(stateWalks)("$walk", ({ steps }) => {
    let state: RecordingState = "live";
    for (const [{ waiting_ms, ...facts }, wanted] of steps) {
      state = following(state, { ...nothing, ...facts, waitingMs: Number(waiting_ms ?? 0) });
      expect(state).toBe(wanted);
    }
  });

  test("no facts lead where the table does not", () => {
    for (const state of Object.keys(NEXT) as RecordingState[]) {
      for (let bits = 0; bits < 64; bits += 1) {
        const [connected, paused, stopping, stopped, lost, waits] = [1, 2, 4, 8, 16, 32].map((bit) => (bits & bit) > 0);
        const facts = { connected, paused, stopping, stopped, lost, waitingMs: waits ? 5_000 : 0 } as Facts;
        expect([state, ...NEXT[state]]).toContain(following(state, facts));
      }
    }
    expect([NEXT.stopped, NEXT.lost]).toEqual([[], []]);
  });
});

describe("where and when to connect", () => {
  const QUICK = { firstMs: 500, maxMs: 15_000 };

  test("waits grow to a limit, and are as long as chance says", () => {
    expect([1, 2, 6, 60].map((attempt) => delayMs(QUICK, attempt, 0.5))).toEqual([250, 500, 7_500, 7_500]);
    expect(delayMs(QUICK, 9, 0)).toBe(0);
  });

  test("addresses take turns, and the waits grow after each round", () => {
    const route = new Route(["a", "b", "a"], QUICK);
    const seen: string[] = [];
    route.connected(0);
    route.lost(60_000, false);
    for (let round = 0; round < 5; round += 1) {
      seen.push(`${route.waitMs(0, 0.5)} ${route.url}`);
      route.failed(0);
    }
    expect(seen).toEqual(["250 b", "250 a", "500 b", "500 a", "1000 b"]);
  });

  test("an address that named a time is not asked before it", () => {
    const one = new Route(["a"], QUICK);
    one.failed(1_000, 5_000);
    expect([one.waitMs(1_000, 0), one.toldMs(2_000), one.waitMs(7_000, 0)]).toEqual([5_000, 4_000, 0]);
    const two = new Route(["a", "b"], QUICK);
    two.failed(0, 5_000);
    expect([two.waitMs(0, 0), two.url]).toEqual([0, "b"]);
    two.failed(0);
    expect([two.waitMs(0, 0), two.url]).toEqual([0, "b"]); // `a` is not ready yet.
    two.failed(0, 9_000);
    expect([two.waitMs(1_000, 0), two.url]).toEqual([4_000, "a"]);
  });

  test("being sent away again and again is failing, a cut line is not", () => {
    const waits = (isSentAway: boolean, lastsMs: number): number[] => {
      const route = new Route(["a"], QUICK);
      return [1, 2, 3].map((round) => {
        route.connected(round * 100_000);
        route.lost(round * 100_000 + lastsMs, isSentAway);
        return route.waitMs(round * 100_000, 0.5);
      });
    };
    expect([waits(true, 50), waits(true, 60_000), waits(false, 50)]).toEqual([
      [250, 500, 1_000],
      [250, 250, 250],
      [250, 250, 250],
    ]);
  });

  test("no address is an error", () => expect(() => new Route([], QUICK)).toThrow(TypeError));
});

test("a token's end is read from it, where it has one", () => {
  const jwt = (claims: object): string => `x.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.x`;
  expect(expiryOf(jwt({ exp: 1_000, name: "ü?>" }))).toBe(1_000_000);
  for (const none of ["", "key", "a.b", "a.b.c", jwt({}), jwt({ exp: "soon" })]) expect(expiryOf(none)).toBeNull();
  expect([refreshInMs(100_000, 0), refreshInMs(100_000, 1), refreshInMs(100, 0.5)]).toEqual([70_000, 80_000, 1_000]);
  expect(refreshInMs(1e12, 0)).toBe(2 ** 31 - 1); // What timers take.
});

describe("sender", () => {
  const sender = (credit: number, total: number): Sender => {
    const made = new Sender(1_000, 2);
    made.append(counted(0, total));
    made.open(0, credit);
    return made;
  };
  const ack = (received: number, durable: number, credit: number) => ({
    received_bytes: received,
    durable_bytes: durable,
    credit_bytes: credit,
  });

  test("sends whole samples up to the credit, then waits", () => {
    const made = sender(7, 20);
    expect(made.take()).toEqual({ offset: 0, audio: counted(0, 6) });
    expect(made.take()).toBeNull();
    made.acknowledge(ack(6, 6, 8));
    expect(made.take()).toEqual({ offset: 6, audio: counted(6, 14) });
  });

  test("a chunk is bounded", () => {
    const made = new Sender(1_000_000, 2);
    made.append(new Uint8Array(CHUNK_BYTES_MAX * 2));
    made.open(0, 1_000_000);
    expect(made.take()?.audio.byteLength).toBe(CHUNK_BYTES_MAX);
  });

  test("goes on where the server says after a takeover", () => {
    const made = sender(20, 20);
    made.take();
    made.open(8, 4);
    expect(made.take()).toEqual({ offset: 8, audio: counted(8, 12) });
    expect(made.take()).toBeNull();
  });

  test("goes back when a node took bytes with it that were not durable", () => {
    const made = sender(20, 20);
    made.take();
    made.acknowledge(ack(20, 4, 20));
    made.open(4, 20);
    expect([made.take(), made.undeliveredBytes]).toEqual([{ offset: 4, audio: counted(4, 20) }, 16]);
  });

  test("names the bytes that it was allowed to forget", () => {
    const made = sender(20, 20);
    made.take();
    made.acknowledge(ack(20, 10, 0));
    const forgotten = { code: "offset_mismatch", expected: 8, message: expect.stringContaining("bytes 8 to 10") };
    expect(() => made.open(8, 5)).toThrow(expect.objectContaining(forgotten));
  });

  test("does not go on behind bytes that never left from here", () => {
    const made = sender(8, 20);
    made.take();
    const foreign = { code: "offset_mismatch", expected: 10, message: expect.stringContaining("somebody else") };
    expect(() => made.open(10, 5)).toThrow(expect.objectContaining(foreign));
    made.open(8, 5);
  });

  test("an acknowledgement beyond what was sent frees nothing more", () => {
    const made = sender(8, 20);
    made.take();
    made.acknowledge(ack(99, 99, 0));
    expect([made.unsafeBytes, made.undeliveredBytes]).toEqual([12, 12]);
  });

  test("a full ring refuses, and keeps what it has", () => {
    const made = new Sender(10, 2);
    expect([made.append(counted(0, 8)), made.append(counted(8, 12))]).toEqual([true, false]);
    expect([made.end, made.unsafeBytes]).toEqual([8, 8]);
  });
});

describe("room log", () => {
  test("delivers each event once, in order, and notices holes", () => {
    const log = new RoomLog();
    log.follow("a", 3);
    expect([4, 4, 3, 6, 5, 6].map((seq) => log.accept("a", seq))).toEqual([
      "deliver",
      "duplicate",
      "duplicate",
      "gap",
      "deliver",
      "deliver",
    ]);
    expect([log.after("a"), log.accept("b", 1)]).toEqual([6, "foreign"]);
  });

  test("a hole that joining again does not fill is a loss", () => {
    const log = new RoomLog();
    log.follow("a", 3);
    log.joined("a", 9);
    expect([log.accept("a", 5), log.accept("a", 6)]).toEqual(["gap", "gap"]);
    log.joined("a", 9);
    expect(log.accept("a", 5)).toBe("lost");
    expect([log.accept("a", 4), log.accept("a", 5), log.accept("a", 7)]).toEqual(["deliver", "deliver", "gap"]);
  });

  test("without a place it counts from the join, or from an event that was faster", () => {
    const log = new RoomLog();
    log.follow("a", null);
    log.joined("a", 9);
    expect([log.accept("a", 9), log.accept("a", 10)]).toEqual(["duplicate", "deliver"]);
    log.follow("b", null);
    expect(log.accept("b", 10)).toBe("deliver");
    log.joined("b", 9);
    expect(log.after("b")).toBe(10);
  });
});

describe("captions", () => {
  const partial = (id: string, rev: number, more: Partial<TranscriptPartial> = {}): CaptionEvent => ({
    type: "partial",
    body: {
      room: "recording:r",
      after_seq: 0,
      recording_id: "r",
      stream_id: "st_1",
      segment_id: id,
      rev,
      start_ms: 0,
      end_ms: 1,
      stable: "",
      unstable: `${id}${rev}`,
      speaker: null,
      ...more,
    },
  });
  const segment = (id: string, start_ms: number, rev = 1): CaptionSegment => ({
    segment_id: id,
    ordinal: start_ms,
    rev,
    start_ms,
    end_ms: start_ms + 1,
    text: `${id}${rev}`,
    words: [],
    speaker: null,
    language: "en",
    confidence: 1,
  });
  const final = (id: string, start_ms: number, rev = 1): CaptionEvent => ({ type: "final", body: segment(id, start_ms, rev) });
  const after = (...events: CaptionEvent[]) => events.reduce(reduceCaptions, NO_CAPTIONS);
  const shown = (state: typeof NO_CAPTIONS) => [
    state.segments.map((item) => item.text),
    state.partials.map((item) => item.unstable),
  ];

  test("the newest partial is shown, then its final", () => {
    expect(shown(after(partial("a", 1), partial("a", 3), partial("a", 2)))).toEqual([[], ["a3"]]);
    expect(shown(after(partial("a", 1), final("a", 0), partial("a", 9)))).toEqual([["a1"], []]);
  });

  test("a new stream voids what the old one left unfinished", () => {
    const state = after(partial("a", 1), partial("b", 1), partial("c", 1, { stream_id: "st_2" }));
    expect(shown(state)).toEqual([[], ["c1"]]);
    expect(shown(after(partial("a", 1), { type: "ended" }))).toEqual([[], []]);
  });

  test("what a void stream still tells is not shown", () => {
    const newer = after(partial("a", 1), partial("c", 1, { stream_id: "st_2" }));
    expect(reduceCaptions(newer, partial("b", 7))).toBe(newer);
    const newest = reduceCaptions(newer, partial("d", 1, { stream_id: "st_3" }));
    for (const stream_id of ["st_1", "st_2"]) expect(reduceCaptions(newest, partial("b", 7, { stream_id }))).toBe(newest);
    expect(shown(newest)).toEqual([[], ["d1"]]);
  });

  test("segments stand in the order they were spoken, whenever they came", () => {
    expect(shown(after(final("b", 10), final("a", 5), final("c", 20)))).toEqual([["a1", "b1", "c1"], []]);
  });

  test("a revision replaces, inserts and removes; an older one changes nothing", () => {
    const revised: CaptionEvent = {
      type: "revised",
      body: { segments: [segment("a", 0, 2), segment("n", 7)], removed: ["b"] },
    };
    const state = after(final("a", 0), final("b", 5), final("c", 9), revised);
    expect(shown(state)).toEqual([["a2", "n1", "c1"], []]);
    expect(reduceCaptions(state, final("a", 0, 1))).toBe(state);
    expect(reduceCaptions(state, final("b", 5, 3))).toBe(state);
  });

  test("a final that two people share is split in its place", () => {
    const { segment_id: whole } = segment("b", 100);
    const before = captionsOf([segment("a", 0), segment("b", 100), segment("c", 200)]);
    const first = { ...segment("b", 100, 2), speaker: "S1" };
    const pieces = [150, 100].map((start_ms, at) => ({ ...segment(`${whole}~${2 + at}`, start_ms), ordinal: first.ordinal }));
    const split: CaptionEvent = { type: "revised", body: { segments: [...pieces, first], removed: [] } };
    const state = reduceCaptions(before, split);
    expect(state.segments.map((item) => item.segment_id)).toEqual(["a", "b", "b~3", "b~2", "c"]);
    expect(state.index.get("b")?.speaker).toBe("S1");
    expect(reduceCaptions(state, split)).toBe(state);
    expect(reduceCaptions(state, { type: "final", body: segment("b", 100) })).toBe(state);
  });

  test("names are beside the labels, and a merged label is the other one from then on", () => {
    const spoken = (id: string, start_ms: number, speaker: string) => ({ ...segment(id, start_ms), speaker });
    const heard = (state: typeof NO_CAPTIONS) => [...state.segments, ...state.partials].map((item) => item.speaker);
    const named = (speaker: string, name: string | null): CaptionEvent => ({ type: "renamed", body: { speaker, name } });
    const merged = (from: string, into: string): CaptionEvent => ({ type: "merged", body: { from, into } });
    const events = [named("S2", "Bob"), named("S1", "Ada"), named("S3", null), partial("p", 1, { speaker: "S2" })];
    const before = events.reduce(reduceCaptions, captionsOf([spoken("a", 0, "S1"), spoken("b", 1, "S2")]));
    expect(Object.fromEntries(before.names)).toEqual({ S1: "Ada", S2: "Bob" });
    const state = reduceCaptions(before, merged("S2", "S1"));
    expect(heard(state)).toEqual(["S1", "S1", "S1"]);
    expect(state.index.get("b")?.speaker).toBe("S1");
    expect(Object.fromEntries(state.names)).toEqual({ S1: "Ada" });
    const later = reduceCaptions(state, partial("p", 2, { speaker: "S2" }));
    expect(heard(reduceCaptions(later, merged("S1", "S4")))).toEqual(["S4", "S4", "S4"]);
    const chain = [merged("S1", "S4"), partial("p", 3, { speaker: "S2" })].reduce(reduceCaptions, later);
    expect(heard(chain)).toEqual(["S4", "S4", "S4"]);
    const read = captionsOf([], { speakers: { S1: "Ada" }, merged: { S2: "S1" } });
    expect(heard(reduceCaptions(read, partial("p", 1, { speaker: "S2" })))).toEqual(["S1"]);
    expect(read.names.get("S1")).toBe("Ada");
  });

  test("what changes nothing returns the same state", () => {
    const state = captionsOf([segment("a", 0)], { speakers: { S1: "Ada" } });
    const same: CaptionEvent = { type: "renamed", body: { speaker: "S1", name: "Ada" } };
    for (const event of [final("a", 0), partial("a", 5), same, { type: "ended" } as const]) {
      expect(reduceCaptions(state, event)).toBe(state);
    }
  });
});

describe("search slots", () => {
  const hits = (request_id: string, phase: "instant" | "full") => ({ request_id, phase, hits: [], took_ms: 1 });

  test("a newer query of the slot silences the older one", async () => {
    const slots = new SearchSlots();
    const seen: string[] = [];
    const first = slots.open("1", "page", () => seen.push("1"));
    const other = slots.open("2", "side", () => seen.push("2"));
    const second = slots.open("3", "page", ({ phase }) => seen.push(`3 ${phase}`));
    expect(await first).toBe("superseded");
    slots.results(hits("1", "instant"));
    slots.results(hits("3", "instant"));
    slots.results(hits("3", "full"));
    slots.results(hits("3", "full"));
    expect([seen, await second]).toEqual([["3 instant", "3 full"], "complete"]);
    slots.end("2", "cancelled");
    expect(await other).toBe("cancelled");
  });
});

test("highlights count code points", () => {
  expect(highlightRuns("🎧🎧 naïve fox", [[0, 1], [9, 12], [8, 10]])).toEqual([
    { text: "🎧", marked: true },
    { text: "🎧 naïve", marked: false },
    { text: " fox", marked: true },
  ]);
  expect(highlightRuns("", [[0, 3]])).toEqual([]);
  expect(highlightRuns("ab", [[1, 99]])).toEqual([{ text: "a", marked: false }, { text: "b", marked: true }]);
});

describe("chunker", () => {
  const chunks = (rate: number, channels: number[][], isFlushed = true): CapturedChunk[] => {
    const out: CapturedChunk[] = [];
    const chunker = new Chunker(rate, (chunk) => out.push(chunk));
    chunker.push(channels.map((channel) => Float32Array.from(channel)));
    if (isFlushed) chunker.flush();
    return out;
  };

  test("averages channels, clips, and writes s16le", () => {
    const [chunk] = chunks(1_000, [[0, 1, -1, 0.5, 3], [0, 1, -1, -0.5, 3]]);
    expect([...new Int16Array(chunk!.pcm)]).toEqual([0, 32767, -32768, 0, 32767]);
    expect(chunk!.peak).toBe(1);
  });

  test("emits every 100 ms and the rest on a flush", () => {
    const silence = [Array.from({ length: 250 }, () => 0)];
    expect(chunks(1_000, silence).map(({ pcm }) => pcm.byteLength)).toEqual([200, 200, 100]);
    expect(chunks(1_000, silence, false)).toHaveLength(2);
  });
});

describe("wav", () => {
  const wav = (kind: number, channels: number, bits: number, data: Uint8Array, size = data.length): ArrayBuffer => {
    const header = Buffer.alloc(44);
    header.write("RIFF", 0);
    header.writeUInt32LE(36 + data.length, 4);
    header.write("WAVEfmt ", 8);
    header.writeUInt32LE(16, 16);
    header.writeUInt16LE(kind, 20);
    header.writeUInt16LE(channels, 22);
    header.writeUInt32LE(8_000, 24);
    header.writeUInt16LE(bits, 34);
    header.write("data", 36);
    header.writeUInt32LE(size, 40);
    return Uint8Array.from(Buffer.concat([header, data])).buffer;
  };

  test.each([
    ["8 bits", wav(1, 1, 8, bytes(128, 192, 0))],
    ["16 bits", wav(1, 1, 16, new Uint8Array(Int16Array.from([0, 16384, -32768]).buffer))],
    ["24 bits", wav(1, 1, 24, bytes(0, 0, 0, 0, 0, 64, 0, 0, 128))],
    ["float", wav(3, 1, 32, new Uint8Array(Float32Array.from([0, 0.5, -1]).buffer))],
  ])("%s", (_, file) => {
    expect(parseWav(file)).toEqual({ sampleRate: 8_000, channels: [Float32Array.from([0, 0.5, -1])] });
  });

  test("channels are taken apart, and a recorder that was cut off is forgiven", () => {
    const data = new Uint8Array(Int16Array.from([0, 16384, 8192, -16384, 1]).buffer);
    const expected = { sampleRate: 8_000, channels: [Float32Array.from([0, 0.25]), Float32Array.from([0.5, -0.5])] };
    for (const size of [0, 0xffffffff]) expect(parseWav(wav(1, 2, 16, data, size))).toEqual(expected);
  });

  test("anything else is left to the browser", () => {
    for (const file of [new ArrayBuffer(0), wav(85, 1, 16, bytes(0, 0)), Uint8Array.from(Buffer.from("OggS".padEnd(60))).buffer]) {
      expect(parseWav(file)).toBeNull();
    }
  });
});
