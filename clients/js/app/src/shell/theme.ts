/** Light, dark, or as the system has it. The choice is remembered on this device and shared by the page's tabs. */

import { useSyncExternalStore } from "react";

export type Theme = "dark" | "light" | "system";

const KEY = "parlance.theme";
const listeners = new Set<() => void>();

export function readTheme(stored: string | null): Theme {
  return stored === "dark" || stored === "light" ? stored : "system";
}

/** Before the page is drawn, so that it does not flash in the other colours. */
export function applyTheme(): void {
  const theme = readTheme(localStorage.getItem(KEY));
  if (theme === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme;
}

export function useTheme(): [Theme, (theme: Theme) => void] {
  return [useSyncExternalStore(listen, () => readTheme(localStorage.getItem(KEY))), setTheme];
}

function setTheme(theme: Theme): void {
  if (theme === "system") localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, theme);
  changed();
}

function changed(): void {
  applyTheme();
  for (const listener of listeners) listener();
}

function listen(listener: () => void): () => void {
  listeners.add(listener);
  window.addEventListener("storage", changed);
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) window.removeEventListener("storage", changed);
  };
}
