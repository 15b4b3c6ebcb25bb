/** Choices that this device remembers. A value that cannot be read counts as none. */

import { useCallback, useState } from "react";

export function readStored<T extends object>(key: string, otherwise: T): T {
  try {
    return { ...otherwise, ...(JSON.parse(localStorage.getItem(key) ?? "{}") as Partial<T>) };
  } catch {
    return otherwise;
  }
}

export function useStored<T extends object>(key: string, otherwise: T): [T, (change: Partial<T>) => void] {
  const [value, setValue] = useState(() => readStored(key, otherwise));
  const change = useCallback(
    (part: Partial<T>) => {
      setValue((before) => {
        const after = { ...before, ...part };
        localStorage.setItem(key, JSON.stringify(after));
        return after;
      });
    },
    [key],
  );
  return [value, change];
}
