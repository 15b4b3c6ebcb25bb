/** Search, and the recordings when nothing is searched. */

import { highlightRuns, type ConnectionState, type Recording, type SearchHit } from "@parlance/client";
import { useEffect, useRef } from "react";
import { clock, duration, when } from "./format.js";
import { SearchIcon } from "./icons.js";
import { hrefOf } from "./route.js";
import type { LibraryView } from "./useLibrary.js";
import type { SearchView } from "./useSearch.js";

interface Props {
  library: LibraryView;
  search: SearchView;
  connectionState: ConnectionState;
  /** The recording on screen. */
  current: string | null;
}

export function Sidebar({ library, search, connectionState, current }: Props) {
  const isSearching = search.text.trim() !== "";
  return (
    <aside className="sidebar" aria-label="Library">
      <SearchBox search={search} />
      {isSearching ? (
        <Hits search={search} isConnected={connectionState === "live"} />
      ) : (
        <RecordingList view={library} current={current} />
      )}
    </aside>
  );
}

function SearchBox({ search }: { search: SearchView }) {
  const box = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      const isTyping = event.target instanceof HTMLElement && event.target.matches("input, textarea, select");
      if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      box.current?.focus();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  return (
    <div className="search" role="search">
      <SearchIcon />
      <input
        ref={box}
        type="search"
        aria-label="Search everything that was said"
        aria-keyshortcuts="/"
        placeholder="Search what was said"
        autoComplete="off"
        maxLength={500}
        value={search.text}
        onChange={(event) => search.setText(event.target.value)}
        onKeyDown={(event) => event.key === "Escape" && search.setText("")}
      />
      <kbd aria-hidden="true">/</kbd>
    </div>
  );
}

function Hits({ search, isConnected }: { search: SearchView; isConnected: boolean }) {
  const { hits, answered, error } = search;
  if (error !== null) {
    return (
      <p className="error" role="alert">
        {error}
      </p>
    );
  }
  if (!isConnected && hits === null) return <p className="hint">Search works again when the connection is back.</p>;
  if (hits === null) return <p className="hint">Searching…</p>;
  return (
    <>
      <p className="hint" role="status">
        {hits.length === 0 ? `Nothing found for “${answered}”.` : `${hits.length} ${hits.length === 1 ? "place" : "places"}`}
      </p>
      <ul className="list">
        {hits.map((hit) => (
          <li key={hit.segment_id}>
            <Hit hit={hit} />
          </li>
        ))}
      </ul>
    </>
  );
}

function Hit({ hit }: { hit: SearchHit }) {
  return (
    <a className="item hit" href={hrefOf(hit.recording_id, hit.segment_id)}>
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

function RecordingList({ view, current }: { view: LibraryView; current: string | null }) {
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
      <ul className="list">
        {library.recordings.map((recording) => (
          <li key={recording.id}>
            <Item recording={recording} isCurrent={recording.id === current} />
          </li>
        ))}
      </ul>
      {library.nextCursor !== null && (
        <button type="button" className="quiet more" onClick={loadMore}>
          Show more
        </button>
      )}
    </nav>
  );
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
