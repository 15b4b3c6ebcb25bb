/** The page's pure parts. */

import type { Recording, RecordingProgress } from "@parlance/client";
import { describe, expect, test } from "vitest";
import { clock, duration, meterShare } from "../src/format.js";
import { standing } from "../src/RecorderBar.js";
import { NO_LIBRARY, withEvent, withPage } from "../src/recordings.js";
import { hrefOf, parseRoute } from "../src/route.js";
import { readStored, renewIn } from "../src/session.js";

test("times read as people write them", () => {
  expect([0, 59_999, 60_000, 3_599_999, 3_600_000].map(clock)).toEqual(["0:00", "0:59", "1:00", "59:59", "1:00:00"]);
  expect([400, 42_000, 60_000, 3_600_000, 3_900_000].map(duration)).toEqual(["0 s", "42 s", "1 min", "1 h", "1 h 5 min"]);
});

test("the meter is logarithmic and bounded", () => {
  expect([0, 1, 2].map(meterShare)).toEqual([0, 1, 1]);
  expect(meterShare(0.0446)).toBeCloseTo(0.5, 2);
});

describe("routes", () => {
  test.each([
    ["", null, null],
    ["#/", null, null],
    ["#/r/", null, null],
    ["#/x/1", null, null],
    ["#/r/a%2Fb", "a/b", null],
    ["#/r/a/sg_1", "a", "sg_1"],
    ["#/r/%E0%A4%A", null, null],
  ])("%s", (hash, recordingId, segmentId) => {
    expect(parseRoute(hash)).toEqual({ recordingId, segmentId });
  });

  test("an address leads back to its place", () => {
    for (const [recording, segment] of [["a/b c", "x?y"], ["ü", undefined]] as const) {
      expect(parseRoute(hrefOf(recording, segment))).toEqual({ recordingId: recording, segmentId: segment ?? null });
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

  test("is renewed before its end, in a delay that timers take", () => {
    expect(renewIn(session, 900_000)).toBe(80_000);
    expect(renewIn(session, 999_999)).toBe(15_000);
    expect(renewIn({ ...session, expires_at: 1e10 }, 0)).toBe(2 ** 31 - 1);
  });
});

test("how a recording stands is told in words, and only when there is something to tell", () => {
  const fine: RecordingProgress = { capturedMs: 9_000, unsentMs: 0, lagMs: 300, degraded: false, level: 0.1 };
  expect(standing("live", fine, "live")).toBe("");
  expect(standing("live", { ...fine, lagMs: 3_400 }, "live")).toBe("Captions are 3 s behind.");
  expect(standing("live", { ...fine, degraded: true }, "live")).toContain("nothing is lost");
  expect(standing("reconnecting", { ...fine, unsentMs: 75_000 }, "reconnecting")).toContain("on this device: 1 min to send");
  expect(standing("stopping", { ...fine, unsentMs: 4_000 }, "live")).toBe("Sending the last 4 s…");
  expect(standing("live", { ...fine, unsentMs: 4_000 }, "live")).toBe("Catching up: 4 s to send");
});
