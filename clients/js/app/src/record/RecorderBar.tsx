/** The running recording: level, time, how things stand, pause and stop. Shown on every screen until it is over. */

import type { ConnectionState, LiveRecording, RecordingProgress } from "@parlance/client";
import { useEffect, useState } from "react";
import { Button } from "react-aria-components";
import { clock, meterShare } from "../shell/format.js";
import { hrefOf } from "../shell/route.js";
import { MicrophoneIcon, PauseIcon, ResumeIcon, StopIcon } from "../ui/icons.js";
import { Picker } from "../ui/Picker.js";
import { isQuiet, quietSince, standing } from "./standing.js";
import { useMicrophones } from "./useMicrophones.js";
import type { Recorder } from "./useRecorder.js";

interface Props {
  recorder: Recorder;
  connectionState: ConnectionState;
  /** The recording on screen. */
  shown: string | null;
}

export function RecorderBar({ recorder, connectionState, shown }: Props) {
  const { recording, state, error, lost } = recorder;
  if (!recording) {
    // On the start screen the error stands beside the buttons.
    if (error === null || shown === null) return null;
    return (
      <div className="recorder-bar">
        <Problem text={error} onClose={recorder.clearError} />
      </div>
    );
  }
  return (
    <section className="recorder-bar" aria-label="Recording" data-state={connectionState === "live" || state === "stopping" ? state : "reconnecting"}>
      {lost !== null && <Problem text={lost} onClose={recorder.clearError} />}
      {error !== null && <Problem text={error} onClose={recorder.clearError} />}
      <Running recording={recording} recorder={recorder} connectionState={connectionState} shown={shown} />
    </section>
  );
}

function Problem({ text, onClose }: { text: string; onClose: () => void }) {
  return (
    <div className="problem" role="alert">
      <p>{text}</p>
      <Button className="button quiet" onPress={onClose}>
        Close
      </Button>
    </div>
  );
}

interface RunningProps {
  recording: LiveRecording;
  recorder: Recorder;
  connectionState: ConnectionState;
  shown: string | null;
}

function Running({ recording, recorder, connectionState, shown }: RunningProps) {
  const { progress, quiet } = useProgress(recording);
  const { state } = recorder;
  const { isPaused } = recording;
  const told = standing(state, progress, connectionState);
  const isElsewhere = shown !== recording.recordingId;
  return (
    <>
      <span className="rec-dot" aria-hidden="true" />
      <time className="elapsed" aria-label="Recorded time">
        {clock(progress.capturedMs)}
      </time>
      <span className="meter" aria-hidden="true">
        <span style={{ transform: `scaleX(${isPaused ? 0 : meterShare(progress.level)})` }} />
      </span>
      <p className="standing" role="status">
        {told || (quiet ? "Nothing is heard. Is the microphone muted, or another one in use?" : "")}
      </p>
      <div className="controls">
        {isElsewhere && <a href={hrefOf(recording.recordingId)}>Show captions</a>}
        {recorder.source && state !== "stopping" && <MicrophoneChoice recorder={recorder} />}
        {state !== "stopping" && (
          <Button className="button" onPress={recorder.togglePause}>
            {isPaused ? <ResumeIcon /> : <PauseIcon />}
            <span>{isPaused ? "Resume" : "Pause"}</span>
          </Button>
        )}
        <Button className="button stop" isDisabled={state === "stopping"} onPress={recorder.stop}>
          <StopIcon /> <span>{state === "stopping" ? "Stopping…" : "Stop"}</span>
        </Button>
      </div>
    </>
  );
}

function MicrophoneChoice({ recorder }: { recorder: Recorder }) {
  const choices = useMicrophones(recorder.lost);
  const inUse = recorder.source?.microphoneId ?? "";
  const value = choices.some(({ id }) => id === inUse) ? inUse : "default";
  return (
    <Picker
      label="Microphone"
      isCompact
      icon={<MicrophoneIcon />}
      choices={choices}
      value={value}
      onChange={recorder.useMicrophone}
    />
  );
}

function useProgress(recording: LiveRecording): { progress: RecordingProgress; quiet: boolean } {
  const [told, setTold] = useState({ progress: recording.progress, since: recording.progress.capturedMs });
  useEffect(
    () =>
      recording.on("progress", (progress) => {
        setTold(({ since }) => ({ progress, since: quietSince(since, progress) }));
      }),
    [recording],
  );
  return { progress: told.progress, quiet: isQuiet(told.since, told.progress) };
}
