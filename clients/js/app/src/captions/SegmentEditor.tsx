/** Correct the text of one segment, in its place. Enter saves, Escape leaves everything as it was. */

import { asParlanceError, type CaptionSegment, type People } from "@parlance/client";
import { useLayoutEffect, useRef, useState, type KeyboardEvent } from "react";
import { Button } from "react-aria-components";

interface Props {
  people: People;
  recordingId: string;
  /** As it is now: it may be revised while somebody writes. */
  segment: CaptionSegment;
  onSaved: (segment: CaptionSegment) => void;
  onClose: () => void;
}

/** Only another text is in the way: where a machine placed the words meanwhile, what was written goes over it. */
async function write(
  people: People,
  recordingId: string,
  seen: CaptionSegment,
  text: string,
): Promise<{ saved?: CaptionSegment; newer?: CaptionSegment }> {
  let { rev } = seen;
  for (;;) {
    try {
      return { saved: await people.edit(recordingId, seen.segment_id, { rev, text }) };
    } catch (thrown) {
      if (asParlanceError(thrown).code !== "conflict") throw thrown;
      const newer = (await people.history(recordingId, seen.segment_id)).segment;
      if (newer.text !== seen.text) return { newer };
      rev = newer.rev;
    }
  }
}

export function SegmentEditor({ people, recordingId, segment, onSaved, onClose }: Props) {
  const [draft, setDraft] = useState(segment.text);
  /** The text that the writer saw last; another one was written by somebody else meanwhile. */
  const [seen, setSeen] = useState(segment.text);
  const [newer, setNewer] = useState<CaptionSegment | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [isBusy, setBusy] = useState(false);
  const current = newer !== null && newer.rev > segment.rev ? newer : segment;
  const isStale = current.text !== seen;
  const box = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    const { current: area } = box;
    if (!area) return;
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight}px`;
  }, [draft]);

  const save = (): void => {
    if (isBusy || isStale || draft.trim() === "") return;
    setBusy(true);
    setError(null);
    write(people, recordingId, current, draft).then(
      ({ saved, newer: written }) => {
        setBusy(false);
        if (written) setNewer(written);
        if (!saved) return;
        onSaved(saved);
        onClose();
      },
      (thrown: unknown) => {
        setBusy(false);
        setError(asParlanceError(thrown).message);
      },
    );
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.nativeEvent.isComposing) return;
    if (event.key === "Escape") onClose();
    else if (event.key === "Enter") save();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <div className="segment-editor">
      <textarea
        ref={box}
        aria-label="Text of this paragraph"
        value={draft}
        rows={1}
        autoFocus
        maxLength={4_000}
        onChange={(event) => setDraft(event.target.value)}
        onFocus={(event) => event.target.setSelectionRange(draft.length, draft.length)}
        onKeyDown={onKeyDown}
      />
      {isStale && (
        <p className="newer" role="alert">
          This was changed meanwhile: “{current.text}”
        </p>
      )}
      {error !== null && (
        <p className="error" role="alert">
          {error}
        </p>
      )}
      <div className="editor-buttons">
        {isStale ? (
          <>
            <Button className="button" onPress={() => setSeen(current.text)}>
              Go on with mine
            </Button>
            <Button
              className="button"
              onPress={() => {
                setDraft(current.text);
                setSeen(current.text);
              }}
            >
              Take the newer text
            </Button>
          </>
        ) : (
          <Button className="button primary" isDisabled={isBusy || draft.trim() === ""} onPress={save}>
            Save
          </Button>
        )}
        <Button className="button quiet" onPress={onClose}>
          Cancel
        </Button>
      </div>
    </div>
  );
}
