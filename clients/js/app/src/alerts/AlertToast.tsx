/** The newest thing that an alert told: quiet, for some seconds, without taking the focus. It stays while it is read. */

import { useEffect, useState } from "react";
import type { Library } from "../library/recordings.js";
import { PlayPlace, Quote, type Called } from "../search/Hit.js";
import { CloseIcon } from "../ui/icons.js";
import { IconButton } from "../ui/IconButton.js";
import { newsWords } from "./alerts.js";
import type { News } from "./useAlerts.js";

interface Props {
  news: News | null;
  library: Library;
  called: Called;
  onClose: () => void;
}

/** To read two lines twice. */
const SHOWN_MS = 10_000;

export function AlertToast({ news, library, called, onClose }: Props) {
  const [isRead, setRead] = useState(false);
  useEffect(() => {
    if (news === null || isRead) return;
    const timer = setTimeout(onClose, SHOWN_MS);
    return () => clearTimeout(timer);
  }, [news, isRead, onClose]);
  const words = news && newsWords(news.told) + (isMissed(news, library) ? " while you were away" : "");
  return (
    <div className="toasts">
      <p className="visually-hidden" role="status">
        {news && `${words}: ${news.hit.text}`}
      </p>
      {news && (
        <section
          className="toast"
          aria-label="Just said"
          onPointerEnter={() => setRead(true)}
          onPointerLeave={() => setRead(false)}
          onFocus={() => setRead(true)}
          onBlur={() => setRead(false)}
        >
          <header>
            <b>{words}</b>
            <IconButton label="Put away" onPress={onClose}>
              <CloseIcon />
            </IconButton>
          </header>
          <div className="hit">
            <PlayPlace place={news.hit} library={library} />
            <Quote place={news.hit} called={called} onOpen={onClose} />
          </div>
        </section>
      )}
    </div>
  );
}

/** It was said before this page was opened, as far as the list knows when its recording began. */
function isMissed({ hit }: News, library: Library): boolean {
  const recording = library.recordings.find(({ id }) => id === hit.recording_id);
  return recording !== undefined && recording.started_at + hit.end_ms < performance.timeOrigin;
}
