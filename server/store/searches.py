"""What people searched for: one's own history, suggestions from it, and the tenant's analytics.

Boundary: SQL on connections from `tenant_tx`. Invariants: history is its owner's; analytics name nobody.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec

from search.settling import Settled
from server.store.pool import Connection

WRITE = """
INSERT INTO searches AS s (tenant_id, search_id, user_id, text, folded, asked_at, hits)
SELECT $1, g.search_id, g.user_id, g.text, g.folded, to_timestamp(g.asked_ms / 1000.0), g.hits
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::int[])
    AS g (search_id, user_id, text, folded, asked_ms, hits)
JOIN users u ON u.tenant_id = $1 AND u.user_id = g.user_id
ORDER BY g.search_id
ON CONFLICT (tenant_id, search_id) DO UPDATE
SET text = excluded.text, folded = excluded.folded, asked_at = excluded.asked_at, hits = excluded.hits
WHERE s.user_id = excluded.user_id
"""
CLICKED = """
UPDATE searches s SET clicks = s.clicks + g.n
FROM unnest($2::text[], $3::int[]) AS g (search_id, n) WHERE s.tenant_id = $1 AND s.search_id = g.search_id
"""
HISTORY = """
SELECT text, (extract(epoch FROM asked_at) * 1000)::bigint AS at, hits FROM (
    SELECT DISTINCT ON (folded) text, asked_at, hits FROM searches
    WHERE tenant_id = $1 AND user_id = $2 ORDER BY folded, asked_at DESC) one_each
ORDER BY asked_at DESC LIMIT $3
"""
BEGUN = """
SELECT text FROM (
    SELECT DISTINCT ON (folded) text, asked_at, hits > 0 AS found FROM searches
    WHERE tenant_id = $1 AND user_id = $2 AND starts_with(folded, $3) AND folded <> $4
    ORDER BY folded, asked_at DESC) one_each
ORDER BY found DESC, asked_at DESC LIMIT $5
"""
DAYS = """
SELECT to_char(asked_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, count(*) AS searches,
       count(*) FILTER (WHERE hits = 0) AS without_hits, count(*) FILTER (WHERE clicks > 0) AS clicked
FROM searches WHERE tenant_id = $1 AND asked_at >= now() - make_interval(days => $2) GROUP BY 1 ORDER BY 1
"""
TOP = """
SELECT (array_agg(text ORDER BY asked_at DESC))[1] AS text, count(*) AS searches,
       count(*) FILTER (WHERE hits = 0) AS without_hits, sum(clicks)::bigint AS clicks
FROM searches WHERE tenant_id = $1 AND asked_at >= now() - make_interval(days => $2) AND (hits = 0 OR NOT $3)
GROUP BY folded ORDER BY count(*) DESC, max(asked_at) DESC LIMIT $4
"""


class Entry(msgspec.Struct, frozen=True):
    """A query of one's own. `at`: Unix milliseconds."""

    text: str
    at: int
    hits: int


class Day(msgspec.Struct, frozen=True):
    """Of one day (UTC): queries, those that found nothing, and those of which a hit was opened."""

    day: str
    searches: int
    without_hits: int
    clicked: int


class Asked(msgspec.Struct, frozen=True):
    """A query, however often and by whomever it was asked; `text` as it was typed last."""

    text: str
    searches: int
    without_hits: int
    clicks: int


class Analytics(msgspec.Struct, frozen=True):
    """`without_hits`: queries that found nothing, of all times that they did not."""

    days: list[Day]
    top: list[Asked]
    without_hits: list[Asked]


async def write(
    connection: Connection, tenant_id: str, searches: Sequence[Settled], clicks: Sequence[str] = ()
) -> None:
    """Remember queries, the later of two with one id, and count opened hits by the ids of their queries. What somebody
    asked who is gone meanwhile is dropped."""
    newest = {search.search_id: search for search in searches}.values()
    if newest:
        await connection.execute(
            WRITE,
            tenant_id,
            [search.search_id for search in newest],
            [search.user_id for search in newest],
            [search.text for search in newest],
            [search.folded for search in newest],
            [search.asked_ms for search in newest],
            [search.hits for search in newest],
        )
    if clicks:
        counts = sorted(Counter(clicks).items())
        await connection.execute(CLICKED, tenant_id, [name for name, _ in counts], [n for _, n in counts])


async def history(connection: Connection, tenant_id: str, user_id: str, limit: int) -> list[Entry]:
    """The user's queries, each once, the newest first."""
    return [Entry(**row) for row in await connection.fetch(HISTORY, tenant_id, user_id, limit)]


async def begun(connection: Connection, tenant_id: str, user_id: str, folded: str, limit: int) -> list[str]:
    """The user's queries that begin with these folded words, but for these themselves: those that found something
    first, then the newest."""
    rows = await connection.fetch(BEGUN, tenant_id, user_id, folded, folded.strip(), limit)
    return [row["text"] for row in rows]


async def clear(connection: Connection, tenant_id: str, user_id: str) -> None:
    """Forget the user's history."""
    await connection.execute("DELETE FROM searches WHERE tenant_id = $1 AND user_id = $2", tenant_id, user_id)


async def analytics(connection: Connection, tenant_id: str, *, days: int, rows: int) -> Analytics:
    """Of the last days; `rows`: of each list of queries."""
    return Analytics(
        days=[Day(**row) for row in await connection.fetch(DAYS, tenant_id, days)],
        top=[Asked(**row) for row in await connection.fetch(TOP, tenant_id, days, False, rows)],
        without_hits=[Asked(**row) for row in await connection.fetch(TOP, tenant_id, days, True, rows)],
    )


async def expire(connection: Connection, *, age_s: float, limit: int) -> int:
    """Delete at most `limit` queries of all tenants that are older than `age_s`; returns how many went."""
    return int(await connection.fetchval("SELECT expire_searches($1, $2)", age_s, limit))
