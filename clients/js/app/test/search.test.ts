/** The pure parts of the page's search and of its alerts. */

import type { SearchHit, SearchMatch } from "@parlance/client";
import { describe, expect, test } from "vitest";
import {
  alertFor,
  ALERTS_MAX,
  alertsKey,
  filtersOfAlert,
  newCount,
  newsWords,
  parseAlerts,
  sameAlert,
  seen,
  withAlert,
  withChange,
  withMatch,
  type Alert,
} from "../src/alerts/alerts.js";
import { everyDay, roundedUp } from "../src/insight/days.js";
import { EVERYTHING, filtersOf, narrowed, optionsOf, respelled, sinceMs, type Wanted, within } from "../src/search/asking.js";
import { placesWords, withPage } from "../src/search/hits.js";
import { stillFitting } from "../src/search/useSuggestions.js";

const hit = (segment_id: string, rev = 1, text = ""): SearchHit => ({
  ...{ segment_id, rev, text, recording_id: "r_1", title: "", speaker: null, start_ms: 0, end_ms: 1, highlights: [], score: 1 },
});

describe("what is asked for", () => {
  const noon = new Date(2026, 2, 31, 12, 30).getTime();

  test("days begin at midnight here, across months", () => {
    const day = (month: number, date: number): number => new Date(2026, month, date).getTime();
    expect((["all", "today", "week", "month"] as const).map((since) => sinceMs(since, noon))).toEqual([
      null,
      day(2, 31),
      day(2, 25),
      day(2, 2),
    ]);
  });

  test("nothing is filtered until somebody wants it", () => {
    expect(optionsOf(EVERYTHING, "r_1", noon)).toEqual({});
    expect(filtersOf({ ...EVERYTHING, inRecording: true }, null, noon)).toBeNull();
    const wanted = { ...EVERYTHING, inRecording: true, speaker: "Ann", language: "de", since: "today" as const };
    expect(filtersOf(wanted, "r_1", noon)).toEqual({
      recording_ids: ["r_1"],
      speakers: ["Ann"],
      languages: ["de"],
      from: new Date(2026, 2, 31).getTime(),
    });
  });

  test("one recording is not grouped: all but one of its hits would be hidden", () => {
    const grouped = { ...EVERYTHING, isGrouped: true, order: "newest" as const };
    expect(optionsOf(grouped, "r_1", noon)).toEqual({ sort: "newest", group_by: "recording" });
    expect(optionsOf({ ...grouped, inRecording: true }, "r_1", noon)).toEqual({ sort: "newest", filters: { recording_ids: ["r_1"] } });
  });

  test("a label means somebody in one recording, a name everywhere", () => {
    const wanted = { ...EVERYTHING, inRecording: true, speaker: "S12" };
    expect(within(wanted, false)).toEqual({ inRecording: false, speaker: "" });
    expect(within(wanted, true)).toEqual({ inRecording: true });
    expect(within({ ...wanted, speaker: "Sam" }, false)).toEqual({ inRecording: false });
  });

  test("what narrows it is told with what takes it away", () => {
    const wanted = { ...EVERYTHING, inRecording: true, speaker: "Ann", since: "week" as const };
    expect(narrowed(wanted, true).map(({ words }) => words)).toEqual(["In this recording", "Ann", "Last 7 days"]);
    expect(narrowed(wanted, false).map(({ words }) => words)).toEqual(["Ann", "Last 7 days"]);
    const undone = narrowed(wanted, true).reduce<Wanted>((rest, { undo }) => ({ ...rest, ...undo }), wanted);
    expect(undone).toEqual(EVERYTHING);
  });

  test("a correction takes the place of the word that was typed, the last one", () => {
    expect(respelled("the Harbur in harbu", "harbu", "harbour")).toBe("the Harbur in harbour");
    expect(respelled("The HARBUR", "harbur", "harbour")).toBe("The harbour");
    expect(respelled("d’accord", "d'accord", "accord")).toBe("accord");
  });
});

test("pages follow one another without repeating a place", () => {
  const ids = (hits: SearchHit[]) => hits.map(({ segment_id }) => segment_id).join("");
  expect(ids(withPage([hit("a"), hit("b")], [hit("b"), hit("c")]))).toBe("abc");
  const words = [placesWords(1, false, false), placesWords(30, true, false), placesWords(2, false, true)];
  expect(words).toEqual(["1 place", "30+ places", "2 recordings"]);
});

test("while an answer is on its way only suggestions that go on from what is typed stay", () => {
  const known = ["budget", "the budget", "Bücher"];
  expect(stillFitting(known, "budge")).toEqual(["budget", "the budget"]);
  expect(stillFitting(known, "Budget ")).toEqual(["the budget"]);
  expect(stillFitting(known, "buch")).toEqual(["Bücher"]);
  expect(stillFitting(known, " ")).toEqual([]);
});

describe("alerts", () => {
  const alert = (id: string, text = "budget"): Alert => alertFor(text, EVERYTHING, "r_1", id);
  const match = (segment_id: string, cursor: string, rev = 1, text = ""): SearchMatch => ({
    ...{ subscription_id: "s1", cursor, hit: hit(segment_id, rev, text) },
  });

  test("are kept for each tenant and user, and what cannot be read is none", () => {
    expect(new Set([alertsKey("t", "u"), alertsKey("t", "v"), alertsKey("w", "u")]).size).toBe(3);
    expect(parseAlerts(JSON.stringify([alert("a")]))).toEqual([alert("a")]);
    for (const broken of [null, "", "{", "{}", "null", '[{"id": 1}]', "[null]"]) expect(parseAlerts(broken)).toEqual([]);
  });

  test("keep who, where and in which language, and are the same by these", () => {
    const wanted = { ...EVERYTHING, inRecording: true, speaker: "Ann", language: "de", since: "today" as const };
    const narrow = alertFor("Budget", wanted, "r_1", "b");
    expect(filtersOfAlert(narrow)).toEqual({ recording_ids: ["r_1"], speakers: ["Ann"], languages: ["de"] });
    expect(filtersOfAlert(alert("a"))).toEqual({});
    const both = [alert("a"), narrow];
    expect(sameAlert(both, alertFor("BUDGET", EVERYTHING, "r_2", ""))?.id).toBe("a");
    expect(sameAlert(both, alertFor("budget", wanted, "r_1", ""))?.id).toBe("b");
    expect(sameAlert(both, alertFor("budget", wanted, "r_2", ""))).toBeNull();
  });

  test("count a place once: told again, by another tab, or in a later revision", () => {
    let alerts = [alert("a"), alert("b")];
    const tell = (told: SearchMatch): boolean => {
      const after = withMatch(alerts, "a", told, 5);
      alerts = after.alerts;
      return after.isNew;
    };
    expect([tell(match("x", "1.0")), tell(match("y", "2.0")), tell(match("x", "1.0")), tell(match("x", "3.0", 2, "new"))]).toEqual([
      ...[true, true, false, false],
    ]);
    expect(alerts[0]!.matches.map((told) => told.hit.segment_id + told.hit.rev)).toEqual(["y1", "x2"]);
    expect([alerts[0]!.cursor, newCount(alerts)]).toEqual(["3.0", 2]);
    expect(tell(match("x", "4.0", 1, "old"))).toBe(false);
    expect(alerts[0]!.matches[1]!.hit.text).toBe("new");
    alerts = seen(alerts);
    expect([newCount(alerts), tell(match("x", "5.0")), newCount(alerts)]).toEqual([0, false, 0]);
    expect(withMatch(alerts, "gone", match("z", "6.0"), 5)).toEqual({ alerts, isNew: false });
  });

  test("have an end: of alerts, and of what each keeps", () => {
    let alerts: Alert[] = [];
    for (let at = 0; at < ALERTS_MAX + 1; at += 1) alerts = withAlert(alerts, alert(`${at}`));
    expect([alerts.length, alerts[0]!.id]).toEqual([ALERTS_MAX, `${ALERTS_MAX}`]);
    for (let at = 0; at < 60; at += 1) alerts = withMatch(alerts, "5", match(`${at}`, "1.0"), at).alerts;
    const { matches } = alerts.find(({ id }) => id === "5")!;
    expect([matches.length, matches[0]!.hit.segment_id]).toEqual([50, "59"]);
  });

  test("that may have missed something say so until somebody looked", () => {
    const broken = withChange([alert("a")], "a", { isBroken: true, cursor: null });
    expect([broken[0]!.isBroken, seen(broken)[0]!.isBroken]).toEqual([true, false]);
  });

  test("news are told in one sentence", () => {
    expect(newsWords(["budget"])).toBe("“budget” was said");
    expect(newsWords(["budget", "budget"])).toBe("“budget” was said 2 times");
    expect(newsWords(["budget", "harbour"])).toBe("2 places for your alerts, the newest for “harbour”");
  });
});

test("days without a search are shown too", () => {
  const day = { day: "2026-02-28", searches: 3, without_hits: 1, clicked: 2 };
  const shown = everyDay([day, { ...day, day: "2025-01-01" }], 3, Date.UTC(2026, 2, 1, 23));
  expect(shown.map(({ day: name, searches }) => `${name} ${searches}`)).toEqual(["2026-02-27 0", "2026-02-28 3", "2026-03-01 0"]);
  expect([0, 1, 3, 10, 11, 700].map(roundedUp)).toEqual([1, 1, 5, 10, 20, 1_000]);
});
