/** One recording: its heading and its transcript, growing while it is live. */

import type { CaptionSegment, Recording } from "@parlance/client";
import { useEffect, useState } from "react";
import { Captions } from "./Captions.js";
import { clock, duration, when } from "./format.js";
import { BackIcon, CopyIcon } from "./icons.js";
import type { Connection } from "./useConnection.js";
import { useTranscript } from "./useTranscript.js";

interface Props {
  connection: Connection;
  token: string;
  recordingId: string;
  segmentId: string | null;
  /** The recording as the list knows it: there before the transcript was read, and kept current. */
  listed: Recording | null;
}

export function RecordingView({ connection, token, recordingId, segmentId, listed }: Props) {
  const { recording: read, captions, isLoaded, error, retry } = useTranscript(connection, token, recordingId);
  const recording = read?.state === "ended" ? read : (listed ?? read);
  const isLive = recording?.state === "live";

  if (error && !isLoaded) {
    const isGone = error.code === "not_found";
    return (
      <section className="empty" role="alert">
        <h1>{isGone ? "This recording is not here" : "The transcript could not be read"}</h1>
        <p>{isGone ? "It does not exist, or it is not shared with you." : error.message}</p>
        {isGone ? <a href="#/">Back to the start</a> : <button onClick={retry}>Try again</button>}
      </section>
    );
  }
  return (
    <article className="recording">
      <header className="recording-head">
        <a className="back" href="#/" aria-label="Back to the start">
          <BackIcon />
        </a>
        <div>
          <h1>{recording ? recording.title || "Untitled recording" : "\u00a0"}</h1>
          <p className="facts">{recording && <Facts recording={recording} />}</p>
        </div>
        {captions.segments.length > 0 && <CopyButton segments={captions.segments} />}
      </header>
      <Captions captions={captions} isLive={isLive} isLoaded={isLoaded} target={segmentId} />
    </article>
  );
}

function Facts({ recording }: { recording: Recording }) {
  return (
    <>
      {recording.state === "live" && <span className="live-badge">Live</span>}
      <span>{when(recording.started_at, Date.now())}</span>
      {recording.state !== "live" && <span>{duration(recording.duration_ms)}</span>}
      {recording.owner.name && <span>{recording.owner.name}</span>}
      {recording.visibility === "private" && <span>Private</span>}
      <span>{recording.engine}</span>
    </>
  );
}

const SAID_MS = 2_000;

function CopyButton({ segments }: { segments: readonly CaptionSegment[] }) {
  const [said, setSaid] = useState<string | null>(null);
  useEffect(() => {
    if (said === null) return;
    const timer = setTimeout(() => setSaid(null), SAID_MS);
    return () => clearTimeout(timer);
  }, [said]);

  const copy = (): void => {
    const text = segments.map((segment) => `[${clock(segment.start_ms)}] ${segment.text}`).join("\n");
    // Absent in pages that are neither https nor localhost, whatever TypeScript says.
    const clipboard = navigator.clipboard as Clipboard | undefined;
    if (!clipboard) return setSaid("Not allowed here");
    clipboard.writeText(text).then(
      () => setSaid("Copied"),
      () => setSaid("Not allowed"),
    );
  };
  return (
    <button type="button" className="quiet copy" onClick={copy}>
      <CopyIcon /> <span role="status">{said ?? "Copy text"}</span>
    </button>
  );
}
