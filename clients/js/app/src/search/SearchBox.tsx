/**
 * Where the search is typed. `/` leads here from everywhere.
 *
 * A combobox (ARIA 1.2) whose list never stands in the way of results: while somebody types it is one line above them,
 * and one's own searches are listed only while the box is empty. The arrows choose, Enter takes, Escape closes the list
 * and then empties the box.
 */

import type { ConnectionState, Parlance } from "@parlance/client";
import { useEffect, useId, useState, type FocusEvent, type KeyboardEvent, type PointerEvent, type RefObject } from "react";
import { Button } from "react-aria-components";
import { IconButton } from "../ui/IconButton.js";
import { ClockIcon, CloseIcon, SearchIcon } from "../ui/icons.js";
import type { SearchView } from "./useSearch.js";
import { useSuggestions } from "./useSuggestions.js";

interface Props {
  client: Parlance;
  state: ConnectionState;
  search: SearchView;
  box: RefObject<HTMLInputElement | null>;
}

export function SearchBox({ client, state, search, box }: Props) {
  const { text, setText } = search;
  const [isOpen, setOpen] = useState(false);
  const [active, setActive] = useState(-1);
  const id = useId();
  const isEmpty = text.trim() === "";
  const { items, past, forget } = useSuggestions(client, state, text, isOpen);
  const isShown = isOpen && items.length > 0;
  const chosen = isShown ? items[active] : undefined;
  useEffect(() => setActive(-1), [items.join("\n")]);
  useEffect(() => {
    if (active >= 0) document.getElementById(`${id}-${active}`)?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }, [id, active]);

  const close = (): void => {
    setOpen(false);
    setActive(-1);
  };
  const take = (suggestion: string): void => {
    setText(suggestion);
    close();
    box.current?.focus();
  };
  const type = (typed: string): void => {
    setText(typed);
    setOpen(true);
    setActive(-1);
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.nativeEvent.isComposing) return;
    switch (event.key) {
      case "ArrowDown":
      case "ArrowUp": {
        event.preventDefault();
        setOpen(true);
        const step = event.key === "ArrowDown" ? 1 : -1;
        // Past both ends stands the box itself.
        if (isShown) setActive(((active + 1 + step + items.length + 1) % (items.length + 1)) - 1);
        return;
      }
      case "Enter":
        if (chosen !== undefined) take(chosen);
        else {
          close();
          if (matchMedia("(pointer: coarse)").matches) box.current?.blur(); // The keyboard of a phone goes away.
        }
        return;
      case "Escape":
        if (!isShown) setText("");
        close();
        return;
      case "Home":
      case "End":
      case "ArrowLeft":
      case "ArrowRight":
        setActive(-1);
    }
  };
  const onBlur = (event: FocusEvent): void => {
    if (!event.currentTarget.contains(event.relatedTarget)) close();
  };
  return (
    <div className="search" role="search" onBlur={onBlur}>
      <SearchIcon />
      <input
        ref={box}
        type="search"
        role="combobox"
        aria-label="Search everything that was said"
        aria-keyshortcuts="/"
        aria-autocomplete="list"
        aria-expanded={isShown}
        aria-controls={isShown ? id : undefined}
        aria-activedescendant={chosen === undefined ? undefined : `${id}-${active}`}
        enterKeyHint="search"
        placeholder="Search what was said"
        autoComplete="off"
        autoCapitalize="none"
        maxLength={500}
        value={text}
        onChange={(event) => type(event.target.value)}
        onFocus={() => isEmpty && setOpen(true)}
        onClick={() => isEmpty && setOpen(true)}
        onKeyDown={onKeyDown}
      />
      <kbd aria-hidden="true">/</kbd>
      {text !== "" && (
        <IconButton label="Empty the search" className="search-clear" onPress={() => take("")}>
          <CloseIcon />
        </IconButton>
      )}
      {isShown && (
        <div className={isEmpty ? "suggestions past" : "suggestions"} onPointerDown={keepFocus}>
          {isEmpty && <p aria-hidden="true">Your last searches</p>}
          <ul id={id} role="listbox" aria-label={isEmpty ? "Your last searches" : "Suggestions"}>
            {items.map((item, at) => (
              <li
                key={item}
                id={`${id}-${at}`}
                role="option"
                aria-selected={at === active}
                title={item}
                onClick={() => take(item)}
              >
                {past.has(item) && <ClockIcon />}
                <span>{item}</span>
              </li>
            ))}
          </ul>
          {isEmpty && (
            <Button className="button quiet" onPress={forget}>
              Forget my searches
            </Button>
          )}
        </div>
      )}
    </div>
  );
}

/** What is pressed in the list must not take the focus out of the box. */
function keepFocus(event: PointerEvent): void {
  if (!(event.target as Element).closest("button")) event.preventDefault();
}
