/** Begin a recording: a microphone, the sound of a tab, or a file streamed as if it were spoken now. */

import { canShareSound, opusContainer, recordingObstacle, type Obstacle } from "@parlance/client";
import { useMemo, useRef } from "react";
import { Button, Label, Radio, RadioGroup, Switch } from "react-aria-components";
import { FileIcon, MicrophoneIcon, ScreenIcon } from "../ui/icons.js";
import { Picker } from "../ui/Picker.js";
import { ENCODINGS, languages, PRESETS, TASKS, type RecordChoices } from "./choices.js";
import { useMicrophones } from "./useMicrophones.js";
import type { Recorder } from "./useRecorder.js";

interface Props {
  recorder: Recorder;
  isConnected: boolean;
  title: string;
  setTitle: (title: string) => void;
  choices: RecordChoices;
  setChoices: (change: Partial<RecordChoices>) => void;
  onStart: (file?: File) => void;
}

const OBSTACLES: Record<Obstacle, string> = {
  insecure:
    "Browsers give the microphone only to pages over https or on localhost, and this page is neither. Open it over https, or on the machine that runs the server. Files can be streamed all the same.",
  unsupported:
    "This browser is too old to record. Chrome, Edge, Firefox and Safari of the last years can. Files can be streamed all the same.",
};

export function RecordSetup(props: Props) {
  const { recorder, isConnected, title, setTitle, onStart } = props;
  const obstacle = useMemo(recordingObstacle, []);
  const isFree = recorder.state === "idle";
  const canStart = isFree && isConnected;

  return (
    <section className="start" aria-labelledby="start-title">
      <h1 id="start-title">Speak, and read along</h1>
      <p className="lead">Captions appear while you talk. Every finished sentence can be searched at once.</p>
      {obstacle !== null && (
        <p className="warning" role="note">
          {OBSTACLES[obstacle]}
        </p>
      )}
      <label className="field">
        <span>Title</span>
        <input
          value={title}
          maxLength={200}
          placeholder="Optional, for example “Tuesday stand-up”"
          onChange={(event) => setTitle(event.target.value)}
        />
      </label>
      {obstacle === null && <SourceChoice {...props} />}
      <div className="start-buttons">
        <Button className="button record" isDisabled={!canStart || obstacle !== null} onPress={() => onStart()}>
          {props.choices.source === "shared" ? <ScreenIcon /> : <MicrophoneIcon size={26} />}
          {recorder.state === "opening" ? "Starting…" : "Record"}
        </Button>
        <FileButton isDisabled={!canStart} onFile={onStart} />
      </div>
      {!isConnected && <p className="hint">Recording can begin when the connection to the server is back.</p>}
      {!isFree && recorder.state !== "opening" && <p className="hint">A recording is running. Stop it to begin another.</p>}
      {recorder.error !== null && isFree && (
        <p className="warning bad" role="alert">
          {recorder.error}
        </p>
      )}
      <Details {...props} />
    </section>
  );
}

function SourceChoice({ choices, setChoices }: Props) {
  const canShare = useMemo(canShareSound, []);
  const isShared = choices.source === "shared";
  return (
    <div className="source">
      <RadioGroup
        className="segmented"
        value={choices.source}
        onChange={(source) => setChoices({ source: source as RecordChoices["source"] })}
      >
        <Label>What to record</Label>
        <div>
          <Radio value="microphone">
            <MicrophoneIcon /> Microphone
          </Radio>
          <Radio value="shared">
            <ScreenIcon /> Tab or system sound
          </Radio>
        </div>
      </RadioGroup>
      {isShared && (
        <>
          <p className="hint">
            {canShare
              ? "The browser asks what to share. Switch on “Also share tab audio” in its window."
              : "This browser cannot share a tab's sound. Chrome and Edge on a computer can."}
          </p>
          <Toggle isOn={choices.withMicrophone} onChange={(withMicrophone) => setChoices({ withMicrophone })}>
            Record my microphone too
          </Toggle>
        </>
      )}
    </div>
  );
}

function Details({ choices, setChoices, recorder }: Props) {
  const microphones = useMicrophones(recorder.state);
  const spoken = useMemo(() => languages(navigator.language), []);
  const canOpus = useMemo(() => opusContainer() !== null, []);
  const microphoneId = microphones.some(({ id }) => id === choices.microphoneId) ? choices.microphoneId : "default";
  return (
    <div className="details">
      {(choices.source === "microphone" || choices.withMicrophone) && (
        <Picker
          label="Microphone"
          choices={microphones}
          value={microphoneId}
          onChange={(id) => setChoices({ microphoneId: id })}
        />
      )}
      <Picker
        label="Language"
        choices={spoken}
        value={choices.language}
        onChange={(language) => setChoices({ language })}
      />
      <Picker
        label="Captions"
        choices={TASKS}
        value={choices.task}
        onChange={(task) => setChoices({ task: task as RecordChoices["task"] })}
      />
      <Picker
        label="Kind of talk"
        choices={PRESETS}
        value={choices.preset}
        onChange={(preset) => setChoices({ preset: preset as RecordChoices["preset"] })}
      />
      <Picker
        label="Sound"
        choices={canOpus ? ENCODINGS : ENCODINGS.slice(0, 1)}
        value={canOpus ? choices.encoding : "pcm"}
        onChange={(encoding) => setChoices({ encoding: encoding as RecordChoices["encoding"] })}
      />
      <Toggle isOn={choices.isPrivate} onChange={(isPrivate) => setChoices({ isPrivate })}>
        Only I can see it
      </Toggle>
    </div>
  );
}

interface ToggleProps {
  isOn: boolean;
  onChange: (isOn: boolean) => void;
  children: string;
}

function Toggle({ isOn, onChange, children }: ToggleProps) {
  return (
    <Switch className="switch" isSelected={isOn} onChange={onChange}>
      <span className="switch-rail" />
      {children}
    </Switch>
  );
}

function FileButton({ isDisabled, onFile }: { isDisabled: boolean; onFile: (file: File) => void }) {
  const picker = useRef<HTMLInputElement>(null);
  return (
    <>
      <Button className="button" isDisabled={isDisabled} onPress={() => picker.current?.click()}>
        <FileIcon /> Stream a file
      </Button>
      <input
        ref={picker}
        type="file"
        accept="audio/*,video/*"
        hidden
        aria-label="Sound file to stream"
        onChange={(event) => {
          const file = event.target.files?.[0];
          event.target.value = ""; // The same file may be chosen again.
          if (file) onFile(file);
        }}
      />
    </>
  );
}
