/** A short word about what just happened; it goes by itself, and screen readers hear it. */

import { createContext, useCallback, useContext, useEffect, useState, type ReactNode } from "react";

const SHOWN_MS = 3_000;
const Say = createContext<(text: string) => void>(() => undefined);

export function useSay(): (text: string) => void {
  return useContext(Say);
}

export function Said({ children }: { children: ReactNode }) {
  const [said, setSaid] = useState<{ text: string } | null>(null);
  useEffect(() => {
    if (said === null) return;
    const timer = setTimeout(() => setSaid(null), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [said]);
  const say = useCallback((text: string) => setSaid({ text }), []);
  return (
    <Say.Provider value={say}>
      {children}
      <div className="said" role="status">
        {said && <p>{said.text}</p>}
      </div>
    </Say.Provider>
  );
}

/** Copy, and say how it went. */
export function useCopy(): (text: string, done: string) => void {
  const say = useSay();
  return useCallback(
    (text, done) => {
      // Absent in pages that are neither https nor localhost, whatever TypeScript says.
      const clipboard = navigator.clipboard as Clipboard | undefined;
      const refused = (): void => say("This browser does not let the page copy.");
      if (clipboard) clipboard.writeText(text).then(() => say(done), refused);
      else refused();
    },
    [say],
  );
}
