/** Positions on the wire are Unicode code points, positions in a JavaScript string UTF-16 units. */

export interface Run {
  text: string;
  marked: boolean;
}

/** Cut `text` at `highlights` ([from, to) in code points, in any order, may overlap). Joined, the runs are `text`. */
export function highlightRuns(text: string, highlights: readonly (readonly [number, number])[]): Run[] {
  const points = [...text];
  const marked = new Uint8Array(points.length);
  for (const [from, to] of highlights) marked.fill(1, Math.max(0, from), Math.max(0, to));
  const runs: Run[] = [];
  points.forEach((point, at) => {
    const last = runs.at(-1);
    if (last && last.marked === (marked[at] === 1)) last.text += point;
    else runs.push({ text: point, marked: marked[at] === 1 });
  });
  return runs;
}
