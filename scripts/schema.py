"""Generate what other languages know of the wire: the JSON Schema and the TypeScript types.

`streaming/protocol/messages.py` is the only source; both files are written whole, in a fixed order, so that the same
messages give the same bytes. `python scripts/schema.py` writes them, `--check` says whether they are up to date.
No Node is needed.

Invariant: a construct of JSON Schema that this generator does not know stops it; nothing becomes `any` unseen.
"""

import json
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from streaming.protocol import messages  # noqa: E402

OUT = ROOT / "clients" / "js" / "sdk" / "src"
SCHEMA_FILE = OUT / "protocol.schema.json"
TYPES_FILE = OUT / "protocol.ts"
REF = "#/$defs/"
WIDTH = 120

Schema = Mapping[str, Any]

HEADER = """\
/* Generated from streaming/protocol/messages.py by scripts/schema.py: change it there. */

/** Binary as a client may send it. */
export type Binary = ArrayBuffer | Uint8Array;
"""


def components() -> dict[str, Schema]:
    """JSON Schema of every message type and of what they contain, by name, sorted."""
    types = [*messages.CLIENT_EVENTS.values(), *messages.SERVER_EVENTS.values(), messages.ConnectAuth]
    _, found = msgspec.json.schema_components(types, ref_template=REF + "{name}")
    return dict(sorted(found.items()))


def schema_text() -> str:
    """The JSON Schema document: `$defs` holds the types, the event maps point into it."""

    def refs(events: Mapping[str, type]) -> dict[str, Schema]:
        return {event: {"$ref": REF + kind.__name__} for event, kind in events.items()}

    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Parlance wire protocol, version 1",
        "connect_auth": {"$ref": REF + messages.ConnectAuth.__name__},
        "client_events": refs(messages.CLIENT_EVENTS),
        "server_events": refs(messages.SERVER_EVENTS),
        "unacknowledged": sorted(messages.UNACKNOWLEDGED),
        "durable_events": sorted(messages.DURABLE_EVENTS),
        "$defs": components(),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def type_of(schema: Schema) -> str:
    """The TypeScript type of one JSON Schema node. Raises `NotImplementedError` for a node it does not know."""
    match schema:
        case {"$ref": str(ref)}:
            return ref.removeprefix(REF)
        case {"anyOf": options}:
            return " | ".join(type_of(option) for option in options)
        case {"enum": values}:
            return " | ".join(json.dumps(value) for value in values)
        case {"type": "string", "contentEncoding": "base64"}:
            return "Binary"
        case {"type": "string" | "boolean" | "null" as name}:
            return str(name)
        case {"type": "integer" | "number"}:
            return "number"
        case {"type": "array", "prefixItems": items}:
            return f"[{', '.join(type_of(item) for item in items)}]"
        case {"type": "array", "items": items}:
            inner = type_of(items)
            return f"({inner})[]" if " " in inner and not inner.startswith("[") else f"{inner}[]"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"Record<string, {type_of(values)}>"
    raise NotImplementedError(f"scripts/schema.py cannot express {json.dumps(schema)} in TypeScript")


def comment(text: str, indent: str = "") -> list[str]:
    """A documentation comment; paragraphs of a docstring are joined and wrapped anew."""
    joined = " ".join(text.split())
    if len(indent) + len(joined) + len("/**  */") <= WIDTH:
        return [f"{indent}/** {joined} */"]
    wrapped = textwrap.wrap(joined, WIDTH - len(indent) - 3)
    return [f"{indent}/**", *(f"{indent} * {line}" for line in wrapped), f"{indent} */"]


def is_optional(name: str, schema: Schema, *, from_client: bool) -> bool:
    """A client may leave out what has a default; the server writes defaults out and leaves out only unset fields."""
    if name in schema.get("required", ()):
        return False
    return from_client or "default" not in schema["properties"][name]


def interface(name: str, schema: Schema) -> list[str]:
    """One message type as an exported interface."""
    from_client = schema.get("additionalProperties") is False
    lines = comment(schema["description"]) if "description" in schema else []
    lines.append(f"export interface {name} {{")
    for field, node in schema["properties"].items():
        mark = "?" if is_optional(field, schema, from_client=from_client) else ""
        if from_client and "default" in node and node["default"] not in (None, []):
            lines += comment(f"Default: {json.dumps(node['default'])}.", "  ")
        lines.append(f"  {field}{mark}: {type_of(node)};")
    lines.append("}")
    return lines


def event_map(name: str, doc: str, events: Iterable[tuple[str, str]]) -> list[str]:
    return [*comment(doc), f"export interface {name} {{", *(f"  {json.dumps(e)}: {t};" for e, t in events), "}"]


def types_text() -> str:
    """protocol.ts: an interface for each message, the event maps, and the names of durable events."""
    blocks = [interface(name, schema) for name, schema in components().items()]
    blocks.append(
        [
            *comment("What the room's log adds to a durable event. `at`: Unix milliseconds."),
            "export interface Logged {",
            *("  event: string;", "  room: string;", "  seq: number;", "  at: number;"),
            "}",
        ]
    )
    client = ((event, kind.__name__) for event, kind in messages.CLIENT_EVENTS.items())
    blocks.append(event_map("ClientEvents", "What a client may send.", client))
    server = (
        (event, kind.__name__ + (" & Logged" if event in messages.DURABLE_EVENTS else ""))
        for event, kind in messages.SERVER_EVENTS.items()
    )
    blocks.append(event_map("ServerEvents", "What the server sends, as it arrives.", server))
    for name, doc, events in (
        ("UNACKNOWLEDGED", "Client events without an acknowledgement.", messages.UNACKNOWLEDGED),
        ("DURABLE_EVENTS", "Server events of a room's log.", messages.DURABLE_EVENTS),
    ):
        blocks.append([*comment(doc), f"export const {name} = {json.dumps(sorted(events))} as const;"])
    return HEADER + "\n" + "\n\n".join("\n".join(block) for block in blocks) + "\n"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: schema.py [--check]", file=sys.stderr)
        return 2
    wanted = {SCHEMA_FILE: schema_text(), TYPES_FILE: types_text()}
    if not arguments:
        for path, text in wanted.items():
            path.write_text(text, encoding="utf-8")
        return 0
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if stale:
        names = " and ".join(str(path.relative_to(ROOT)) for path in stale)
        print(f"{names} do not match streaming/protocol/messages.py; run scripts/schema.py.", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
