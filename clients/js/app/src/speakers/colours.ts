/** Which of the page's eight colours a speaker has (`--voice-0` to `--voice-7`); the name always stands beside it. Pure. */

export const COLOURS = 8;

/** The first eight speakers differ; somebody whom a person added (P1) begins half-way round. */
export function colourOf(label: string): number {
  const [, kind, number] = /^([SP])([1-9]\d*)$/.exec(label) ?? [];
  if (number !== undefined) return (Number(number) - 1 + (kind === "P" ? COLOURS / 2 : 0)) % COLOURS;
  return [...label].reduce((sum, char) => (sum * 31 + char.codePointAt(0)!) % 65_521, 0) % COLOURS;
}
