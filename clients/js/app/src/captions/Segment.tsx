/** One paragraph of a transcript, finished or still being spoken. Both are set alike: nothing jumps when one becomes the other. */

import type { CaptionSegment, TranscriptPartial } from "@parlance/client";
import { memo, type ReactNode, useLayoutEffect, useMemo, useRef } from "react";
import { clock } from "../shell/format.js";
import { colourOf } from "../speakers/colours.js";
import { LinkIcon, PencilIcon } from "../ui/icons.js";
import { piecesOf } from "./words.js";

interface FinalProps {
  segment: CaptionSegment;
  /** What its speaker is called, where another one spoke before; null elsewhere. */
  speaker: string | null;
  mayEdit: boolean;
  isTarget: boolean;
  /** The word that is heard now; null when this segment is not heard. */
  heard: number | null;
  isTabStop: boolean;
}

/** Presses are handled by the transcript: `data-ms` plays, `data-link` copies, `data-edit` and `data-speaker` correct. */
export const Final = memo(function Final({ segment, speaker, mayEdit, isTarget, heard, isTabStop }: FinalProps) {
  const at = clock(segment.start_ms);
  const tabIndex = isTabStop ? 0 : -1;
  const state = `${isTarget ? " target" : ""}${heard === null ? "" : " heard"}`;
  return (
    <div
      className={`segment${speaker === null ? "" : " turn"}${state}`}
      data-segment={segment.segment_id}
      data-voice={voiceOf(segment.speaker)}
      lang={langOf(segment)}
    >
      <button type="button" className="at" data-ms={segment.start_ms} aria-label={`Play from ${at}`} tabIndex={tabIndex}>
        {at}
      </button>
      <p>
        {speaker !== null && <Speaker called={speaker} label={segment.speaker!} mayEdit={mayEdit} tabIndex={tabIndex} />}
        <span className="said-text">
          <Words segment={segment} heard={heard} />
        </span>
      </p>
      <span className="tools">
        {mayEdit && (
          <Tool does={`Correct the text at ${at}`} title="Correct the text" tabIndex={tabIndex} edit={segment.segment_id}>
            <PencilIcon />
          </Tool>
        )}
        <Tool does={`Copy a link to ${at}`} title="Copy a link to this moment" tabIndex={tabIndex} link={segment.start_ms}>
          <LinkIcon />
        </Tool>
      </span>
    </div>
  );
});

interface ToolProps {
  /** What a screen reader says; `title` is what the pointer shows. */
  does: string;
  title: string;
  tabIndex: number;
  edit?: string;
  link?: number;
  children: ReactNode;
}

/** A small button behind the words; what it does is told by its data. */
function Tool({ does, title, tabIndex, edit, link, children }: ToolProps) {
  return (
    <button
      type="button"
      className={edit === undefined ? "moment" : "moment edit"}
      data-edit={edit}
      data-link={link}
      aria-label={does}
      title={title}
      tabIndex={tabIndex}
    >
      {children}
    </button>
  );
}

interface SpeakerProps {
  called: string;
  label: string;
  mayEdit: boolean;
  tabIndex: number;
}

function Speaker({ called, label, mayEdit, tabIndex }: SpeakerProps) {
  if (!mayEdit) return <b className="speaker">{called} </b>;
  return (
    <>
      <button
        type="button"
        className="speaker"
        data-speaker={label}
        aria-label={`${called}: name this speaker`}
        title="Name this speaker"
        tabIndex={tabIndex}
      >
        {called}
      </button>{" "}
    </>
  );
}

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

/** The number of the speaker's colour. */
function voiceOf(speaker: string | null | undefined): number | undefined {
  return speaker == null ? undefined : colourOf(speaker);
}

/**
 * Words that may still change differ in colour only, and a line that was taken stays taken. `speaker`: as in a final, and
 * only likely.
 */
export function Running({ partial, speaker }: { partial: TranscriptPartial; speaker: string | null }) {
  const text = useRef<HTMLParagraphElement>(null);
  useLayoutEffect(() => {
    const { current } = text;
    if (current) current.style.minHeight = `${current.offsetHeight}px`;
  }, [partial]);
  return (
    <div
      className={`segment running${speaker === null ? "" : " turn"}`}
      data-segment={partial.segment_id}
      data-voice={voiceOf(partial.speaker)}
    >
      <time className="at">{clock(partial.start_ms)}</time>
      <p ref={text}>
        {speaker !== null && <b className="speaker">{speaker} </b>}
        <span className="said-text">
          {partial.stable}
          <span className="unstable">{partial.unstable}</span>
        </span>
      </p>
    </div>
  );
}
