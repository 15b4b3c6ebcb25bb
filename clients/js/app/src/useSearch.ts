/** Search as you type: each keystroke is a query, and only the newest one's results are shown. */

import { asParlanceError, type Parlance, type ConnectionState, type Search, type SearchHit } from "@parlance/client";
import { useEffect, useRef, useState } from "react";

export interface SearchView {
  text: string;
  setText: (text: string) => void;
  /** The newest results, kept until the next ones arrive; null before the first. */
  hits: SearchHit[] | null;
  /** The query that `hits` answer. */
  answered: string;
  degraded: boolean;
  error: string | null;
}

const LIMIT = 30;

export function useSearch(client: Parlance, state: ConnectionState): SearchView {
  const [text, setText] = useState("");
  const [found, setFound] = useState<{ hits: SearchHit[]; answered: string; degraded: boolean } | null>(null);
  const [error, setError] = useState<string | null>(null);
  const newest = useRef<Search | null>(null);
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
      onResults: ({ hits, degraded }) => setFound({ hits, answered: query, degraded: degraded ?? false }),
    });
    search.done.catch((thrown: unknown) => {
      const failure = asParlanceError(thrown);
      if (failure.code !== "disconnected" && failure.code !== "closed") setError(failure.message);
    });
    newest.current = search;
  }, [client, isLive, query]);

  return {
    text,
    setText,
    hits: found?.hits ?? null,
    answered: found?.answered ?? "",
    degraded: found?.degraded ?? false,
    error,
  };
}
