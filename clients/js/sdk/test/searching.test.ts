/** Pages, suggestions and subscriptions, against a real Socket.IO server that cuts, refuses and repeats. */

import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { connect, type Parlance, type SearchMatch, type SubscribeOptions } from "../src/index.js";
import { asVector, clientVectors } from "./golden.js";
import { FakeServer, refusal } from "./server.js";

let server: FakeServer;
let client: Parlance;

beforeEach(async () => {
  server = await FakeServer.start();
  client = connect({ url: server.url, token: "tok", backoff: { firstMs: 20, maxMs: 100 } });
  await client.ready;
});

afterEach(async () => {
  client.close();
  await server.close();
});

/** Whatever the server sent before has arrived. */
async function settled(): Promise<void> {
  await client.readEvents("tenant:t_1", 0);
}

async function reconnected(): Promise<void> {
  const before = server.connections;
  server.cut();
  await server.until(() => server.connections > before && client.state === "live");
}

test("what it sends equals the golden vectors", async () => {
  server.overrides.set("search:suggest", () => ({ ok: true, suggestions: ["budget"] }));
  server.overrides.set("search:history", () => ({ ok: true, queries: ["a"], entries: [{ text: "a", at: 1, hits: 2 }] }));
  server.overrides.set("search:subscribe", () => ({ ok: true, cursor: "17.2" }));
  client.search("a", { neighbours: 3, group_by: "recording" });
  expect(await client.suggest("budg")).toEqual(["budget"]);
  expect(await client.suggest("the budg", 3)).toEqual(["budget"]);
  expect((await client.searchHistory()).entries).toEqual([{ text: "a", at: 1, hits: 2 }]);
  await client.clearSearchHistory();
  await client.clicked("q_1", "sg_5");
  await client.subscribe("budget").ready;
  const filters = { recording_ids: ["r_1"], speakers: ["Ann"], languages: ["en"], from: 1, to: 2 };
  const all = client.subscribe("budget", { mode: "semantic", filters, minScore: 0.5, after: "17.2" });
  await all.ready;
  all.end();
  await server.until(() => server.sent("search:unsubscribe").length === 1);

  const sent = server.received.map(([event, body]) => {
    const ids = { ...("request_id" in body && { request_id: "q_1" }), ...("subscription_id" in body && { subscription_id: "s_1" }) };
    return [event, asVector({ ...body, ...ids })];
  });
  const valid = (event: string, name: string) => [event, clientVectors[event]!.valid[name]];
  expect(sent).toEqual([
    valid("search:query", "with neighbours, by recording"),
    valid("search:suggest", "minimal"),
    valid("search:suggest", "everything"),
    valid("search:history", "minimal"),
    ["search:history", { clear: true }],
    valid("search:clicked", "minimal"),
    valid("search:subscribe", "minimal"),
    valid("search:subscribe", "everything"),
    ["search:unsubscribe", { subscription_id: "s_1" }],
  ]);
});

describe("pages", () => {
  beforeEach(() => {
    server.overrides.set("search:query", ({ request_id, cursor }, socket) => {
      const page = Number(cursor ?? 0);
      for (const phase of page === 0 ? ["instant", "full"] : ["full"]) {
        const next = page === 2 ? {} : { next_cursor: phase === "full" ? String(page + 1) : "by words" };
        socket.emit("search:results", { request_id, phase, hits: [{ segment_id: `${page}` }], took_ms: 1, ...next });
      }
      return { ok: true };
    });
  });

  test("follow one another with the options of the first, until there is none", async () => {
    const seen: string[] = [];
    const options = { slot: "page", limit: 1, filters: { speakers: ["Ann"] } };
    let search = client.search("a", { ...options, onResults: ({ phase, hits }) => seen.push(`${phase} ${hits[0]!.segment_id}`) });
    expect([search.hasNext, search.next()]).toEqual([false, null]);
    expect(await search.done).toBe("complete");
    while (search.hasNext) {
      search = search.next()!;
      expect(await search.done).toBe("complete");
    }
    expect(search.next()).toBeNull();
    expect(seen).toEqual(["instant 0", "full 0", "full 1", "full 2"]);
    const sent = server.sent("search:query").map(({ request_id: _, ...body }) => body);
    expect(sent).toEqual([{}, { cursor: "1" }, { cursor: "2" }].map((cursor) => ({ text: "a", ...options, ...cursor })));
  });

  test("of an older query are silent once something else is typed", async () => {
    const seen: string[] = [];
    const first = client.search("a");
    await first.done;
    const more = first.next(() => seen.push("more"))!;
    const typed = client.search("ab", { onResults: () => seen.push("typed") });
    expect([await more.done, await typed.done]).toEqual(["superseded", "complete"]);
    expect(seen).toEqual(["typed", "typed"]);
  });
});

describe("a subscription", () => {
  const match = (cursor: string, segment_id: string, rev = 1, subscription_id = "s1") => {
    return { subscription_id, cursor, hit: { segment_id, rev, text: "" } };
  };
  const matches: string[] = [];
  const ended: string[] = [];
  const listening: SubscribeOptions = {
    onMatch: ({ hit }: SearchMatch) => matches.push(`${hit.segment_id} ${hit.rev}`),
    onEnded: ({ code }) => ended.push(code),
  };
  const asked = () => server.sent("search:subscribe").map(({ after }) => after);
  beforeEach(() => {
    matches.length = ended.length = 0;
    server.overrides.set("search:subscribe", () => ({ ok: true, cursor: "5.0" }));
  });

  test("is taken up again after the last match, and tells each revision once", async () => {
    const held = client.subscribe("budget", listening);
    await held.ready;
    expect(held.cursor).toBe("5.0");
    await reconnected(); // Nothing matched yet: everything since the beginning.
    await server.until(() => asked().length === 2);
    server.emit("search:match", match("6.0", "a"));
    server.emit("search:match", match("7.0", "b"));
    await settled();
    await reconnected();
    await server.until(() => asked().length === 3);
    server.emit("search:match", match("7.0", "b"));
    server.emit("search:match", match("8.0", "b", 2));
    server.emit("search:match", match("9.0", "c", 1, "s2")); // Nobody's.
    await settled();
    expect(asked()).toEqual([undefined, "5.0", "7.0"]);
    expect(matches).toEqual(["a 1", "b 1", "b 2"]);
    expect([held.cursor, ended]).toEqual(["8.0", []]);
  });

  test("goes on where it is told to, not where the server stands", async () => {
    const held = client.subscribe("budget", { ...listening, after: "3.1" });
    await held.ready;
    expect([asked(), held.cursor]).toEqual([["3.1"], "3.1"]);
  });

  test("that was ended tells nothing and is not asked for again", async () => {
    const told: string[] = [];
    client.on("search:match", ({ hit }) => told.push(hit.segment_id));
    const held = client.subscribe("budget", listening);
    await held.ready;
    held.end();
    held.end();
    server.emit("search:match", match("6.0", "a"));
    await settled();
    await reconnected();
    await settled();
    expect([matches, told, ended]).toEqual([[], [], []]);
    expect([asked().length, server.sent("search:unsubscribe").length]).toEqual([1, 1]);
  });

  test("is asked for again when the refusal may pass, and ends with the reason when not", async () => {
    server.overrides.set("search:subscribe", () => {
      return asked().length < 3 ? refusal("overloaded", { retryable: true, retry_after_ms: 5 }) : { ok: true, cursor: "5.0" };
    });
    const held = client.subscribe("budget", listening);
    await held.ready;
    const error = (code: string, retryable: boolean) => ({ code, message: "", retryable, retry_after_ms: 5 });
    server.emit("search:unsubscribed", { subscription_id: "s1", error: error("unavailable", true) });
    await server.until(() => asked().length === 4);
    expect(asked()).toEqual([undefined, undefined, undefined, "5.0"]);
    server.emit("search:unsubscribed", { subscription_id: "s1", error: error("history_truncated", false) });
    server.emit("search:match", match("6.0", "a"));
    await settled();
    expect([matches, ended]).toEqual([[], ["history_truncated"]]);

    server.overrides.set("search:subscribe", () => refusal("quota_exceeded"));
    await expect(client.subscribe("more", listening).ready).rejects.toMatchObject({ code: "quota_exceeded" });
    expect(ended).toEqual(["history_truncated", "quota_exceeded"]);
  });

  test("begins when there is a connection, and ends with the client", async () => {
    const other = connect({ url: server.url, token: "tok" });
    const held = other.subscribe("budget", listening); // Before the greeting.
    await held.ready;
    other.close();
    expect(ended).toEqual(["closed"]);
  });

  test("does not stand in the way of the others: some are asked for at a time, all in the end", async () => {
    server.overrides.set("search:subscribe", ({ subscription_id }) => {
      return Number(String(subscription_id).slice(1)) % 2 === 0 ? null : { ok: true, cursor: "1.0" };
    });
    const all = Array.from({ length: 30 }, () => client.subscribe("budget", listening));
    await Promise.race(all.map(({ ready }) => ready));
    expect(asked().length).toBeLessThan(30);
    server.overrides.set("search:subscribe", () => ({ ok: true, cursor: "1.0" }));
    await reconnected(); // What was never answered is asked for again.
    await Promise.all(all.map(({ ready }) => ready));
  });
});
