/**
 * The list of recordings. Pure.
 *
 * Pages of the list arrive while events change its entries: an entry that an event brought is newer than any page.
 */

import type { Recording } from "@parlance/client";

/** `recordings`: newest first. `touched`: ids that an event brought. */
export interface Library {
  readonly recordings: readonly Recording[];
  readonly touched: ReadonlySet<string>;
  readonly nextCursor: string | null;
  readonly isLoaded: boolean;
}

export const NO_LIBRARY: Library = { recordings: [], touched: new Set(), nextCursor: null, isLoaded: false };

export function withPage(library: Library, page: readonly Recording[], nextCursor: string | null): Library {
  const fresh = page.filter((recording) => !library.touched.has(recording.id));
  return { ...library, recordings: merge(library.recordings, fresh), nextCursor, isLoaded: true };
}

export function withEvent(library: Library, recording: Recording): Library {
  return {
    ...library,
    recordings: merge(library.recordings, [recording]),
    touched: new Set([...library.touched, recording.id]),
  };
}

function merge(known: readonly Recording[], incoming: readonly Recording[]): Recording[] {
  const byId = new Map(known.map((recording) => [recording.id, recording]));
  for (const recording of incoming) byId.set(recording.id, recording);
  return [...byId.values()].sort((a, b) => b.started_at - a.started_at || a.id.localeCompare(b.id));
}
