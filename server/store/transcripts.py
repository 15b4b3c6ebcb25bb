"""Segments as they are now and as a user may see them: `search.ports.Transcripts` on Postgres.

Boundary: SQL under the tenant's row-level security, plus the user's own right to private recordings, which every
statement here states. Invariant: text that a user may not see never leaves the database.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from search.analysis import language_key
from search.model import Beside, Shown
from search.ports import Connection, TenantTransactions
from search.query import nfc
from streaming.limits import LIMITS, Limits

LANGUAGES = "SELECT language FROM search_languages WHERE tenant_id = $1 ORDER BY language"
NOTE = """
INSERT INTO search_languages (tenant_id, language) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING
"""
SPOKEN_BY = """
SELECT n.recording_id, n.label FROM recording_speakers n JOIN recordings r USING (tenant_id, recording_id)
WHERE n.tenant_id = $1 AND lower(n.name) = ANY (SELECT lower(s) FROM unnest($2::text[]) s)
ORDER BY r.started_at DESC, n.recording_id, n.label LIMIT $3
"""
SHOWN = """
SELECT s.segment_id, s.recording_id, r.title, s.speaker, s.start_ms, s.end_ms, s.rev, s.text, s.language
FROM segments s JOIN recordings r USING (tenant_id, recording_id)
WHERE s.tenant_id = $1 AND s.segment_id = ANY($3) AND (r.visibility = 'tenant' OR r.owner_id = $2)
"""
_BESIDE = """
(SELECT s.segment_id AS of, true AS earlier, n.*
 FROM segments s CROSS JOIN LATERAL (
    SELECT b.segment_id, b.speaker, b.start_ms, b.end_ms, b.text, b.ordinal FROM segments b
    WHERE b.tenant_id = $1 AND b.recording_id = s.recording_id
      AND (b.start_ms, b.ordinal, b.segment_id) < (s.start_ms, s.ordinal, s.segment_id)
    ORDER BY b.start_ms DESC, b.ordinal DESC, b.segment_id DESC LIMIT $3) n
 WHERE s.tenant_id = $1 AND s.segment_id = ANY($2))
"""
_AFTER = _BESIDE.replace("true AS", "false AS").replace(") < (", ") > (").replace(" DESC", "")
BESIDE = f"{_BESIDE} UNION ALL {_AFTER} ORDER BY start_ms, ordinal, segment_id"
"""Of segments that may be seen: neighbours share their recording, which is what may or may not be seen."""


async def note_languages(connection: Connection, tenant_id: str, languages: Sequence[str]) -> None:
    """The tenant has texts in these languages (BCP 47 tags), within the transaction that tells of their index."""
    keys = sorted({key for key in map(language_key, languages) if key})
    if keys:
        await connection.execute(NOTE, tenant_id, keys)


class StoredTranscripts:
    """`search.ports.Transcripts` in the database that holds the segments."""

    def __init__(
        self, tenant_tx: TenantTransactions, limits: Limits = LIMITS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tenant_tx = tenant_tx
        self._limits = limits
        self._clock = clock
        self._languages: dict[str, tuple[float, tuple[str, ...]]] = {}

    async def languages(self, tenant_id: str) -> tuple[str, ...]:
        held = self._languages.get(tenant_id)
        now = self._clock()
        if held is not None and now < held[0]:
            return held[1]
        async with self._tenant_tx(tenant_id) as connection:
            rows = await connection.fetch(LANGUAGES, tenant_id)
        found = tuple(row["language"] for row in rows)
        self._languages.pop(tenant_id, None)
        while len(self._languages) >= self._limits.search_tenants_held_max:
            del self._languages[next(iter(self._languages))]
        self._languages[tenant_id] = (now + self._limits.search_languages_ms_max / 1000, found)
        return found

    async def spoken_by(self, tenant_id: str, names: Sequence[str]) -> list[tuple[str, str]]:
        async with self._tenant_tx(tenant_id) as connection:
            rows = await connection.fetch(SPOKEN_BY, tenant_id, list(names), self._limits.search_named_max)
        return [(row["recording_id"], row["label"]) for row in rows]

    async def shown(
        self, tenant_id: str, user_id: str, segment_ids: Sequence[str], *, around: int = 0
    ) -> dict[str, Shown]:
        if not segment_ids:
            return {}
        beside: list[Any] = []
        async with self._tenant_tx(tenant_id) as connection:
            rows = await connection.fetch(SHOWN, tenant_id, user_id, list(segment_ids))
            if around and rows:
                seen = [row["segment_id"] for row in rows]
                beside = await connection.fetch(BESIDE, tenant_id, seen, around)
        before, after = _neighbours(beside, True), _neighbours(beside, False)
        return {
            row["segment_id"]: Shown(
                segment_id=row["segment_id"],
                recording_id=row["recording_id"],
                title=row["title"],
                speaker=row["speaker"],
                start_ms=row["start_ms"],
                end_ms=row["end_ms"],
                rev=row["rev"],
                text=nfc(row["text"]),
                language=row["language"],
                before=tuple(before.get(row["segment_id"], ())),
                after=tuple(after.get(row["segment_id"], ())),
            )
            for row in rows
        }


def _neighbours(rows: Sequence[Any], earlier: bool) -> dict[str, list[Beside]]:
    found: dict[str, list[Beside]] = {}
    for row in rows:
        if row["earlier"] is earlier:
            beside = Beside(row["segment_id"], row["speaker"], row["start_ms"], row["end_ms"], nfc(row["text"]))
            found.setdefault(row["of"], []).append(beside)
    return found


__all__ = ["StoredTranscripts", "note_languages"]
