/** Between the box and the hits: how many there are, being told of later ones, and what narrows the search. */

import { useMemo, useState } from "react";
import { Button, ToggleButton } from "react-aria-components";
import type { AlertsView } from "../alerts/useAlerts.js";
import { languages } from "../record/choices.js";
import { BellIcon, CloseIcon, FilterIcon } from "../ui/icons.js";
import { Picker, type Choice } from "../ui/Picker.js";
import { EVERYTHING, narrowed, within, type Order, type Since } from "./asking.js";
import { placesWords } from "./hits.js";
import type { SearchView } from "./useSearch.js";

const SINCE: readonly Choice[] = [
  { id: "all", name: "Any time" },
  { id: "today", name: "Today" },
  { id: "week", name: "Last 7 days" },
  { id: "month", name: "Last 30 days" },
];
const ORDERS: readonly Choice[] = [
  { id: "relevance", name: "Best first" },
  { id: "newest", name: "Newest first" },
];

interface Props {
  search: SearchView;
  /** People who can be asked for. */
  speakers: readonly Choice[];
  /** Null where the server tells nothing. */
  alerts: AlertsView | null;
}

export function SearchTools({ search, speakers, alerts }: Props) {
  const { wanted, change, recordingId } = search;
  const [isOpen, setOpen] = useState(false);
  const tongues = useMemo(spoken, []);
  const isWithin = wanted.inRecording && recordingId !== null;
  const limits = narrowed(wanted, recordingId !== null).filter(({ undo }) => undo.inRecording === undefined);
  return (
    <div className="search-tools">
      <div className="found">
        <Found search={search} />
        {alerts && <Tell search={search} alerts={alerts} />}
      </div>
      <div className="narrow" role="group" aria-label="Narrow the search">
        <Button className="chip" aria-expanded={isOpen} aria-controls="search-filters" onPress={() => setOpen(!isOpen)}>
          <FilterIcon /> Filters
        </Button>
        {recordingId !== null && (
          <ToggleButton
            className="chip"
            isSelected={wanted.inRecording}
            onChange={(inRecording) => change(within(wanted, inRecording))}
          >
            In this recording
          </ToggleButton>
        )}
        {!isOpen &&
          limits.map(({ words, undo }) => {
            const name = [...speakers, ...tongues].find(({ id }) => id === words)?.name ?? words;
            return (
              <Button key={words} className="chip set" aria-label={`No longer only: ${name}`} onPress={() => change(undo)}>
                {name} <CloseIcon />
              </Button>
            );
          })}
        {!isWithin && (
          <ToggleButton className="chip" isSelected={wanted.isGrouped} onChange={(isGrouped) => change({ isGrouped })}>
            One per recording
          </ToggleButton>
        )}
      </div>
      <div id="search-filters" className="filters" hidden={!isOpen}>
        <Picker label="Time" choices={SINCE} value={wanted.since} onChange={(id) => change({ since: id as Since })} />
        <Picker label="Order" choices={ORDERS} value={wanted.order} onChange={(id) => change({ order: id as Order })} />
        <Picker
          label="Who"
          choices={speakers}
          value={wanted.speaker || ANY}
          onChange={(id) => change({ speaker: id === ANY ? "" : id })}
        />
        <Picker
          label="Language"
          choices={tongues}
          value={wanted.language || ANY}
          onChange={(id) => change({ language: id === ANY ? "" : id })}
        />
        {limits.length > 0 && (
          <Button className="button quiet" onPress={() => change({ ...EVERYTHING, inRecording: wanted.inRecording })}>
            Reset
          </Button>
        )}
      </div>
    </div>
  );
}

/** A list needs a key for it. */
export const ANY = "any";

function spoken(): Choice[] {
  return [{ id: ANY, name: "Any language" }, ...languages(navigator.language).filter(({ id }) => id !== "auto")];
}

function Found({ search: { hits, hasMore, degraded } }: { search: SearchView }) {
  if (hits === null || hits.length === 0) return <span />;
  return (
    <p className="hint">
      <span role="status">{placesWords(hits.length, hasMore, hits.some(({ more }) => more !== undefined))}</span>
      {degraded && <span title="Search by meaning is not there now; places with your words are found.">by words only</span>}
    </p>
  );
}

function Tell({ search, alerts }: { search: SearchView; alerts: AlertsView }) {
  const { text, wanted, recordingId } = search;
  const about = alerts.about(text.trim(), wanted, recordingId);
  return (
    <ToggleButton
      className="chip tell"
      isSelected={about !== null}
      onChange={(isWanted) => (isWanted ? alerts.add(text.trim(), wanted, recordingId) : about && alerts.remove(about.id))}
    >
      <BellIcon /> {about === null ? "Tell me when this is said" : "You will be told"}
    </ToggleButton>
  );
}
