"""The models environment arrives while the server runs: captions before it, meaning and word times after, no restart.

The environment is the real one, installed by the server itself into a folder of the test's. It runs only where the
suite's own environment was installed before, because then all packages lie in the installer's cache.
"""

import asyncio
import os
from pathlib import Path

import pytest

from tests.support.process import ROOT, running
from tests.support.synth import Voice, needs_espeak, talk
from tests.support.wire import Talk, Wire, wired

ENVIRONMENT = Path(os.environ.get("PARLANCE_TEST_MODELS_ENV", ROOT / ".venv-models"))
MICRO = ROOT / "tests" / "models" / "micro-whisper" / "en"
ALIGNER = ROOT / "tests" / "models" / "micro-aligner"
HANG_S = 300.0
SENTENCES = ["We moved the launch to Friday.", "The budget is ready.", "Alice will fix the server on Monday."]

pytestmark = [
    needs_espeak,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (ENVIRONMENT / "bin" / "python").exists(), reason="the models environment is not installed"),
]


async def told(wire: Wire, name: str, where: object) -> dict[str, object]:
    """An event that may take the loading of torch to come."""
    async with asyncio.timeout(HANG_S):
        while True:
            found = [body for event, body in wire.events if event == name and where(body)]  # type: ignore[operator]
            if found:
                return found[-1]
            async with wire._arrived:
                await wire._arrived.wait()


async def test_vectors_and_alignment_come_without_a_restart(tmp_path: Path) -> None:
    place = tmp_path / "models-env"
    settings = {
        "offline": "0",
        "engine": "whisperx",
        "model": str(MICRO),
        "align_model": str(ALIGNER),
        "models_env": str(place),
    }
    with running(tmp_path / "data", **settings) as server:
        account = await server.account("acme")
        async with wired(server.url, account.token) as wire:
            installing = await told(wire, "server:status", lambda e: e["tasks"])
            assert [task["name"] for task in installing["tasks"]] == ["models_environment"]  # type: ignore[attr-defined,index]
            assert installing["vectors"] is False
            live = Talk(wire, talk(SENTENCES, [Voice()]).audio.tobytes())
            await live.start()
            await live.send()
            await live.stop()
            finals = {event["segment_id"]: event for event in await live.log() if event["event"] == "transcript:final"}
            assert [event["text"] for event in finals.values()] == SENTENCES
            await wire.ok("search:query", {"request_id": "before", "text": "how much money may we spend"})
            before = await wire.wait("search:results", lambda e: e["request_id"] == "before" and e["phase"] == "full")
            assert (before["hits"], before["degraded"]) == ([], True), (
                "the environment takes longer than three sentences"
            )
            await wire.ok("room:join", {"room": live.room, "after_seq": 0})
            pid = server.pid

            await told(wire, "server:status", lambda e: e["vectors"])
            status = await told(wire, "server:status", lambda e: e["alignment"] == ["en"])
            assert status["engine"]["state"] == "ready"  # type: ignore[index]
            for number in range(1_000):
                name = f"after {number}"
                await wire.ok("search:query", {"request_id": name, "text": "how much money may we spend"})
                after = await wire.wait(
                    "search:results", lambda e, name=name: e["request_id"] == name and e["phase"] == "full"
                )
                assert "degraded" not in after
                if after["hits"]:
                    break
            assert after["hits"][0]["text"] == "The budget is ready."

            revised: dict[str, dict[str, object]] = {}
            while len(revised) < len(finals):
                await told(wire, "transcript:revised", lambda e: e["segments"][0]["segment_id"] not in revised)
                for event in wire.named("transcript:revised"):
                    assert event["reason"] == "alignment"
                    revised.update({segment["segment_id"]: segment for segment in event["segments"]})
            for name, segment in revised.items():
                assert (segment["text"], segment["rev"]) == (finals[name]["text"], finals[name]["rev"] + 1)
            assert server.pid == pid
