/** What was found. Each hit opens its place in the recording, or is played right here. */

import { highlightRuns, type Recording, type SearchHit } from "@parlance/client";
import { Button } from "react-aria-components";
import type { Library } from "../library/recordings.js";
import type { Track } from "../player/player.js";
import { usePlace, usePlayer, usePlayerState } from "../player/usePlayer.js";
import { clock } from "../shell/format.js";
import { hrefOf } from "../shell/route.js";
import { PauseIcon, PlayIcon } from "../ui/icons.js";
import type { SearchView } from "./useSearch.js";

interface Props {
  search: SearchView;
  library: Library;
  isConnected: boolean;
}

export function Hits({ search, library, isConnected }: Props) {
  const { hits, answered, error, degraded, hold } = search;
  if (error !== null) {
    return (
      <p className="error" role="alert">
        {error}
      </p>
    );
  }
  if (!isConnected && hits === null) return <p className="hint">Search works again when the connection is back.</p>;
  if (hits === null) return <p className="hint">Searching…</p>;
  const recordings = new Map(library.recordings.map((recording) => [recording.id, recording]));
  return (
    <>
      <p className="hint found">
        <span role="status">{foundWords(hits.length, answered)}</span>
        {degraded && <span title="Search by meaning is not there now; places with your words are found.">by words only</span>}
      </p>
      <ul
        className="list"
        aria-label="Places"
        onPointerEnter={() => hold(true)}
        onPointerLeave={() => hold(false)}
        onFocus={() => hold(true)}
        onBlur={() => hold(false)}
      >
        {hits.map((hit) => (
          <li key={hit.segment_id} className="hit">
            <PlayHit hit={hit} recording={recordings.get(hit.recording_id) ?? null} />
            <Quote hit={hit} />
          </li>
        ))}
      </ul>
    </>
  );
}

function foundWords(count: number, query: string): string {
  if (count === 0) return `Nothing found for “${query}”.`;
  return `${count} ${count === 1 ? "place" : "places"}`;
}

function PlayHit({ hit, recording }: { hit: SearchHit; recording: Recording | null }) {
  const player = usePlayer();
  const { isPlaying, isWaiting } = usePlayerState();
  const isHere = usePlace(hit.recording_id, (ms) => (ms >= hit.start_ms && ms < hit.end_ms ? 1 : 0)) === 1;
  const isActive = isHere && (isPlaying || isWaiting);
  const track: Track = {
    recordingId: hit.recording_id,
    title: hit.title,
    lengthMs: Math.max(recording?.duration_ms ?? 0, hit.end_ms),
    isLive: recording?.state === "live",
  };
  return (
    <Button
      className="button icon play-hit"
      aria-label={isActive ? "Pause" : `Play from ${clock(hit.start_ms)}`}
      onPress={() => (isActive ? player.pause() : player.play(track, hit.start_ms))}
    >
      {isActive ? <PauseIcon /> : <PlayIcon />}
    </Button>
  );
}

function Quote({ hit }: { hit: SearchHit }) {
  return (
    <a className="item" href={hrefOf(hit.recording_id, { segmentId: hit.segment_id })}>
      <span className="facts">
        <span className="item-title">{hit.title || "Untitled recording"}</span>
        <span>{clock(hit.start_ms)}</span>
        {hit.speaker !== null && <span>{hit.speaker}</span>}
      </span>
      <span className="quote">
        {highlightRuns(hit.text, hit.highlights).map((run, at) =>
          run.marked ? <mark key={at}>{run.text}</mark> : <span key={at}>{run.text}</span>,
        )}
      </span>
    </a>
  );
}
