/** What somebody is told of: how much is new, and behind it the list with what was said. */

import { useState } from "react";
import { Button, Dialog, DialogTrigger, Popover } from "react-aria-components";
import type { Library } from "../library/recordings.js";
import { PlayPlace, Quote, type Called } from "../search/Hit.js";
import { BellIcon, CloseIcon } from "../ui/icons.js";
import { IconButton } from "../ui/IconButton.js";
import { newCount, type Alert } from "./alerts.js";
import type { AlertsView } from "./useAlerts.js";

interface Props {
  alerts: AlertsView;
  library: Library;
  called: Called;
}

export function AlertsButton({ alerts: view, library, called }: Props) {
  const [isOpen, setOpen] = useState(false);
  const count = newCount(view.alerts);
  const onOpenChange = (open: boolean): void => {
    setOpen(open);
    view.dismiss();
    if (!open) view.markSeen();
  };
  return (
    <DialogTrigger isOpen={isOpen} onOpenChange={onOpenChange}>
      <Button className="button icon quiet bell" aria-label={count === 0 ? "Alerts" : `Alerts: ${count} new`}>
        <BellIcon />
        {count > 0 && <span className="badge">{count > 99 ? "99+" : count}</span>}
      </Button>
      <Popover className="popover alerts-popover" placement="bottom end">
        <Dialog className="alerts" aria-label="Alerts">
          <h2>Alerts</h2>
          {view.alerts.length === 0 && (
            <p className="hint">
              Search for something, then press “Tell me when this is said”: you are told here, also of what is said while
              this page is closed.
            </p>
          )}
          {view.alerts.map((alert) => (
            <AlertCard
              key={alert.id}
              alert={alert}
              problem={view.problems.get(alert.id) ?? null}
              library={library}
              called={called}
              onRemove={() => view.remove(alert.id)}
              onOpen={() => onOpenChange(false)}
            />
          ))}
        </Dialog>
      </Popover>
    </DialogTrigger>
  );
}

interface CardProps {
  alert: Alert;
  problem: string | null;
  library: Library;
  called: Called;
  onRemove: () => void;
  onOpen: () => void;
}

const SHOWN = 3;

function AlertCard({ alert, problem, library, called, onRemove, onOpen }: CardProps) {
  const { text, matches, isBroken } = alert;
  const [isWhole, setWhole] = useState(false);
  const fresh = matches.filter(({ isNew }) => isNew).length;
  const shown = isWhole ? matches : matches.slice(0, Math.max(SHOWN, Math.min(fresh, 10)));
  const within = library.recordings.find(({ id }) => id === alert.recordingId);
  const only = [alert.recordingId !== null && (within?.title || "one recording"), alert.speaker, alert.language].filter(Boolean);
  return (
    <section className="alert-card" aria-label={`Alert: ${text}`}>
      <header>
        <h3>
          {text} {fresh > 0 && <span className="badge">{fresh} new</span>}
        </h3>
        <IconButton label={`Remove the alert “${text}”`} onPress={onRemove}>
          <CloseIcon />
        </IconButton>
      </header>
      {only.length > 0 && <p className="hint">Only: {only.join(", ")}</p>}
      {problem !== null && <p className="error">{problem}</p>}
      {isBroken && <p className="hint">You were away for long: some places may be missing here. A search finds them.</p>}
      {matches.length === 0 && <p className="hint">Not said since.</p>}
      <ul className="list">
        {shown.map(({ hit, isNew }) => (
          <li key={hit.segment_id} className={isNew ? "hit new" : "hit"}>
            <PlayPlace place={hit} library={library} />
            <Quote place={hit} called={called} onOpen={onOpen} />
          </li>
        ))}
      </ul>
      {matches.length > shown.length && (
        <Button className="chip" onPress={() => setWhole(true)}>
          {matches.length - shown.length} earlier
        </Button>
      )}
    </section>
  );
}
