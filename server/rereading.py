"""The second pass over kept audio: who reads, who hears voices, and when.

Policy: WhisperX reads where the models environment is whole and the live engine is a Whisper; until then, and
elsewhere, the recogniser of live talk does, when nobody speaks to it. Both write the same rows, so one goes on where
the other was.

Boundary: a part of the composition (`server.app`), as `server.enrichment`.
"""

import asyncio

from server.config import Config
from server.enrichment import Enrichment
from server.jobs.audio import RecordedAudio
from server.jobs.pieces import Transcriber
from server.jobs.second_pass import SecondPass
from server.media.playback import Playback
from server.media.ports import Media
from server.recognition import Recognition
from server.rooms.hub import Hub
from server.store.pool import Database
from server.workers.passes import DiariserOnDemand, RecogniserReader, WhisperXReader
from streaming.limits import Limits
from streaming.protocol.messages import StatusTask

ALONE = "alone"
"""The one node of an embedded database: after a crash it waits for no lease of its own."""


class Rereading:
    """`run` is a component, to be started when the recogniser is ready; `nudge`: somebody asked for a pass."""

    def __init__(
        self,
        config: Config,
        *,
        enrichment: Enrichment,
        recognition: Recognition,
        database: Database,
        media: Media,
        playback: Playback,
        hub: Hub,
        node: str,
        limits: Limits,
    ) -> None:
        self.enabled = config.second_pass == "auto"  # noqa: S105 - no secret
        self._enrichment = enrichment
        engines = recognition.engines
        self._recogniser = RecogniserReader(engines, limits)
        self._whisperx: WhisperXReader | None = None
        self._voices: DiariserOnDemand | None = None
        python = enrichment.python
        if python is not None:
            self._whisperx = WhisperXReader(
                python,
                model=lambda: engines.whisper,
                align_model=config.align_model,
                device=engines.device,
                compute_type=config.compute_type,
                limits=limits,
            )
            if config.speakers != "off":
                self._voices = DiariserOnDemand(python, lambda: enrichment.is_here, config.diarisation_model, limits)
        self._pass = SecondPass(
            database,
            RecordedAudio(database, media, playback),
            hub,
            transcriber=self._transcriber,
            voices=self._voices,
            minutes=config.pass_minutes,
            node=node if config.shared else ALONE,
            limits=limits,
        )

    @property
    def tasks(self) -> list[StatusTask]:
        return [] if self._pass.task is None else [self._pass.task]

    def nudge(self) -> None:
        self._pass.nudge()

    def _transcriber(self) -> Transcriber:
        whisperx = self._whisperx
        return whisperx if whisperx is not None and self._enrichment.is_here and whisperx.here else self._recogniser

    async def run(self) -> None:
        """Until cancelled; returns at once where it is switched off."""
        if not self.enabled:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass.run(), name="second pass")
            for worker in (self._whisperx, self._voices):
                if worker is not None:
                    group.create_task(worker.run(), name="pass workers")
