/**
 * The client of a Parlance server: typed events, calls, rooms and subscriptions that survive reconnects, search,
 * recording.
 *
 * Policy: rooms join again by themselves, each after the last event that was delivered; what cannot be had any more is
 * told (`room:reset`, `room:lost`), never a silence.
 *
 * Boundary: connecting is `connection.ts`'s.
 */

import type { AckOf, AcknowledgedEvent, EventsReadAck, HistoryAck, JoinAck } from "./acks.js";
import { Connection, type ConnectOptions } from "./connection.js";
import { Emitter, type Unsubscribe } from "./emitter.js";
import { asParlanceError, ParlanceError } from "./errors.js";
import type { ConnectionState, Link } from "./link.js";
import type { ClientEvents, Logged, Ready, SearchMatch, SearchResults, ServerEvents, ServerStatus } from "./protocol.js";
import { LiveRecording, type RecordingOptions } from "./recording.js";
import { RoomLog } from "./rooms.js";
import { SearchSlots, type Search, type SearchOptions } from "./search.js";
import type { AudioSource } from "./source.js";
import { Subscriptions, type SubscribeOptions, type Subscription } from "./subscriptions.js";

interface LocalEvents {
  "client:state": ConnectionState;
  /** The reason of the state `closed`, when it was not `close()`. */
  "client:refused": ParlanceError;
  /** The log no longer reaches back to where this client stood: read the room's present state, then join again. */
  "room:reset": { room: string; firstSeq: number | undefined };
  /** The room cannot be joined any more (erased, or access was withdrawn). */
  "room:lost": { room: string; error: ParlanceError };
}

export type ParlanceEvents = ServerEvents & LocalEvents;

/** PROTOCOL.md: an acknowledgement takes at most 2 s on the server; the rest is for slow lines. */
const CALL_MS_MAX = 10_000;
const REJOIN_MS = 5_000;

export function connect(options: ConnectOptions): Parlance {
  return new Parlance(options);
}

export class Parlance {
  readonly #connection: Connection;
  readonly #emitter = new Emitter<ParlanceEvents>();
  readonly #rooms = new RoomLog();
  readonly #rejoining = new Set<string>();
  readonly #searches = new SearchSlots();
  #searchCount = 0;
  readonly #subscriptions = new Subscriptions({
    isLive: () => this.state === "live",
    call: (event, body, onAck) => this.#call(event, body, onAck),
  });
  readonly #firstReady: Promise<Ready>;
  #settleReady: { resolve(ready: Ready): void; reject(error: ParlanceError): void } | null = null;
  #info: Ready | null = null;
  #status: ServerStatus | null = null;

  constructor(options: ConnectOptions) {
    this.#firstReady = new Promise((resolve, reject) => (this.#settleReady = { resolve, reject }));
    this.#firstReady.catch(() => undefined); // `client:refused` tells it too.
    this.#connection = new Connection(options, {
      event: (name, body) => this.#received(name, body),
      state: (state) => this.#stateChanged(state),
      closed: (reason) => this.#closed(reason),
    });
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
    return this.#connection.state;
  }

  on<E extends keyof ParlanceEvents>(event: E, listener: (body: ParlanceEvents[E]) => void): Unsubscribe {
    return this.#emitter.on(event, listener);
  }

  /** Send an event and await its acknowledgement. Throws ParlanceError; `disconnected` and `timeout` leave it open. */
  call<E extends AcknowledgedEvent>(event: E, body: ClientEvents[E], timeoutMs = CALL_MS_MAX): Promise<AckOf<E>> {
    return this.#call(event, body, undefined, timeoutMs);
  }

  async #call<E extends AcknowledgedEvent>(
    event: E,
    body: ClientEvents[E],
    onAck?: (ack: AckOf<E>) => void,
    timeoutMs = CALL_MS_MAX,
  ): Promise<AckOf<E>> {
    const answer = await this.#connection.call(event, body, timeoutMs, (early) => {
      if (early.ok) onAck?.(early as unknown as AckOf<E>);
    });
    if (!answer.ok) throw ParlanceError.fromWire(answer.error);
    return answer as unknown as AckOf<E>;
  }

  /** Use `token` from now on, here and after reconnects. */
  refresh(token: string): Promise<void> {
    return this.#connection.useToken(token);
  }

  close(): void {
    this.#connection.close(null);
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
      return await this.#join(room, afterSeq ?? null);
    } catch (thrown) {
      this.#rooms.forget(room);
      throw thrown;
    }
  }

  async leave(room: string): Promise<void> {
    this.#rooms.forget(room);
    if (this.state === "live") await this.call("room:leave", { room });
  }

  /** Read a room's log without joining it. */
  readEvents(room: string, afterSeq: number, limit?: number): Promise<EventsReadAck> {
    const body = { room, after_seq: afterSeq };
    return this.call("events:read", limit === undefined ? body : { ...body, limit });
  }

  // --- search -------------------------------------------------------------------------------------------------------

  /** Search; a newer search in the same `slot` supersedes this one. */
  search(text: string, options: SearchOptions = {}): Search {
    return this.#search(text, options, null);
  }

  #search(text: string, asked: SearchOptions, cursor: string | null): Search {
    const { onResults, ...options } = asked;
    this.#searchCount += 1;
    const requestId = `q${this.#searchCount}`;
    let after: string | null = null;
    const done = this.#searches.open(requestId, options.slot ?? "default", (results) => {
      after = results.next_cursor ?? null;
      onResults?.(results);
    });
    done.catch(() => undefined); // A reader of `onResults` need not await `done`.
    const body = { request_id: requestId, text, ...options, ...(cursor === null ? {} : { cursor }) };
    this.call("search:query", body).catch((thrown: unknown) => {
      this.#searches.fail(requestId, asParlanceError(thrown));
    });
    return {
      requestId,
      done,
      get hasNext() {
        return after !== null;
      },
      next: (told) => (after === null ? null : this.#search(text, told ? { ...asked, onResults: told } : asked, after)),
      cancel: () => {
        if (!this.#searches.end(requestId, "cancelled")) return;
        this.call("search:cancel", { request_id: requestId }).catch(() => undefined);
      },
    };
  }

  /** What `text` may become: own searches first, then words that were said. Throws ParlanceError. */
  async suggest(text: string, limit?: number): Promise<string[]> {
    const body = limit === undefined ? { text } : { text, limit };
    return (await this.call("search:suggest", body)).suggestions;
  }

  /** One's own searches, the newest first. Throws ParlanceError. */
  searchHistory(limit?: number): Promise<HistoryAck> {
    return this.call("search:history", limit === undefined ? {} : { limit });
  }

  /** Forget all of one's own searches. Throws ParlanceError. */
  async clearSearchHistory(): Promise<void> {
    await this.call("search:history", { clear: true });
  }

  /** Tell that somebody opened a hit of a search that this connection was answered. Throws ParlanceError. */
  async clicked(requestId: string, segmentId: string): Promise<void> {
    await this.call("search:clicked", { request_id: requestId, segment_id: segmentId });
  }

  /**
   * Be told when something is said that matches, until `end()`, also across reconnects. With `after` (a `cursor` that
   * was kept) what was said since is told first.
   */
  subscribe(text: string, options: SubscribeOptions = {}): Subscription {
    return this.#subscriptions.open(text, options);
  }

  // --- recording ----------------------------------------------------------------------------------------------------

  /** Record from `source`. Throws ParlanceError when the source or the server refuses. */
  record(source: AudioSource, options: RecordingOptions = {}): Promise<LiveRecording> {
    const client = this;
    const link: Link = {
      get isLive() {
        return client.state === "live";
      },
      call: (event, body, onAck) => this.#call(event, body, onAck),
      sendChunk: (chunk) => this.#connection.send("voice:recording:chunk", chunk),
      move: (withinMs) => this.#connection.move(withinMs),
      onState: (listener) => this.on("client:state", listener),
      onAck: (listener) => this.on("voice:recording:ack", listener),
      onError: (listener) => this.on("voice:recording:error", listener),
    };
    return LiveRecording.begin(link, source, options);
  }

  // --- what arrives -------------------------------------------------------------------------------------------------

  #received(event: string, body: object): void {
    if (isLogged(body) && !this.#accept(body)) return;
    switch (event) {
      case "ready":
        this.#greeted(body as Ready);
        break;
      case "server:status":
        this.#status = body as ServerStatus;
        break;
      case "history_truncated": {
        const { room, first_seq } = body as ServerEvents["history_truncated"];
        if (this.#rooms.has(room)) this.#reset(room, first_seq);
        break;
      }
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
      case "search:match":
        if (!this.#subscriptions.match(body as SearchMatch)) return;
        break;
      case "search:unsubscribed": {
        const { subscription_id, error } = body as ServerEvents["search:unsubscribed"];
        this.#subscriptions.unsubscribed(subscription_id, ParlanceError.fromWire(error));
        break;
      }
    }
    // Events of later protocol versions find no listener and are ignored.
    this.#emitter.emit(event as keyof ParlanceEvents, body as never);
  }

  #accept({ room, seq }: Logged): boolean {
    const verdict = this.#rooms.accept(room, seq);
    if (verdict === "gap") void this.#rejoin(room);
    if (verdict === "lost") {
      this.#rooms.forget(room);
      const error = new ParlanceError("internal", `Events of ${room} are missing from its log.`);
      this.#emitter.emit("room:lost", { room, error });
    }
    // `foreign`: rooms that the server put this socket into (tenant, user) and that nobody here follows by number.
    return verdict === "deliver" || verdict === "foreign";
  }

  #greeted(ready: Ready): void {
    this.#info = ready;
    this.#settleReady?.resolve(ready);
    this.#settleReady = null;
    for (const room of this.#rooms.rooms) void this.#rejoin(room);
    this.#subscriptions.greeted();
  }

  /** Join again after the last delivered event: after a reconnect, or because one is missing. */
  async #rejoin(room: string): Promise<void> {
    if (this.#rejoining.has(room)) return;
    this.#rejoining.add(room);
    try {
      await this.#join(room, this.#rooms.after(room));
    } catch (thrown) {
      this.#rejoinFailed(room, asParlanceError(thrown));
    } finally {
      this.#rejoining.delete(room);
    }
  }

  #join(room: string, after: number | null): Promise<JoinAck> {
    const body = after === null ? { room } : { room, after_seq: after };
    return this.#call("room:join", body, ({ seq }) => this.#rooms.joined(room, seq));
  }

  #rejoinFailed(room: string, error: ParlanceError): void {
    // The next connection joins every room.
    if (error.code === "disconnected" || error.code === "closed" || !this.#rooms.has(room)) return;
    if (error.retryable || error.code === "timeout") {
      setTimeout(() => this.#rooms.has(room) && void this.#rejoin(room), error.retryAfterMs ?? REJOIN_MS);
      return;
    }
    if (error.code === "history_truncated") this.#reset(room, error.firstSeq);
    else {
      this.#rooms.forget(room);
      this.#emitter.emit("room:lost", { room, error });
    }
  }

  #reset(room: string, firstSeq: number | undefined): void {
    this.#rooms.forget(room);
    this.#emitter.emit("room:reset", { room, firstSeq });
  }

  // --- the connection's life ----------------------------------------------------------------------------------------

  #stateChanged(state: ConnectionState): void {
    if (state !== "live") {
      this.#rejoining.clear();
      const code = state === "closed" ? "closed" : "disconnected";
      this.#searches.failAll(new ParlanceError(code, "The connection went away.", { retryable: state !== "closed" }));
    }
    this.#emitter.emit("client:state", state);
  }

  #closed(reason: ParlanceError | null): void {
    this.#settleReady?.reject(reason ?? new ParlanceError("closed", "The connection was closed."));
    this.#settleReady = null;
    this.#subscriptions.closed(reason ?? new ParlanceError("closed", "The connection was closed."));
    if (reason) this.#emitter.emit("client:refused", reason);
  }
}

function isLogged(body: object): body is Logged {
  const { room, seq } = body as Partial<Logged>;
  return typeof room === "string" && typeof seq === "number";
}
