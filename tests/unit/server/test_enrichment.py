"""What is said of speakers where they are told apart, and why where they are not."""

from pathlib import Path
from typing import Any, cast

import pytest

from server.config import Config, ConfigError, load
from server.enrichment import WHY_NOT, Enrichment
from server.indexing import Indexing, Silent
from server.store.pool import Database
from streaming.limits import LIMITS
from tests.fakes.diariser import INFO


class Worker:
    def __init__(self, state: str) -> None:
        self.state = state
        self.info = INFO if state == "ready" else None


def made(tmp_path: Path, **settings: str) -> Enrichment:
    parts: Any = dict.fromkeys(("media", "playback", "hub"))
    config, database = Config(data_dir=tmp_path, **cast(Any, settings)), Database()
    indexing = Indexing(config, database, Silent(), LIMITS)
    return Enrichment(config, database=database, indexing=indexing, limits=LIMITS, **parts)


def test_who_switched_it_off_is_told_so(tmp_path: Path) -> None:
    for settings, why in (({"speakers": "off"}, "setting"), ({"models_env": "off"}, "environment")):
        enrichment = made(tmp_path, **{"models_env": str(tmp_path), **settings})
        assert enrichment.diariser is None
        assert (enrichment.speakers.state, enrichment.speakers.notice) == ("off", WHY_NOT[why])


@pytest.mark.parametrize(
    ("is_here", "worker", "state", "why"),
    [
        (False, "off", "starting", "installing"),
        (True, "off", "off", "weights"),
        (True, "starting", "starting", "starting"),
        (True, "down", "down", "down"),
        (True, "ready", "ready", None),
    ],
)
def test_why_not_yet_is_told(tmp_path: Path, is_here: bool, worker: str, state: str, why: str | None) -> None:
    enrichment = made(tmp_path, models_env=str(tmp_path))
    enrichment.diariser = cast(Any, Worker(worker))
    enrichment._is_here = is_here
    said = enrichment.speakers
    assert (said.state, said.notice) == (state, None if why is None else WHY_NOT[why])


def test_the_setting_is_checked() -> None:
    assert load({"PARLANCE_SPEAKERS": "off"}).speakers == "off"
    with pytest.raises(ConfigError, match="PARLANCE_SPEAKERS"):
        load({"PARLANCE_SPEAKERS": "yes"})
