/**
 * The transcript. It follows the newest words until the reader scrolls up, and the words that are played while they are
 * in sight; otherwise it stays where the reader is.
 *
 * Screen readers hear finished segments, each once; the changing captions are silent. One segment at a time is in the
 * order of the Tab key, the arrows go from one to the next.
 */

import type { CaptionSegment, CaptionState, People, TranscriptPartial } from "@parlance/client";
import { useCallback, useEffect, useLayoutEffect, useRef, useState, type KeyboardEvent, type MouseEvent, type RefObject } from "react";
import { Button } from "react-aria-components";
import { usePlace, usePlayer } from "../player/usePlayer.js";
import { clock } from "../shell/format.js";
import { speakerName } from "../speakers/names.js";
import { DownIcon } from "../ui/icons.js";
import { Final, Running } from "./Segment.js";
import { SegmentEditor } from "./SegmentEditor.js";
import { segmentAt, wordAt } from "./words.js";

interface Props {
  recordingId: string;
  captions: CaptionState;
  isLive: boolean;
  isLoaded: boolean;
  /** The segment to show, from a search hit or a link. */
  target: string | null;
  /** Null where the reader may not correct anything. */
  people: People | null;
  onPlay: (ms: number) => void;
  onCopyLink: (ms: number) => void;
  onSpeaker: (label: string) => void;
  onEdited: (segment: CaptionSegment) => void;
}

/** A reader this close to the end, in CSS pixels, is following: about two lines. */
const FOLLOW_PX = 72;

export function Captions(props: Props) {
  const { recordingId, captions, isLive, isLoaded, target, people, onPlay, onCopyLink, onSpeaker, onEdited } = props;
  const { segments, partials } = captions;
  const box = useRef<HTMLDivElement>(null);
  const [isFollowing, setFollowing] = useState(target === null);
  const [tabStop, setTabStop] = useState<string | null>(null);
  const [editing, setEditing] = useState<string | null>(null);
  const isEmpty = segments.length === 0 && partials.length === 0;
  const heard = useHeard(recordingId, segments);
  const stop = tabStop !== null && captions.index.has(tabStop) ? tabStop : (segments[0]?.segment_id ?? null);

  const onScroll = useCallback(() => {
    const { scrollTop, clientHeight, scrollHeight } = box.current!;
    setFollowing(scrollHeight - scrollTop - clientHeight < FOLLOW_PX);
  }, []);

  const isPlaying = heard.segmentId !== null;
  useLayoutEffect(() => {
    if (isLive && isFollowing && !isPlaying && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [captions, isLive, isFollowing, isPlaying]);

  useTarget(box, target, isLoaded);
  useHeardInSight(box, heard.segmentId);

  const onClick = (event: MouseEvent<HTMLElement>): void => {
    const pressed = (event.target as Element).closest<HTMLElement>("[data-ms], [data-link], [data-edit], [data-speaker]");
    if (!pressed || window.getSelection()?.isCollapsed === false) return; // Marking text is not pressing it.
    const { ms, link, edit, speaker } = pressed.dataset;
    if (ms !== undefined) onPlay(Number(ms));
    else if (link !== undefined) onCopyLink(Number(link));
    else if (speaker !== undefined) onSpeaker(speaker);
    else if (edit !== undefined) setEditing(edit);
  };
  const endEditing = (segmentId: string): void => {
    setEditing(null);
    // The button that began it is drawn again first.
    requestAnimationFrame(() => segmentElement(box.current, segmentId)?.querySelector<HTMLElement>("[data-edit]")?.focus());
  };

  const toLive = (): void => {
    box.current?.scrollTo({ top: box.current.scrollHeight });
    setFollowing(true);
  };

  return (
    <div className="captions-frame">
      <div
        className="captions"
        ref={box}
        onScroll={onScroll}
        onClick={onClick}
        onKeyDown={moveFocus}
        onFocus={({ target: focused }) => setTabStop(segmentIdOf(focused) ?? stop)}
        tabIndex={0}
        role="region"
        aria-label="Transcript"
      >
        {isLoaded && isEmpty && <p className="empty">{isLive ? "Listening…" : "Nothing was said in this recording."}</p>}
        {segments.map((segment, at) => people !== null && segment.segment_id === editing ? (
          <div key={segment.segment_id} className="segment editing" data-segment={segment.segment_id}>
            <time className="at">{clock(segment.start_ms)}</time>
            <SegmentEditor
              people={people}
              recordingId={recordingId}
              segment={segment}
              onSaved={onEdited}
              onClose={() => endEditing(segment.segment_id)}
            />
          </div>
        ) : (
          <Final
            key={segment.segment_id}
            segment={segment}
            speaker={speakerChange(segments[at - 1], segment, captions.names)}
            mayEdit={people !== null}
            isTarget={segment.segment_id === target}
            heard={segment.segment_id === heard.segmentId ? heard.word : null}
            isTabStop={segment.segment_id === stop}
          />
        ))}
        {partials.map((partial, at) => (
          <Running
            key={partial.segment_id}
            partial={partial}
            speaker={speakerChange(partials[at - 1] ?? segments.at(-1), partial, captions.names)}
          />
        ))}
      </div>
      {isLive && (!isFollowing || isPlaying) && (
        <Button className="button follow" onPress={toLive}>
          <DownIcon /> Jump to live
        </Button>
      )}
      {isLive && <Announcer segments={segments} />}
    </div>
  );
}

type Spoken = Pick<TranscriptPartial, "speaker">;

/** What the speaker is called, where another one spoke before. */
function speakerChange(
  before: Spoken | undefined,
  { speaker }: Spoken,
  names: CaptionState["names"],
): string | null {
  return speaker != null && speaker !== before?.speaker ? speakerName(speaker, names) : null;
}

/** What the player is at: a segment, and a word in it. */
function useHeard(recordingId: string, segments: readonly CaptionSegment[]): { segmentId: string | null; word: number } {
  const place = usePlace(recordingId, (ms) => {
    const segment = segmentAt(segments, ms);
    return segment && `${wordAt(segment.words, ms)} ${segment.segment_id}`;
  });
  if (place === null) return { segmentId: null, word: -1 };
  const [word = "", segmentId = ""] = place.split(" ");
  return { segmentId, word: Number(word) };
}

function segmentIdOf(element: Element): string | null {
  return element.closest<HTMLElement>("[data-segment]")?.dataset["segment"] ?? null;
}

/** Up and down between the segments' buttons. */
function moveFocus(event: KeyboardEvent<HTMLElement>): void {
  const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
  const focused = (event.target as Element).closest<HTMLElement>("button.at, button.moment");
  if (step === 0 || !focused) return;
  const kind = ["[data-ms]", "[data-edit]", "[data-link]"].find((name) => focused.matches(name))!;
  const all = [...event.currentTarget.querySelectorAll<HTMLElement>(`button${kind}`)];
  const next = all[all.indexOf(focused) + step];
  if (!next) return;
  event.preventDefault();
  next.focus({ preventScroll: true });
  next.closest(".segment")?.scrollIntoView({ block: "nearest" });
}

/** Scroll to the target once, as soon as it is there. */
function useTarget(box: RefObject<HTMLDivElement | null>, target: string | null, isLoaded: boolean): void {
  useEffect(() => {
    if (target === null || !isLoaded) return;
    segmentElement(box.current, target)?.scrollIntoView({ block: "center" });
  }, [box, target, isLoaded]);
}

/** Keep what is played in sight, unless the reader has scrolled away from it. */
function useHeardInSight(box: RefObject<HTMLDivElement | null>, segmentId: string | null): void {
  const before = useRef<string | null>(null);
  const player = usePlayer();
  useEffect(() => {
    const [was, is] = [segmentElement(box.current, before.current), segmentElement(box.current, segmentId)];
    before.current = segmentId;
    if (!is || !box.current || !player.state.isPlaying) return;
    const frame = box.current.getBoundingClientRect();
    const isSeen = (element: Element): boolean => {
      const { top, bottom } = element.getBoundingClientRect();
      return bottom > frame.top && top < frame.bottom;
    };
    if (was && !isSeen(was)) return;
    const { bottom } = is.getBoundingClientRect();
    if (isSeen(is) && bottom < frame.bottom) return;
    is.scrollIntoView({ block: "center" });
  }, [box, player, segmentId]);
}

function segmentElement(box: Element | null, segmentId: string | null): Element | null {
  return segmentId === null ? null : (box?.querySelector(`[data-segment="${CSS.escape(segmentId)}"]`) ?? null);
}

/** Finished segments for screen readers: only what comes while the reader listens, and only the newest few. */
function Announcer({ segments }: { segments: readonly CaptionSegment[] }) {
  const [first] = useState(segments.length);
  return (
    <div className="visually-hidden" role="log" aria-live="polite" aria-label="New captions">
      {segments.slice(Math.max(first, segments.length - 3)).map((segment) => (
        <p key={segment.segment_id}>{segment.text}</p>
      ))}
    </div>
  );
}
