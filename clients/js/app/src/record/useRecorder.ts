/** The recording that this page makes, if any. One at a time. */

import {
  asParlanceError,
  CaptureSource,
  fileSource,
  type LiveRecording,
  type Parlance,
  type RecordingState,
} from "@parlance/client";
import { useCallback, useEffect, useState } from "react";
import { captureOptions, recordingOptions, type RecordChoices } from "./choices.js";

export interface Recorder {
  recording: LiveRecording | null;
  /** What is heard, when it is a device whose microphone can be changed. */
  source: CaptureSource | null;
  title: string;
  /** `idle`: nothing is being recorded; `opening`: the device and the server are being asked. */
  state: RecordingState | "idle" | "opening";
  error: string | null;
  /** An input went away; the recording goes on. */
  lost: string | null;
  /** Resolves to the recording's id, or to null when it could not begin (`error` says why). */
  start: (title: string, choices: RecordChoices, file?: File) => Promise<string | null>;
  stop: () => void;
  togglePause: () => void;
  useMicrophone: (deviceId: string) => void;
  clearError: () => void;
}

export function useRecorder(client: Parlance): Recorder {
  const [current, setCurrent] = useState<{ recording: LiveRecording; source: CaptureSource | null } | null>(null);
  const [state, setState] = useState<Recorder["state"]>("idle");
  const [title, setTitle] = useState("");
  const [error, setError] = useState<string | null>(null);
  const [lost, setLost] = useState<string | null>(null);

  const start = useCallback(
    async (wanted: string, choices: RecordChoices, file?: File) => {
      const name = wanted.trim() || (file ? file.name.replace(/\.[^.]+$/, "") : "");
      setError(null);
      setLost(null);
      setState("opening");
      setTitle(name);
      try {
        const capture = file ? null : new CaptureSource(captureOptions(choices));
        const recording = await client.record(capture ?? fileSource(file!), recordingOptions(name, choices));
        const show = (now: RecordingState): void => {
          const isOver = now === "stopped" || now === "lost"; // `lost` comes with an error, which stays on the screen.
          setState(isOver ? "idle" : now);
          setCurrent(isOver ? null : { recording, source: capture });
          if (isOver) setLost(null);
        };
        recording.on("state", show);
        recording.on("error", (failure) => setError(failure.message));
        recording.on("input", (failure) => setLost(failure && failure.message));
        show(recording.state);
        return recording.recordingId;
      } catch (thrown) {
        setState("idle");
        setError(asParlanceError(thrown).message);
        return null;
      }
    },
    [client],
  );

  useWarning(state !== "idle");

  const recording = current?.recording ?? null;
  const source = current?.source ?? null;
  const stop = (): void => void recording?.stop().catch(() => undefined);
  const togglePause = (): void => {
    if (recording?.isPaused) recording.resume();
    else void recording?.pause();
  };
  const useMicrophone = (deviceId: string): void => {
    source?.useMicrophone(deviceId).then(
      () => setError(null),
      (thrown: unknown) => setError(asParlanceError(thrown).message),
    );
  };
  const clearError = useCallback(() => {
    setError(null);
    setLost(null);
  }, []);
  return { recording, source, title, state, error, lost, start, stop, togglePause, useMicrophone, clearError };
}

/** Ask before the page is left with an unfinished recording: what waits on this device would go with the page. */
function useWarning(isUnfinished: boolean): void {
  useEffect(() => {
    if (!isUnfinished) return;
    const ask = (event: BeforeUnloadEvent): void => event.preventDefault();
    window.addEventListener("beforeunload", ask);
    return () => window.removeEventListener("beforeunload", ask);
  }, [isUnfinished]);
}
