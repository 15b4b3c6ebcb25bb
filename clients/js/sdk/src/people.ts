/**
 * Who speaks in recordings, whose voices are known, and corrections of what was recognised: small calls over HTTP.
 * What they change is told to everybody in the recording's room (`speaker:renamed`, `speaker:merged`,
 * `transcript:revised`).
 */

import type { CaptionSegment } from "./captions.js";
import { httpRequest } from "./http.js";

export interface Speaker {
  label: string;
  name: string | null;
  /** The enrolled voice that this is. */
  voice_id: string | null;
  spoken_ms: number;
  /** Speech without others that was heard so far: an enrolment wants 5 s. */
  clean_ms: number;
}

export interface EnrolledVoice {
  id: string;
  name: string;
  /** Recognised at present: of the model that works now. */
  usable: boolean;
  model: string;
  clean_ms: number;
  /** Who asked for it; null where that user is gone. */
  enrolled_by: string | null;
  enrolled_at: number;
  /** What is stored of the voice, as a sentence for people. */
  stored: string;
}

export interface SegmentVersion {
  rev: number;
  text: string;
  speaker: string | null;
  reason: string;
  at: number;
}

export interface SegmentHistory {
  segment: CaptionSegment & { edited: boolean };
  history: SegmentVersion[];
  /** False where the log no longer reaches back to the beginning. */
  complete: boolean;
}

export class People {
  readonly #base: string;
  readonly #token: () => string;

  /** `token`: asked for each request. `base`: where the server is; empty for the page that it serves. */
  constructor(token: () => string, base = "") {
    this.#token = token;
    this.#base = base;
  }

  async speakers(recordingId: string): Promise<Speaker[]> {
    return (await this.#ask<{ speakers: Speaker[] }>("GET", `${recording(recordingId)}/speakers`)).speakers;
  }

  /** Name a speaker; null takes the name away. */
  async name(recordingId: string, label: string, name: string | null): Promise<void> {
    await this.#ask("PATCH", speaker(recordingId, label), { name });
  }

  /** Name a speaker, store what the voice sounds like, and recognise it in later recordings. */
  async enrol(recordingId: string, label: string, name: string): Promise<EnrolledVoice> {
    const answer = await this.#ask<{ voice: EnrolledVoice }>("PATCH", speaker(recordingId, label), { name, enrol: true });
    return answer.voice;
  }

  /** `label` is `into`, for good. */
  async merge(recordingId: string, label: string, into: string): Promise<void> {
    await this.#ask("POST", `${speaker(recordingId, label)}/merge`, { into });
  }

  /** Throws `conflict` with `expected`, the present `rev`, where the segment is not what the caller saw. */
  async edit(
    recordingId: string,
    segmentId: string,
    change: { rev: number; text?: string; speaker?: string | null },
  ): Promise<CaptionSegment> {
    return (await this.#ask<{ segment: CaptionSegment }>("PATCH", segment(recordingId, segmentId), change)).segment;
  }

  history(recordingId: string, segmentId: string): Promise<SegmentHistory> {
    return this.#ask("GET", segment(recordingId, segmentId));
  }

  async voices(): Promise<EnrolledVoice[]> {
    return (await this.#ask<{ voices: EnrolledVoice[] }>("GET", "/v1/voices")).voices;
  }

  async renameVoice(id: string, name: string): Promise<EnrolledVoice> {
    return (await this.#ask<{ voice: EnrolledVoice }>("PATCH", voice(id), { name })).voice;
  }

  async deleteVoice(id: string): Promise<void> {
    await this.#ask("DELETE", voice(id));
  }

  #ask<T>(method: string, path: string, body?: unknown): Promise<T> {
    return httpRequest<T>(this.#base, path, { method, body, token: this.#token() });
  }
}

const recording = (id: string): string => `/v1/recordings/${encodeURIComponent(id)}`;
const speaker = (id: string, label: string): string => `${recording(id)}/speakers/${encodeURIComponent(label)}`;
const segment = (id: string, segmentId: string): string => `${recording(id)}/segments/${encodeURIComponent(segmentId)}`;
const voice = (id: string): string => `/v1/voices/${encodeURIComponent(id)}`;
