/** The running recording: level, time, how things stand, pause and stop. Shown on every screen until it is over. */

import type { ConnectionState, LiveRecording, RecordingProgress } from "@parlance/client";
import { useEffect, useState } from "react";
import { clock, duration, meterShare } from "./format.js";
import { PauseIcon, ResumeIcon, StopIcon } from "./icons.js";
import { hrefOf } from "./route.js";
import type { Recorder } from "./useRecorder.js";

interface Props {
  recorder: Recorder;
  connectionState: ConnectionState;
  /** The recording on screen. */
  shown: string | null;
}

export function RecorderBar({ recorder, connectionState, shown }: Props) {
  const { recording, state, error } = recorder;
  if (!recording) {
    // On the start screen the error stands beside the buttons.
    if (error === null || shown === null) return null;
    return (
      <div className="recorder-bar" role="alert">
        <p className="error">{error}</p>
        <button type="button" onClick={recorder.clearError}>
          Close
        </button>
      </div>
    );
  }
  const isElsewhere = shown !== recording.recordingId;
  return (
    <section className="recorder-bar" aria-label="Recording" data-state={state}>
      <RunningRecording recording={recording} recorder={recorder} connectionState={connectionState} />
      {isElsewhere && <a href={hrefOf(recording.recordingId)}>Show captions</a>}
      {error !== null && (
        <p className="error" role="alert">
          {error}
        </p>
      )}
    </section>
  );
}

interface RunningProps {
  recording: LiveRecording;
  recorder: Recorder;
  connectionState: ConnectionState;
}

function RunningRecording({ recording, recorder, connectionState }: RunningProps) {
  const progress = useProgress(recording);
  const { state } = recorder;
  const isPaused = state === "paused";
  return (
    <>
      <span className="rec-dot" aria-hidden="true" />
      <time className="elapsed" aria-label="Recorded time">
        {clock(progress.capturedMs)}
      </time>
      <span className="meter" aria-hidden="true">
        <span style={{ transform: `scaleX(${meterShare(progress.level)})` }} />
      </span>
      <p className="standing" role="status">
        {standing(state, progress, connectionState)}
      </p>
      <div className="controls">
        {state !== "stopping" && (
          <button type="button" onClick={() => (isPaused ? recording.resume() : void recording.pause())}>
            {isPaused ? <ResumeIcon /> : <PauseIcon />}
            {isPaused ? "Resume" : "Pause"}
          </button>
        )}
        <button
          type="button"
          className="stop"
          disabled={state === "stopping"}
          onClick={() => void recording.stop().catch(() => undefined)}
        >
          <StopIcon /> {state === "stopping" ? "Stopping…" : "Stop"}
        </button>
      </div>
    </>
  );
}

/** Below this the delay is what listening for the end of a word takes; saying so would only worry. */
const LAG_TOLD_MS = 2_000;

/** How the recording stands, in words. Whole seconds, so that a screen reader is not told every tenth. */
export function standing(state: Recorder["state"], progress: RecordingProgress, connection: ConnectionState): string {
  const waiting = progress.unsentMs >= 1_000 ? duration(progress.unsentMs) : "";
  if (connection !== "live" || state === "reconnecting") {
    return `No connection. Recording goes on, on this device${waiting && `: ${waiting} to send`}.`;
  }
  if (state === "stopping") return waiting ? `Sending the last ${waiting}…` : "Finishing…";
  if (state === "paused") return "Paused";
  if (waiting) return `Catching up: ${waiting} to send`;
  const behind = progress.lagMs >= LAG_TOLD_MS ? `Captions are ${duration(progress.lagMs)} behind. ` : "";
  if (progress.degraded) return `${behind}Server busy: captions change less often, nothing is lost.`;
  return behind.trim();
}

function useProgress(recording: LiveRecording): RecordingProgress {
  const [progress, setProgress] = useState(recording.progress);
  useEffect(() => recording.on("progress", setProgress), [recording]);
  return progress;
}
