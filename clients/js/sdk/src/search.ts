/**
 * Search as you type: in one slot a newer query supersedes the older ones.
 *
 * Policy: superseding happens here at once, without waiting for the server, so that no late result is shown; the next
 * page is a query of the same slot, and the cursor between pages is nobody else's matter.
 * Pure bookkeeping; `client.ts` sends. Invariant: after a query was superseded, cancelled or failed, nothing of it is
 * delivered.
 */

import { ParlanceError } from "./errors.js";
import type { SearchQuery, SearchResults } from "./protocol.js";

/**
 * `neighbours`: so many segments before and after each hit (at most 3); `group_by`: only the best hit of each recording,
 * with how many `more` there are; `filters.speakers`: labels or names.
 */
export interface SearchOptions extends Omit<SearchQuery, "request_id" | "text" | "cursor"> {
  /** Called for the instant results and then for the full ones. */
  onResults?: (results: SearchResults) => void;
}

/** How a query came to its end, other than by an error. */
export type SearchOutcome = "complete" | "superseded" | "cancelled";

export interface Search {
  readonly requestId: string;
  /** Settles after the full results; rejects with ParlanceError. */
  readonly done: Promise<SearchOutcome>;
  /** Whether the newest results say that there is another page. */
  readonly hasNext: boolean;
  /**
   * Ask for the page after the newest results, with the same options and in the same slot; null where there is none.
   * Results go to `onResults`, or to where this page's went.
   */
  next(onResults?: (results: SearchResults) => void): Search | null;
  cancel(): void;
}

interface Pending {
  slot: string;
  onResults: ((results: SearchResults) => void) | undefined;
  resolve(outcome: SearchOutcome): void;
  reject(error: ParlanceError): void;
}

export class SearchSlots {
  readonly #pending = new Map<string, Pending>();

  /** Register a query; older ones of its slot end as superseded. */
  open(requestId: string, slot: string, onResults: Pending["onResults"]): Promise<SearchOutcome> {
    for (const [other, pending] of this.#pending) if (pending.slot === slot) this.end(other, "superseded");
    return new Promise((resolve, reject) => this.#pending.set(requestId, { slot, onResults, resolve, reject }));
  }

  results(results: SearchResults): void {
    this.#pending.get(results.request_id)?.onResults?.(results);
    if (results.phase === "full") this.end(results.request_id, "complete");
  }

  end(requestId: string, outcome: SearchOutcome): boolean {
    const pending = this.#take(requestId);
    pending?.resolve(outcome);
    return pending !== undefined;
  }

  fail(requestId: string, error: ParlanceError): void {
    this.#take(requestId)?.reject(error);
  }

  /** The connection is gone: no answer will come. */
  failAll(error: ParlanceError): void {
    for (const requestId of [...this.#pending.keys()]) this.fail(requestId, error);
  }

  #take(requestId: string): Pending | undefined {
    const pending = this.#pending.get(requestId);
    this.#pending.delete(requestId);
    return pending;
  }
}
