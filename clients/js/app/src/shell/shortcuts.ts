/**
 * The page's keys. A key that belongs to what has the focus (a text box, a button, a slider, a list) is left to it, and
 * while a dialog is open only the dialog has keys.
 */

import { useEffect, useRef } from "react";

export type Command = "back" | "forward" | "help" | "play" | "record" | "search";

export const SHORTCUTS: readonly { keys: string; command: Command; does: string }[] = [
  { keys: "/", command: "search", does: "Search what was said" },
  { keys: "r", command: "record", does: "Record, or stop the recording" },
  { keys: "Space", command: "play", does: "Play or pause" },
  { keys: "←", command: "back", does: "Back 5 seconds" },
  { keys: "→", command: "forward", does: "Forward 5 seconds" },
  { keys: "?", command: "help", does: "Show these keys" },
];

const KEYS: Record<string, Command> = {
  "/": "search",
  r: "record",
  " ": "play",
  ArrowLeft: "back",
  ArrowRight: "forward",
  "?": "help",
};

const TEXT = "input:not([type=range], [type=radio], [type=checkbox]), textarea, select, [contenteditable]";
/** What uses the space bar or the arrows itself. */
const CONTROLS = "button, a, summary, input, [role=slider], [role=option], [role=radio], [role=switch], [role=menuitem]";

export function commandOf(event: KeyboardEvent): Command | null {
  const command = KEYS[event.key];
  if (!command || event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.defaultPrevented) return null;
  if (document.querySelector("[role=dialog], [role=alertdialog], [role=menu], [role=listbox]")) return null;
  const target = event.target instanceof Element ? event.target : null;
  if (target?.closest(TEXT)) return null;
  const isPlain = command === "search" || command === "record" || command === "help";
  return isPlain || !target?.closest(CONTROLS) ? command : null;
}

export function useShortcuts(run: (command: Command) => void): void {
  const latest = useRef(run);
  latest.current = run;
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      const command = commandOf(event);
      if (command === null) return;
      event.preventDefault();
      latest.current(command);
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
}
