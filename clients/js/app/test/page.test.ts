/** The page's pure parts. */

import { FINE, type CaptionSegment, type Recording, type RecordingProgress, type SearchHit } from "@parlance/client";
import { describe, expect, test } from "vitest";
import { clock, duration, meterShare } from "../src/shell/format.js";
import { NO_LIBRARY, withEvent, withPage } from "../src/library/recordings.js";
import { hrefOf, parseRoute } from "../src/shell/route.js";
import { piecesOf, segmentAt, wordAt } from "../src/captions/words.js";
import { captureOptions, FIRST_CHOICES, recordingOptions } from "../src/record/choices.js";
import { isQuiet, quietSince, standing } from "../src/record/standing.js";
import { microphoneChoices } from "../src/record/useMicrophones.js";
import { mergeHits } from "../src/search/hits.js";
import { engineWords, speakerWords } from "../src/shell/ServerStrip.js";
import { COLOURS, colourOf } from "../src/speakers/colours.js";
import { readTheme } from "../src/shell/theme.js";
import { readStored } from "../src/signin/session.js";

test("times read as people write them", () => {
  expect([0, 59_999, 60_000, 3_599_999, 3_600_000].map(clock)).toEqual(["0:00", "0:59", "1:00", "59:59", "1:00:00"]);
  expect([400, 42_000, 60_000, 3_600_000, 3_900_000].map(duration)).toEqual(["0 s", "42 s", "1 min", "1 h", "1 h 5 min"]);
});

test("the first speakers differ in colour, and everybody has one", () => {
  const first = Array.from({ length: COLOURS }, (_, at) => colourOf(`S${at + 1}`));
  expect(new Set(first).size).toBe(COLOURS);
  expect(colourOf("S9")).toBe(colourOf("S1"));
  expect(colourOf("P1")).not.toBe(colourOf("S1"));
  for (const label of ["Ada", "S0", "", "ä🎧"]) expect(first).toContain(colourOf(label));
});

test("why nobody is told apart is said, as it was said last", () => {
  const ready = { speakers: { state: "starting", notice: "Soon." } } as const;
  expect(speakerWords(null, null)).toBe("");
  expect(speakerWords(ready, null)).toBe("Soon.");
  expect(speakerWords(ready, { speakers_notice: null })).toBe("");
  expect(speakerWords(ready, { speakers_notice: "No weights." })).toBe("No weights.");
});

test("the meter is logarithmic and bounded", () => {
  expect([0, 1, 2].map(meterShare)).toEqual([0, 1, 1]);
  expect(meterShare(0.0446)).toBeCloseTo(0.5, 2);
});

describe("routes", () => {
  test.each([
    ["", null, null, null],
    ["#/", null, null, null],
    ["#/r/", null, null, null],
    ["#/x/1", null, null, null],
    ["#/r/a%2Fb", "a/b", null, null],
    ["#/r/a/sg_1", "a", "sg_1", null],
    ["#/r/%E0%A4%A", null, null, null],
    ["#/r/a?t=83.5", "a", null, 83_500],
    ["#/r/a?t=0", "a", null, 0],
    ["#/r/a?t=-1", "a", null, null],
    ["#/r/a?t=soon", "a", null, null],
  ])("%s", (hash, recordingId, segmentId, atMs) => {
    expect(parseRoute(hash)).toEqual({ recordingId, segmentId, atMs });
  });

  test("an address leads back to its place", () => {
    for (const [recordingId, place] of [["a/b c", { segmentId: "x?y" }], ["ü", {}], ["r", { atMs: 61_200 }]] as const) {
      expect(parseRoute(hrefOf(recordingId, place))).toEqual({
        ...{ recordingId, segmentId: null, atMs: null },
        ...place,
      });
    }
  });
});

describe("library", () => {
  const recording = (id: string, started_at: number, state = "ended"): Recording => ({
    id,
    title: id,
    owner: { id: "u", name: "U", roles: [] },
    visibility: "tenant",
    language: "auto",
    state,
    engine: "tones",
    started_at,
    ended_at: null,
    duration_ms: 0,
    segment_count: 0,
  });

  test("is sorted, newest first, across pages", () => {
    const first = withPage(NO_LIBRARY, [recording("c", 3), recording("a", 1)], "next");
    const both = withPage(first, [recording("b", 2)], null);
    expect(both.recordings.map(({ id }) => id)).toEqual(["c", "b", "a"]);
    expect([first.nextCursor, both.nextCursor]).toEqual(["next", null]);
  });

  test("an event is newer than a page that was read before and arrives after it", () => {
    const told = withEvent(NO_LIBRARY, recording("a", 1, "ended"));
    const read = withPage(told, [recording("a", 1, "live"), recording("b", 2, "live")], null);
    expect(read.recordings.map(({ id, state }) => [id, state])).toEqual([["b", "live"], ["a", "ended"]]);
    expect(withEvent(read, recording("b", 2, "ended")).recordings[0]!.state).toBe("ended");
  });
});

describe("session", () => {
  const session = { token: "t", expires_at: 1_000, user: { id: "u", name: "U" }, tenant: { id: "t", name: "T" } };
  const storage = (text: string | null) => ({ getItem: () => text });

  test("a stored session counts until it ends; anything else is nobody", () => {
    const text = JSON.stringify(session);
    expect(readStored(storage(text), 999_000)).toEqual(session);
    expect(readStored(storage(text), 1_000_000)).toBeNull();
    for (const broken of [null, "", "null", "{}", "{"]) expect(readStored(storage(broken), 0)).toBeNull();
  });
});

describe("how a recording stands", () => {
  const fine: RecordingProgress = {
    ...{ capturedMs: 9_000, waitingMs: 0, keptMs: 500, roomMs: 600_000, health: FINE, level: 0.1 },
  };
  const waiting = { ...fine, waitingMs: 4_000, keptMs: 12_000 };

  test("is told in words, and only when there is something to tell", () => {
    expect(standing("live", fine, "live")).toBe("");
    expect(standing("live", { ...fine, health: { ...FINE, isBehind: true, lagMs: 3_400 } }, "live")).toBe(
      "Captions are 3 s behind.",
    );
    expect(standing("live", { ...fine, health: { ...FINE, isBusy: true } }, "live")).toContain("nothing is lost");
    expect(standing("stopping", waiting, "live")).toBe("Sending the last 4 s…");
    expect(standing("paused", fine, "live")).toBe("Paused");
  });

  test("says what waits here while there is no connection, and afterwards", () => {
    const away = "No connection. Recording goes on: ";
    expect(standing("reconnecting", waiting, "reconnecting")).toBe(
      `${away}12 s of sound wait on this device, nothing is lost.`,
    );
    expect(standing("live", fine, "reconnecting")).toBe(`${away}nothing is lost.`);
    expect(standing("reconnecting", { ...waiting, roomMs: 61_000 }, "live")).toContain("room for 1 min more");
    expect(standing("catching up", waiting, "live")).toBe(
      "Connected again. Catching up: 12 s of sound wait on this device, nothing is lost.",
    );
    expect(standing("stopping", waiting, "reconnecting")).toContain("leave this page open");
  });
});

test("a silent microphone is noticed, a pause in speech is not", () => {
  const at = (capturedMs: number, level: number): RecordingProgress => {
    return { capturedMs, waitingMs: 0, keptMs: 0, roomMs: 600_000, health: FINE, level };
  };
  let since = 0;
  for (const progress of [at(1_000, 0.2), at(3_000, 0), at(6_900, 0.001)]) {
    since = quietSince(since, progress);
    expect(isQuiet(since, progress)).toBe(false);
  }
  expect(isQuiet(since, at(7_000, 0))).toBe(true);
  expect(isQuiet(quietSince(since, at(7_100, 0.1)), at(7_100, 0.1))).toBe(false);
});

describe("words in a transcript", () => {
  const word = (w: string, start_ms: number) => ({ w, start_ms, end_ms: start_ms + 100, p: 1 });
  const segment = (text: string, start_ms: number, ...words: ReturnType<typeof word>[]) =>
    ({ segment_id: text, text, start_ms, end_ms: start_ms + 900, words }) as CaptionSegment;

  test("a text is cut at its words, and joined it is the text", () => {
    const told = segment("The age, the age.", 0, word("The", 10), word("age", 20), word("the", 30), word(" age ", 40));
    const pieces = piecesOf(told);
    expect(pieces.map(({ text }) => text).join("")).toBe(told.text);
    expect(pieces.filter(({ atMs }) => atMs !== null)).toEqual([
      { text: "The", atMs: 10 },
      { text: "age", atMs: 20 },
      { text: "the", atMs: 30 },
      { text: "age", atMs: 40 },
    ]);
  });

  test("words that are not in the text leave it whole", () => {
    expect(piecesOf(segment("21 years", 0, word("twenty-one", 0), word("years", 9)))).toEqual([{ text: "21 years", atMs: null }]);
    expect(piecesOf(segment("", 0))).toEqual([]);
  });

  test("a moment is found", () => {
    const segments = [segment("a", 500), segment("b", 2_000)];
    expect([0, 500, 1_999, 2_000, 9_000].map((ms) => segmentAt(segments, ms)?.text ?? null)).toEqual([null, "a", "a", "b", "b"]);
    expect([0, 10, 15, 20].map((ms) => wordAt([word("x", 10), word("y", 20)], ms))).toEqual([-1, 0, 0, 1]);
  });
});

test("hits keep their place while the reader is in the list", () => {
  const hit = (segment_id: string, score = 1) => ({ segment_id, score }) as SearchHit;
  const shown = [hit("a"), hit("b"), hit("c")];
  const incoming = [hit("d"), hit("c", 2), hit("a", 2)];
  const ids = (hits: SearchHit[]) => hits.map(({ segment_id, score }) => segment_id + score).join(" ");
  expect(ids(mergeHits(shown, incoming, false))).toBe("d1 c2 a2");
  expect(ids(mergeHits(shown, incoming, true))).toBe("a2 c2 d1");
  expect(ids(mergeHits(null, incoming, true))).toBe("d1 c2 a2");
});

test("choices become what the client is asked", () => {
  expect(captureOptions(FIRST_CHOICES)).toEqual({ shared: false, microphone: "default", encoding: "pcm" });
  const shared = { ...FIRST_CHOICES, source: "shared", encoding: "opus" } as const;
  expect(captureOptions(shared)).toEqual({ shared: true, microphone: "default", encoding: "opus" });
  expect(captureOptions({ ...shared, withMicrophone: false }).microphone).toBeNull();
  expect(recordingOptions("", FIRST_CHOICES)).toEqual({});
  const translated = { ...FIRST_CHOICES, language: "de", task: "translate", preset: "lecture", isPrivate: true } as const;
  expect(recordingOptions("T", translated)).toEqual({
    title: "T",
    language: "de",
    task: "translate",
    preset: "lecture",
    visibility: "private",
  });
});

test("microphones are listed once, also without names", () => {
  const microphone = (deviceId: string, label = "") => ({ deviceId, label });
  const found = [microphone("default", "Default - Desk"), microphone("1", "Desk"), microphone("2")];
  expect(microphoneChoices(found).map(({ id, name }) => `${id} ${name}`)).toEqual(["default Default", "1 Desk", "2 Microphone 2"]);
});

test("the engine's notice is shown whole, its state only when it is not ready", () => {
  const engine = { name: "e", model: "m", state: "ready", notice: "Modest.", tier: null };
  expect(engineWords(engine)).toBe("Modest.");
  expect(engineWords({ ...engine, state: "down" })).toMatch(/is down.*Modest\./);
  expect(engineWords({ ...engine, notice: null })).toBe("");
  expect(engineWords(null)).toBe("");
});

test("a stored theme that is none is the system's", () => {
  expect(["dark", "light", "pink", null].map(readTheme)).toEqual(["dark", "light", "system", "system"]);
});
