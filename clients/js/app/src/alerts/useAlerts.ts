/**
 * Being told when something is said: the alerts of who is signed in, kept in this browser, and a subscription for each
 * while the page is connected. A reload goes on where the page stood, so what was said meanwhile is told then.
 */

import { asParlanceError, type Parlance, type SearchHit, type Subscription } from "@parlance/client";
import { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import type { Session } from "../api.js";
import type { Wanted } from "../search/asking.js";
import { useSay } from "../ui/Said.js";
import {
  alertFor,
  ALERTS_MAX,
  alertsKey,
  filtersOfAlert,
  parseAlerts,
  sameAlert,
  seen,
  withAlert,
  withChange,
  withMatch,
  type Alert,
} from "./alerts.js";

/** What was told since the last news were put away. */
export interface News {
  hit: SearchHit;
  /** The text of the alert, for each place. */
  told: string[];
}

export interface AlertsView {
  alerts: Alert[];
  /** Why some of them are not told, by id. */
  problems: ReadonlyMap<string, string>;
  news: News | null;
  dismiss: () => void;
  about: (text: string, wanted: Wanted, recordingId: string | null) => Alert | null;
  add: (text: string, wanted: Wanted, recordingId: string | null) => void;
  remove: (id: string) => void;
  markSeen: () => void;
}

export function useAlerts(client: Parlance, session: Session, isOffered: boolean): AlertsView | null {
  const [alerts, update] = useKept(alertsKey(session.tenant.id, session.user.id));
  const [news, setNews] = useState<News | null>(null);
  const [problems, setProblems] = useState<ReadonlyMap<string, string>>(new Map());
  const say = useSay();
  const dismiss = useCallback(() => setNews(null), []);
  const told = useCallback((id: string, match: Parameters<typeof withMatch>[2]) => {
    const { before, isNew } = update((kept) => {
      const after = withMatch(kept, id, match, Date.now());
      return { ...after, before: kept };
    });
    const alert = before.find((other) => other.id === id);
    if (isNew && alert) setNews((shown) => ({ hit: match.hit, told: [...(shown?.told ?? []), alert.text] }));
  }, [update]);
  useSubscriptions(client, isOffered ? alerts : NONE, told, update, setProblems);

  const view = useMemo<AlertsView>(
    () => ({
      ...{ alerts, problems, news },
      dismiss,
      about: (...search) => sameAlert(alerts, alertFor(...search, "")),
      add: (...search) => {
        const isFull = alerts.length >= ALERTS_MAX;
        say(isFull ? `At most ${ALERTS_MAX} alerts: remove one first.` : "You will be told here when this is said.");
        if (isFull) return;
        update((kept) => {
          const alert = alertFor(...search, newId());
          return { alerts: sameAlert(kept, alert) ? kept : withAlert(kept, alert) };
        });
      },
      remove: (id) => void update((kept) => ({ alerts: kept.filter((alert) => alert.id !== id) })),
      markSeen: () => void update((kept) => ({ alerts: seen(kept) })),
    }),
    [alerts, problems, news, update, dismiss, say],
  );
  return isOffered ? view : null;
}

const NONE: Alert[] = [];

/** `crypto.randomUUID` is for https and localhost only. */
function newId(): string {
  return [...crypto.getRandomValues(new Uint8Array(9))].map((byte) => byte.toString(36)).join("");
}

type Update = <T extends { alerts: Alert[] }>(change: (kept: Alert[]) => T) => T;

/** The stored list; each change is made to what is stored now, because other tabs change it too. */
function useKept(key: string): [Alert[], Update] {
  const stored = useSyncExternalStore(listen, () => localStorage.getItem(key));
  const update = useCallback<Update>(
    (change) => {
      const changed = change(parseAlerts(localStorage.getItem(key)));
      try {
        localStorage.setItem(key, JSON.stringify(changed.alerts));
      } catch {
        // The storage is full: what is told is shown until the page goes.
      }
      for (const listener of listeners) listener();
      return changed;
    },
    [key],
  );
  return [useMemo(() => parseAlerts(stored), [stored]), update];
}

const listeners = new Set<() => void>();

function listen(listener: () => void): () => void {
  listeners.add(listener);
  window.addEventListener("storage", listener);
  return () => {
    listeners.delete(listener);
    window.removeEventListener("storage", listener);
  };
}

/** A subscription for each alert, until it is removed, here or in another tab. */
function useSubscriptions(
  client: Parlance,
  alerts: readonly Alert[],
  told: (id: string, match: Parameters<typeof withMatch>[2]) => void,
  update: Update,
  setProblems: (change: (before: ReadonlyMap<string, string>) => ReadonlyMap<string, string>) => void,
): void {
  const held = useRef(new Map<string, Subscription>());
  const keep = useCallback(
    (id: string, change: Partial<Alert>) => void update((kept) => ({ alerts: withChange(kept, id, change) })),
    [update],
  );
  const open = useCallback(
    (alert: Alert): void => {
      const { id, text, cursor } = alert;
      const subscription = client.subscribe(text, {
        filters: filtersOfAlert(alert),
        ...(cursor === null ? {} : { after: cursor }),
        onMatch: (match) => told(id, match),
        onEnded: (error) => {
          if (error.code === "closed" || held.current.get(id) !== subscription) return;
          if (error.code === "history_truncated") {
            keep(id, { cursor: null, isBroken: true });
            open({ ...alert, cursor: null });
          } else setProblems((before) => new Map(before).set(id, error.message));
        },
      });
      held.current.set(id, subscription);
      // A reload before the first match must not lose what is said until then.
      subscription.ready.then(
        () => cursor === null && subscription.cursor !== null && keep(id, { cursor: subscription.cursor }),
        (thrown: unknown) => void asParlanceError(thrown),
      );
    },
    [client, told, keep, setProblems],
  );

  useEffect(() => {
    const wanted = new Set(alerts.map(({ id }) => id));
    for (const [id, subscription] of held.current) {
      if (wanted.has(id)) continue;
      held.current.delete(id);
      subscription.end();
    }
    for (const alert of alerts) if (!held.current.has(alert.id)) open(alert);
  }, [alerts, open]);

  useEffect(
    () => () => {
      for (const subscription of held.current.values()) subscription.end();
      held.current.clear();
    },
    [client],
  );
}
