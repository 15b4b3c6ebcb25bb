/**
 * One logical connection to a Parlance server: which socket it is now, and how the next one is made.
 *
 * Policy: nothing is buffered while the connection is away: a call fails with `disconnected` and its caller decides.
 * After a loss the addresses are tried in turn with jittered back-off, none before the time that it named
 * (`retry_after_ms`), and at once when the browser is online again or its page is shown. A server that drains is left at
 * a random moment within its `reconnect_after_ms`. The token is renewed through `getToken` before it ends, and once when
 * it is refused. What no waiting heals closes the connection for good.
 *
 * Boundary: the only module that knows Socket.IO and the browser's network events. Invariant: at most one socket.
 */

import { io, type Socket } from "socket.io-client";
import { BACKOFF, delayMs, Route, type Backoff } from "./backoff.js";
import { ParlanceError } from "./errors.js";
import type { ConnectionState } from "./link.js";
import type { Ready, ServerEvents, WireError } from "./protocol.js";
import { expiryOf, refreshInMs } from "./tokens.js";

export interface ConnectOptions {
  /** Where the server is: `https://speech.example`. */
  url?: string;
  /** Addresses of one service, tried in turn when a connection is lost; `url` may name one of them too. */
  urls?: readonly string[];
  /** An access token or an API key. */
  token: string;
  /** Asked for a fresh token before the present one ends, and when the server no longer takes it. */
  getToken?: () => Promise<string>;
  /** "name/version" of the program, for the server's log. */
  client?: string;
  backoff?: Backoff;
}

/** What the connection tells, in the order in which it happens. */
export interface Hooks {
  event(name: string, body: object): void;
  state(state: ConnectionState): void;
  /** Why it is closed for good; null: on request. */
  closed(reason: ParlanceError | null): void;
}

export type Acknowledgement = { ok: true } | { ok: false; error: WireError };

export const VERSION = "0.2.0";

/** To connect, and then to be greeted. */
const CONNECT_MS_MAX = 10_000;

/** Refusals that no waiting heals. */
const FINAL_CODES = new Set(["unauthenticated", "forbidden", "bad_request", "not_found"]);

export class Connection {
  readonly #options: ConnectOptions;
  readonly #hooks: Hooks;
  readonly #backoff: Backoff;
  readonly #route: Route;
  #socket: Socket | null = null;
  #state: ConnectionState = "connecting";
  /** Grows with each attempt: what an older one brings no longer counts. */
  #era = 0;
  #closing: ParlanceError | null = null;
  #moveAt: number | null = null;
  #timer: Timer;
  #greetingTimer: Timer;
  #moveTimer: Timer;
  #tokenTimer: Timer;
  #isWaiting = false;
  #token: string;
  #skewMs = 0;
  #isTokenFresh = false;
  #isTokenRefused = false;
  #tokenFailures = 0;
  readonly #forgetBrowser: () => void;

  constructor(options: ConnectOptions, hooks: Hooks) {
    this.#options = options;
    this.#hooks = hooks;
    this.#backoff = options.backoff ?? BACKOFF;
    this.#route = new Route([...(options.url === undefined ? [] : [options.url]), ...(options.urls ?? [])], this.#backoff);
    this.#token = options.token;
    this.#forgetBrowser = watchBrowser({
      online: () => this.#wake(true),
      shown: () => this.#wake(false),
      offline: () => this.#state === "live" && this.#socket?.disconnect(),
    });
    void this.#attempt();
  }

  get state(): ConnectionState {
    return this.#state;
  }

  /**
   * Send an event and await its acknowledgement, which `onAnswer` sees before any event that arrived after it. Throws
   * `disconnected` and `timeout`, which leave it open.
   */
  call(event: string, body: object, timeoutMs: number, onAnswer?: (answer: Acknowledgement) => void): Promise<Acknowledgement> {
    const socket = this.#socket;
    if (this.#state !== "live" || !socket) return Promise.reject(notConnected(this.#state));
    return new Promise((resolve, reject) => {
      const lost = (): void => reject(notConnected(this.#state));
      socket.once("disconnect", lost);
      socket.timeout(timeoutMs).emit(event, body, (error: Error | null, answer: Acknowledgement) => {
        socket.off("disconnect", lost);
        if (error) reject(new ParlanceError("timeout", "The server did not answer in time."));
        else {
          onAnswer?.(answer);
          resolve(answer);
        }
      });
    });
  }

  send(event: string, body: object): void {
    if (this.#state === "live") this.#socket?.emit(event, body);
  }

  /** Leave this server at a random moment within `withinMs`; another connection follows at once. */
  move(withinMs: number): void {
    if (this.#moveAt !== null || this.#state !== "live") return;
    const inMs = withinMs * Math.random();
    this.#moveAt = Date.now() + inMs;
    this.#moveTimer = setTimeout(() => this.#socket?.disconnect(), inMs);
  }

  /** Use `token` from now on, here and after reconnects. */
  async useToken(token: string): Promise<void> {
    if (token === this.#token) return;
    this.#token = token;
    this.#planRefresh();
    if (this.#state !== "live") return;
    const answer = await this.call("auth:refresh", { token }, CONNECT_MS_MAX);
    if (!answer.ok) throw ParlanceError.fromWire(answer.error);
  }

  close(reason: ParlanceError | null): void {
    if (this.#state === "closed") return;
    this.#era += 1;
    for (const timer of [this.#timer, this.#greetingTimer, this.#moveTimer, this.#tokenTimer]) clearTimeout(timer);
    this.#forgetBrowser();
    this.#setState("closed");
    this.#drop();
    this.#hooks.closed(reason);
  }

  // --- connecting ---------------------------------------------------------------------------------------------------

  async #attempt(): Promise<void> {
    clearTimeout(this.#timer);
    this.#isWaiting = false;
    this.#drop();
    this.#era += 1;
    const era = this.#era;
    try {
      if (this.#needsToken()) await this.#askForToken();
    } catch (thrown) {
      if (era === this.#era) this.#tokenFailed(thrown);
      return;
    }
    if (era !== this.#era) return;
    const socket = io(this.#route.url, {
      transports: ["websocket"],
      forceNew: true,
      reconnection: false,
      timeout: CONNECT_MS_MAX,
      auth: { token: this.#token, protocol: 1, client: this.#options.client ?? `parlance-js/${VERSION}` },
    });
    this.#socket = socket;
    this.#closing = null;
    const ifCurrent = (use: () => void) => (): void => void (socket === this.#socket && use());
    socket.on("connect", ifCurrent(() => this.#expectGreeting()));
    socket.on("connect_error", (error) => ifCurrent(() => this.#failed(refusalOf(error)))());
    socket.on("disconnect", ifCurrent(() => this.#lost()));
    socket.onAny((event: string, body: unknown) => ifCurrent(() => this.#received(event, body))());
  }

  #expectGreeting(): void {
    clearTimeout(this.#greetingTimer);
    this.#greetingTimer = setTimeout(() => this.#socket?.disconnect(), CONNECT_MS_MAX);
  }

  #received(event: string, body: unknown): void {
    if (typeof body !== "object" || body === null) return;
    if (event === "ready") this.#greeted(body as Ready);
    else if (event === "server:draining") this.move((body as ServerEvents["server:draining"]).reconnect_after_ms);
    else if (event === "server:closing") {
      const { code, message } = body as ServerEvents["server:closing"];
      this.#closing = new ParlanceError(code, message);
    }
    this.#hooks.event(event, body);
  }

  #greeted(ready: Ready): void {
    clearTimeout(this.#greetingTimer);
    this.#route.connected(Date.now());
    this.#skewMs = ready.server_time - Date.now();
    this.#isTokenFresh = false;
    this.#isTokenRefused = false;
    this.#tokenFailures = 0;
    this.#moveAt = null;
    this.#planRefresh();
    this.#setState("live");
  }

  /** The socket went, after it was connected. */
  #lost(): void {
    const reason = this.#closing;
    this.#drop();
    this.#route.lost(Date.now(), reason !== null && reason.code !== "draining");
    if (this.#state === "live") this.#setState("reconnecting");
    if (this.#state === "closed") return; // A listener closed it.
    if (reason && FINAL_CODES.has(reason.code)) this.#refusedForGood(reason);
    else this.#schedule();
  }

  /** The socket was never connected. `refusal`: what the server said, if it was the server. */
  #failed(refusal: ParlanceError | null): void {
    this.#drop();
    this.#route.failed(Date.now(), refusal?.retryAfterMs);
    if (refusal && FINAL_CODES.has(refusal.code)) this.#refusedForGood(refusal);
    else this.#schedule();
  }

  #refusedForGood(error: ParlanceError): void {
    if (error.code !== "unauthenticated" || !this.#options.getToken || this.#isTokenFresh) this.close(error);
    else {
      this.#isTokenRefused = true;
      void this.#attempt();
    }
  }

  #schedule(): void {
    const now = Date.now();
    const moveAt = this.#moveAt;
    this.#moveAt = null;
    clearTimeout(this.#moveTimer);
    // Asked to move: the jitter is in that moment already, and it holds when the server was faster.
    const waitMs = this.#route.waitMs(now, moveAt === null ? Math.random() : 0);
    this.#after(moveAt === null ? waitMs : Math.max(0, moveAt - now));
  }

  #after(waitMs: number): void {
    clearTimeout(this.#timer);
    this.#isWaiting = true;
    this.#timer = setTimeout(() => void this.#attempt(), waitMs);
  }

  /** There may be a network again. */
  #wake(isOnline: boolean): void {
    if (this.#state === "live" || this.#state === "closed" || this.#route.toldMs(Date.now()) > 0) return;
    // An attempt that began without a network may hang until its time is over.
    if (this.#isWaiting || (isOnline && this.#socket)) void this.#attempt();
  }

  #drop(): void {
    const socket = this.#socket;
    this.#socket = null;
    clearTimeout(this.#greetingTimer);
    socket?.disconnect();
    socket?.io.engine?.close();
  }

  // --- the token ----------------------------------------------------------------------------------------------------

  #leftMs(): number | null {
    const end = expiryOf(this.#token);
    return end === null ? null : end - (Date.now() + this.#skewMs);
  }

  #needsToken(): boolean {
    return this.#options.getToken !== undefined && (this.#isTokenRefused || (this.#leftMs() ?? 1) <= 0);
  }

  async #askForToken(): Promise<void> {
    this.#token = await this.#options.getToken!();
    this.#isTokenFresh = true;
    this.#isTokenRefused = false;
  }

  /** The old token holds no more and there is no new one: again, unless its source says that there will be none. */
  #tokenFailed(thrown: unknown): void {
    if (thrown instanceof ParlanceError && !thrown.retryable) this.close(thrown);
    else {
      this.#tokenFailures += 1;
      this.#after(delayMs(this.#backoff, this.#tokenFailures, Math.random()));
    }
  }

  #planRefresh(): void {
    clearTimeout(this.#tokenTimer);
    const leftMs = this.#leftMs();
    if (!this.#options.getToken || leftMs === null || leftMs <= 0 || this.#state === "closed") return;
    this.#tokenTimer = setTimeout(() => void this.#refresh(1), refreshInMs(leftMs, Math.random()));
  }

  /** Before the token ends. A source that fails is asked again until then; after that `#needsToken` decides. */
  async #refresh(attempt: number): Promise<void> {
    const before = this.#token;
    try {
      await this.useToken(await this.#options.getToken!());
      if (this.#token === before) this.#planRefresh();
    } catch {
      if (this.#token !== before || this.#state === "closed" || (this.#leftMs() ?? 0) <= 0) return;
      this.#tokenTimer = setTimeout(() => void this.#refresh(attempt + 1), delayMs(this.#backoff, attempt, Math.random()));
    }
  }

  #setState(state: ConnectionState): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#hooks.state(state);
  }
}

type Timer = ReturnType<typeof setTimeout> | undefined;

function notConnected(state: ConnectionState): ParlanceError {
  if (state === "closed") return new ParlanceError("closed", "The connection was closed.");
  return new ParlanceError("disconnected", "There is no connection to the server at the moment.", { retryable: true });
}

/** What the server said when it refused; null when the line failed. */
function refusalOf(error: Error & { data?: Partial<WireError> }): ParlanceError | null {
  const { data } = error;
  if (typeof data?.code !== "string") return null;
  const { code, message = error.message } = data;
  return ParlanceError.fromWire({ retryable: false, ...data, code, message });
}

/** Tell when the browser's network comes or goes and when its page is shown. Elsewhere nothing is told. */
function watchBrowser(told: { online(): void; shown(): void; offline(): void }): () => void {
  if (typeof window === "undefined" || typeof window.addEventListener !== "function") return () => undefined;
  const visible = (): void => void (document.visibilityState === "visible" && told.shown());
  window.addEventListener("online", told.online);
  window.addEventListener("offline", told.offline);
  document.addEventListener("visibilitychange", visible);
  return () => {
    window.removeEventListener("online", told.online);
    window.removeEventListener("offline", told.offline);
    document.removeEventListener("visibilitychange", visible);
  };
}
