"""The status that every connection is told."""

import asyncio

from server.edge.board import StatusBoard
from streaming.aio import Scope
from streaming.protocol.messages import EngineInfo, SpeakersInfo, StatusTask
from tests.sim.clock import run


class Parts:
    """What the board looks at."""

    def __init__(self) -> None:
        self.vectors = False
        self.tasks: list[StatusTask] = []
        self.board = StatusBoard(
            engine=lambda tenant: EngineInfo(name=f"engine of {tenant}", model="m", state="ready"),
            vectors=lambda: self.vectors,
            alignment=lambda: ["en"],
            speakers=lambda: SpeakersInfo(state="off", notice="No weights."),
            tasks=lambda: self.tasks,
        )


def test_a_tenant_is_told_of_its_own_engine() -> None:
    status = Parts().board.status("acme")
    assert (status.engine.name, status.vectors, status.alignment, status.tasks) == ("engine of acme", False, ["en"], [])
    assert (status.speakers, status.speakers_notice) == (False, "No weights.")


def test_only_changes_are_told() -> None:
    async def scenario() -> list[bool]:
        parts, told = Parts(), []
        async with Scope("test") as scope:
            scope.spawn(parts.board.run(lambda: told.append(parts.vectors)), name="board")
            await asyncio.sleep(3.5)
            assert told == []
            parts.vectors = True
            await asyncio.sleep(3)
            parts.tasks = [StatusTask(name="vectors", state="running", fraction=0.5, text="Half.")]
            await asyncio.sleep(1)
        return told

    assert run(scenario()) == [True, True]
