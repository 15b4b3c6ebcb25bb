/**
 * The page's one player: an `<audio>` element, and what it needs around it.
 *
 * Policy: nothing is loaded before somebody wants to hear it. A ticket lets the element read the sound; before it ends,
 * or when the element fails, a new one is taken and the place is kept. A recording that is still growing is loaded
 * anew when somebody wants to hear what was not there before. Starting another recording stops this one.
 *
 * Boundary: the element. Views read `state` and listen with `subscribe`; `positionMs` is exact at any moment.
 */

import { asParlanceError } from "@parlance/client";

export interface Track {
  recordingId: string;
  title: string;
  /** How much there is to hear. */
  lengthMs: number;
  isLive: boolean;
}

export interface PlayerState {
  track: Track | null;
  positionMs: number;
  isPlaying: boolean;
  /** Wanted, but no sound yet. */
  isWaiting: boolean;
  /** It was played at least once: a smaller player may show it elsewhere. */
  isStarted: boolean;
  rate: number;
  volume: number;
  error: string | null;
}

export interface Pass {
  url: string;
  /** Unix seconds. */
  expires_at: number;
}

/** A ticket this close to its end is renewed before it is used. */
const MARGIN_MS = 30_000;
/** The end of a growing recording: closer than this there is nothing to load yet. */
const TAIL_MS = 500;

export class Player {
  readonly #audio: HTMLAudioElement;
  readonly #getPass: (recordingId: string) => Promise<Pass>;
  readonly #listeners = new Set<() => void>();
  #state: PlayerState;
  #pass: Pass | null = null;
  /** Where to go and whether to play when the element knows its length. */
  #wanted: { ms: number; play: boolean } | null = null;
  /** The recording still grew when the element loaded it, so the element may not have all of it, also after its end. */
  #isPart = false;
  #era = 0;
  #failures = 0;

  constructor(audio: HTMLAudioElement, getPass: (recordingId: string) => Promise<Pass>) {
    this.#audio = audio;
    this.#getPass = getPass;
    this.#state = {
      track: null,
      positionMs: 0,
      isPlaying: false,
      isWaiting: false,
      isStarted: false,
      rate: 1,
      volume: 1,
      error: null,
    };
    const on = (event: string, listener: () => void): void => audio.addEventListener(event, listener);
    on("loadedmetadata", () => this.#loaded());
    on("timeupdate", () => this.#moved());
    on("seeked", () => this.#moved());
    on("playing", () => this.#change({ isPlaying: true, isWaiting: false, isStarted: true }));
    on("waiting", () => this.#change({ isWaiting: true }));
    on("pause", () => this.#change({ isPlaying: false, isWaiting: false }));
    on("ended", () => this.#ended());
    on("error", () => this.#broke());
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  };

  get state(): PlayerState {
    return this.#state;
  }

  get positionMs(): number {
    if (this.#wanted) return this.#wanted.ms;
    return this.#pass ? this.#audio.currentTime * 1000 : this.#state.positionMs;
  }

  isAt(recordingId: string): boolean {
    return this.#state.track?.recordingId === recordingId;
  }

  /** Stand at `ms` of `track` without a sound. */
  cue(track: Track, ms: number): void {
    this.#unload();
    this.#change({ track, positionMs: ms, isStarted: false, error: null });
  }

  /** What is known about the track changed: it grew, it ended, it was named. */
  update(track: Track): void {
    const known = this.#state.track;
    if (!known || known.recordingId !== track.recordingId) return;
    if (known.lengthMs !== track.lengthMs || known.isLive !== track.isLive || known.title !== track.title) {
      this.#change({ track });
    }
  }

  play(track: Track, ms?: number): void {
    if (!this.isAt(track.recordingId)) this.cue(track, ms ?? 0);
    this.update(track);
    this.#go(ms ?? this.#startPlace(), true);
  }

  pause(): void {
    if (this.#wanted) this.#wanted.play = false;
    this.#audio.pause();
    this.#change({ isPlaying: false, isWaiting: false });
  }

  toggle(): void {
    const { track, isPlaying, isWaiting } = this.#state;
    if (!track) return;
    if (isPlaying || isWaiting) this.pause();
    else this.play(track);
  }

  seek(ms: number): void {
    const { track, isPlaying } = this.#state;
    if (!track) return;
    const place = Math.max(0, Math.min(ms, track.lengthMs));
    if (this.#pass || isPlaying) this.#go(place, isPlaying);
    else this.#change({ positionMs: place });
  }

  setRate(rate: number): void {
    this.#audio.defaultPlaybackRate = rate;
    this.#audio.playbackRate = rate;
    this.#change({ rate });
  }

  setVolume(volume: number): void {
    this.#audio.volume = volume;
    this.#change({ volume });
  }

  close(): void {
    this.#unload();
    this.#change({ track: null, positionMs: 0, isStarted: false, error: null });
  }

  // --- the element --------------------------------------------------------------------------------------------------

  /** At the end, play means from the beginning. */
  #startPlace(): number {
    const { track } = this.#state;
    return track && this.positionMs >= track.lengthMs - TAIL_MS / 2 && !track.isLive ? 0 : this.positionMs;
  }

  #go(ms: number, play: boolean): void {
    if (!this.#isReady(ms)) {
      void this.#load(ms, play);
      return;
    }
    if (Math.abs(this.#audio.currentTime * 1000 - ms) > 1) this.#audio.currentTime = ms / 1000;
    this.#change({ positionMs: ms, error: null });
    if (play) this.#start();
  }

  /** Whether the element can go to `ms` with what it has. */
  #isReady(ms: number): boolean {
    if (!this.#pass || this.#wanted || this.#audio.readyState === 0) return false;
    if (this.#pass.expires_at * 1000 - Date.now() < MARGIN_MS) return false;
    return !this.#isPart || ms < this.#audio.duration * 1000 - TAIL_MS;
  }

  async #load(ms: number, play: boolean): Promise<void> {
    const { track } = this.#state;
    if (!track) return;
    const isUnderWay = this.#wanted !== null;
    this.#wanted = { ms, play };
    this.#change({ positionMs: ms, isWaiting: play, error: null });
    if (isUnderWay) return; // The load that runs goes to the newest place.
    this.#era += 1;
    const era = this.#era;
    try {
      const pass = await this.#getPass(track.recordingId);
      if (era !== this.#era) return;
      this.#pass = pass;
      this.#isPart = this.#state.track?.isLive ?? false;
      this.#audio.src = pass.url;
      this.#audio.load();
    } catch (thrown) {
      if (era === this.#era) this.#fail(asParlanceError(thrown).message);
    }
  }

  #loaded(): void {
    const wanted = this.#wanted;
    if (!wanted) return;
    this.#wanted = null;
    this.#audio.playbackRate = this.#state.rate;
    const { duration } = this.#audio;
    const last = Number.isFinite(duration) ? Math.max(0, duration - 0.05) : wanted.ms / 1000;
    this.#audio.currentTime = Math.min(wanted.ms / 1000, last);
    if (wanted.play) this.#start();
  }

  #start(): void {
    this.#change({ isWaiting: true });
    this.#audio.play().catch((thrown: unknown) => {
      // `AbortError`: a pause or another load came first, and that is what is shown then.
      if (!(thrown instanceof DOMException) || thrown.name === "AbortError" || this.#audio.error) return;
      this.#fail("The browser did not start the sound. Press play once more.");
    });
  }

  #moved(): void {
    if (this.#wanted || !this.#pass) return;
    if (!this.#audio.paused) this.#failures = 0;
    this.#change({ positionMs: this.#audio.currentTime * 1000 });
  }

  #ended(): void {
    const { track } = this.#state;
    const atMs = this.#audio.currentTime * 1000;
    this.#change({ isPlaying: false, isWaiting: false });
    if (track && this.#isPart && track.lengthMs > atMs + TAIL_MS) void this.#load(atMs, true);
  }

  #broke(): void {
    if (!this.#pass || !this.#audio.error) return;
    const { positionMs, isPlaying, isWaiting } = this.#state;
    const wanted = this.#wanted ?? { ms: positionMs, play: isPlaying || isWaiting };
    this.#wanted = null;
    this.#failures += 1;
    if (this.#failures > 1) this.#fail("The sound of this recording cannot be played now.");
    else void this.#load(wanted.ms, wanted.play); // Most likely the ticket ended.
  }

  #fail(error: string): void {
    this.#unload();
    this.#change({ error });
  }

  #unload(): void {
    const positionMs = this.positionMs;
    this.#era += 1;
    this.#failures = 0;
    this.#wanted = null;
    if (this.#pass) {
      this.#pass = null;
      this.#audio.pause();
      this.#audio.removeAttribute("src");
      this.#audio.load();
    }
    this.#change({ positionMs, isPlaying: false, isWaiting: false });
  }

  #change(part: Partial<PlayerState>): void {
    this.#state = { ...this.#state, ...part };
    for (const listener of [...this.#listeners]) listener();
  }
}
