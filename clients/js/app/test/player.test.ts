import { expect, test } from "vitest";
import { Player, type Track } from "../src/player/player.js";

/** What the player needs of an `<audio>` element. */
class Element extends EventTarget {
  src = "";
  currentTime = 0;
  duration = NaN;
  readyState = 0;
  paused = true;
  error: MediaError | null = null;
  playbackRate = 1;
  loads = 0;

  load(): void {
    this.loads += 1;
    this.error = null;
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

  /** The browser asked for more, and the ticket no longer held. */
  refuse(): void {
    this.error = { code: 2 } as MediaError;
    this.dispatchEvent(new Event("error"));
  }

  end(): void {
    this.currentTime = this.duration;
    this.paused = true;
    this.dispatchEvent(new Event("ended"));
  }
}

interface SetUp {
  element: Element;
  player: Player;
  live: Track;
  whole: Track;
  /** How often a ticket was asked for. */
  passes: () => number;
}

function setUp(lastsS = 600, refuses = false): SetUp {
  const element = new Element();
  let given = 0;
  const pass = async () => {
    given += 1;
    if (refuses && given > 1) throw new Error("No tickets today.");
    return { url: `/sound?ticket=${given}`, expires_at: Date.now() / 1000 + lastsS };
  };
  const player = new Player(element as unknown as HTMLAudioElement, pass);
  const live: Track = { recordingId: "r", title: "", lengthMs: 10_000, isLive: true };
  return { element, player, live, whole: { ...live, lengthMs: 30_000, isLive: false }, passes: () => given };
}

/** Start, and let the element read the file. */
async function playing({ element, player, whole }: SetUp, atMs: number): Promise<void> {
  player.play(whole, atMs);
  await settled();
  element.arrive(30);
}

/** Everything that waited only for promises has happened. */
const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));

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

test("a ticket that holds is used again; one about to end is renewed before it is used, at the same place", async () => {
  const holds = setUp();
  await playing(holds, 5_000);
  holds.player.seek(9_000);
  await settled();
  expect([holds.passes(), holds.element.currentTime]).toEqual([1, 9]);

  const ends = setUp(29); // Less than the margin of half a minute.
  await playing(ends, 5_000);
  ends.player.pause();
  ends.player.toggle();
  await settled();
  expect([ends.passes(), ends.element.src]).toEqual([2, "/sound?ticket=2"]);
  ends.element.arrive(30);
  expect([ends.element.currentTime, ends.element.paused]).toEqual([5, false]);
});

test("a ticket that ends while it plays is renewed, and the sound goes on where it was", async () => {
  const { element, player, ...rest } = setUp();
  await playing({ element, player, ...rest }, 5_000);
  element.currentTime = 12;
  element.dispatchEvent(new Event("timeupdate"));
  element.refuse();
  await settled();
  expect(rest.passes()).toBe(2);
  element.arrive(30);
  expect([element.currentTime, element.paused, player.state.error]).toEqual([12, false, null]);
});

test("a sound that fails again right after its renewal is given up, with a word", async () => {
  const made = setUp();
  await playing(made, 5_000);
  made.element.refuse();
  await settled();
  made.element.refuse();
  await settled();
  expect([made.passes(), made.player.state.error]).toEqual([2, "The sound of this recording cannot be played now."]);
});

test("a renewal that is refused is told", async () => {
  const made = setUp(600, true);
  await playing(made, 5_000);
  made.element.refuse();
  await settled();
  expect(made.player.state).toMatchObject({ error: "No tickets today.", isPlaying: false, isWaiting: false });
});
