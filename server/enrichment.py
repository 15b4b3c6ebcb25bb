"""What the models environment adds to finals after they were announced: vectors for search, exact word times, speakers.

Policy: nothing waits for it. The environment may arrive long after the server; its workers start when it is whole, and
both fillers then catch up on what was said before. Without an environment all of it is simply absent, and told so.

Boundary: a part of the composition (`server.app`); the workers and fillers know nothing of each other.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from search.ports import Embedder
from server.config import Config
from server.indexing import Indexing
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
from server.workers.diariser import LocalDiariser
from server.workers.embedder import LocalEmbedder
from server.workers.embedders import Embedders
from streaming.limits import Limits
from streaming.protocol.messages import SpeakersInfo, StatusTask

log = logging.getLogger(__name__)

DIARISER_NICE = 19
"""Behind everything that is live: a label may come late, a caption may not."""
WHY_NOT = {
    "setting": "Speakers are not told apart here: PARLANCE_SPEAKERS is off.",
    "environment": "Speakers are not told apart here: there is no models environment (PARLANCE_MODELS_ENV is off).",
    "installing": "Speakers will be told apart when the models environment is installed.",
    "weights": "Speakers are not told apart here: the models environment has no weights for it.",
    "starting": "Speakers will be told apart in a moment: their model is being loaded.",
    "down": "Speakers are not told apart at the moment: their process is being started again.",
}
WEIGHTS_LOOK_S = 30.0
"""Between looks for alignment weights: some fifty file names."""


class Enrichment:
    """`run` is a component; `embedder` and `diariser` are None where there never is one."""

    def __init__(
        self,
        config: Config,
        *,
        database: Database,
        indexing: Indexing,
        media: Media,
        playback: Playback,
        hub: Hub,
        limits: Limits,
    ) -> None:
        self._is_here = False
        folder = place(config.models_env, ROOT)
        self._environment = ModelsEnvironment(
            folder, requirements=ROOT / REQUIREMENTS, uv=find_uv(ROOT), offline=config.offline, limits=limits
        )
        self.embedder: Embedder | None = None
        self._embedders: Embedders | None = None
        self._vectors: VectorFiller | None = None
        self._aligner: LocalAligner | None = None
        self._alignment: AlignmentFiller | None = None
        self.diariser: LocalDiariser | None = None
        self._why_not = WHY_NOT["setting" if config.speakers == "off" else "environment"]
        if folder is None:
            return
        python, cache = self._environment.python, config.data_dir / "models"

        def embedder(spec: str) -> LocalEmbedder:
            return LocalEmbedder(python, model=spec or None, cache=cache, limits=limits, offline=config.offline)

        self._embedder = embedder(config.embedding_model or "")
        self.embedder = indexing.embedder = self._embedder
        self._embedders = Embedders(self._embedder, embedder, indexing.editions, limits)
        self._vectors = VectorFiller(indexing.vectors, self._embedder, lambda: indexing.watch.busy)
        self._rebuild = indexing.rebuild
        self._aligner = LocalAligner(python, model=config.align_model, limits=limits)
        if config.speakers != "off":
            self.diariser = LocalDiariser(python, limits=limits, nice=DIARISER_NICE)
        audio = RecordedAudio(database, media, playback)
        self._alignment = AlignmentFiller(database, self._aligner, audio, hub, limits)

    @property
    def python(self) -> Path | None:
        """The models environment's interpreter, of use once it `is_here`; None where there never is one."""
        return None if self.embedder is None else self._environment.python

    @property
    def is_here(self) -> bool:
        """The models environment is whole."""
        return self._is_here

    @property
    def vectors(self) -> bool:
        """Search by meaning works."""
        return self.embedder is not None and self.embedder.info is not None

    def embedders(self) -> tuple[Embedder, ...]:
        """Those that queries are embedded with: while the model changes, of both models."""
        return () if self._embedders is None else self._embedders.open()

    @property
    def languages(self) -> Sequence[str]:
        """Languages whose finals get exact word times."""
        return self._aligner.languages if self._aligner is not None else ()

    @property
    def speakers(self) -> SpeakersInfo:
        """Whether live finals say who spoke, and why not."""
        if self.diariser is None:
            return SpeakersInfo(state="off", notice=self._why_not)
        if self.diariser.info is not None:
            return SpeakersInfo(state="ready")
        if not self._is_here:
            return SpeakersInfo(state="starting", notice=WHY_NOT["installing"])
        match self.diariser.state:
            case "off":
                return SpeakersInfo(state="off", notice=WHY_NOT["weights"])
            case "down":
                return SpeakersInfo(state="down", notice=WHY_NOT["down"])
            case _:
                return SpeakersInfo(state="starting", notice=WHY_NOT["starting"])

    def speaker_model(self) -> str | None:
        """Whose vectors can be compared with new ones now."""
        return None if self.diariser is None or self.diariser.info is None else self.diariser.info.model

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
        if self.diariser is None:
            log.info("speakers are not told apart", extra={"why": self._why_not})
        async with asyncio.TaskGroup() as group:
            group.create_task(self._environment.run(), name="models environment")
            group.create_task(self._work(), name="enrichment")

    async def _work(self) -> None:
        await self._environment.ready()
        self._is_here = True
        assert self._vectors is not None
        assert self._embedders is not None
        assert self._aligner is not None
        assert self._alignment is not None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._embedder.run(), name="embedder")
            group.create_task(self._embedders.run(), name="embedders")
            group.create_task(self._vectors.run(), name="vectors")
            group.create_task(self._tell_rebuild(), name="model known")
            group.create_task(self._aligner.run(), name="aligner")
            group.create_task(self._alignment.run(), name="alignment")
            group.create_task(self._look_for_weights(self._aligner), name="weights")
            if self.diariser is not None:
                group.create_task(self.diariser.run(), name="diariser")

    async def _tell_rebuild(self) -> None:
        """The index takes up a model, or changes to it, when that is known."""
        await self._embedder.ready()
        self._rebuild.wake()

    async def _look_for_weights(self, aligner: LocalAligner) -> None:
        """`parlance models pull` tells nobody."""
        known = await asyncio.to_thread(alignment_languages, cache_folder(), torch_checkpoints())
        while True:
            await asyncio.sleep(WEIGHTS_LOOK_S)
            here = await asyncio.to_thread(alignment_languages, cache_folder(), torch_checkpoints())
            if here != known:
                known = here
                aligner.recheck()
