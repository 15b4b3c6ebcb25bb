"""Talk that is already text, put into a database and an index as if it had been said: for the benchmarks of search.

Policy: rows are copied in bulk, with what the index jobs would have written beside them (ledger, words, languages), so
that a server which starts on this database finds nothing to do; documents go through the index's own `put`.
"""

import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from search.analysis import ANALYSIS, analyse, language_key
from search.model import Edition, EditionState, EmbedderInfo, IndexDocument, ModelVector, Vector
from search.ports import Index
from search.query import nfc
from search.spelling import countable
from server.store.embedded import EmbeddedPostgres
from server.store.migrate import migrate
from server.store.pool import Database

USER = "somebody"
PUT_DOCUMENTS = 500
"""At once: what one transaction takes in a second or two."""


class Talk(msgspec.Struct, frozen=True):
    """A recording. `speakers`: names by label."""

    recording_id: str
    title: str
    language: str
    started_at: datetime
    speakers: dict[str, str] = {}


class Said(msgspec.Struct, frozen=True):
    segment_id: str
    recording_id: str
    speaker: str | None
    start_ms: int
    end_ms: int
    text: str


def temporary() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="parlance-bench-", ignore_cleanup_errors=True)


@asynccontextmanager
async def opened() -> AsyncIterator[Database]:
    """A migrated database in a temporary folder."""
    with temporary() as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres")
        dsn = await server.start()
        await migrate(dsn)
        database = Database(dsn)
        await database.open()
        try:
            yield database
        finally:
            await database.close()
            await server.stop()


async def edition(database: Database, adapter: str, schema: int, info: EmbedderInfo) -> Edition:
    """The current edition of an index, filled: nobody builds it again."""
    async with database.shared_tx() as connection:
        await connection.execute("DELETE FROM index_editions")
        number = await connection.fetchval(
            """INSERT INTO index_editions (adapter, schema, analysis, model, dimensions, similarity_min, state, filled)
               VALUES ($1, $2, $3, $4, $5, $6, 'current', true) RETURNING number""",
            adapter, schema, ANALYSIS, info.model, info.dimensions, info.similarity_min,
        )  # fmt: skip
    return Edition(number, schema, info.model, EditionState.CURRENT)


async def store(owner: asyncpg.Connection, tenant: str, talks: Sequence[Talk], said: Sequence[Said]) -> None:
    """`owner`: a connection that row-level security does not bind. The tenant is new."""
    languages = {talk.recording_id: talk.language for talk in talks}
    analysed = [countable(w.folded for w in analyse(nfc(s.text), languages[s.recording_id]).words) for s in said]
    words = Counter((word, s.recording_id) for s, found in zip(said, analysed, strict=True) for word in found)
    ordinals: Counter[str] = Counter()
    rows = []
    for s in said:
        ordinals[s.recording_id] += 1
        rows.append(
            (tenant, s.recording_id, s.segment_id, ordinals[s.recording_id], 1, s.start_ms, s.end_ms, s.text, "[]",
             s.speaker, languages[s.recording_id], 1.0)
        )  # fmt: skip
    async with owner.transaction():
        await owner.execute("INSERT INTO tenants (tenant_id, name) VALUES ($1, $1)", tenant)
        await owner.execute("INSERT INTO users (tenant_id, user_id, name) VALUES ($1, $2, $2)", tenant, USER)
        await copied(
            owner, "recordings",
            "tenant_id recording_id owner_id title visibility language state engine encoding sample_rate channels "
            "started_at segment_count",
            [(tenant, t.recording_id, USER, t.title, "tenant", t.language, "ended", "bench", "pcm_s16le", 16_000, 1,
              t.started_at, ordinals[t.recording_id]) for t in talks],
        )  # fmt: skip
        names = [(tenant, t.recording_id, label, name) for t in talks for label, name in t.speakers.items()]
        await copied(owner, "recording_speakers", "tenant_id recording_id label name", names)
        await copied(
            owner, "segments",
            "tenant_id recording_id segment_id ordinal rev start_ms end_ms text words speaker language confidence",
            rows,
        )  # fmt: skip
        await copied(
            owner, "segment_ledger", "tenant_id segment_id recording_id rev meaning words",
            [(tenant, s.segment_id, s.recording_id, 1, True, w) for s, w in zip(said, analysed, strict=True)],
        )  # fmt: skip
        counted = [(tenant, word, recording, uses) for (word, recording), uses in sorted(words.items())]
        await copied(owner, "search_words", "tenant_id word recording_id uses", counted)
        keys = sorted({key for talk in talks if (key := language_key(talk.language))})
        await copied(owner, "search_languages", "tenant_id language", [(tenant, key) for key in keys])


async def copied(owner: asyncpg.Connection, name: str, columns: str, rows: Sequence[Sequence[Any]]) -> None:
    await owner.copy_records_to_table(name, columns=columns.split(), records=rows)


def documents(
    talks: Sequence[Talk], said: Sequence[Said], info: EmbedderInfo, vector: Callable[[Said], Vector]
) -> list[IndexDocument]:
    held = {talk.recording_id: talk for talk in talks}
    return [
        IndexDocument(
            segment_id=s.segment_id,
            recording_id=s.recording_id,
            owner_id=USER,
            private=False,
            spoken_at_ms=_ms(held[s.recording_id].started_at + timedelta(milliseconds=s.start_ms)),
            rev=1,
            text=s.text,
            language=held[s.recording_id].language,
            speaker=s.speaker,
            vectors=(ModelVector(info.model, vector(s)),),
        )
        for s in said
    ]


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1_000)


async def put(index: Index, tenant: str, given: Sequence[IndexDocument]) -> None:
    for start in range(0, len(given), PUT_DOCUMENTS):
        await index.put(tenant, given[start : start + PUT_DOCUMENTS])
