/** All recordings, newest first. The arrows go from one to the next. */

import type { Recording } from "@parlance/client";
import { useState, type KeyboardEvent } from "react";
import { Button } from "react-aria-components";
import { duration, when } from "../shell/format.js";
import { hrefOf } from "../shell/route.js";
import type { LibraryView } from "./useLibrary.js";

export function RecordingList({ view, current }: { view: LibraryView; current: string | null }) {
  const { library, error, loadMore } = view;
  return (
    <nav aria-label="Recordings">
      <div className="list-head">
        <h2>Recordings</h2>
        {current !== null && <a href="#/">New</a>}
      </div>
      {error && (
        <p className="error" role="alert">
          The list could not be read: {error.message}
        </p>
      )}
      {library.isLoaded && library.recordings.length === 0 && (
        <p className="hint">Nothing yet. Your first recording will appear here.</p>
      )}
      <ul className="list" onKeyDown={moveFocus}>
        {library.recordings.map((recording) => (
          <li key={recording.id}>
            <Item recording={recording} isCurrent={recording.id === current} />
          </li>
        ))}
      </ul>
      {library.nextCursor !== null && <More count={library.recordings.length} onMore={loadMore} />}
    </nav>
  );
}

/** Disabled from the press until the next page is there. */
function More({ count, onMore }: { count: number; onMore: () => void }) {
  const [asked, setAsked] = useState<number | null>(null);
  const ask = (): void => {
    setAsked(count);
    onMore();
  };
  return (
    <Button className="button quiet more" isDisabled={asked === count} onPress={ask}>
      Show more
    </Button>
  );
}

function moveFocus(event: KeyboardEvent<HTMLElement>): void {
  const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
  if (step === 0) return;
  const all = [...event.currentTarget.querySelectorAll<HTMLElement>("a.item")];
  const next = all[all.indexOf(event.target as HTMLElement) + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
}

function Item({ recording, isCurrent }: { recording: Recording; isCurrent: boolean }) {
  return (
    <a className="item" href={hrefOf(recording.id)} aria-current={isCurrent ? "page" : undefined}>
      <span className="item-title">{recording.title || "Untitled recording"}</span>
      <span className="facts">
        {recording.state === "live" && <span className="live-badge">Live</span>}
        <span>{when(recording.started_at, Date.now())}</span>
        {recording.state !== "live" && <span>{duration(recording.duration_ms)}</span>}
      </span>
    </a>
  );
}
