"""What is to be indexed, and what was: documents read from the truth, and the ledger of what was told of them.

Policy: `documents` also marks which vectors are due, before a changed text is put anywhere, so nothing is found by what
it no longer means. `settle` looks again after the put: what changed meanwhile is returned and put again by the caller;
of the rest it writes, in one transaction, which words were said (`server.store.words`), in which languages, and the
event `segments:indexed` in the room `index:<tenant>`. Each (segment, revision, stage) is told once: a segment's words
when they can be found, its meaning when its vector came, "all" where both came together.

Boundary: SQL on connections from `tenant_tx`. Invariant: nothing is told of a revision that was not put, as far as the
caller put what it says it did.
"""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from search.analysis import analyse
from search.model import IndexDocument, ModelVector
from search.query import nfc
from search.spelling import countable
from server.store import feed, words
from server.store.pool import Connection
from server.store.transcripts import note_languages

Stage = Literal["words", "meaning", "all"]

DUE = """
WITH held AS (
    SELECT s.segment_id, s.text, r.started_at + s.start_ms * interval '1 ms' AS spoken_at
    FROM segments s JOIN recordings r USING (tenant_id, recording_id)
    WHERE s.tenant_id = $1 AND s.segment_id = ANY($2) ORDER BY s.segment_id FOR KEY SHARE OF s
)
INSERT INTO segment_vectors AS v (tenant_id, segment_id, model, spoken_at, text_key)
SELECT $1, h.segment_id, m.model, h.spoken_at, hashtextextended(h.text, 0)
FROM held h CROSS JOIN unnest($3::text[]) AS m (model) ORDER BY h.segment_id, m.model
ON CONFLICT (tenant_id, segment_id, model) DO UPDATE
SET text_key = excluded.text_key, spoken_at = excluded.spoken_at, due = true, searched = false, embedding = NULL
WHERE v.text_key <> excluded.text_key
"""
"""Locked in one order by all writers, and the segments first, so that none goes meanwhile."""
_FACTS = """
s.segment_id, s.recording_id, s.rev, s.language, s.speaker, r.owner_id, r.visibility = 'private' AS private,
(extract(epoch FROM r.started_at) * 1000)::bigint + s.start_ms AS spoken_at_ms
"""
_SEGMENTS = """
FROM segments s JOIN recordings r USING (tenant_id, recording_id) WHERE s.tenant_id = $1 AND s.segment_id = ANY($2)
"""
CURRENT = f"SELECT {_FACTS}, s.text {_SEGMENTS} ORDER BY s.segment_id"
_VECTORS = """
FROM segment_vectors v WHERE v.tenant_id = s.tenant_id AND v.segment_id = s.segment_id AND v.embedding IS NOT NULL
  AND v.text_key = hashtextextended(s.text, 0) AND v.model = ANY($3)
"""
VECTORS = f"""
SELECT s.segment_id, x.model, x.embedding
FROM segments s CROSS JOIN LATERAL (SELECT v.model, v.embedding::real[] AS embedding {_VECTORS}) x
WHERE s.tenant_id = $1 AND s.segment_id = ANY($2) ORDER BY x.model
"""  # noqa: S608
LOOK = f"""
SELECT {_FACTS}, ARRAY(SELECT v.model {_VECTORS} ORDER BY v.model) AS models {_SEGMENTS}
"""
FACTS = f"""
SELECT s.segment_id, s.rev, ARRAY(SELECT v.model {_VECTORS} ORDER BY v.model) AS models
FROM segments s WHERE s.tenant_id = $1 AND s.segment_id = ANY($2)
"""  # noqa: S608
LEDGER = """
SELECT segment_id, recording_id, rev, meaning, words FROM segment_ledger
WHERE tenant_id = $1 AND segment_id = ANY($2)
"""
WRITE = """
INSERT INTO segment_ledger AS l (tenant_id, segment_id, recording_id, rev, meaning, words)
SELECT $1, x.* FROM unnest($2::text[], $3::text[], $4::int[], $5::boolean[]) WITH ORDINALITY
    AS u (segment_id, recording_id, rev, meaning, n)
CROSS JOIN LATERAL (
    SELECT u.segment_id, u.recording_id, u.rev, u.meaning, string_to_array(($6::text[])[u.n], ' ')) x
ON CONFLICT (tenant_id, segment_id) DO UPDATE
SET rev = excluded.rev, meaning = excluded.meaning, words = excluded.words
"""
FORGET = "DELETE FROM segment_ledger WHERE tenant_id = $1 AND segment_id = ANY($2)"


class Entry(msgspec.Struct, frozen=True):
    """A segment's line in the ledger. `rev`: the last one that was told, 0 for none; `meaning`: with its vector."""

    recording_id: str
    rev: int = 0
    meaning: bool = False
    words: tuple[str, ...] = ()


class Fact(msgspec.Struct, frozen=True):
    """What the index should hold of a segment. `models`: those that have its vector."""

    segment_id: str
    rev: int
    models: tuple[str, ...]


class Settled(msgspec.Struct, frozen=True):
    """`changed`: to be put again, nothing was written of them; `events`: to be announced after the commit."""

    changed: list[str]
    events: list[feed.Event]


async def documents(
    connection: Connection, tenant_id: str, segment_ids: Sequence[str], models: Sequence[str]
) -> list[IndexDocument]:
    """These segments as they are now, with their vectors of these models; without those that are gone."""
    wanted = sorted(segment_ids)
    if models:
        await connection.execute(DUE, tenant_id, wanted, list(models))
    rows = await connection.fetch(CURRENT, tenant_id, wanted)
    vectors: dict[str, list[ModelVector]] = {}
    if models and rows:
        for row in await connection.fetch(VECTORS, tenant_id, wanted, list(models)):
            values = np.asarray(row["embedding"], dtype=np.float32)
            vectors.setdefault(row["segment_id"], []).append(ModelVector(row["model"], values))
    return [IndexDocument(**row, vectors=tuple(vectors.get(row["segment_id"], ()))) for row in rows]


async def facts(
    connection: Connection, tenant_id: str, segment_ids: Sequence[str], models: Sequence[str]
) -> list[Fact]:
    """Of those segments that there are."""
    rows = await connection.fetch(FACTS, tenant_id, sorted(segment_ids), list(models))
    return [Fact(row["segment_id"], row["rev"], tuple(row["models"])) for row in rows]


async def settle(
    connection: Connection,
    tenant_id: str,
    put: Mapping[str, IndexDocument | None],
    models: Sequence[str],
    *,
    tell: Collection[str],
) -> Settled:
    """`put`: what was put of each segment, None where it was removed; `tell`: of which of them to tell."""
    await words.lock(connection, tenant_id)
    rows = await connection.fetch(LOOK, tenant_id, sorted(put), list(models))
    now = {row["segment_id"]: _state(row, row["models"]) for row in rows}
    changed = [name for name, document in put.items() if now.get(name) != _state_of(document)]
    stable = {name: document for name, document in put.items() if name not in set(changed)}
    held = {row["segment_id"]: _entry(row) for row in await connection.fetch(LEDGER, tenant_id, sorted(stable))}
    counts: Counter[tuple[str, str]] = Counter()
    entries: dict[str, Entry] = {}
    told: list[list[object]] = []
    for name, document in stable.items():
        before = held.get(name)
        if document is None:
            counts.update({(before.recording_id, word): -1 for word in before.words} if before else {})
            continue
        entry, stage = entered(document, before, tell=name in tell)
        for word in entry.words:
            counts[document.recording_id, word] += 1
        for word in before.words if before else ():
            counts[document.recording_id, word] -= 1
        if entry != before:
            entries[name] = entry
        if stage is not None:
            told.append([name, document.recording_id, document.rev, stage])
    await words.count(connection, tenant_id, {key: by for key, by in counts.items() if by})
    await _write(connection, tenant_id, entries, gone=[n for n, d in stable.items() if d is None and n in held])
    await note_languages(connection, tenant_id, [d.language for d in stable.values() if d is not None])
    events: list[feed.Event] = []
    if told:
        draft = feed.Draft(room(tenant_id), "segments:indexed", {"segments": told})
        events = await feed.append(connection, tenant_id, [draft], at_ms=time.time_ns() // 1_000_000)
    return Settled(changed, events)


def room(tenant_id: str) -> str:
    """Of the event log, where a tenant's index jobs tell what can be found now."""
    return f"index:{tenant_id}"


def entered(document: IndexDocument, before: Entry | None, *, tell: bool) -> tuple[Entry, Stage | None]:
    """The ledger's line after a put of `document`, and what to tell. Pure."""
    has_meaning = bool(document.vectors)
    said = tuple(countable(span.folded for span in analyse(nfc(document.text), document.language).words))
    before = before or Entry(document.recording_id)
    stage: Stage | None = None
    rev, meaning = before.rev, before.meaning
    if tell and document.rev > before.rev:
        rev, meaning = document.rev, has_meaning
        stage = "all" if has_meaning else "words"
    elif tell and document.rev == before.rev and has_meaning and not before.meaning:
        meaning, stage = True, "meaning"
    return Entry(document.recording_id, rev, meaning, said), stage


async def _write(connection: Connection, tenant_id: str, entries: Mapping[str, Entry], *, gone: Sequence[str]) -> None:
    if entries:
        lines = sorted(entries.items())
        await connection.execute(
            WRITE,
            tenant_id,
            [name for name, _ in lines],
            [entry.recording_id for _, entry in lines],
            [entry.rev for _, entry in lines],
            [entry.meaning for _, entry in lines],
            [" ".join(entry.words) for _, entry in lines],
        )
    if gone:
        await connection.execute(FORGET, tenant_id, sorted(gone))


def _entry(row: Any) -> Entry:
    return Entry(row["recording_id"], row["rev"], row["meaning"], tuple(row["words"]))


def _state(row: Any, models: Sequence[str]) -> tuple[object, ...]:
    """All that a document is made of, as a value; its text changes with `rev`."""
    return (
        row["recording_id"], row["rev"], row["language"], row["speaker"], row["owner_id"], row["private"],
        row["spoken_at_ms"], tuple(models),
    )  # fmt: skip


def _state_of(document: IndexDocument | None) -> tuple[object, ...] | None:
    if document is None:
        return None
    return (
        document.recording_id, document.rev, document.language, document.speaker, document.owner_id, document.private,
        document.spoken_at_ms, tuple(sorted(vector.model for vector in document.vectors)),
    )  # fmt: skip


__all__ = ["Entry", "Fact", "Settled", "Stage", "documents", "entered", "facts", "room", "settle"]
