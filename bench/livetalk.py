"""Finals as another node commits them, without audio: for benchmarks of what comes after the commit."""

import time

import msgspec

from bench import filling
from server.app import enqueue_finals
from server.indexing import Silent
from server.store.commits import Committer
from server.store.pool import Database
from server.store.segments import FinalWrite
from streaming.limits import LIMITS
from streaming.model import Segment

LETTERS = "abcdefghijklmnopqrstuvwxyz"
FINAL_MS = 5_000


class Talker(msgspec.Struct):
    """A live recording. `ordinal`: of its next final."""

    tenant: str
    recording_id: str
    ordinal: int = 1

    def says(self, text: str) -> FinalWrite:
        ordinal, at_ms = self.ordinal, self.ordinal * FINAL_MS
        self.ordinal += 1
        name = f"{self.recording_id}-{ordinal}"
        segment = Segment(name, ordinal, 1, at_ms, at_ms + FINAL_MS - 1_000, text, (), "S1", "en", 1.0)
        return FinalWrite(self.tenant, self.recording_id, 1, segment, ordinal)


def committer(database: Database) -> Committer:
    """Nobody of this process listens; nodes hear of index events from their jobs."""
    return Committer(database, Silent(), enqueue_finals, LIMITS)


async def begun(database: Database, tenant: str, user: str = filling.USER) -> Talker:
    """As a stream begins a recording; its owner is there already."""
    name = f"{tenant}-live-{time.time_ns()}"
    async with database.tenant_tx(tenant) as connection:
        await connection.execute(
            """INSERT INTO recordings (tenant_id, recording_id, owner_id, title, visibility, language, state, engine,
                                       encoding, sample_rate, channels)
               VALUES ($1, $2, $3, 'Live', 'tenant', 'en', 'live', 'bench', 'pcm_s16le', 16000, 1)""",
            tenant, name, user,
        )  # fmt: skip
        await connection.execute(
            """INSERT INTO streams (tenant_id, recording_id, stream_id, epoch, node, lease_until, resume_token_hash)
               VALUES ($1, $2, $2, 1, 'another', now() + interval '1 day', '')""",
            tenant, name,
        )  # fmt: skip
    return Talker(tenant, name)


def coined(number: int) -> str:
    """A word that no dictionary has, another for each number."""
    digits = []
    while number:
        number, digit = divmod(number, len(LETTERS))
        digits.append(LETTERS[digit])
    return "qzx" + "".join(digits) + "q"
