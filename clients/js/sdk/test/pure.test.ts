/** The parts without a browser or a connection. */

import { describe, expect, test } from "vitest";
import { captionsOf, NO_CAPTIONS, reduceCaptions, type CaptionEvent, type CaptionSegment } from "../src/captions.js";
import { Chunker, type CapturedChunk } from "../src/capture.worklet.js";
import type { TranscriptPartial } from "../src/protocol.js";
import { Ring } from "../src/ring.js";
import { RoomLog } from "../src/rooms.js";
import { SearchSlots } from "../src/search.js";
import { CHUNK_BYTES_MAX, Sender } from "../src/sender.js";
import { highlightRuns } from "../src/text.js";
import { parseWav } from "../src/wav.js";

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

  test("rewinds once for one hole, and again after an acknowledgement", () => {
    const made = sender(20, 20);
    made.take();
    made.rewind(4);
    expect(made.take()?.offset).toBe(4);
    made.rewind(4);
    expect(made.take()).toBeNull();
    made.acknowledge(ack(4, 4, 16));
    made.rewind(4);
    expect(made.take()?.offset).toBe(4);
  });

  test("cannot go back to what it was allowed to forget", () => {
    const made = sender(20, 20);
    made.take();
    made.acknowledge(ack(20, 10, 0));
    expect(() => made.rewind(8)).toThrow(expect.objectContaining({ code: "offset_mismatch", expected: 8 }));
    expect(() => made.open(22, 5)).toThrow(expect.objectContaining({ code: "offset_mismatch" }));
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

  test("what changes nothing returns the same state", () => {
    const state = captionsOf([segment("a", 0)]);
    for (const event of [final("a", 0), partial("a", 5), { type: "ended" } as const]) {
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
