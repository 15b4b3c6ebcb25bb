/** What was found. Each hit opens its place in the recording, is played right here, or shows what was said around it. */

import { asParlanceError, type Search, type SearchHit } from "@parlance/client";
import { useEffect, useRef, useState } from "react";
import { Button } from "react-aria-components";
import type { Library } from "../library/recordings.js";
import { EVERYTHING, narrowed, respelled } from "./asking.js";
import { Hit, type Called } from "./Hit.js";
import { withPage } from "./hits.js";
import type { SearchView } from "./useSearch.js";

interface Props {
  search: SearchView;
  library: Library;
  called: Called;
  isConnected: boolean;
}

export function Hits({ search, library, called, isConnected }: Props) {
  const { hits, error, hold, hasMore, isWaiting, more } = search;
  if (error !== null) {
    return (
      <p className="error" role="alert">
        {error}
      </p>
    );
  }
  if (!isConnected && hits === null) return <p className="hint">Search works again when the connection is back.</p>;
  if (hits === null) return <p className="hint">Searching…</p>;
  const isWithin = search.wanted.inRecording && search.recordingId !== null;
  return (
    <>
      <Corrections search={search} />
      <Loosened search={search} />
      {hits.length === 0 && <Nothing search={search} />}
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
            <Hit hit={hit} search={search} library={library} called={called} isWithin={isWithin} />
            {(hit.more ?? 0) > 0 && <Further hit={hit} search={search} library={library} called={called} />}
          </li>
        ))}
      </ul>
      {hasMore && (
        <Button className="button quiet more" isDisabled={isWaiting} onPress={more}>
          Show more
        </Button>
      )}
    </>
  );
}

function Loosened({ search: { loosened } }: { search: SearchView }) {
  return loosened ? <p className="hint">No place has all of these words; these have some.</p> : null;
}

function Corrections({ search: { corrections, text, setText } }: { search: SearchView }) {
  if (corrections.length === 0) return null;
  return (
    <p className="hint corrections">
      Also looked for:{" "}
      {corrections.map(([typed, used]) => (
        <Button key={typed + used} className="link" onPress={() => setText(respelled(text, typed, used))}>
          {used}
        </Button>
      ))}
    </p>
  );
}

function Nothing({ search: { answered, wanted, recordingId, change } }: { search: SearchView }) {
  const isNarrowed = narrowed(wanted, recordingId !== null).length > 0;
  const hint = answered.includes(" ") ? "Try fewer words." : "Try another word for it.";
  return (
    <div className="nothing">
      <p role="status">
        Nothing found for “{answered}”{isNarrowed && " with these filters"}. {isNarrowed ? "" : hint}
      </p>
      {isNarrowed && (
        <Button className="button" onPress={() => change({ ...EVERYTHING, order: wanted.order, isGrouped: wanted.isGrouped })}>
          Search everywhere
        </Button>
      )}
    </div>
  );
}

/** The other hits of a recording that is shown with its best one. */
function Further({ hit, search, library, called }: Omit<Props, "isConnected"> & { hit: SearchHit }) {
  const [found, setFound] = useState<{ hits: SearchHit[]; hasMore: boolean } | null>(null);
  const [isOpen, setOpen] = useState(false);
  const [error, setError] = useState<string | null>(null);
  const latest = useRef<Search | null>(null);
  const { within } = search;
  const { recording_id } = hit;
  useEffect(() => {
    if (!isOpen) return;
    const asked = within(recording_id, ({ hits, next_cursor }) => setFound({ hits, hasMore: next_cursor !== undefined }));
    watch(asked);
    return () => asked.cancel();
  }, [isOpen, within, recording_id]);

  const watch = (asked: Search): void => {
    latest.current = asked;
    setError(null);
    asked.done.catch((thrown: unknown) => setError(asParlanceError(thrown).message));
  };
  const more = (): void => {
    const next = latest.current?.next(({ request_id, hits, next_cursor }) => {
      search.note(request_id, hits);
      setFound((shown) => ({ hits: withPage(shown?.hits ?? [], hits), hasMore: next_cursor !== undefined }));
    });
    if (next) watch(next);
  };
  const others = found?.hits.filter(({ segment_id }) => segment_id !== hit.segment_id) ?? [];
  return (
    <div className="further">
      <Button className="chip" aria-expanded={isOpen} onPress={() => setOpen(!isOpen)}>
        {hit.more} more here
      </Button>
      {isOpen && error !== null && <p className="error">{error}</p>}
      {isOpen && (
        <ul className="list" aria-label={`More places in ${hit.title || "Untitled recording"}`}>
          {others.map((other) => (
            <li key={other.segment_id} className="hit">
              <Hit hit={other} search={search} library={library} called={called} isWithin />
            </li>
          ))}
        </ul>
      )}
      {isOpen && found?.hasMore && (
        <Button className="button quiet more" onPress={more}>
          Show more
        </Button>
      )}
    </div>
  );
}
