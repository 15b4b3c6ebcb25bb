/**
 * The connection to a Parlance server: state, typed events, calls, rooms that survive reconnects, search, recording.
 *
 * Policy: nothing is buffered while the connection is away: a call fails with `disconnected` and its caller decides.
 * Rooms join again by themselves, each after the last event that was delivered. A refused token is renewed once through
 * `getToken`; what waiting can heal is tried again, anything else closes the client.
 *
 * Boundary: the only module that knows Socket.IO.
 */

import { io, type Socket } from "socket.io-client";
import type { AckOf, AcknowledgedEvent, EventsReadAck, JoinAck } from "./acks.js";
import { Emitter, type Unsubscribe } from "./emitter.js";
import { asParlanceError, ParlanceError } from "./errors.js";
import type { ConnectionState, Link } from "./link.js";
import type { ClientEvents, Logged, Ready, SearchResults, ServerEvents, ServerStatus, WireError } from "./protocol.js";
import { LiveRecording, type RecordingOptions } from "./recording.js";
import { RoomLog } from "./rooms.js";
import { SearchSlots, type Search, type SearchOptions } from "./search.js";
import type { AudioSource } from "./source.js";

export interface ConnectOptions {
  /** Where the server is: `https://speech.example`. */
  url: string;
  /** An access token or an API key. */
  token: string;
  /** Asked for a fresh token when the server no longer takes the present one. */
  getToken?: () => Promise<string>;
  /** "name/version" of the program, for the server's log. */
  client?: string;
}

interface LocalEvents {
  "client:state": ConnectionState;
  /** The reason of the state `closed`, when it was not `close()`. */
  "client:refused": ParlanceError;
  /** The log no longer reaches back to where this client stood: read the room's present state, then join again. */
  "room:reset": { room: string };
  /** The room cannot be joined any more (erased, or access was withdrawn). */
  "room:lost": { room: string; error: ParlanceError };
}

export type ParlanceEvents = ServerEvents & LocalEvents;

/** PROTOCOL.md: an acknowledgement takes at most 2 s on the server; the rest is for slow lines. */
const CALL_MS_MAX = 10_000;
const RECONNECT_MS_MIN = 500;
const RECONNECT_MS_MAX = 5_000;

/** Refusals that no waiting heals. */
const FINAL_CODES = new Set(["unauthenticated", "forbidden", "bad_request", "not_found"]);

type Acknowledgement = { ok: true } | { ok: false; error: WireError };

export function connect(options: ConnectOptions): Parlance {
  return new Parlance(options);
}

export class Parlance {
  readonly #socket: Socket;
  readonly #options: ConnectOptions;
  readonly #emitter = new Emitter<ParlanceEvents>();
  readonly #rooms = new RoomLog();
  readonly #rejoining = new Set<string>();
  readonly #searches = new SearchSlots();
  #searchCount = 0;
  readonly #firstReady: Promise<Ready>;
  #settleReady: { resolve(ready: Ready): void; reject(error: ParlanceError): void } | null = null;
  #token: string;
  #state: ConnectionState = "connecting";
  #info: Ready | null = null;
  #status: ServerStatus | null = null;
  #closing: ParlanceError | null = null;
  #isRenewed = false;
  #refusals = 0;
  #retryTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(options: ConnectOptions) {
    this.#options = options;
    this.#token = options.token;
    this.#firstReady = new Promise((resolve, reject) => (this.#settleReady = { resolve, reject }));
    this.#firstReady.catch(() => undefined); // `client:refused` tells it too.
    this.#socket = io(options.url, {
      transports: ["websocket"],
      forceNew: true,
      reconnectionDelay: RECONNECT_MS_MIN,
      reconnectionDelayMax: RECONNECT_MS_MAX,
      auth: (give: (auth: object) => void) =>
        give({ token: this.#token, protocol: 1, client: options.client ?? "parlance-js/0.1.0" }),
    });
    this.#socket.on("connect_error", (error) => this.#connectFailed(error));
    this.#socket.on("disconnect", () => this.#disconnected());
    this.#socket.onAny((event: string, body: unknown) => this.#received(event, body));
  }

  /** The first greeting; rejects with ParlanceError when the server refuses this client for good. */
  get ready(): Promise<Ready> {
    return this.#firstReady;
  }

  /** The newest greeting: who is signed in, the engine, limits. */
  get info(): Ready | null {
    return this.#info;
  }

  /** What the server said last about what it can do; null from servers that do not say. */
  get status(): ServerStatus | null {
    return this.#status;
  }

  get state(): ConnectionState {
    return this.#state;
  }

  on<E extends keyof ParlanceEvents>(event: E, listener: (body: ParlanceEvents[E]) => void): Unsubscribe {
    return this.#emitter.on(event, listener);
  }

  /** Send an event and await its acknowledgement. Throws ParlanceError; `disconnected` and `timeout` leave it open. */
  async call<E extends AcknowledgedEvent>(event: E, body: ClientEvents[E], timeoutMs = CALL_MS_MAX): Promise<AckOf<E>> {
    if (this.#state === "closed") throw new ParlanceError("closed", "The connection was closed.");
    if (this.#state !== "live") throw notConnected();
    const answer = await this.#emitWithAck(event, body, timeoutMs);
    if (!answer.ok) throw ParlanceError.fromWire(answer.error);
    return answer as unknown as AckOf<E>;
  }

  /** Use `token` from now on, here and after reconnects. */
  async refresh(token: string): Promise<void> {
    this.#token = token;
    if (this.#state === "live") await this.call("auth:refresh", { token });
  }

  close(): void {
    this.#shut(null);
  }

  // --- rooms --------------------------------------------------------------------------------------------------------

  /**
   * Follow a room, also across reconnects, until `leave`. With `afterSeq` everything later arrives first, in order;
   * without it only what is still to come. Joining again moves the place. Throws ParlanceError, and then the room is
   * not followed; `history_truncated` means that `afterSeq` is too old.
   */
  async join(room: string, { afterSeq }: { afterSeq?: number } = {}): Promise<JoinAck> {
    this.#rooms.follow(room, afterSeq ?? null);
    try {
      const ack = await this.call("room:join", afterSeq === undefined ? { room } : { room, after_seq: afterSeq });
      this.#rooms.joined(room, ack.seq);
      return ack;
    } catch (thrown) {
      this.#rooms.forget(room);
      throw thrown;
    }
  }

  async leave(room: string): Promise<void> {
    this.#rooms.forget(room);
    if (this.#state === "live") await this.call("room:leave", { room });
  }

  /** Read a room's log without joining it. */
  readEvents(room: string, afterSeq: number, limit?: number): Promise<EventsReadAck> {
    const body = { room, after_seq: afterSeq };
    return this.call("events:read", limit === undefined ? body : { ...body, limit });
  }

  // --- search -------------------------------------------------------------------------------------------------------

  /** Search; a newer search in the same `slot` supersedes this one. */
  search(text: string, { onResults, ...options }: SearchOptions = {}): Search {
    this.#searchCount += 1;
    const requestId = `q${this.#searchCount}`;
    const done = this.#searches.open(requestId, options.slot ?? "default", onResults);
    done.catch(() => undefined); // A reader of `onResults` need not await `done`.
    this.call("search:query", { request_id: requestId, text, ...options }).catch((thrown: unknown) => {
      this.#searches.fail(requestId, asParlanceError(thrown));
    });
    const cancel = (): void => {
      if (!this.#searches.end(requestId, "cancelled")) return;
      this.call("search:cancel", { request_id: requestId }).catch(() => undefined);
    };
    return { requestId, done, cancel };
  }

  // --- recording ----------------------------------------------------------------------------------------------------

  /** Record from `source`. Throws ParlanceError when the source or the server refuses. */
  record(source: AudioSource, options: RecordingOptions = {}): Promise<LiveRecording> {
    const client = this;
    const link: Link = {
      get isLive() {
        return client.#state === "live";
      },
      call: (event, body) => this.call(event, body),
      sendChunk: (chunk) => void this.#socket.emit("voice:recording:chunk", chunk),
      onState: (listener) => this.on("client:state", listener),
      onAck: (listener) => this.on("voice:recording:ack", listener),
      onError: (listener) => this.on("voice:recording:error", listener),
    };
    return LiveRecording.begin(link, source, options);
  }

  // --- what arrives -------------------------------------------------------------------------------------------------

  #received(event: string, body: unknown): void {
    if (typeof body !== "object" || body === null) return;
    if (isLogged(body) && !this.#accept(body)) return;
    switch (event) {
      case "ready":
        this.#greeted(body as Ready);
        break;
      case "server:status":
        this.#status = body as ServerStatus;
        break;
      case "server:closing": {
        const { code, message } = body as ServerEvents["server:closing"];
        this.#closing = new ParlanceError(code, message);
        break;
      }
      case "server:draining":
        this.#moveAfter((body as ServerEvents["server:draining"]).reconnect_after_ms);
        break;
      case "search:results":
        this.#searches.results(body as SearchResults);
        break;
      case "search:superseded":
        this.#searches.end((body as { request_id: string }).request_id, "superseded");
        break;
      case "search:failed": {
        const failed = body as ServerEvents["search:failed"];
        this.#searches.fail(failed.request_id, ParlanceError.fromWire(failed.error));
        break;
      }
    }
    // Events of later protocol versions find no listener and are ignored.
    this.#emitter.emit(event as keyof ParlanceEvents, body as never);
  }

  #accept({ room, seq }: Logged): boolean {
    const verdict = this.#rooms.accept(room, seq);
    if (verdict === "gap") void this.#rejoin(room);
    // `foreign`: rooms that the server put this socket into (tenant, user) and that nobody here follows by number.
    return verdict === "deliver" || verdict === "foreign";
  }

  #greeted(ready: Ready): void {
    this.#info = ready;
    this.#isRenewed = false;
    this.#refusals = 0;
    this.#rejoining.clear();
    this.#setState("live");
    this.#settleReady?.resolve(ready);
    this.#settleReady = null;
    for (const room of this.#rooms.rooms) void this.#rejoin(room);
  }

  /** Join again after the last delivered event: after a reconnect, or because one is missing. */
  async #rejoin(room: string): Promise<void> {
    if (this.#rejoining.has(room)) return;
    this.#rejoining.add(room);
    try {
      const after = this.#rooms.after(room);
      const ack = await this.call("room:join", after === null ? { room } : { room, after_seq: after });
      this.#rooms.joined(room, ack.seq);
    } catch (thrown) {
      this.#rejoinFailed(room, asParlanceError(thrown));
    } finally {
      this.#rejoining.delete(room);
    }
  }

  #rejoinFailed(room: string, error: ParlanceError): void {
    if (error.code === "disconnected" || error.code === "closed" || !this.#rooms.has(room)) return;
    if (error.retryable || error.code === "timeout") {
      setTimeout(() => this.#rooms.has(room) && void this.#rejoin(room), error.retryAfterMs ?? RECONNECT_MS_MAX);
      return;
    }
    this.#rooms.forget(room);
    if (error.code === "history_truncated") this.#emitter.emit("room:reset", { room });
    else this.#emitter.emit("room:lost", { room, error });
  }

  // --- the connection's life ----------------------------------------------------------------------------------------

  async #emitWithAck(event: string, body: object, timeoutMs: number): Promise<Acknowledgement> {
    const socket = this.#socket;
    return new Promise((resolve, reject) => {
      const lost = (): void => reject(notConnected());
      socket.once("disconnect", lost);
      socket.timeout(timeoutMs).emit(event, body, (error: Error | null, answer: Acknowledgement) => {
        socket.off("disconnect", lost);
        if (error) reject(new ParlanceError("timeout", "The server did not answer in time."));
        else resolve(answer);
      });
    });
  }

  #connectFailed(error: Error & { data?: { code?: string; message?: string } }): void {
    if (this.#socket.active) {
      if (this.#state === "live") this.#setState("reconnecting");
      return; // The line failed; Socket.IO tries again by itself.
    }
    this.#refusedBy(new ParlanceError(error.data?.code ?? "unavailable", error.data?.message ?? error.message));
  }

  #disconnected(): void {
    if (this.#state === "closed") return;
    this.#searches.failAll(notConnected());
    this.#setState("reconnecting");
    const reason = this.#closing;
    this.#closing = null;
    if (reason) {
      this.#socket.disconnect();
      this.#refusedBy(reason);
    } else if (!this.#socket.active) {
      this.#connectAfter(this.#backOff());
    }
  }

  #refusedBy(error: ParlanceError): void {
    if (this.#state === "closed") return;
    const { getToken } = this.#options;
    if (error.code === "unauthenticated" && getToken && !this.#isRenewed) {
      this.#isRenewed = true;
      getToken().then(
        (token) => {
          this.#token = token;
          this.#connectAfter(0);
        },
        (thrown: unknown) => {
          const failure = asParlanceError(thrown);
          if (failure.retryable) {
            this.#isRenewed = false;
            setTimeout(() => this.#refusedBy(error), this.#backOff());
          } else this.#shut(failure);
        },
      );
    } else if (FINAL_CODES.has(error.code)) this.#shut(error);
    else this.#connectAfter(this.#backOff());
  }

  /** The server asks this client to come back, perhaps to another node. */
  #moveAfter(ms: number): void {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => {
      if (this.#state === "live") this.#socket.disconnect();
    }, ms);
  }

  #connectAfter(ms: number): void {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.#state !== "closed" && this.#socket.connect(), ms);
  }

  /** Exponential with full jitter, so that the clients of a restarted server do not come back all at once. */
  #backOff(): number {
    const ceiling = Math.min(RECONNECT_MS_MAX, RECONNECT_MS_MIN * 2 ** this.#refusals);
    this.#refusals += 1;
    return RECONNECT_MS_MIN / 2 + Math.random() * ceiling;
  }

  #shut(error: ParlanceError | null): void {
    if (this.#state === "closed") return;
    clearTimeout(this.#retryTimer);
    this.#setState("closed");
    this.#searches.failAll(error ?? new ParlanceError("closed", "The connection was closed."));
    this.#socket.disconnect();
    this.#settleReady?.reject(error ?? new ParlanceError("closed", "The connection was closed."));
    this.#settleReady = null;
    if (error) this.#emitter.emit("client:refused", error);
  }

  #setState(state: ConnectionState): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#emitter.emit("client:state", state);
  }
}

function notConnected(): ParlanceError {
  return new ParlanceError("disconnected", "There is no connection to the server at the moment.", { retryable: true });
}

function isLogged(body: object): body is Logged {
  const { room, seq } = body as Partial<Logged>;
  return typeof room === "string" && typeof seq === "number";
}
