/**
 * A small Parlance on a real Socket.IO server: enough of the protocol to test what the SDK does when things go wrong.
 * It can be cut off, refuse, lose chunks and hold answers back.
 */

import { createServer, type Server as HttpServer } from "node:http";
import type { AddressInfo } from "node:net";
import { Server, type Socket } from "socket.io";

type Body = Record<string, unknown>;
type Answer = (ack: object) => void;
type Handler = (body: Body, socket: Socket) => object | null;

export interface StreamState {
  recordingId: string;
  streamId: string;
  bytes: Buffer;
  durable: number;
  isStopped: boolean;
}

export const READY = {
  protocol: 1,
  features: [],
  session_id: "s_1",
  user: { id: "u_1", name: "Ada", roles: ["owner"] },
  tenant: { id: "t_1", name: "Demo" },
  engine: { name: "pocketsphinx", model: "en-us", state: "ready", notice: null, tier: null },
  limits: {},
  server_time: 1,
};

export function refusal(code: string, details: Body = {}): object {
  return { ok: false, error: { code, message: code, retryable: false, ...details } };
}

export class FakeServer {
  /** Everything clients sent, in order. */
  readonly received: [event: string, body: Body][] = [];
  /** Answers instead of the usual ones; null answers nothing. */
  readonly overrides = new Map<string, Handler>();
  readonly log = new Map<string, Body[]>();
  stream: StreamState | null = null;
  acceptsToken = (token: string): boolean => token !== "bad";
  /** Refusals of the next connections, before tokens are looked at. */
  readonly refusals: Body[] = [];
  readonly tokens: string[] = [];
  clockMs = (): number => Date.now();
  credit = 1_000_000;
  /** Chunks to lose, by offset, once each. */
  readonly lost = new Set<number>();
  beyondCredit = 0;
  streams = 0;
  connections = 0;
  readonly #http: HttpServer = createServer();
  readonly #io = new Server(this.#http, { transports: ["websocket"] });
  #waiting: (() => void)[] = [];

  static async start(): Promise<FakeServer> {
    const server = new FakeServer();
    server.#io.use((socket, next) => {
      const { token } = socket.handshake.auth as { token: string };
      server.tokens.push(token);
      const error: Error & { data?: object } = new Error("refused");
      const refused = server.refusals.shift();
      error.data = refused ?? { code: "unauthenticated", message: "The token is not valid." };
      next(refused === undefined && server.acceptsToken(token) ? undefined : error);
    });
    server.#io.on("connection", (socket) => server.#connected(socket));
    await new Promise<void>((resolve) => server.#http.listen(0, "127.0.0.1", resolve));
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#http.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    await this.#io.close();
  }

  /** Cut every connection without a word, as a lost network does. */
  cut(): void {
    for (const socket of this.#io.sockets.sockets.values()) socket.conn.close();
  }

  emit(event: string, body: object): void {
    this.#io.emit(event, body);
  }

  /** Say why, then close, as the server does. */
  closeSockets(code: string): void {
    for (const socket of this.#io.sockets.sockets.values()) {
      socket.emit("server:closing", { code, message: code });
      socket.disconnect(true);
    }
  }

  /** The recording is over, and its log says why. */
  end(reason = "stopped"): void {
    const room = `recording:${this.stream!.recordingId}`;
    const events = this.log.get(room) ?? [];
    this.log.set(room, events);
    this.stream!.isStopped = true;
    events.push({ event: "recording:ended", room, seq: events.length + 1, at: 1, reason });
  }

  /** Append durable events to a room's log; `isHidden` ones reach clients only when they ask. */
  append(room: string, count = 1, isHidden = false): void {
    const events = this.log.get(room) ?? [];
    this.log.set(room, events);
    for (let at = 0; at < count; at += 1) {
      const body = { event: "recording:updated", room, seq: events.length + 1, at: 1, recording: { id: "r_1" } };
      events.push(body);
      if (!isHidden) this.#io.to(room).emit(body.event, body);
    }
  }

  sent(event: string): Body[] {
    return this.received.filter(([name]) => name === event).map(([, body]) => body);
  }

  /** Wait until `condition` holds; looked at after everything that arrives. The test's time limit is the limit. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
        setTimeout(resolve, 10);
      });
    }
  }

  #connected(socket: Socket): void {
    this.connections += 1;
    socket.onAny((event: string, body: Body, answer?: Answer) => {
      this.received.push([event, body]);
      const handler = this.overrides.get(event) ?? this.#handlers[event] ?? (() => ({ ok: true }));
      const ack = handler(body, socket);
      if (ack !== null) answer?.(ack);
      for (const resolve of this.#waiting.splice(0)) resolve();
    });
    socket.emit("ready", { ...READY, server_time: this.clockMs() });
  }

  readonly #handlers: Record<string, Handler> = {
    "room:join": ({ room, after_seq }, socket) => {
      const events = this.log.get(room as string) ?? [];
      void socket.join(room as string);
      const missed = typeof after_seq === "number" ? events.slice(after_seq) : [];
      process.nextTick(() => missed.forEach((event) => socket.emit(event["event"] as string, event))); // After the answer.
      return { ok: true, room, seq: events.length, first_seq: 1 };
    },
    "events:read": ({ room, after_seq, limit }) => {
      const events = (this.log.get(room as string) ?? []).slice(after_seq as number);
      const page = events.slice(0, (limit as number | undefined) ?? 1_000);
      const seq = (page.at(-1)?.["seq"] as number | undefined) ?? this.log.get(room as string)?.length ?? 0;
      return { ok: true, events: page, seq, first_seq: 1, more: page.length < events.length };
    },
    "room:leave": ({ room }, socket) => {
      void socket.leave(room as string);
      return { ok: true };
    },
    "voice:recording:start": ({ recording_id }) => {
      this.streams += 1;
      const streamId = `st_${this.streams}`;
      if (recording_id === undefined) {
        this.stream = { recordingId: "r_1", streamId, bytes: Buffer.alloc(0), durable: 0, isStopped: false };
      } else if (this.stream!.isStopped) return refusal("stream_ended");
      else this.stream!.streamId = streamId;
      const { recordingId, bytes } = this.stream!;
      return {
        ok: true,
        recording_id: recordingId,
        stream_id: streamId,
        resume_token: "res_1",
        offset: bytes.length,
        credit_bytes: this.credit,
        engine: READY.engine,
      };
    },
    "voice:recording:chunk": (body, socket) => {
      this.#chunk(body["stream_id"] as string, body["offset"] as number, body["audio"] as Buffer, socket);
      return null;
    },
    "voice:recording:stop": ({ stream_id, offset }) => {
      const stream = this.stream!;
      if (stream.isStopped) return refusal("stream_ended");
      if (stream_id !== stream.streamId) return refusal("not_found");
      if (offset !== stream.bytes.length) return refusal("offset_mismatch", { expected: stream.bytes.length });
      this.end();
      return { ok: true };
    },
  };

  #chunk(streamId: string, offset: number, audio: Buffer, socket: Socket): void {
    const stream = this.stream!;
    if (streamId !== stream.streamId || this.lost.delete(offset)) return;
    const expected = stream.bytes.length;
    if (offset > expected) {
      const error = { code: "offset_mismatch", message: "", retryable: false, expected };
      socket.emit("voice:recording:error", { stream_id: streamId, error, fatal: false, expected_offset: expected });
      return;
    }
    const fresh = audio.subarray(expected - offset);
    if (expected + fresh.length > stream.durable + this.credit) this.beyondCredit += 1;
    stream.bytes = Buffer.concat([stream.bytes, fresh]);
  }

  /** Call everything up to `durable` safe, and grant credit from there. */
  acknowledge(durable = this.stream!.bytes.length): void {
    const stream = this.stream!;
    stream.durable = durable;
    this.emit("voice:recording:ack", {
      stream_id: stream.streamId,
      received_bytes: stream.bytes.length,
      durable_bytes: durable,
      credit_bytes: durable + this.credit - stream.bytes.length,
      received_ms: 0,
      processed_ms: 0,
      committed_ms: 0,
      lag_ms: 250,
      degraded: false,
    });
  }
}
