/** What the speakers of several recordings are called: read once for each recording, and again when a name changes. */

import type { Parlance, People } from "@parlance/client";
import { useCallback, useEffect, useRef, useState } from "react";
import { speakerName } from "./names.js";

export interface Names {
  called: (recordingId: string, label: string) => string;
  /** Read the names in these recordings. */
  want: (recordingIds: Iterable<string>) => void;
  /** All names that were read. */
  known: string[];
}

const NOBODY: ReadonlyMap<string, string> = new Map();

export function useNames(client: Parlance, people: People): Names {
  const [names, setNames] = useState<ReadonlyMap<string, ReadonlyMap<string, string>>>(new Map());
  const asked = useRef(new Set<string>());

  const read = useCallback(
    (recordingId: string): void => {
      asked.current.add(recordingId);
      people.speakers(recordingId).then(
        (speakers) => {
          const named = speakers.flatMap(({ label, name }): [string, string][] => (name === null ? [] : [[label, name]]));
          setNames((before) => new Map(before).set(recordingId, new Map(named)));
        },
        () => asked.current.delete(recordingId), // Until then they are called by their labels.
      );
    },
    [people],
  );
  useEffect(() => {
    const again = ({ recording_id }: { recording_id: string }): void => {
      if (asked.current.has(recording_id)) read(recording_id);
    };
    const subscriptions = [client.on("speaker:renamed", again), client.on("speaker:merged", again)];
    return () => subscriptions.forEach((unsubscribe) => unsubscribe());
  }, [client, read]);

  return {
    called: useCallback((recordingId, label) => speakerName(label, names.get(recordingId) ?? NOBODY), [names]),
    want: useCallback(
      (recordingIds) => {
        for (const id of new Set(recordingIds)) if (!asked.current.has(id)) read(id);
      },
      [read],
    ),
    known: [...new Set([...names.values()].flatMap((named) => [...named.values()]))].sort(),
  };
}
