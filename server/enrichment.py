"""What the models environment adds to finals after they were announced: vectors for search, exact word times.

Policy: nothing waits for it. The environment may arrive long after the server; its workers start when it is whole, and
both fillers then catch up on what was said before. Without an environment all of it is simply absent, and told so.

Boundary: a part of the composition (`server.app`); the workers and fillers know nothing of each other.
"""

import asyncio
from collections.abc import Sequence

from search.ports import Embedder, Index
from server.config import Config
from server.jobs.align import AlignmentFiller
from server.jobs.audio import RecordedAudio
from server.jobs.vectors import VectorFiller
from server.media.playback import Playback
from server.media.ports import Media
from server.models.cache import alignment_languages, cache_folder, torch_checkpoints
from server.models.environment import REQUIREMENTS, ROOT, ModelsEnvironment, find_uv, place
from server.rooms.hub import Hub
from server.store.pool import Database
from server.workers.aligner import LocalAligner
from server.workers.embedder import LocalEmbedder
from streaming.limits import Limits
from streaming.protocol.messages import StatusTask

WEIGHTS_LOOK_S = 30.0
"""Between looks for alignment weights: some fifty file names."""


class Enrichment:
    """`run` is a component; `embedder` is None where there never is one."""

    def __init__(
        self,
        config: Config,
        *,
        database: Database,
        index: Index,
        media: Media,
        playback: Playback,
        hub: Hub,
        limits: Limits,
    ) -> None:
        folder = place(config.models_env, ROOT)
        self._environment = ModelsEnvironment(
            folder, requirements=ROOT / REQUIREMENTS, uv=find_uv(ROOT), offline=config.offline, limits=limits
        )
        self.embedder: Embedder | None = None
        self._vectors: VectorFiller | None = None
        self._aligner: LocalAligner | None = None
        self._alignment: AlignmentFiller | None = None
        if folder is None:
            return
        python, cache = self._environment.python, config.data_dir / "models"
        self._embedder = LocalEmbedder(
            python, model=config.embedding_model, cache=cache, limits=limits, offline=config.offline
        )
        self.embedder = self._embedder
        self._vectors = VectorFiller(index, self._embedder)
        self._aligner = LocalAligner(python, model=config.align_model, limits=limits)
        audio = RecordedAudio(database, media, playback)
        self._alignment = AlignmentFiller(database, self._aligner, audio, hub, limits)

    @property
    def vectors(self) -> bool:
        """Search by meaning works."""
        return self.embedder is not None and self.embedder.info is not None

    @property
    def languages(self) -> Sequence[str]:
        """Languages whose finals get exact word times."""
        return self._aligner.languages if self._aligner is not None else ()

    @property
    def tasks(self) -> list[StatusTask]:
        filling = self._vectors.task if self._vectors is not None else None
        return [task for task in (self._environment.task, filling) if task is not None]

    def indexed(self) -> None:
        """The index has something new."""
        if self._vectors is not None:
            self._vectors.wake()

    async def run(self) -> None:
        """Install what is missing, then keep workers and fillers going."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._environment.run(), name="models environment")
            group.create_task(self._work(), name="enrichment")

    async def _work(self) -> None:
        await self._environment.ready()
        assert self._vectors is not None
        assert self._aligner is not None
        assert self._alignment is not None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._embedder.run(), name="embedder")
            group.create_task(self._vectors.run(), name="vectors")
            group.create_task(self._aligner.run(), name="aligner")
            group.create_task(self._alignment.run(), name="alignment")
            group.create_task(self._look_for_weights(self._aligner), name="weights")

    async def _look_for_weights(self, aligner: LocalAligner) -> None:
        """`parlance models pull` tells nobody."""
        known = await asyncio.to_thread(alignment_languages, cache_folder(), torch_checkpoints())
        while True:
            await asyncio.sleep(WEIGHTS_LOOK_S)
            here = await asyncio.to_thread(alignment_languages, cache_folder(), torch_checkpoints())
            if here != known:
                known = here
                aligner.recheck()
