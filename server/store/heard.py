"""Segments as subscriptions see them: what is said, by whom, in which recording, and what it means.

Boundary: SQL on a connection from `tenant_tx`. Rights of users are the caller's: it gets private segments too.
"""

from collections.abc import Sequence

import numpy as np

from search.live import Heard, Stage
from search.model import ModelVector
from search.query import nfc
from server.store.ledger import VECTORS
from server.store.pool import Connection

SAID = """
SELECT s.segment_id, s.recording_id, r.owner_id, r.visibility = 'private' AS private, r.title, s.speaker,
       n.name AS speaker_name, s.start_ms, s.end_ms, s.rev, s.text, s.language,
       (extract(epoch FROM r.started_at) * 1000)::bigint + s.start_ms AS spoken_at_ms
FROM segments s JOIN recordings r USING (tenant_id, recording_id)
LEFT JOIN recording_speakers n
  ON n.tenant_id = s.tenant_id AND n.recording_id = s.recording_id AND n.label = s.speaker
WHERE s.tenant_id = $1 AND s.segment_id = ANY($2)
"""


async def said(
    connection: Connection, tenant_id: str, segment_ids: Sequence[str], *, meant: Sequence[str], models: Sequence[str]
) -> dict[str, Heard]:
    """These segments as they are now, of stage ALL, those of `meant` with their vectors of these models; without those
    that are gone."""
    vectors: dict[str, list[ModelVector]] = {}
    if models and meant:
        for row in await connection.fetch(VECTORS, tenant_id, list(meant), list(models)):
            values = np.asarray(row["embedding"], dtype=np.float32)
            vectors.setdefault(row["segment_id"], []).append(ModelVector(row["model"], values))
    heard = {}
    for row in await connection.fetch(SAID, tenant_id, list(segment_ids)):
        name = row["segment_id"]
        fields = {**row, "text": nfc(row["text"])}
        heard[name] = Heard(**fields, stage=Stage.ALL, vectors=tuple(vectors.get(name, ())))
    return heard
