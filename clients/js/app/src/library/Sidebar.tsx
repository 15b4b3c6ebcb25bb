/** Search, and the recordings when nothing is searched. */

import { useEffect, type RefObject } from "react";
import type { AlertsView } from "../alerts/useAlerts.js";
import { Hits } from "../search/Hits.js";
import { SearchBox } from "../search/SearchBox.js";
import { ANY, SearchTools } from "../search/SearchTools.js";
import type { SearchView } from "../search/useSearch.js";
import type { Connection } from "../shell/useConnection.js";
import type { Names } from "../speakers/useNames.js";
import type { Choice } from "../ui/Picker.js";
import { RecordingList } from "./RecordingList.js";
import type { LibraryView } from "./useLibrary.js";

interface Props {
  library: LibraryView;
  search: SearchView;
  searchBox: RefObject<HTMLInputElement | null>;
  connection: Connection;
  names: Names;
  alerts: AlertsView | null;
  /** The recording on screen. */
  current: string | null;
  /** A link was followed. */
  onOpen: () => void;
}

export function Sidebar({ library, search, searchBox, connection, names, alerts, current, onOpen }: Props) {
  const { client, state } = connection;
  const isSearching = search.text.trim() !== "";
  const { hits } = search;
  const { want, called } = names;
  const recordings = library.library.recordings.slice(0, RECENT);
  useEffect(() => {
    if (isSearching) want(recordings.map(({ id }) => id));
  }, [want, isSearching, recordings.length]);
  useEffect(() => {
    want((hits ?? []).flatMap(({ recording_id, speaker }) => (speaker === null ? [] : recording_id)));
  }, [want, hits]);
  const speakers = useSpeakers(search, names);
  return (
    <aside className="sidebar" aria-label="Library" onClick={({ target }) => (target as Element).closest("a") && onOpen()}>
      <SearchBox client={client} state={state} search={search} box={searchBox} />
      {isSearching ? (
        <>
          <SearchTools search={search} speakers={speakers} alerts={alerts} />
          <Hits search={search} library={library.library} called={called} isConnected={state === "live"} />
        </>
      ) : (
        <RecordingList view={library} current={current} />
      )}
    </aside>
  );
}

/** Recordings whose speakers are known by name from the first search on, beside those in which something was found. */
const RECENT = 10;

/** Everybody with a name; without one only within the recording on screen, where a label means one person. */
function useSpeakers({ hits, wanted, recordingId }: SearchView, { known, called }: Names): Choice[] {
  const isHere = wanted.inRecording && recordingId !== null;
  const labels = (hits ?? []).flatMap(({ recording_id, speaker }) =>
    isHere && recording_id === recordingId && speaker !== null ? [speaker] : [],
  );
  const nameless = [...new Set(labels)].map((id) => ({ id, name: called(recordingId ?? "", id) }));
  const choices = [...known.map((name) => ({ id: name, name })), ...nameless.filter(({ name }) => !known.includes(name))];
  const chosen = wanted.speaker === "" || choices.some(({ id }) => id === wanted.speaker);
  return [{ id: ANY, name: "Anybody" }, ...choices, ...(chosen ? [] : [{ id: wanted.speaker, name: wanted.speaker }])];
}
