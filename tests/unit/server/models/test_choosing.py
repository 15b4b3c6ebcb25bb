"""What the settings and the tier come to, of the models in a cache."""

from pathlib import Path

from server.config import Config
from server.hardware import Hardware
from server.models.choosing import chosen
from tests.unit.server.models.test_cache import whisper

TWO_CORES = Hardware(2, 8_192)
MANY = Hardware(16, 32_768)


def test_unasked_the_tier_chooses(tmp_path: Path) -> None:
    found = chosen(Config(), TWO_CORES, tmp_path)
    assert (found.path, found.tier, found.fetch) == (None, None, "base.en")
    small, base = whisper(tmp_path, "small"), whisper(tmp_path, "base")
    found = chosen(Config(), TWO_CORES, tmp_path)
    assert (found.path, found.final, found.tier) == (base, None, "balanced")
    found = chosen(Config(), MANY, tmp_path)
    assert (found.path, found.final) == (base, small)
    found = chosen(Config(tier="accurate"), TWO_CORES, tmp_path)
    assert (found.path, found.tier) == (small, "accurate")
    assert found.reason == "the first that is here for the tier accurate with few cores"


def test_what_is_named_rules_over_the_tier(tmp_path: Path) -> None:
    small, tiny, base = (whisper(tmp_path, name) for name in ("small", "tiny", "base"))
    found = chosen(Config(model="tiny", tier="accurate"), MANY, tmp_path)
    assert (found.path, found.final, found.tier, found.selection) == (tiny, None, None, None)
    assert found.reason == "as PARLANCE_MODEL says"
    found = chosen(Config(final_model="tiny"), MANY, tmp_path)
    assert (found.path, found.final) == (base, tiny)
    assert chosen(Config(model="tiny", final_model="small"), MANY, tmp_path).final == small
    found = chosen(Config(model="medium"), MANY, tmp_path)
    assert (found.path, found.fetch) == (None, "medium")
