/** The days of the analytics, those without a search too. Pure. */

import type { SearchDay } from "../api.js";

const DAY_MS = 86_400_000;

/** The last `count` days (UTC) until `now`, oldest first. */
export function everyDay(days: readonly SearchDay[], count: number, now: number): SearchDay[] {
  const known = new Map(days.map((day) => [day.day, day]));
  return Array.from({ length: count }, (_, at) => {
    const day = new Date(now - (count - 1 - at) * DAY_MS).toISOString().slice(0, 10);
    return known.get(day) ?? { day, searches: 0, without_hits: 0, clicked: 0 };
  });
}

/** A round number at or above `most`, for the height of the drawing. */
export function roundedUp(most: number): number {
  const unit = 10 ** Math.floor(Math.log10(Math.max(most, 1)));
  return [1, 2, 5, 10].map((times) => times * unit).find((height) => height >= most) ?? 1;
}
