/** Small calls over HTTP, against a server that answers what it was asked. */

import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { People } from "../src/people.js";

interface Asked {
  method: string | undefined;
  path: string | undefined;
  token: string | undefined;
  body: unknown;
}

describe("people", () => {
  const asked: Asked[] = [];
  let answer: { status: number; body?: unknown } = { status: 200, body: {} };
  let server: Server;
  let people: People;

  beforeAll(async () => {
    server = createServer((request, response) => {
      let text = "";
      request.on("data", (piece: Buffer) => (text += piece.toString()));
      request.on("end", () => {
        const { method, url: path, headers } = request;
        asked.push({ method, path, token: headers.authorization, body: text === "" ? undefined : JSON.parse(text) });
        response.writeHead(answer.status, { "content-type": "application/json" });
        response.end(answer.body === undefined ? undefined : JSON.stringify(answer.body));
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    people = new People(() => "tok", `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  });
  afterAll(() => void server.close());

  test("every call asks for what it says", async () => {
    answer = { status: 200, body: { speakers: [], voices: [], voice: { id: "v" }, segment: { rev: 2 }, history: [] } };
    expect(await people.speakers("r/1")).toEqual([]);
    await people.name("r", "S1", null);
    expect(await people.enrol("r", "S1", "Ada")).toEqual({ id: "v" });
    await people.merge("r", "S2", "S1");
    expect(await people.edit("r", "s~2", { rev: 1, text: "x" })).toEqual({ rev: 2 });
    expect((await people.history("r", "s~2")).history).toEqual([]);
    expect(await people.voices()).toEqual([]);
    expect(await people.renameVoice("v", "Bob")).toEqual({ id: "v" });
    answer = { status: 204 };
    expect(await people.deleteVoice("v")).toBeUndefined();
    expect(asked.splice(0).map(({ method, path, body }) => [method, path, body])).toEqual([
      ["GET", "/v1/recordings/r%2F1/speakers", undefined],
      ["PATCH", "/v1/recordings/r/speakers/S1", { name: null }],
      ["PATCH", "/v1/recordings/r/speakers/S1", { name: "Ada", enrol: true }],
      ["POST", "/v1/recordings/r/speakers/S2/merge", { into: "S1" }],
      ["PATCH", "/v1/recordings/r/segments/s~2", { rev: 1, text: "x" }],
      ["GET", "/v1/recordings/r/segments/s~2", undefined],
      ["GET", "/v1/voices", undefined],
      ["PATCH", "/v1/voices/v", { name: "Bob" }],
      ["DELETE", "/v1/voices/v", undefined],
    ]);
  });

  test("a refusal is a ParlanceError with all that the problem says", async () => {
    const problem = { title: "Changed.", status: 409, code: "conflict", message: "Changed.", field: "rev", expected: 7 };
    answer = { status: 409, body: problem };
    const refusal = people.edit("r", "s", { rev: 1, text: "x" });
    await expect(refusal).rejects.toMatchObject({ code: "conflict", message: "Changed.", field: "rev", expected: 7 });
    expect(asked.at(-1)?.token).toBe("Bearer tok");
    answer = { status: 502 };
    await expect(people.voices()).rejects.toMatchObject({ code: "unavailable", retryable: true });
    answer = { status: 401 };
    await expect(people.voices()).rejects.toMatchObject({ code: "unauthenticated", retryable: false });
  });

  test("a server that cannot be reached may be asked again", async () => {
    const nowhere = new People(() => "tok", "http://127.0.0.1:1");
    await expect(nowhere.voices()).rejects.toMatchObject({ code: "disconnected", retryable: true });
  });
});
