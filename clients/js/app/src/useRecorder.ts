/** The recording that this page makes, if any. One at a time. */

import {
  asParlanceError,
  fileSource,
  microphoneSource,
  type LiveRecording,
  type Parlance,
  type RecordingState,
} from "@parlance/client";
import { useCallback, useEffect, useState } from "react";

export interface Recorder {
  recording: LiveRecording | null;
  title: string;
  /** `idle`: nothing is being recorded. */
  state: RecordingState | "idle";
  error: string | null;
  /** Resolves to the recording's id, or to null when it could not begin (`error` says why). */
  start: (title: string, file?: File) => Promise<string | null>;
  clearError: () => void;
}

const UNFINISHED: ReadonlySet<Recorder["state"]> = new Set(["opening", "live", "paused", "reconnecting", "stopping"]);

export function useRecorder(client: Parlance): Recorder {
  const [recording, setRecording] = useState<LiveRecording | null>(null);
  const [state, setState] = useState<Recorder["state"]>("idle");
  const [title, setTitle] = useState("");
  const [error, setError] = useState<string | null>(null);

  const start = useCallback(
    async (wanted: string, file?: File) => {
      const name = wanted.trim() || (file ? file.name.replace(/\.[^.]+$/, "") : "");
      setError(null);
      setState("opening");
      setTitle(name);
      try {
        const source = file ? fileSource(file) : microphoneSource();
        const begun = await client.record(source, name ? { title: name.slice(0, 200) } : {});
        const show = (now: RecordingState): void => {
          const isOver = now === "stopped" || now === "failed";
          setState(isOver ? "idle" : now);
          setRecording(isOver ? null : begun);
        };
        begun.on("state", show);
        begun.on("error", (failure) => setError(failure.message));
        show(begun.state);
        return begun.recordingId;
      } catch (thrown) {
        setState("idle");
        setError(asParlanceError(thrown).message);
        return null;
      }
    },
    [client],
  );

  const isUnfinished = UNFINISHED.has(state);
  useEffect(() => {
    if (!isUnfinished) return;
    const ask = (event: BeforeUnloadEvent): void => event.preventDefault();
    window.addEventListener("beforeunload", ask);
    return () => window.removeEventListener("beforeunload", ask);
  }, [isUnfinished]);

  return { recording, title, state, error, start, clearError: () => setError(null) };
}
