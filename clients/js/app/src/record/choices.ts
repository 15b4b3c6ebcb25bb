/** How the next recording is made, and what is remembered of it. */

import type { CaptureOptions, RecordingOptions } from "@parlance/client";
import type { Choice } from "../ui/Picker.js";

export interface RecordChoices {
  source: "microphone" | "shared";
  /** With the shared sound of a tab: what is said here too. */
  withMicrophone: boolean;
  microphoneId: string;
  encoding: "opus" | "pcm";
  language: string;
  task: "transcribe" | "translate";
  preset: "conversation" | "dictation" | "lecture";
  isPrivate: boolean;
}

export const CHOICES_KEY = "parlance.recording";

export const FIRST_CHOICES: RecordChoices = {
  source: "microphone",
  withMicrophone: true,
  microphoneId: "default",
  encoding: "pcm",
  language: "auto",
  task: "transcribe",
  preset: "conversation",
  isPrivate: false,
};

export const ENCODINGS: readonly Choice[] = [
  { id: "pcm", name: "Best accuracy", note: "PCM, about 5.8 MB a minute" },
  { id: "opus", name: "Less data", note: "Opus, about 0.24 MB a minute" },
];

/** The server says so when the present engine cannot translate. */
export const TASKS: readonly Choice[] = [
  { id: "transcribe", name: "As spoken" },
  { id: "translate", name: "In English", note: "Translated while somebody talks; needs a multilingual Whisper" },
];

export const PRESETS: readonly Choice[] = [
  { id: "conversation", name: "Conversation", note: "A line ends at a short pause" },
  { id: "dictation", name: "Dictation", note: "Waits longer for the next word" },
  { id: "lecture", name: "Lecture", note: "Shorter lines in long talk, coughs ignored" },
];

/** Languages that the engines know best; the server says so when the present one does not understand the wish. */
const LANGUAGE_CODES = "ar cs da de el en es fi fr he hi hu it ja ko nl no pl pt ro ru sv tr uk vi zh".split(" ");

export function languages(locale: string): Choice[] {
  const names = new Intl.DisplayNames([locale], { type: "language" });
  const known = LANGUAGE_CODES.map((id) => ({ id, name: names.of(id) ?? id }));
  known.sort((a, b) => a.name.localeCompare(b.name, locale));
  return [{ id: "auto", name: "Detect by itself" }, ...known];
}

export function captureOptions(choices: RecordChoices): CaptureOptions {
  const { source, withMicrophone, microphoneId, encoding } = choices;
  const isShared = source === "shared";
  return { shared: isShared, microphone: isShared && !withMicrophone ? null : microphoneId, encoding };
}

export function recordingOptions(title: string, { language, task, preset, isPrivate }: RecordChoices): RecordingOptions {
  return {
    ...(title === "" ? {} : { title: title.slice(0, 200) }),
    ...(language === "auto" ? {} : { language }),
    ...(task === "transcribe" ? {} : { task }),
    ...(preset === "conversation" ? {} : { preset }),
    ...(isPrivate ? { visibility: "private" as const } : {}),
  };
}
