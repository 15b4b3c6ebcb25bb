/** Begin a recording: the microphone, or a file streamed as if it were spoken now. */

import { useRef, useState } from "react";
import { FileIcon, MicrophoneIcon } from "./icons.js";
import { hrefOf } from "./route.js";
import type { Recorder } from "./useRecorder.js";

export function StartScreen({ recorder, isConnected }: { recorder: Recorder; isConnected: boolean }) {
  const [title, setTitle] = useState("");
  const picker = useRef<HTMLInputElement>(null);
  const isFree = recorder.state === "idle";
  const canStart = isFree && isConnected;

  const start = async (file?: File): Promise<void> => {
    const recordingId = await recorder.start(title, file);
    if (recordingId !== null) window.location.hash = hrefOf(recordingId);
  };

  return (
    <section className="start" aria-labelledby="start-title">
      <h1 id="start-title">Speak, and read along</h1>
      <p className="lead">Captions appear while you talk. Every finished sentence can be searched at once.</p>
      <label className="title-field">
        <span>Title</span>
        <input
          value={title}
          maxLength={200}
          placeholder="Optional, for example “Tuesday stand-up”"
          onChange={(event) => setTitle(event.target.value)}
        />
      </label>
      <div className="start-buttons">
        <button type="button" className="record" disabled={!canStart} onClick={() => void start()}>
          <MicrophoneIcon size={26} />
          {recorder.state === "opening" ? "Starting…" : "Record"}
        </button>
        <button type="button" disabled={!canStart} onClick={() => picker.current?.click()}>
          <FileIcon /> Stream a file
        </button>
        <input
          ref={picker}
          type="file"
          accept="audio/*,video/*"
          hidden
          aria-label="Sound file to stream"
          onChange={(event) => {
            const file = event.target.files?.[0];
            event.target.value = ""; // The same file may be chosen again.
            if (file) void start(file);
          }}
        />
      </div>
      <p className="hint">A file is played to the server at the speed of speech, silently.</p>
      {recorder.error !== null && isFree && (
        <p className="error" role="alert">
          {recorder.error}
        </p>
      )}
    </section>
  );
}
