/** One place that was found. */

import { highlightRuns, type SearchBeside, type SearchHit } from "@parlance/client";
import { useState, type ReactNode } from "react";
import { Button } from "react-aria-components";
import type { Library } from "../library/recordings.js";
import type { Track } from "../player/player.js";
import { usePlace, usePlayer, usePlayerState } from "../player/usePlayer.js";
import { clock } from "../shell/format.js";
import { hrefOf } from "../shell/route.js";
import { AroundIcon, PauseIcon, PlayIcon } from "../ui/icons.js";
import type { SearchView } from "./useSearch.js";

/** What a speaker of a recording is called. */
export type Called = (recordingId: string, speaker: string) => string;

/** What is needed to show and play a place. */
export type Place = Pick<
  SearchHit,
  "end_ms" | "highlights" | "recording_id" | "segment_id" | "speaker" | "start_ms" | "text" | "title"
>;

interface Props {
  hit: SearchHit;
  search: SearchView;
  library: Library;
  called: Called;
  /** Among others of its recording: it need not say which one that is. */
  isWithin?: boolean;
}

export function Hit({ hit, search, library, called, isWithin = false }: Props) {
  const [isAround, setAround] = useState(false);
  const toggle = (): void => {
    setAround(!isAround);
    search.readAround();
  };
  const opened = (): void => search.opened(hit.segment_id);
  return (
    <>
      <PlayPlace place={hit} library={library} onPlay={opened} />
      <div className="hit-body">
        <Quote
          place={hit}
          called={called}
          isWithin={isWithin}
          onOpen={opened}
          before={isAround && <Beside label="Said before" said={hit.before} hit={hit} called={called} />}
        />
        {isAround && <Beside label="Said after" said={hit.after} hit={hit} called={called} />}
        {isAround && !hit.before && (
          <p className="hint">{search.isLong ? "Open the place to read around it." : "Looking…"}</p>
        )}
      </div>
      <Button
        className="button icon quiet around"
        aria-label="What was said before and after"
        aria-expanded={isAround}
        onPress={toggle}
      >
        <AroundIcon />
      </Button>
    </>
  );
}

function Beside({ label, said, hit, called }: { label: string; said: SearchBeside[] | undefined; hit: SearchHit; called: Called }) {
  if (!said || said.length === 0) return null;
  return (
    <ol className="beside" aria-label={label}>
      {said.map(({ segment_id, speaker, start_ms, text }) => (
        <li key={segment_id}>
          <span>{clock(start_ms)}</span> {speaker !== null && <b>{called(hit.recording_id, speaker)}: </b>}
          {text}
        </li>
      ))}
    </ol>
  );
}

export function PlayPlace({ place, library, onPlay }: { place: Place; library: Library; onPlay?: () => void }) {
  const player = usePlayer();
  const { isPlaying, isWaiting } = usePlayerState();
  const isHere = usePlace(place.recording_id, (ms) => (ms >= place.start_ms && ms < place.end_ms ? 1 : 0)) === 1;
  const isActive = isHere && (isPlaying || isWaiting);
  const recording = library.recordings.find(({ id }) => id === place.recording_id);
  const track: Track = {
    recordingId: place.recording_id,
    title: place.title,
    lengthMs: Math.max(recording?.duration_ms ?? 0, place.end_ms),
    isLive: recording?.state === "live",
  };
  const press = (): void => {
    if (isActive) player.pause();
    else {
      player.play(track, place.start_ms);
      onPlay?.();
    }
  };
  return (
    <Button className="button icon play-hit" aria-label={isActive ? "Pause" : `Play from ${clock(place.start_ms)}`} onPress={press}>
      {isActive ? <PauseIcon /> : <PlayIcon />}
    </Button>
  );
}

interface QuoteProps {
  place: Place;
  called: Called;
  isWithin?: boolean;
  /** Between where it was said and what. */
  before?: ReactNode;
  onOpen?: () => void;
}

export function Quote({ place, called, isWithin = false, before = false, onOpen }: QuoteProps) {
  const { recording_id, segment_id, start_ms, speaker, text, title, highlights } = place;
  const facts = (
    <span className="facts">
      {!isWithin && <span className="item-title">{title || "Untitled recording"}</span>}
      <span>{clock(start_ms)}</span>
      {speaker !== null && <span>{called(recording_id, speaker)}</span>}
    </span>
  );
  const link = (
    <a className="item" href={hrefOf(recording_id, { segmentId: segment_id })} onClick={onOpen}>
      {before === false && facts}
      <span className="quote">
        {highlightRuns(text, highlights).map((run, at) =>
          run.marked ? <mark key={at}>{run.text}</mark> : <span key={at}>{run.text}</span>,
        )}
      </span>
    </a>
  );
  if (before === false) return link;
  return (
    <>
      <div className="item-facts">{facts}</div>
      {before}
      {link}
    </>
  );
}
