/** The connection, against a real Socket.IO server that cuts, refuses and repeats. */

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { connect, type ConnectOptions, type Parlance } from "../src/index.js";
import { asVector, clientVectors } from "./golden.js";
import { FakeServer, refusal } from "./server.js";

const QUICK = { firstMs: 20, maxMs: 100 };

let server: FakeServer;
let clients: Parlance[];

beforeEach(async () => {
  server = await FakeServer.start();
  clients = [];
});

afterEach(async () => {
  for (const client of clients) client.close();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
  await server.close();
});

function client(options: Partial<ConnectOptions> = {}): Parlance {
  const made = connect({ url: server.url, token: "tok", backoff: QUICK, ...options });
  clients.push(made);
  return made;
}

async function live(options: Partial<ConnectOptions> = {}): Promise<Parlance> {
  const made = client(options);
  await made.ready;
  return made;
}

function follow(of: Parlance, room: string): number[] {
  const seen: number[] = [];
  of.on("recording:updated", (event) => {
    if (event.room === room) seen.push(event.seq);
  });
  return seen;
}

test("greets, and tells its states", async () => {
  const made = client();
  const states: string[] = [];
  made.on("client:state", (state) => states.push(state));
  expect((await made.ready).user.name).toBe("Ada");
  server.cut();
  await server.until(() => states.length === 3);
  made.close();
  expect(states).toEqual(["live", "reconnecting", "live", "closed"]);
  await expect(made.call("room:join", { room: "tenant:t_1" })).rejects.toMatchObject({ code: "closed" });
});

test("what it sends equals the golden vectors", async () => {
  const made = await live();
  await made.join("tenant:t_1");
  await made.join("recording:r_1", { afterSeq: 0 });
  await made.leave("recording:r_1");
  await made.readEvents("tenant:t_1", 0);
  await made.readEvents("tenant:t_1", 10, 5);
  await made.refresh("tok_2");
  const search = made.search("quarter", { slot: "page", limit: 30 });
  search.cancel();
  await server.until(() => server.sent("search:cancel").length === 1);

  const sent = server.received.map(([event, body]) => {
    return [event, asVector("request_id" in body ? { ...body, request_id: "q_1" } : body)];
  });
  const valid = (event: string, name: string) => [event, clientVectors[event]!.valid[name]];
  expect(sent).toEqual([
    valid("room:join", "live events only"),
    valid("room:join", "from the start"),
    valid("room:leave", "minimal"),
    valid("events:read", "minimal"),
    valid("events:read", "with limit"),
    valid("auth:refresh", "minimal"),
    valid("search:query", "in a slot"),
    valid("search:cancel", "minimal"),
  ]);
});

test("refusals are typed errors", async () => {
  const made = await live();
  const error = { retryable: true, retry_after_ms: 300, field: "room" };
  server.overrides.set("room:join", () => refusal("overloaded", error));
  await expect(made.join("tenant:t_1")).rejects.toMatchObject({
    name: "ParlanceError",
    code: "overloaded",
    retryable: true,
    retryAfterMs: 300,
    field: "room",
  });
});

test("a call without an answer ends: in time, or with the connection", async () => {
  const made = await live();
  server.overrides.set("room:leave", () => null);
  await expect(made.call("room:leave", { room: "tenant:t_1" }, 20)).rejects.toMatchObject({ code: "timeout" });
  const waiting = made.call("room:leave", { room: "tenant:t_1" });
  server.cut();
  await expect(waiting).rejects.toMatchObject({ code: "disconnected", retryable: true });
  await expect(made.call("room:leave", { room: "tenant:t_1" })).rejects.toMatchObject({ code: "disconnected" });
});

test("a room's events arrive in order, each once, across cuts", async () => {
  const made = await live();
  const seen = follow(made, "tenant:t_1");
  server.append("tenant:t_1", 3);
  await made.join("tenant:t_1", { afterSeq: 0 });
  for (let round = 0; round < 4; round += 1) {
    server.append("tenant:t_1", 2);
    server.cut();
    server.append("tenant:t_1", 2); // Nobody is there to hear these.
    const joins = server.sent("room:join").length;
    await server.until(() => server.sent("room:join").length > joins && seen.length === 3 + 4 * (round + 1));
  }
  expect(seen).toEqual(Array.from({ length: 19 }, (_, at) => at + 1));
  expect(server.connections).toBe(5);
});

test("a hole in the log is filled before anything after it is delivered", async () => {
  const made = await live();
  const seen = follow(made, "tenant:t_1");
  await made.join("tenant:t_1");
  server.append("tenant:t_1");
  server.append("tenant:t_1", 2, true);
  server.append("tenant:t_1", 2);
  await server.until(() => seen.length === 5);
  expect(seen).toEqual([1, 2, 3, 4, 5]);
  expect(server.sent("room:join").at(-1)).toEqual({ room: "tenant:t_1", after_seq: 1 });
});

test("a log that no longer reaches back is told, a lost room too", async () => {
  const made = await live();
  await made.join("tenant:t_1", { afterSeq: 0 });
  await made.join("recording:r_1", { afterSeq: 0 });
  const told: string[] = [];
  made.on("room:reset", ({ room }) => told.push(`reset ${room}`));
  made.on("room:lost", ({ room, error }) => told.push(`lost ${room} ${error.code}`));
  server.overrides.set("room:join", ({ room }) => refusal(room === "tenant:t_1" ? "history_truncated" : "not_found"));
  server.cut();
  await server.until(() => told.length === 2);
  expect(told.sort()).toEqual(["lost recording:r_1 not_found", "reset tenant:t_1"]);
});

test("a refused token is renewed once", async () => {
  let renewals = 0;
  const getToken = async (): Promise<string> => {
    renewals += 1;
    return "good";
  };
  const made = await live({ token: "bad", getToken });
  expect([made.state, renewals]).toEqual(["live", 1]);
  server.acceptsToken = () => false;
  server.closeSockets("unauthenticated");
  await server.until(() => made.state === "closed");
  expect(renewals).toBe(2);
});

test("a client that is refused for good closes and says why", async () => {
  const made = client({ token: "bad" });
  const reasons: string[] = [];
  made.on("client:refused", (error) => reasons.push(error.code));
  await expect(made.ready).rejects.toMatchObject({ code: "unauthenticated", message: "The token is not valid." });
  expect([made.state, reasons]).toEqual(["closed", ["unauthenticated"]]);
});

test.each(["slow_consumer", "draining"])("comes back after the server closed it as %s", async (code) => {
  const made = await live();
  server.closeSockets(code);
  await server.until(() => server.connections === 2 && made.state === "live");
});

test("moves when the server drains", async () => {
  const made = await live();
  server.emit("server:draining", { reconnect_after_ms: 5 });
  await server.until(() => server.connections === 2 && made.state === "live");
});

test("search delivers both phases, and nothing of a superseded query", async () => {
  const made = await live();
  server.overrides.set("search:query", ({ request_id, text }, socket) => {
    for (const phase of ["instant", "full"]) {
      const answer = (): void => void socket.emit("search:results", { request_id, phase, hits: [], took_ms: 1 });
      if (text !== "slow") answer();
    }
    return { ok: true };
  });
  const seen: string[] = [];
  const slow = made.search("slow", { onResults: () => seen.push("slow") });
  const quick = made.search("quick", { onResults: ({ phase }) => seen.push(`quick ${phase}`) });
  expect([await slow.done, await quick.done]).toEqual(["superseded", "complete"]);
  server.emit("search:results", { request_id: slow.requestId, phase: "full", hits: [], took_ms: 1 });
  await made.readEvents("tenant:t_1", 0); // Whatever was sent before has arrived now.
  expect(seen).toEqual(["quick instant", "quick full"]);
});

test("a search fails with its reason, and when the connection goes", async () => {
  const made = await live();
  const failed = made.search("a");
  const error = { code: "unavailable", message: "", retryable: true };
  server.emit("search:failed", { request_id: failed.requestId, error });
  await expect(failed.done).rejects.toMatchObject({ code: "unavailable" });
  const cut = made.search("b");
  server.cut();
  await expect(cut.done).rejects.toMatchObject({ code: "disconnected" });
});

test("a room whose oldest events are gone is told, with what is left", async () => {
  const made = await live();
  await made.join("tenant:t_1", { afterSeq: 0 });
  const told: object[] = [];
  made.on("room:reset", (event) => told.push(event));
  server.emit("history_truncated", { room: "tenant:other", first_seq: 5 });
  server.emit("history_truncated", { room: "tenant:t_1", first_seq: 7 });
  server.emit("history_truncated", { room: "tenant:t_1", first_seq: 7 });
  await made.readEvents("tenant:t_1", 0);
  expect(told).toEqual([{ room: "tenant:t_1", firstSeq: 7 }]);
});

test("a log with a hole that nothing fills is lost, once, and not asked for for ever", async () => {
  const made = await live();
  await made.join("tenant:t_1", { afterSeq: 0 });
  const told: string[] = [];
  made.on("room:lost", ({ room }) => told.push(room));
  server.log.set("tenant:t_1", [{ event: "recording:updated", room: "tenant:t_1", seq: 2, at: 1, recording: {} }]);
  server.emit("recording:updated", { event: "recording:updated", room: "tenant:t_1", seq: 2, at: 1, recording: {} });
  await server.until(() => told.length === 1);
  expect(server.sent("room:join")).toHaveLength(2);
});

describe("another server", () => {
  test("addresses are tried in turn", async () => {
    const other = await FakeServer.start();
    const made = await live({ urls: [server.url, other.url] });
    await made.join("tenant:t_1", { afterSeq: 0 });
    await server.close();
    await other.until(() => made.state === "live" && other.sent("room:join").length === 1);
    expect([server.connections, other.connections]).toEqual([1, 1]);
    made.close();
    await other.close();
  });

  test("an address that does not answer is passed over at the first connection too", async () => {
    const made = client({ url: "http://127.0.0.1:1", urls: [server.url] });
    await made.ready;
    expect(made.state).toBe("live");
  });

  test("one that is full is not asked before the time that it named", async () => {
    const made = await live();
    server.refusals.push({ code: "overloaded", message: "full", retryable: true, retry_after_ms: 400 });
    const told: number[] = [];
    const accepts = server.acceptsToken;
    server.acceptsToken = (token) => accepts(token) && told.push(performance.now()) > 0;
    const since = performance.now();
    server.cut();
    await server.until(() => server.connections === 2 && made.state === "live");
    expect(told[0]! - since).toBeGreaterThan(390);
    expect(server.tokens).toHaveLength(3);
  });

  test("a draining one may be left at once", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0);
    const made = await live();
    server.emit("server:draining", { reconnect_after_ms: 3_600_000 });
    await server.until(() => server.connections === 2 && made.state === "live");
  });

  test("a draining one is left at a moment that chance chooses within its time", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0.5);
    const made = await live();
    const since = performance.now();
    server.emit("server:draining", { reconnect_after_ms: 600 });
    server.emit("server:draining", { reconnect_after_ms: 0 }); // Told once.
    await server.until(() => server.connections === 2 && made.state === "live");
    expect(performance.now() - since).toBeGreaterThan(290);
  });

  test("one that drains and closes at once is not asked before that moment either", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0.5);
    const made = await live();
    const since = performance.now();
    server.emit("server:draining", { reconnect_after_ms: 600 });
    server.closeSockets("draining");
    await server.until(() => server.connections === 2 && made.state === "live");
    expect(performance.now() - since).toBeGreaterThan(290);
  });
});

describe("in a browser", () => {
  const browser = () => {
    const [view, page] = [new EventTarget(), Object.assign(new EventTarget(), { visibilityState: "hidden" })];
    vi.stubGlobal("window", view);
    vi.stubGlobal("document", page);
    return { view, page };
  };
  const patient = { backoff: { firstMs: 3_600_000, maxMs: 3_600_000 } };

  test.each(["online", "shown"])("%s: it connects at once, whatever it was waiting for", async (how) => {
    const { view, page } = browser();
    const made = await live(patient);
    server.cut();
    await server.until(() => made.state === "reconnecting");
    page.dispatchEvent(new Event("visibilitychange")); // Still hidden.
    if (how === "shown") {
      page.visibilityState = "visible";
      page.dispatchEvent(new Event("visibilitychange"));
    } else view.dispatchEvent(new Event("online"));
    await server.until(() => made.state === "live");
    expect(server.connections).toBe(2);
  });

  test("without a network it does not wait for the line to time out", async () => {
    const { view } = browser();
    const made = await live(patient);
    view.dispatchEvent(new Event("offline"));
    expect(made.state).toBe("reconnecting");
    view.dispatchEvent(new Event("online"));
    await server.until(() => made.state === "live");
  });

  test("a closed client hears nothing any more", async () => {
    const { view } = browser();
    const made = await live(patient);
    made.close();
    view.dispatchEvent(new Event("online"));
    await new Promise((resolve) => setImmediate(resolve));
    expect([made.state, server.connections]).toEqual(["closed", 1]);
  });
});

describe("tokens", () => {
  /** A JWT that ends in `seconds`. */
  const ending = (seconds: number, name: string): string => {
    const claims = { exp: Date.now() / 1000 + seconds, name };
    return `x.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.x`;
  };
  const refreshed = (): unknown[] => server.sent("auth:refresh").map(({ token }) => token);

  test("are renewed before they end, again and again, on the same connection", async () => {
    const given: string[] = [];
    const getToken = async (): Promise<string> => {
      given.push(ending(1.3, `token ${given.length}`));
      return given.at(-1)!;
    };
    const made = await live({ token: ending(1.3, "first"), getToken });
    await server.until(() => refreshed().length === 2);
    expect([refreshed(), server.connections, made.state]).toEqual([given.slice(0, 2), 1, "live"]);
  });

  test("a source that fails is asked again while the old token holds", async () => {
    const fresh = ending(600, "fresh");
    let asked = 0;
    const getToken = async (): Promise<string> => {
      asked += 1;
      if (asked < 4) throw new Error("no network");
      return fresh;
    };
    const made = await live({ token: ending(2, "old"), getToken });
    await server.until(() => refreshed().length === 1);
    expect([asked, refreshed(), made.state]).toEqual([4, [fresh], "live"]);
  });

  test("the end of a token is by the server's clock", async () => {
    const fresh = ending(600, "fresh");
    server.clockMs = () => Date.now() + 3_600_000; // This device's clock is an hour behind.
    await live({ token: ending(3_600 + 1.3, "old"), getToken: async () => fresh });
    await server.until(() => refreshed().length === 1);
    expect(refreshed()).toEqual([fresh]);
  });

  test("an ended token is not shown to a server; a source that says no ends the client with its reason", async () => {
    const { ParlanceError } = await import("../src/index.js");
    const reasons: string[] = [];
    const getToken = async (): Promise<string> => {
      throw new ParlanceError("unauthenticated", "Sign in again.");
    };
    const made = client({ token: ending(-1, "old"), getToken });
    made.on("client:refused", (error) => reasons.push(error.message));
    await expect(made.ready).rejects.toMatchObject({ message: "Sign in again." });
    expect([reasons, server.tokens]).toEqual([["Sign in again."], []]);
  });

  test("a source that cannot be reached is waited for", async () => {
    let asked = 0;
    const getToken = async (): Promise<string> => {
      asked += 1;
      if (asked < 3) throw new TypeError("Failed to fetch");
      return "good";
    };
    const made = await live({ token: ending(-1, "old"), getToken });
    expect([asked, made.state, server.tokens]).toEqual([3, "live", ["good"]]);
  });
});
