"""Give every segment the vector that search by meaning needs, whenever a model is there to make it.

Policy: vectors are derived, so nothing queues them: the database says which segments lack one of the present model,
the newest first, so live talk overtakes a backlog. Looked for when the index job has put something and every few
seconds. With a backlog the filler rests for as long as it worked, which leaves half of a core to captions, and stands
back while people's own words wait for the index. While a model changes only the new one's vectors are made: what is
said meanwhile is found by it.
What fails is tried again text by text; a text that the model fails on, while it embeds another, is set aside.

Boundary: `Vectors` and `Embedder`; a lost database or worker is waited for. Two nodes may do the same: the result is
the same. Invariant: no text is held longer than one round, and no failure repeats without a pause.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from search.embed import in_calls
from search.model import DueText, EmbedderInfo, TextVector
from search.ports import CannotEmbed, Embedder, Vectors
from server.jobs.queue import pause_s
from streaming.aio import Signal
from streaming.errors import Unavailable, WorkerLost
from streaming.protocol.messages import StatusTask

log = logging.getLogger(__name__)

ROUND_SEGMENTS = 64
"""Segments looked up at once: 0.2 s of work, after which newer ones come first again."""
IDLE_S = 2.0
"""Other nodes index segments too, and do not wake this one."""
REST_S_MAX = 1.0
COUNT_EVERY_S = 5.0
"""Counting a million due rows takes 0.1 s."""
RETRY_S_MIN, RETRY_S_MAX = 0.5, 30.0
ATTEMPTS_MAX = 3
"""Losses of the worker over one text alone until it is set aside."""
CANARY = "The model works."


class VectorFiller:
    """A component: `run` works until it is cancelled. `wake`: there is something new in the index."""

    def __init__(self, vectors: Vectors, embedder: Embedder, busy: Callable[[], bool] = lambda: False) -> None:
        """`busy`: live segments wait for the index."""
        self._vectors = vectors
        self._embedder = embedder
        self._busy = busy
        self._wake = Signal()
        self._backlog = _Backlog()

    def wake(self) -> None:
        self._wake.set()

    @property
    def task(self) -> StatusTask | None:
        """How far it has caught up, None when there is no backlog."""
        return self._backlog.task

    async def run(self) -> None:
        """Fill in vectors; whatever is lost is waited for."""
        failures = 0
        while True:
            await self._embedder.ready()
            began = time.monotonic()
            try:
                found, done = await self._round()
                failures = 0
                backlog = found == ROUND_SEGMENTS and done
                rest = min(time.monotonic() - began, REST_S_MAX) if backlog and not self._busy() else IDLE_S
            except (Unavailable, CannotEmbed) as error:
                log.warning("vectors wait", extra={"error": type(error).__name__})
                rest = pause_s(failures, RETRY_S_MIN, RETRY_S_MAX)
                failures += 1
                await asyncio.sleep(rest)
                continue
            await self._pause(rest)

    async def _pause(self, seconds: float) -> None:
        """Rest, unless something new comes."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _round(self) -> tuple[int, int]:
        """One look; returns how many segments were found due, and how many got their vector."""
        info = self._embedder.info
        if info is None:
            raise WorkerLost("the embedder is not ready")
        names = await self._vectors.due(info.model, ROUND_SEGMENTS)
        await self._watch_backlog(info, len(names))
        tenants: dict[str, list[str]] = {}
        for name in names:
            tenants.setdefault(name.tenant_id, []).append(name.segment_id)
        done = 0
        for tenant_id, segment_ids in tenants.items():
            texts = await self._vectors.due_texts(tenant_id, segment_ids)
            by_text = [text.text for text in texts]
            for part in in_calls(by_text):
                now, texts = texts[: len(part)], texts[len(part) :]
                kept = await self._vectors.put_vectors(tenant_id, info.model, await self._embed(info, now))
                done += kept
                self._backlog.shrink(kept)
        return len(names), done

    async def _watch_backlog(self, info: EmbedderInfo, found: int) -> None:
        now = time.monotonic()
        if found < ROUND_SEGMENTS:
            self._backlog = _Backlog()
        elif self._backlog.is_stale(now):
            self._backlog.counted(await self._vectors.due_count(info.model), now)

    async def _embed(self, info: EmbedderInfo, texts: Sequence[DueText]) -> list[TextVector]:
        """All together; if that fails, each alone. Raises `Unavailable` when it is not for a text."""
        told = [text for text in texts if text.text.strip()]
        silent = [TextVector(text.segment_id, text.mark, None) for text in texts if not text.text.strip()]
        try:
            vectors = await self._embedder.embed([text.text for text in told]) if told else []
        except (WorkerLost, CannotEmbed) as error:
            log.warning("texts are embedded one by one", extra={"error": type(error).__name__, "texts": len(told)})
            return silent + [await self._embed_alone(info, text) for text in told]
        if self._embedder.info != info:
            raise WorkerLost("another model came up")
        made = zip(told, vectors, strict=True)
        return silent + [TextVector(text.segment_id, text.mark, vector) for text, vector in made]

    async def _embed_alone(self, info: EmbedderInfo, text: DueText) -> TextVector:
        """Its vector, or None in its place when the model fails on this text and on no other."""
        for _attempt in range(ATTEMPTS_MAX):
            await self._embedder.ready()
            try:
                (vector,) = await self._embedder.embed([text.text])
            except CannotEmbed:
                break
            except WorkerLost:
                continue
            if self._embedder.info != info:
                raise WorkerLost("another model came up")
            return TextVector(text.segment_id, text.mark, vector)
        await self._embedder.ready()
        await self._embedder.embed([CANARY])
        log.error("a text is set aside: the model fails on it", extra={"segment": text.segment_id})
        return TextVector(text.segment_id, text.mark, None)


class _Backlog:
    """How much there was and is to do, counted from time to time."""

    def __init__(self) -> None:
        self._total = 0
        self._left = 0
        self._counted_at: float | None = None

    def is_stale(self, now: float) -> bool:
        return self._counted_at is None or now - self._counted_at >= COUNT_EVERY_S

    def counted(self, left: int, now: float) -> None:
        done = self._total - self._left
        self._left = left
        self._total = done + left
        self._counted_at = now

    def shrink(self, done: int) -> None:
        self._left = max(0, self._left - done)

    @property
    def task(self) -> StatusTask | None:
        if self._counted_at is None:
            return None
        done = self._total - self._left
        text = f"{done:,} of {self._total:,} segments can be found by their meaning."
        return StatusTask(name="vectors", state="running", fraction=done / max(1, self._total), text=text)


__all__ = ["VectorFiller"]
