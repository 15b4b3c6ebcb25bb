/**
 * The browser's microphones, and the sound of a tab or of the whole device.
 *
 * Boundary: what the browser refuses becomes a ParlanceError whose message tells a person what to do about it.
 */

import type { Unsubscribe } from "./emitter.js";
import { ParlanceError } from "./errors.js";

/** `label`: empty until this page was allowed to use a microphone once. */
export interface Microphone {
  deviceId: string;
  label: string;
}

export type Obstacle = "insecure" | "unsupported";

/** Why this page cannot record at all; null when it can. */
export function recordingObstacle(): Obstacle | null {
  if (!window.isSecureContext) return "insecure";
  if (!mediaDevices() || typeof AudioWorkletNode === "undefined") return "unsupported";
  return null;
}

/** Whether the browser offers to share the sound of a tab. Firefox and Safari have the call, but never give sound. */
export function canShareSound(): boolean {
  const devices = mediaDevices();
  return devices !== undefined && "getDisplayMedia" in devices && /Chrome\//.test(navigator.userAgent);
}

export async function listMicrophones(): Promise<Microphone[]> {
  const devices = (await mediaDevices()?.enumerateDevices()) ?? [];
  // Before permission browsers list one nameless device without an id.
  return devices
    .filter(({ kind, deviceId }) => kind === "audioinput" && deviceId !== "")
    .map(({ deviceId, label }) => ({ deviceId, label }));
}

/** Call `listener` with the microphones now, and again whenever one comes or goes. */
export function watchMicrophones(listener: (microphones: Microphone[]) => void): Unsubscribe {
  const devices = mediaDevices();
  const tell = (): void => void listMicrophones().then(listener, () => listener([]));
  tell();
  devices?.addEventListener("devicechange", tell);
  return () => devices?.removeEventListener("devicechange", tell);
}

/** Throws ParlanceError `source_failed`. Without `deviceId`: the one that the browser prefers. */
export async function askForMicrophone(deviceId?: string, constraints: MediaTrackConstraints = {}): Promise<MediaStream> {
  const device = deviceId === undefined ? {} : { deviceId: { exact: deviceId } };
  try {
    return await devicesOrThrow().getUserMedia({ audio: { channelCount: 1, ...device, ...constraints } });
  } catch (thrown) {
    throw refused(thrown, MICROPHONE_REFUSALS);
  }
}

/** Ask for the sound of a tab, or of everything where the system allows it. Throws ParlanceError `source_failed`. */
export async function askForSharedSound(): Promise<MediaStream> {
  const devices = devicesOrThrow();
  if (!canShareSound()) throw failure(NO_SHARING);
  let stream: MediaStream;
  try {
    stream = await devices.getDisplayMedia({
      // As it is: filters made for a voice in a room cut music and second speakers out of a call.
      audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
      video: { frameRate: 1 }, // Browsers share no sound without a picture; nobody looks at it.
    });
  } catch (thrown) {
    throw refused(thrown, SHARING_REFUSALS);
  }
  if (stream.getAudioTracks().length === 0) {
    for (const track of stream.getTracks()) track.stop();
    throw failure(NO_SOUND_SHARED);
  }
  for (const track of stream.getVideoTracks()) track.enabled = false;
  return stream;
}

const NO_SHARING = "This browser cannot share a tab's sound. Chrome and Edge on a computer can.";
const NO_SOUND_SHARED = "No sound was shared. Choose a tab, switch on “Also share tab audio”, and try again.";

const MICROPHONE_REFUSALS: Record<string, string> = {
  NotAllowedError:
    "This page may not use the microphone. Click the icon beside the address, allow the microphone, and try again.",
  NotFoundError: "No microphone was found. Plug one in, or check the system's sound settings.",
  OverconstrainedError: "This microphone is not there any more. Choose another one.",
  NotReadableError: "The microphone cannot be read; another program may be using it.",
};

const SHARING_REFUSALS: Record<string, string> = {
  NotAllowedError: "Nothing was shared. Choose a tab or a screen in the browser's window, and allow it.",
  NotReadableError: "The system does not let the browser hear this. Choose a single tab instead.",
};

function mediaDevices(): MediaDevices | undefined {
  // Absent in pages that are neither https nor localhost, whatever TypeScript says.
  return (navigator as { mediaDevices?: MediaDevices }).mediaDevices;
}

function devicesOrThrow(): MediaDevices {
  const devices = mediaDevices();
  if (!devices) throw failure("Browsers give the microphone only to pages on localhost or over https.");
  return devices;
}

function refused(thrown: unknown, sentences: Record<string, string>): ParlanceError {
  if (thrown instanceof ParlanceError) return thrown;
  const name = thrown instanceof Error ? thrown.name : "";
  return failure(sentences[name] ?? (thrown instanceof Error && thrown.message ? thrown.message : String(thrown)));
}

function failure(message: string): ParlanceError {
  return new ParlanceError("source_failed", message);
}
