/**
 * What may be searched for: one's own last searches while the box is empty, and what the words may become while somebody
 * types. Asked for when the typing halts for a moment; until the answer comes, what still fits stays.
 */

import type { ConnectionState, Parlance } from "@parlance/client";
import { useCallback, useEffect, useState } from "react";

export interface Suggestions {
  items: string[];
  /** Of one's own searches. */
  past: ReadonlySet<string>;
  forget: () => void;
}

const COUNT = 6;
/** Keys follow one another in 100 to 300 ms. */
const HALT_MS = 120;

export function useSuggestions(client: Parlance, state: ConnectionState, text: string, isOpen: boolean): Suggestions {
  const [items, setItems] = useState<string[]>([]);
  const [past, setPast] = useState<readonly string[]>([]);
  const typed = text.trim();
  const isWanted = isOpen && state === "live";

  useEffect(() => {
    if (!isWanted || typed !== "") return;
    let isCurrent = true;
    client.searchHistory(COUNT).then(
      ({ queries }) => isCurrent && setPast(queries),
      () => undefined, // Without suggestions a search is still a search.
    );
    return () => void (isCurrent = false);
  }, [client, isWanted, typed]);

  useEffect(() => {
    setItems((known) => stillFitting(known, typed));
    if (!isWanted || typed === "") return;
    let isCurrent = true;
    const timer = setTimeout(() => {
      client.suggest(typed, COUNT).then(
        (suggestions) => isCurrent && setItems(suggestions.filter((text) => plain(text) !== plain(typed))),
        () => undefined,
      );
    }, HALT_MS);
    return () => {
      isCurrent = false;
      clearTimeout(timer);
    };
  }, [client, isWanted, typed]);

  const forget = useCallback(() => {
    client.clearSearchHistory().then(
      () => setPast([]),
      () => undefined,
    );
  }, [client]);
  return { items: typed === "" ? past.slice(0, COUNT) : items, past: new Set(past), forget };
}

/** Of `suggestions` those that go on from what is typed. Pure. */
export function stillFitting(suggestions: readonly string[], typed: string): string[] {
  const begin = plain(typed);
  if (begin === "") return [];
  return suggestions.filter((text) => plain(text) !== begin && plain(text).includes(begin)).slice(0, COUNT);
}

function plain(text: string): string {
  return text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase().trim();
}
