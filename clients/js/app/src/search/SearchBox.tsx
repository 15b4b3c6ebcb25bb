/** Where the search is typed. `/` leads here from everywhere, Escape empties it. */

import type { RefObject } from "react";
import { SearchIcon } from "../ui/icons.js";
import type { SearchView } from "./useSearch.js";

export function SearchBox({ search, box }: { search: SearchView; box: RefObject<HTMLInputElement | null> }) {
  return (
    <div className="search" role="search">
      <SearchIcon />
      <input
        ref={box}
        type="search"
        aria-label="Search everything that was said"
        aria-keyshortcuts="/"
        placeholder="Search what was said"
        autoComplete="off"
        maxLength={500}
        value={search.text}
        onChange={(event) => search.setText(event.target.value)}
        onKeyDown={(event) => event.key === "Escape" && search.setText("")}
      />
      <kbd aria-hidden="true">/</kbd>
    </div>
  );
}
