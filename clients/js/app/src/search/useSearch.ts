/**
 * Search as you type: each keystroke is a query, and only the newest one's results are shown.
 *
 * While something is being recorded the same query is asked again now and then, so that what was just said is found.
 */

import { asParlanceError, type ConnectionState, type Parlance, type Search, type SearchHit } from "@parlance/client";
import { useCallback, useEffect, useRef, useState } from "react";
import { mergeHits } from "./hits.js";

export interface SearchView {
  text: string;
  setText: (text: string) => void;
  /** The newest results, kept until the next ones arrive; null before the first. */
  hits: SearchHit[] | null;
  /** The query that `hits` answer. */
  answered: string;
  /** Found by their words alone: search by meaning is not there now. */
  degraded: boolean;
  error: string | null;
  /** Whether the reader is in the list, so that it must not move. */
  hold: (isHeld: boolean) => void;
}

interface Found {
  hits: SearchHit[];
  answered: string;
  degraded: boolean;
}

const LIMIT = 30;
/** At most this often when finals arrive: a segment takes seconds to be spoken. */
const AGAIN_MS = 2_000;
/** And this often while something is recorded that this page does not follow. */
const LIVE_MS = 5_000;

export function useSearch(client: Parlance, state: ConnectionState, isAnythingLive: boolean): SearchView {
  const [text, setText] = useState("");
  const [found, setFound] = useState<Found | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [round, setRound] = useState(0);
  const newest = useRef<Search | null>(null);
  const held = useRef(false);
  const query = text.trim();
  const isLive = state === "live";

  useEffect(() => {
    setError(null);
    if (query === "") {
      newest.current?.cancel(); // An emptied box must not fill again with a late answer.
      setFound(null);
    }
    if (query === "" || !isLive) return;
    const search = client.search(query, {
      slot: "page",
      limit: LIMIT,
      onResults: ({ hits, degraded }) =>
        setFound((shown) => ({
          hits: mergeHits(shown?.answered === query ? shown.hits : null, hits, held.current),
          answered: query,
          degraded: degraded ?? false,
        })),
    });
    search.done.catch((thrown: unknown) => {
      const failure = asParlanceError(thrown);
      if (failure.code !== "disconnected" && failure.code !== "closed") setError(failure.message);
    });
    newest.current = search;
  }, [client, isLive, query, round]);

  useAgain(client, isLive && query !== "", isAnythingLive, () => setRound((count) => count + 1));

  return {
    text,
    setText,
    hits: found?.hits ?? null,
    answered: found?.answered ?? "",
    degraded: found?.degraded ?? false,
    error,
    hold: useCallback((isHeld: boolean) => (held.current = isHeld), []),
  };
}

/** Call `again` when something new can be found. */
function useAgain(client: Parlance, isWanted: boolean, isAnythingLive: boolean, again: () => void): void {
  const latest = useRef(again);
  latest.current = again;
  useEffect(() => {
    if (!isWanted) return;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const soon = (): void => {
      timer ??= setTimeout(() => {
        timer = undefined;
        latest.current();
      }, AGAIN_MS);
    };
    const subscriptions = [
      client.on("transcript:final", soon),
      client.on("transcript:revised", soon),
      client.on("recording:ended", soon),
    ];
    return () => {
      subscriptions.forEach((unsubscribe) => unsubscribe());
      clearTimeout(timer);
    };
  }, [client, isWanted]);

  // An effect of its own: that a recording ended must not call off what its last final asked for.
  useEffect(() => {
    if (!isWanted || !isAnythingLive) return;
    const timer = setInterval(() => document.hidden || latest.current(), LIVE_MS);
    return () => clearInterval(timer);
  }, [isWanted, isAnythingLive]);
}
