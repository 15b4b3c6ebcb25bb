/**
 * The transcript. A caption under way is set exactly like the segment it becomes, words that may still change differ in
 * colour only: nothing jumps. The view follows the newest words until the reader scrolls up, and then stays where the reader is.
 *
 * Screen readers hear finished segments, each once; the changing captions are silent.
 */

import type { CaptionSegment, CaptionState, TranscriptPartial } from "@parlance/client";
import { memo, useCallback, useEffect, useLayoutEffect, useRef, useState, type RefObject } from "react";
import { clock } from "./format.js";
import { DownIcon } from "./icons.js";

interface Props {
  captions: CaptionState;
  isLive: boolean;
  isLoaded: boolean;
  /** The segment to show, from a search hit. */
  target: string | null;
}

/** A reader this close to the end, in CSS pixels, is following: about two lines. */
const FOLLOW_PX = 72;

export function Captions({ captions, isLive, isLoaded, target }: Props) {
  const { segments, partials } = captions;
  const box = useRef<HTMLDivElement>(null);
  const [isFollowing, setFollowing] = useState(target === null);
  const isEmpty = segments.length === 0 && partials.length === 0;

  const onScroll = useCallback(() => {
    const { scrollTop, clientHeight, scrollHeight } = box.current!;
    setFollowing(scrollHeight - scrollTop - clientHeight < FOLLOW_PX);
  }, []);

  useLayoutEffect(() => {
    if (isLive && isFollowing && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [captions, isLive, isFollowing]);

  useTarget(box, target, isLoaded);

  return (
    <div className="captions-frame">
      <div className="captions" ref={box} onScroll={onScroll} tabIndex={0} role="region" aria-label="Transcript">
        {isLoaded && isEmpty && <p className="empty">{isLive ? "Listening…" : "Nothing was said in this recording."}</p>}
        {segments.map((segment, at) => (
          <Final
            key={segment.segment_id}
            segment={segment}
            speaker={speakerChange(segments[at - 1], segment)}
            isTarget={segment.segment_id === target}
          />
        ))}
        {partials.map((partial) => (
          <Running key={partial.segment_id} partial={partial} />
        ))}
      </div>
      {isLive && !isFollowing && (
        <button type="button" className="follow" onClick={() => setFollowing(true)}>
          <DownIcon /> Follow live
        </button>
      )}
      {isLive && <Announcer segments={segments} />}
    </div>
  );
}

function speakerChange(before: CaptionSegment | undefined, segment: CaptionSegment): string | null {
  return segment.speaker !== null && segment.speaker !== before?.speaker ? segment.speaker : null;
}

interface FinalProps {
  segment: CaptionSegment;
  speaker: string | null;
  isTarget: boolean;
}

const Final = memo(function Final({ segment, speaker, isTarget }: FinalProps) {
  return (
    <p className={isTarget ? "segment target" : "segment"} data-segment={segment.segment_id} lang={langOf(segment)}>
      <time>{clock(segment.start_ms)}</time>
      <span>
        {speaker !== null && <b className="speaker">{speaker} </b>}
        {segment.text}
      </span>
    </p>
  );
});

function langOf({ language }: CaptionSegment): string | undefined {
  return language && language !== "auto" ? language : undefined;
}

function Running({ partial }: { partial: TranscriptPartial }) {
  return (
    <p className="segment running" data-segment={partial.segment_id}>
      <time>{clock(partial.start_ms)}</time>
      <span>
        {partial.stable}
        <span className="unstable">{partial.unstable}</span>
      </span>
    </p>
  );
}

/** Scroll to the target once, as soon as it is there. */
function useTarget(box: RefObject<HTMLDivElement | null>, target: string | null, isLoaded: boolean): void {
  useEffect(() => {
    if (target === null || !isLoaded) return;
    const wanted = box.current?.querySelector(`[data-segment="${CSS.escape(target)}"]`);
    wanted?.scrollIntoView({ block: "center" });
  }, [box, target, isLoaded]);
}

/** Finished segments for screen readers: only what comes while the reader listens, and only the newest few. */
function Announcer({ segments }: { segments: readonly CaptionSegment[] }) {
  const [first] = useState(segments.length);
  return (
    <div className="visually-hidden" role="log" aria-label="New captions">
      {segments.slice(Math.max(first, segments.length - 3)).map((segment) => (
        <p key={segment.segment_id}>{segment.text}</p>
      ))}
    </div>
  );
}
