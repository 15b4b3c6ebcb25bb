/**
 * Search as you type: each keystroke is a query, and only the newest one's results are shown.
 *
 * While something is being recorded the same query is asked again now and then, so that what was just said is found.
 * Policy: neighbours of hits cost the server more, so they are asked for from the first time on that the reader wants to
 * see any; pages that were loaded stay, and a list of more than `HITS_MAX` is not asked for again.
 */

import {
  asParlanceError,
  type ConnectionState,
  type Parlance,
  type Search,
  type SearchHit,
  type SearchOptions,
  type SearchResults,
} from "@parlance/client";
import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { EVERYTHING, optionsOf, type Wanted } from "./asking.js";
import { mergeHits, withPage } from "./hits.js";

export interface SearchView {
  text: string;
  setText: (text: string) => void;
  wanted: Wanted;
  change: (part: Partial<Wanted>) => void;
  /** The recording on screen. */
  recordingId: string | null;
  /** The newest results, kept until the next ones arrive; null before the first. */
  hits: SearchHit[] | null;
  /** The query that `hits` answer. */
  answered: string;
  /** Words that nobody said, each with what was looked for as well. */
  corrections: [string, string][];
  /** Nothing has all of the words: the hits have some. */
  loosened: boolean;
  /** Found by their words alone: search by meaning is not there now. */
  degraded: boolean;
  error: string | null;
  /** Whether the reader is in the list, so that it must not move. */
  hold: (isHeld: boolean) => void;
  /** The list is longer than what can be asked for at once: it stands still. */
  isLong: boolean;
  hasMore: boolean;
  isWaiting: boolean;
  more: () => void;
  /** Hits come with their neighbours from now on. */
  readAround: () => void;
  /** Further hits of one recording, grouped or not. */
  within: (recordingId: string, onResults: (results: SearchResults) => void) => Search;
  /** Hits that another page brought, and which query did. */
  note: (requestId: string, hits: readonly SearchHit[]) => void;
  /** The reader opened a hit. */
  opened: (segmentId: string) => void;
}

interface Found {
  hits: SearchHit[];
  answered: string;
  /** What was asked for. */
  key: string;
  corrections: [string, string][];
  loosened: boolean;
  degraded: boolean;
}

const LIMIT = 30;
/** The server gives no more at once. */
const HITS_MAX = 100;
const AROUND = 2;
/** At most this often when finals arrive: a segment takes seconds to be spoken. */
const AGAIN_MS = 2_000;
/** And this often while something is recorded that this page does not follow. */
const LIVE_MS = 5_000;

export function useSearch(
  client: Parlance,
  state: ConnectionState,
  isAnythingLive: boolean,
  recordingId: string | null,
): SearchView {
  const [text, setText] = useState("");
  const [wanted, setWanted] = useState(EVERYTHING);
  const [around, setAround] = useState(0);
  const [found, setFound] = useState<Found | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [round, setRound] = useState(0);
  const [page, setPage] = useState({ hasMore: false, isWaiting: false });
  const newest = useRef<Search | null>(null);
  const held = useRef(false);
  const loaded = useRef(0);
  const query = text.trim();
  const isLive = state === "live";
  const scope = wanted.inRecording ? recordingId : null;
  const key = JSON.stringify([query, wanted, scope]);
  const { note, opened } = useOpened(client);
  const options = useCallback((): SearchOptions => {
    return { ...optionsOf(wanted, scope, Date.now()), ...(around > 0 && { neighbours: around }) };
  }, [wanted, scope, around]);

  const fail = useCallback((thrown: unknown): void => {
    const failure = asParlanceError(thrown);
    if (failure.code !== "disconnected" && failure.code !== "closed") setError(failure.message);
  }, []);
  loaded.current = found?.key === key ? found.hits.length : 0;

  useEffect(() => {
    setError(null);
    if (query === "") {
      newest.current?.cancel(); // An emptied box must not fill again with a late answer.
      setFound(null);
    }
    if (query === "" || !isLive) return;
    if (loaded.current === 0) setPage({ hasMore: false, isWaiting: false });
    const onResults = ({ request_id, hits, degraded, corrections, loosened, next_cursor, phase }: SearchResults): void => {
      note(request_id, hits);
      // The instant results come again and again while others talk: only the full ones know about more.
      if (phase === "full") setPage({ hasMore: next_cursor !== undefined, isWaiting: false });
      setFound((shown) => ({
        hits: mergeHits(shown?.key === key ? shown.hits : null, hits, held.current),
        answered: query,
        key,
        corrections: corrections ?? [],
        loosened: loosened ?? false,
        degraded: degraded ?? false,
      }));
    };
    const limit = Math.min(HITS_MAX, Math.max(LIMIT, loaded.current));
    const search = client.search(query, { slot: "page", limit, ...options(), onResults });
    search.done.catch(fail);
    newest.current = search;
  }, [client, isLive, query, key, options, round, note, fail]);

  const more = useCallback(() => {
    const next = newest.current?.next(({ request_id, hits, next_cursor }) => {
      note(request_id, hits);
      setPage({ hasMore: next_cursor !== undefined, isWaiting: false });
      setFound((shown) => shown && { ...shown, hits: withPage(shown.hits, hits) });
    });
    if (!next) return;
    newest.current = next;
    setPage({ hasMore: true, isWaiting: true });
    next.done.catch((thrown: unknown) => {
      setPage({ hasMore: false, isWaiting: false });
      fail(thrown);
    });
  }, [note, fail]);

  const within = useCallback(
    (id: string, onResults: (results: SearchResults) => void) => {
      const { group_by: _, filters, ...rest } = options();
      return client.search(query, {
        slot: id.slice(0, 50),
        ...rest,
        filters: { ...filters, recording_ids: [id] },
        onResults: (results) => {
          note(results.request_id, results.hits);
          onResults(results);
        },
      });
    },
    [client, query, options, note],
  );

  const isLong = (found?.hits.length ?? 0) > HITS_MAX;
  useAgain(client, isLive && query !== "" && !isLong, isAnythingLive, () => {
    if (!page.isWaiting) setRound((count) => count + 1);
  });

  return {
    ...{ text, setText, wanted, recordingId, error, isLong, ...page, more, within, note, opened },
    change: useCallback((part) => setWanted((before) => ({ ...before, ...part })), []),
    hits: found?.hits ?? null,
    answered: found?.answered ?? "",
    corrections: useMemo(() => found?.corrections ?? [], [found]),
    loosened: found?.loosened ?? false,
    degraded: found?.degraded ?? false,
    hold: useCallback((isHeld: boolean) => (held.current = isHeld), []),
    readAround: useCallback(() => setAround(AROUND), []),
  };
}

/** Tell the server which hits are opened: each once for the query that found it last. */
function useOpened(client: Parlance): Pick<SearchView, "note" | "opened"> {
  const asked = useRef(new Map<string, string>());
  return useMemo(
    () => ({
      note: (requestId, hits) => {
        if (asked.current.size > 1_000) asked.current.clear(); // Of long ago: the server does not remember them either.
        for (const { segment_id } of hits) asked.current.set(segment_id, requestId);
      },
      opened: (segmentId) => {
        const requestId = asked.current.get(segmentId);
        if (requestId === undefined) return;
        asked.current.delete(segmentId);
        client.clicked(requestId, segmentId).catch(() => undefined); // It is for the figures only.
      },
    }),
    [client],
  );
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
