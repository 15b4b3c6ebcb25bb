"""What the server can do right now, told to every connection after `ready` and whenever it changes.

Policy: looked at once a second and told only when something is different, so the parts need not know that anybody
watches, and a fast progress bar costs one event a second.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from streaming.protocol.messages import EngineInfo, ServerStatus, SpeakersInfo, StatusTask

LOOK_S = 1.0


class StatusBoard:
    """`engine`: what a tenant (by name) is told about the recogniser; `tasks`: long work of the server on itself."""

    def __init__(
        self,
        *,
        engine: Callable[[str], EngineInfo],
        vectors: Callable[[], bool],
        alignment: Callable[[], Sequence[str]],
        speakers: Callable[[], SpeakersInfo],
        tasks: Callable[[], Sequence[StatusTask]],
    ) -> None:
        self.engine = engine
        self.speakers = speakers
        self._vectors = vectors
        self._alignment = alignment
        self._tasks = tasks

    def status(self, tenant_name: str) -> ServerStatus:
        speakers = self.speakers()
        return ServerStatus(
            engine=self.engine(tenant_name),
            vectors=self._vectors(),
            alignment=list(self._alignment()),
            speakers=speakers.state == "ready",
            speakers_notice=speakers.notice,
            tasks=list(self._tasks()),
        )

    async def run(self, changed: Callable[[], None]) -> None:
        """A component: call `changed` when the status differs from what was last told."""
        told = msgspec.json.encode(self.status(""))
        while True:
            await asyncio.sleep(LOOK_S)
            now = msgspec.json.encode(self.status(""))
            if now != told:
                told = now
                changed()
