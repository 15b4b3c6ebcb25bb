/** The connection, against a real Socket.IO server that cuts, refuses and repeats. */

import { afterEach, beforeEach, expect, test } from "vitest";
import { connect, type ConnectOptions, type Parlance } from "../src/index.js";
import { asVector, clientVectors } from "./golden.js";
import { FakeServer, refusal } from "./server.js";

let server: FakeServer;
let clients: Parlance[];

beforeEach(async () => {
  server = await FakeServer.start();
  clients = [];
});

afterEach(async () => {
  for (const client of clients) client.close();
  await server.close();
});

function client(options: Partial<ConnectOptions> = {}): Parlance {
  const made = connect({ url: server.url, token: "tok", ...options });
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
