/** What the people of this tenant look for, for its owners and admins: how much, what most, and what is not found. */

import { asParlanceError } from "@parlance/client";
import { useEffect, useState } from "react";
import { Button } from "react-aria-components";
import { readAnalytics, type SearchAnalytics, type SearchCount, type SearchDay } from "../api.js";
import { Ask } from "../ui/Ask.js";
import { Picker, type Choice } from "../ui/Picker.js";
import { everyDay, roundedUp } from "./days.js";

const SPANS: readonly Choice[] = [
  { id: "7", name: "Last 7 days" },
  { id: "30", name: "Last 30 days" },
  { id: "90", name: "Last 90 days" },
];
const ROWS = 10;

export function AnalyticsDialog({ token, onClose }: { token: () => string; onClose: () => void }) {
  const [days, setDays] = useState("30");
  const [told, setTold] = useState<SearchAnalytics | null>(null);
  const [error, setError] = useState<string | null>(null);
  useEffect(() => {
    let isCurrent = true;
    setError(null);
    readAnalytics(token(), Number(days)).then(
      (read) => isCurrent && setTold(read),
      (thrown: unknown) => isCurrent && setError(asParlanceError(thrown).message),
    );
    return () => void (isCurrent = false);
  }, [token, days]);
  return (
    <Ask title="What people search" isOpen onClose={onClose} isWide>
      <div className="insight-head">
        <p className="hint">Searches that stood for a moment, of everybody here. Nobody is named.</p>
        <Picker label="Time" isCompact choices={SPANS} value={days} onChange={setDays} />
      </div>
      {error !== null && (
        <p className="error" role="alert">
          {error}
        </p>
      )}
      {told && <Told told={told} days={everyDay(told.days, Number(days), Date.now())} />}
      <div className="dialog-buttons">
        <Button slot="close" className="button" autoFocus>
          Close
        </Button>
      </div>
    </Ask>
  );
}

function Told({ told, days }: { told: SearchAnalytics; days: SearchDay[] }) {
  const sum = (of: (day: SearchDay) => number): number => days.reduce((total, day) => total + of(day), 0);
  const searches = sum((day) => day.searches);
  if (searches === 0) return <p>Nobody searched in this time.</p>;
  const share = (count: number): string => `${Math.round((100 * count) / searches)} %`;
  return (
    <>
      <dl className="figures">
        <Figure name="Searches" value={searches.toLocaleString()} />
        <Figure name="A place was opened" value={share(sum((day) => day.clicked))} />
        <Figure name="Nothing found" value={share(sum((day) => day.without_hits))} />
      </dl>
      <Bars days={days} />
      <div className="insight-lists">
        <Counts title="Searched most" rows={told.top} />
        <Counts title="Not found" rows={told.without_hits} isMissing />
      </div>
    </>
  );
}

function Figure({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

const HEIGHT = 96;

function Bars({ days }: { days: SearchDay[] }) {
  const top = roundedUp(Math.max(...days.map(({ searches }) => searches)));
  const tall = (count: number): number => (HEIGHT * count) / top;
  const width = 100 / days.length;
  const most = days.reduce((best, day) => (day.searches > best.searches ? day : best));
  const words = `Searches a day, from ${days[0]!.day} to ${days.at(-1)!.day}; most on ${most.day}: ${most.searches}.`;
  return (
    <figure className="bars-figure">
      <div className="bars-plot">
        <span className="bars-top" aria-hidden="true">
          {top}
        </span>
        <svg viewBox={`0 0 100 ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={words}>
          {days.map(({ day, searches, clicked }, at) => (
            <g key={day}>
              <title>{`${day}: ${searches} searches, in ${clicked} a place was opened`}</title>
              {/* Its whole column can be pointed at. */}
              <rect className="bar-ground" x={at * width} y={0} width={width} height={HEIGHT} />
              <rect className="bar" x={(at + 0.12) * width} y={HEIGHT - tall(searches)} width={0.76 * width} height={tall(searches)} />
              <rect className="bar-clicked" x={(at + 0.12) * width} y={HEIGHT - tall(clicked)} width={0.76 * width} height={tall(clicked)} />
            </g>
          ))}
        </svg>
      </div>
      <figcaption className="hint">
        <span>{days[0]!.day}</span>
        <span className="legend">
          <i className="bar" /> searches <i className="bar-clicked" /> a place was opened
        </span>
        <span>{days.at(-1)!.day}</span>
      </figcaption>
    </figure>
  );
}

function Counts({ title, rows, isMissing = false }: { title: string; rows: SearchCount[]; isMissing?: boolean }) {
  return (
    <section aria-label={title}>
      <h3>{title}</h3>
      {rows.length === 0 ? (
        <p className="hint">{isMissing ? "Everything was found." : "Nothing yet."}</p>
      ) : (
        <table className="counts">
          <thead>
            <tr>
              <th scope="col">Search</th>
              <th scope="col">Times</th>
              {!isMissing && <th scope="col">Opened</th>}
            </tr>
          </thead>
          <tbody>
            {rows.slice(0, ROWS).map(({ text, searches, clicks }) => (
              <tr key={text}>
                <td>{text}</td>
                <td>{searches}</td>
                {!isMissing && <td>{clicks}</td>}
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}
