/** What the SDK does with the browser's media interfaces, on stand-ins for them: the real ones are tested in tests/e2e. */

import { afterEach, describe, expect, test, vi } from "vitest";
import { askForMicrophone, askForSharedSound, listMicrophones, recordingObstacle, watchMicrophones } from "../src/devices.js";
import { FINE, withAck } from "../src/health.js";
import { opusContainer, OpusRecorder } from "../src/opus.js";

afterEach(() => vi.unstubAllGlobals());

/** Does what MediaRecorder does, when it is told to. */
class HandRecorder extends EventTarget {
  static made: HandRecorder[] = [];
  static types = ["audio/webm;codecs=opus"];
  static isTypeSupported = (type: string): boolean => HandRecorder.types.includes(type);
  state = "inactive";
  waiting: Uint8Array[] = [];

  constructor(
    readonly stream: unknown,
    readonly options: { mimeType: string },
  ) {
    super();
    HandRecorder.made.push(this);
  }

  start(): void {
    this.state = "recording";
  }

  pause(): void {
    this.state = "paused";
    queueMicrotask(() => this.dispatchEvent(new Event("pause")));
  }

  resume(): void {
    this.state = "recording";
  }

  requestData(): void {
    queueMicrotask(() => {
      const data = new Blob(this.waiting.splice(0) as BlobPart[]);
      this.dispatchEvent(Object.assign(new Event("dataavailable"), { data }));
    });
  }

  stop(): void {
    this.requestData();
    this.state = "inactive";
    queueMicrotask(() => this.dispatchEvent(new Event("stop")));
  }

  hear(...bytes: number[]): this {
    this.waiting.push(Uint8Array.from(bytes));
    return this;
  }
}

describe("opus", () => {
  const begin = () => {
    HandRecorder.made = [];
    vi.stubGlobal("MediaRecorder", HandRecorder);
    const told: string[] = [];
    const recorder = new OpusRecorder({} as MediaStream, opusContainer()!, {
      piece: (bytes) => told.push(bytes.join(",")),
      newContainer: () => told.push("new container"),
      failed: ({ code }) => told.push(code),
    });
    return { recorder, told };
  };

  test("the container is what the browser writes", () => {
    expect(opusContainer()).toBeNull();
    vi.stubGlobal("MediaRecorder", HandRecorder);
    expect(opusContainer()?.encoding).toBe("webm_opus");
    HandRecorder.types = ["audio/ogg;codecs=opus"];
    expect(opusContainer()?.encoding).toBe("ogg_opus");
    HandRecorder.types = ["audio/webm;codecs=opus"];
  });

  test("pieces leave in order, and a pause and a stop wait for what was heard before them", async () => {
    const { recorder, told } = begin();
    const [made] = HandRecorder.made;
    made!.hear(1).requestData();
    await Promise.resolve();
    made!.hear(2, 3).requestData();
    await Promise.resolve();
    made!.hear(4);
    await recorder.pause();
    expect([told, made!.state]).toEqual([["1", "2,3", "4"], "paused"]);
    recorder.resume();
    made!.hear(5);
    await recorder.stop();
    expect([told.at(-1), made!.state]).toEqual(["5", "inactive"]);
    await recorder.stop();
  });

  test("a recorder that breaks is replaced, and its container with it", async () => {
    const { recorder, told } = begin();
    HandRecorder.made[0]!.hear(1).requestData();
    await Promise.resolve();
    HandRecorder.made[0]!.dispatchEvent(new Event("error"));
    HandRecorder.made[1]!.hear(9);
    await recorder.stop();
    expect(told).toEqual(["1", "new container", "9"]);
  });
});

describe("devices", () => {
  const refusal = (name: string) => () => Promise.reject(Object.assign(new Error(name), { name }));
  const withDevices = (devices: object, userAgent = "Chrome/150.0"): void => {
    vi.stubGlobal("navigator", { mediaDevices: devices, userAgent });
  };

  test("a page that cannot record says why", () => {
    vi.stubGlobal("window", { isSecureContext: false });
    expect(recordingObstacle()).toBe("insecure");
    vi.stubGlobal("window", { isSecureContext: true });
    withDevices({});
    expect(recordingObstacle()).toBe("unsupported");
    vi.stubGlobal("AudioWorkletNode", class {});
    expect(recordingObstacle()).toBeNull();
  });

  test.each([
    ["NotAllowedError", "allow the microphone"],
    ["NotFoundError", "No microphone was found"],
    ["NotReadableError", "another program"],
    ["OverconstrainedError", "Choose another"],
    ["OddError", "OddError"],
  ])("a refused microphone (%s) is told with what to do", async (name, words) => {
    withDevices({ getUserMedia: refusal(name) });
    await expect(askForMicrophone("1")).rejects.toMatchObject({ code: "source_failed", message: expect.stringContaining(words) });
  });

  test("a shared tab without sound is refused, and no longer shared", async () => {
    let stopped = 0;
    const video = { kind: "video", stop: () => (stopped += 1) };
    const stream = { getTracks: () => [video], getAudioTracks: () => [], getVideoTracks: () => [video] };
    withDevices({ getDisplayMedia: async () => stream });
    await expect(askForSharedSound()).rejects.toMatchObject({ message: expect.stringContaining("Also share tab audio") });
    expect(stopped).toBe(1);
    withDevices({ getDisplayMedia: async () => stream }, "Firefox/150.0");
    await expect(askForSharedSound()).rejects.toMatchObject({ message: expect.stringContaining("Chrome and Edge") });
  });

  test("microphones are listed, and again when one comes", async () => {
    const found = [
      { kind: "audioinput", deviceId: "", label: "" },
      { kind: "videoinput", deviceId: "v", label: "Camera" },
    ];
    const devices = Object.assign(new EventTarget(), { enumerateDevices: async () => found });
    withDevices(devices);
    expect(await listMicrophones()).toEqual([]);
    const lists: string[][] = [];
    const unsubscribe = watchMicrophones((list) => lists.push(list.map(({ label }) => label)));
    await vi.waitFor(() => expect(lists).toEqual([[]]));
    found.push({ kind: "audioinput", deviceId: "1", label: "Desk" });
    devices.dispatchEvent(new Event("devicechange"));
    await vi.waitFor(() => expect(lists).toEqual([[], ["Desk"]]));
    unsubscribe();
  });
});

describe("health", () => {
  const acks = (...list: [lag_ms: number, degraded: boolean][]) => {
    return list.reduce((health, [lag_ms, degraded]) => withAck(health, { lag_ms, degraded }), FINE);
  };

  test("one late acknowledgement is no news, a few are, and going back needs more", () => {
    expect(acks([3_000, false]).isBehind).toBe(false);
    const late = acks([3_000, false], [3_000, false], [3_000, false], [3_000, false]);
    expect(late.isBehind).toBe(true);
    expect(withAck(late, { lag_ms: 1_500, degraded: false }).isBehind).toBe(true);
    expect([0, 0, 0].reduce((health) => withAck(health, { lag_ms: 0, degraded: false }), late).isBehind).toBe(false);
  });

  test("busy is told when two agree, and taken back when four do", () => {
    expect(acks([0, true]).isBusy).toBe(false);
    expect(acks([0, true], [0, false], [0, true]).isBusy).toBe(false);
    expect(acks([0, true], [0, true]).isBusy).toBe(true);
    expect(acks([0, true], [0, true], [0, false], [0, false], [0, false]).isBusy).toBe(true);
    expect(acks([0, true], [0, true], [0, false], [0, false], [0, false], [0, false]).isBusy).toBe(false);
  });
});
