import { expect, test } from "vitest";
import { Player, type Track } from "../src/player/player.js";

/** What the player needs of an `<audio>` element. */
class Element extends EventTarget {
  src = "";
  currentTime = 0;
  duration = NaN;
  readyState = 0;
  paused = true;
  error = null;
  playbackRate = 1;
  loads = 0;

  load(): void {
    this.loads += 1;
  }

  removeAttribute(): void {
    this.src = "";
  }

  async play(): Promise<void> {
    this.paused = false;
    this.dispatchEvent(new Event("playing"));
  }

  pause(): void {
    this.paused = true;
  }

  /** The browser has read a file of this length. */
  arrive(durationS: number): void {
    this.duration = durationS;
    this.readyState = 4;
    this.dispatchEvent(new Event("loadedmetadata"));
  }

  end(): void {
    this.currentTime = this.duration;
    this.paused = true;
    this.dispatchEvent(new Event("ended"));
  }
}

function setUp(): { element: Element; player: Player; live: Track; whole: Track } {
  const element = new Element();
  const pass = async () => ({ url: "/sound", expires_at: Date.now() / 1000 + 600 });
  const player = new Player(element as unknown as HTMLAudioElement, pass);
  const live: Track = { recordingId: "r", title: "", lengthMs: 10_000, isLive: true };
  return { element, player, live, whole: { ...live, lengthMs: 30_000, isLive: false } };
}

test("what was loaded while a recording grew is loaded anew for what came later, also after its end", async () => {
  const { element, player, live, whole } = setUp();
  player.play(live, 1_000);
  await Promise.resolve();
  await Promise.resolve();
  element.arrive(10);
  expect(element.currentTime).toBe(1);
  const loads = element.loads;
  player.update(whole);
  player.seek(25_000);
  await Promise.resolve();
  await Promise.resolve();
  expect(element.loads).toBe(loads + 1);
  element.arrive(30);
  expect(element.currentTime).toBe(25);
  player.seek(29_900);
  expect(element.loads).toBe(loads + 1); // All of it is here now.
});

test("playing on over the end of what was loaded goes on with the rest", async () => {
  const { element, player, live, whole } = setUp();
  player.play(live, 1_000);
  await Promise.resolve();
  await Promise.resolve();
  element.arrive(10);
  player.update(whole);
  const loads = element.loads;
  element.end();
  await Promise.resolve();
  await Promise.resolve();
  expect(element.loads).toBe(loads + 1);
  element.arrive(30);
  expect([element.currentTime, element.paused]).toEqual([10, false]);
  element.end();
  await Promise.resolve();
  expect(element.loads).toBe(loads + 1); // This was the end.
});
