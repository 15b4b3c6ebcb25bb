"""The words of a tenant's segments, as a user may see them: `search.ports.Words` on Postgres.

Policy: each recording's words are counted by the transaction that tells of their index (`count`), and taken back when
a segment changes or goes; the vocabulary and the keys of spelling follow by triggers (0015_editions.sql). What may be
offered is looked up recording by recording, so a word of a private recording is its owner's alone, whatever else
decides in which order candidates are looked at. Candidates are capped before they are ranked.

Boundary: SQL under the tenant's row-level security. Invariant: a word is offered only where a recording that the user
may see has it now.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from search.ports import Connection, TenantTransactions
from search.spelling import likeliest, typed_keys
from streaming.limits import LIMITS, Limits

LAST = "\U0010ffff"
"""Sorts behind whatever may follow a prefix."""

_SEEN = """
(SELECT sum(u.uses) FROM (
    SELECT w.uses FROM search_words w JOIN recordings r USING (tenant_id, recording_id)
    WHERE w.tenant_id = $1 AND w.word = c.word AND (r.visibility = 'tenant' OR r.owner_id = $2) LIMIT $3) u)
"""
SEEN = f"""
SELECT c.word, {_SEEN} AS uses FROM unnest($4::text[]) AS c (word)
"""  # noqa: S608
COMPLETE = f"""
SELECT word FROM (
    SELECT c.word, {_SEEN} AS uses FROM (
        SELECT v.word FROM search_vocabulary v WHERE v.tenant_id = $1 AND v.word >= $4 AND v.word < $5
        ORDER BY v.uses DESC, v.word LIMIT $6) c) s
WHERE uses > 0 ORDER BY uses DESC, word LIMIT $7
"""  # noqa: S608
ALIKE = """
SELECT v.word, v.uses FROM search_vocabulary v
JOIN (SELECT DISTINCT k.word FROM search_word_keys k WHERE k.tenant_id = $1 AND k.key = ANY($2) LIMIT $3) k
  ON k.word = v.word
WHERE v.tenant_id = $1
"""
ADD = """
INSERT INTO search_words AS w (tenant_id, word, recording_id, uses)
SELECT $1, c.word, c.recording_id, c.uses FROM unnest($2::text[], $3::text[], $4::int[]) AS c (word, recording_id, uses)
ON CONFLICT (tenant_id, word, recording_id) DO UPDATE SET uses = w.uses + excluded.uses
"""
TAKE = """
UPDATE search_words w SET uses = greatest(w.uses - c.uses, 0)
FROM unnest($2::text[], $3::text[], $4::int[]) AS c (word, recording_id, uses)
WHERE w.tenant_id = $1 AND w.word = c.word AND w.recording_id = c.recording_id
"""
GONE = """
DELETE FROM search_words w USING unnest($2::text[], $3::text[]) AS c (word, recording_id)
WHERE w.tenant_id = $1 AND w.word = c.word AND w.recording_id = c.recording_id AND w.uses = 0
"""
ALIKE_WEIGHED = 20
"""Words alike, of those nearest and most frequent in the tenant, of which the user's are looked up."""


async def lock(connection: Connection, tenant_id: str) -> None:
    """Change this tenant's words alone, until the transaction ends: first in it."""
    await connection.execute("SELECT search_lock($1)", tenant_id)


async def count(connection: Connection, tenant_id: str, changes: Mapping[tuple[str, str], int]) -> None:
    """In how many segments more or fewer words occur, by (recording, word)."""
    more = [(word, recording, by) for (recording, word), by in sorted(changes.items()) if by > 0]
    fewer = [(word, recording, -by) for (recording, word), by in sorted(changes.items()) if by < 0]
    if more:
        await connection.execute(ADD, tenant_id, *map(list, zip(*more, strict=True)))
    if fewer:
        columns = [list(column) for column in zip(*fewer, strict=True)]
        await connection.execute(TAKE, tenant_id, *columns)
        await connection.execute(GONE, tenant_id, *columns[:2])


class StoredWords:
    """`search.ports.Words` in the database that holds the segments."""

    def __init__(self, tenant_tx: TenantTransactions, limits: Limits = LIMITS) -> None:
        self._tenant_tx = tenant_tx
        self._limits = limits

    async def similar(self, tenant_id: str, user_id: str, words: Sequence[str]) -> dict[str, tuple[str, ...]]:
        wanted = {word: keys for word in dict.fromkeys(words) if (keys := typed_keys(word))}
        if not wanted:
            return {}
        found: dict[str, tuple[str, ...]] = {}
        async with self._tenant_tx(tenant_id) as connection:
            said = await self._seen(connection, tenant_id, user_id, list(wanted))
            for word, keys in wanted.items():
                if word in said:
                    continue
                rows: list[Any] = await connection.fetch(ALIKE, tenant_id, keys, self._limits.words_alike_max)
                near = likeliest(word, {row["word"]: row["uses"] for row in rows}, ALIKE_WEIGHED)
                seen = await self._seen(connection, tenant_id, user_id, near)
                if best := likeliest(word, seen, self._limits.words_similar_max):
                    found[word] = tuple(best)
        return found

    async def complete(self, tenant_id: str, user_id: str, prefix: str, limit: int) -> list[str]:
        if not prefix or limit <= 0:
            return []
        async with self._tenant_tx(tenant_id) as connection:
            rows = await connection.fetch(
                COMPLETE,
                tenant_id,
                user_id,
                self._limits.words_weighed_max,
                prefix,
                prefix + LAST,
                self._limits.words_complete_max,
                limit,
            )
        return [row["word"] for row in rows]

    async def _seen(self, connection: Connection, tenant_id: str, user_id: str, words: Sequence[str]) -> dict[str, int]:
        """Of these words those that the user may see, and how often each was said."""
        if not words:
            return {}
        rows = await connection.fetch(SEEN, tenant_id, user_id, self._limits.words_weighed_max, list(words))
        return {row["word"]: int(row["uses"]) for row in rows if row["uses"]}


__all__ = ["StoredWords", "count", "lock"]
