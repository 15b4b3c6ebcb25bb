/** The published schema agrees with the golden vectors, and so with the server, which is tested on the same files. */

import { Ajv2020, type ErrorObject } from "ajv/dist/2020.js";
import { expect, test } from "vitest";
import schema from "../src/protocol.schema.json" with { type: "json" };
import { clientVectors, serverVectors, withBinary } from "./golden.js";

const ajv = new Ajv2020({ strict: false, allErrors: true });
ajv.addSchema(schema, "protocol");

function problems(group: "client_events" | "server_events", event: string, message: unknown): ErrorObject[] {
  const validate = ajv.getSchema(`protocol#/${group}/${event.replaceAll("/", "~1")}`)!;
  // The schema describes the JSON form, in which binary is base64 text.
  return validate(withBinary(message, (base64) => base64)) ? [] : (validate.errors ?? []);
}

/** The culprit as the server names it: `filters.recording_ids[0]`; null for the object itself. */
function fieldOf(errors: ErrorObject[]): string | null {
  const paths = errors.map(({ instancePath, params }) => {
    const { missingProperty, additionalProperty } = params as Record<string, string | undefined>;
    return instancePath + ["", missingProperty ?? additionalProperty].filter((part) => part !== undefined).join("/");
  });
  // An alternative with null reports itself too: the deepest complaint is the reason.
  const deepest = paths.sort((a, b) => b.split("/").length - a.split("/").length)[0]!;
  const field = deepest.split("/").filter(Boolean).join(".").replace(/\.(\d+)/g, "[$1]");
  return field === "" ? null : field;
}

for (const [event, { valid, invalid }] of Object.entries(clientVectors)) {
  for (const [name, message] of Object.entries(valid)) {
    test(`${event}: ${name} is valid`, () => {
      expect(problems("client_events", event, message)).toEqual([]);
    });
  }
  for (const [name, vector] of Object.entries(invalid)) {
    if (vector.beyond_schema) continue;
    test(`${event}: ${name} is refused`, () => {
      const errors = problems("client_events", event, vector.message);
      expect(errors).not.toEqual([]);
      expect(fieldOf(errors)).toBe(vector.field);
    });
  }
}

for (const [event, messages] of Object.entries(serverVectors)) {
  test(`${event}: what the server sends fits the schema`, () => {
    for (const message of messages) expect(problems("server_events", event, message)).toEqual([]);
  });
}
