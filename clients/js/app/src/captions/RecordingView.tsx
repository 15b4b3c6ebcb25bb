/** One recording: its heading, its transcript, growing while it is live, and its player. */

import type { People, Recording } from "@parlance/client";
import { useEffect, useMemo, useRef, useState } from "react";
import { Button } from "react-aria-components";
import type { Track } from "../player/player.js";
import { PlayerBar } from "../player/PlayerBar.js";
import { usePlayer } from "../player/usePlayer.js";
import { clock, duration, when } from "../shell/format.js";
import { linkTo, type Route } from "../shell/route.js";
import type { Connection } from "../shell/useConnection.js";
import { BackIcon, CopyIcon } from "../ui/icons.js";
import { speakerName } from "../speakers/names.js";
import { SpeakerDialog } from "../speakers/SpeakerDialog.js";
import { useCopy } from "../ui/Said.js";
import { Captions } from "./Captions.js";
import { useTranscript } from "./useTranscript.js";
import { segmentAt } from "./words.js";

interface Props {
  connection: Connection;
  token: string;
  /** Null where this person may only read. */
  people: People | null;
  recordingId: string;
  route: Route;
  /** The recording as the list knows it: there before the transcript was read, and kept current. */
  listed: Recording | null;
}

export function RecordingView({ connection, token, people, recordingId, route, listed }: Props) {
  const { recording: read, captions, isLoaded, error, retry, tell } = useTranscript(connection, token, recordingId);
  const [naming, setNaming] = useState<string | null>(null);
  const recording = read?.state === "ended" ? read : (listed ?? read);
  const { segments } = captions;
  const target = route.segmentId ?? (route.atMs === null ? null : (segmentAt(segments, route.atMs)?.segment_id ?? null));
  const toldMs = segments.at(-1)?.end_ms ?? 0;
  const track = useTrack(recordingId, recording, toldMs);
  const player = usePlayer();
  const copy = useCopy();
  useCue(track, route.atMs ?? captions.index.get(route.segmentId ?? "")?.start_ms ?? null, isLoaded);

  if (error && !isLoaded) {
    const isGone = error.code === "not_found";
    return (
      <section className="empty" role="alert">
        <h1>{isGone ? "This recording is not here" : "The transcript could not be read"}</h1>
        <p>{isGone ? "It does not exist, or it is not shared with you." : error.message}</p>
        {isGone ? (
          <a href="#/">Back to the start</a>
        ) : (
          <Button className="button" onPress={retry}>
            Try again
          </Button>
        )}
      </section>
    );
  }
  const said = (speaker: string | null): string => (speaker === null ? "" : `${speakerName(speaker, captions.names)}: `);
  const lines = (): string =>
    segments.map(({ start_ms, speaker, text }) => `[${clock(start_ms)}] ${said(speaker)}${text}`).join("\n");
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
        {segments.length > 0 && (
          <Button className="button quiet copy" onPress={() => copy(lines(), "The text was copied.")}>
            <CopyIcon /> <span>Copy text</span>
          </Button>
        )}
      </header>
      <Captions
        recordingId={recordingId}
        captions={captions}
        isLive={recording?.state === "live"}
        isLoaded={isLoaded}
        target={target}
        people={people}
        onSpeaker={setNaming}
        onEdited={(segment) => tell({ type: "revised", body: { segments: [segment], removed: [] } })}
        onPlay={(ms) => track && player.play(track, ms)}
        onCopyLink={(ms) => copy(linkTo(recordingId, ms), `The link to ${clock(ms)} was copied.`)}
      />
      {track && track.lengthMs > 0 && <PlayerBar track={track} />}
      {people !== null && naming !== null && (
        <SpeakerDialog
          people={people}
          recordingId={recordingId}
          label={naming}
          names={captions.names}
          onClose={() => setNaming(null)}
        />
      )}
    </article>
  );
}

function useTrack(recordingId: string, recording: Recording | null, toldMs: number): Track | null {
  const lengthMs = Math.max(recording?.duration_ms ?? 0, toldMs);
  const title = recording?.title ?? "";
  const isLive = recording?.state === "live";
  const isKnown = recording !== null;
  return useMemo(
    () => (isKnown ? { recordingId, title, lengthMs, isLive } : null),
    [recordingId, title, lengthMs, isLive, isKnown],
  );
}

/** Stand at the place that the address names, and otherwise at the start, unless something is being heard. */
function useCue(track: Track | null, atMs: number | null, isLoaded: boolean): void {
  const player = usePlayer();
  const cued = useRef<number | null | undefined>(undefined);
  useEffect(() => {
    if (!track || !isLoaded) return;
    player.update(track);
    if (cued.current === atMs) return;
    cued.current = atMs;
    const { isPlaying, isWaiting } = player.state;
    if (isPlaying || isWaiting) return;
    if (!player.isAt(track.recordingId)) player.cue(track, atMs ?? 0);
    else if (atMs !== null) player.seek(atMs);
  }, [player, track, atMs, isLoaded]);
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
