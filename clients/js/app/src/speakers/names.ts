/** What a speaker is called on the page. Pure. */

/** The name, or "Speaker 1" for the label S1; labels given by people (P1) are called "Person 1". */
export function speakerName(label: string, names: ReadonlyMap<string, string>): string {
  const name = names.get(label);
  if (name !== undefined) return name;
  const numbered = /^([SP])([1-9]\d*)$/.exec(label);
  return numbered ? `${numbered[1] === "S" ? "Speaker" : "Person"} ${numbered[2]}` : label;
}
