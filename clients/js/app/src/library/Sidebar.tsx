/** Search, and the recordings when nothing is searched. */

import type { ConnectionState } from "@parlance/client";
import type { RefObject } from "react";
import { Hits } from "../search/Hits.js";
import { SearchBox } from "../search/SearchBox.js";
import type { SearchView } from "../search/useSearch.js";
import { RecordingList } from "./RecordingList.js";
import type { LibraryView } from "./useLibrary.js";

interface Props {
  library: LibraryView;
  search: SearchView;
  searchBox: RefObject<HTMLInputElement | null>;
  connectionState: ConnectionState;
  /** The recording on screen. */
  current: string | null;
}

export function Sidebar({ library, search, searchBox, connectionState, current }: Props) {
  const isSearching = search.text.trim() !== "";
  return (
    <aside className="sidebar" aria-label="Library">
      <SearchBox search={search} box={searchBox} />
      {isSearching ? (
        <Hits search={search} library={library.library} isConnected={connectionState === "live"} />
      ) : (
        <RecordingList view={library} current={current} />
      )}
    </aside>
  );
}
