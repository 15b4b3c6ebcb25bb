/** One paragraph of a transcript, finished or still being spoken. Both are set alike: nothing jumps when one becomes the other. */

import type { CaptionSegment, TranscriptPartial } from "@parlance/client";
import { memo, useLayoutEffect, useMemo, useRef } from "react";
import { clock } from "../shell/format.js";
import { LinkIcon } from "../ui/icons.js";
import { piecesOf } from "./words.js";

interface FinalProps {
  segment: CaptionSegment;
  speaker: string | null;
  isTarget: boolean;
  /** The word that is heard now; null when this segment is not heard. */
  heard: number | null;
  isTabStop: boolean;
}

/** Presses are handled by the transcript: `data-ms` plays, `data-link` copies. */
export const Final = memo(function Final({ segment, speaker, isTarget, heard, isTabStop }: FinalProps) {
  const at = clock(segment.start_ms);
  const tabIndex = isTabStop ? 0 : -1;
  const state = `${isTarget ? " target" : ""}${heard === null ? "" : " heard"}`;
  return (
    <div className={`segment${state}`} data-segment={segment.segment_id} lang={langOf(segment)}>
      <button type="button" className="at" data-ms={segment.start_ms} aria-label={`Play from ${at}`} tabIndex={tabIndex}>
        {at}
      </button>
      <p>
        {speaker !== null && <b className="speaker">{speaker} </b>}
        <span className="said-text">
          <Words segment={segment} heard={heard} />
        </span>
      </p>
      <button
        type="button"
        className="moment"
        data-link={segment.start_ms}
        aria-label={`Copy a link to ${at}`}
        title="Copy a link to this moment"
        tabIndex={tabIndex}
      >
        <LinkIcon />
      </button>
    </div>
  );
});

const Words = memo(function Words({ segment, heard }: Pick<FinalProps, "heard" | "segment">) {
  const pieces = useMemo(() => piecesOf(segment), [segment]);
  let word = -1;
  return pieces.map((piece, at) => {
    if (piece.atMs === null) return <span key={at}>{piece.text}</span>;
    word += 1;
    return (
      <span key={at} className={word === heard ? "word now" : "word"} data-ms={piece.atMs}>
        {piece.text}
      </span>
    );
  });
});

function langOf({ language }: CaptionSegment): string | undefined {
  return language && language !== "auto" ? language : undefined;
}

/** Words that may still change differ in colour only, and a line that was taken stays taken. */
export function Running({ partial }: { partial: TranscriptPartial }) {
  const text = useRef<HTMLParagraphElement>(null);
  useLayoutEffect(() => {
    const { current } = text;
    if (current) current.style.minHeight = `${current.offsetHeight}px`;
  }, [partial]);
  return (
    <div className="segment running" data-segment={partial.segment_id}>
      <time className="at">{clock(partial.start_ms)}</time>
      <p ref={text}>
        <span className="said-text">
          {partial.stable}
          <span className="unstable">{partial.unstable}</span>
        </span>
      </p>
    </div>
  );
}
