"""Which Whisper a tier takes, on which machine, of those that are here."""

import itertools
from collections.abc import Collection

import pytest

from server.config import TIERS, ConfigError, load
from server.hardware import Hardware
from server.models.catalogue import MODELS, Kind
from server.models.tiers import (
    FAST_MEMORY_MIB_MAX,
    FINAL_MEMORY_MIB_MIN,
    GPU_MIB_BOTH,
    GPU_MIB_LARGE,
    GPU_MIB_MIN,
    MANY_CORES,
    REST,
    TABLE,
    Machine,
    Tier,
    choose,
)

ONE_CORE = Hardware(1, 8_192)
LITTLE = Hardware(2, FAST_MEMORY_MIB_MAX - 1)
TWO_CORES = Hardware(2, FAST_MEMORY_MIB_MAX)
MANY = Hardware(MANY_CORES, FINAL_MEMORY_MIB_MIN)
GPU = Hardware(4, 16_384, (GPU_MIB_MIN,))
LARGE = Hardware(4, 16_384, (0, GPU_MIB_LARGE))
BOTH = Hardware(4, 16_384, (GPU_MIB_BOTH,))
ALL = frozenset(model.name for model in MODELS.values() if model.kind is Kind.WHISPER)
ENGLISH = frozenset(name for name in ALL if name.endswith(".en"))


@pytest.mark.parametrize(
    ("wanted", "hardware", "here", "tier", "model", "final"),
    [
        ("auto", TWO_CORES, ALL, Tier.BALANCED, "base", None),
        ("auto", TWO_CORES, ENGLISH, Tier.BALANCED, "base.en", None),
        ("auto", TWO_CORES, {"tiny.en", "medium"}, Tier.BALANCED, "tiny.en", None),
        ("auto", TWO_CORES, {"small.en", "large-v3"}, Tier.BALANCED, "small.en", None),
        ("auto", TWO_CORES, {"large-v3", "medium"}, Tier.BALANCED, "medium", None),
        ("auto", TWO_CORES, (), Tier.BALANCED, None, None),
        ("auto", ONE_CORE, ALL, Tier.FAST, "tiny", None),
        ("auto", LITTLE, ALL, Tier.FAST, "tiny", None),
        ("auto", MANY, ALL, Tier.BALANCED, "base", "small"),
        ("auto", MANY, {"base", "small.en"}, Tier.BALANCED, "base", None),
        ("auto", MANY, {"base.en", "small.en"}, Tier.BALANCED, "base.en", "small.en"),
        ("auto", MANY, {"base"}, Tier.BALANCED, "base", None),
        ("auto", MANY, {"small"}, Tier.BALANCED, "small", None),
        ("auto", Hardware(MANY_CORES, FINAL_MEMORY_MIB_MIN - 1), ALL, Tier.BALANCED, "base", None),
        ("auto", Hardware(MANY_CORES - 1, 65_536), ALL, Tier.BALANCED, "base", None),
        ("auto", GPU, ALL, Tier.BALANCED, "small", None),
        ("auto", Hardware(1, 1_024, (GPU_MIB_MIN,)), ALL, Tier.BALANCED, "small", None),
        ("auto", LARGE, ALL, Tier.BALANCED, "large-v3-turbo", None),
        ("auto", LARGE, {"base.en"}, Tier.BALANCED, "base.en", None),
        ("fast", TWO_CORES, ALL, Tier.FAST, "tiny", None),
        ("fast", TWO_CORES, {"small"}, Tier.FAST, "small", None),
        ("fast", MANY, ALL, Tier.FAST, "base", None),
        ("accurate", TWO_CORES, ALL, Tier.ACCURATE, "small", None),
        ("accurate", MANY, ALL, Tier.ACCURATE, "small", "medium"),
        ("accurate", MANY, {"base", "small"}, Tier.ACCURATE, "small", None),
        ("accurate", LARGE, ALL, Tier.ACCURATE, "large-v3", None),
        ("accurate", BOTH, ALL, Tier.ACCURATE, "large-v3-turbo", "large-v3"),
        ("accurate", BOTH, {"large-v3"}, Tier.ACCURATE, "large-v3", None),
        ("accurate", BOTH, {"distil-large-v3", "large-v2"}, Tier.ACCURATE, "distil-large-v3", "large-v2"),
    ],
)
def test_what_is_taken(
    wanted: str, hardware: Hardware, here: Collection[str], tier: Tier, model: str | None, final: str | None
) -> None:
    chosen = choose(wanted, hardware, here)
    assert (chosen.tier, chosen.model, chosen.final_model) == (tier, model, final)


@pytest.mark.parametrize(
    ("hardware", "device", "compute_type", "machine"),
    [
        (TWO_CORES, "cpu", "int8", Machine.FEW_CORES),
        (MANY, "cpu", "int8", Machine.MANY_CORES),
        (GPU, "cuda", "float16", Machine.GPU),
        (LARGE, "cuda", "float16", Machine.LARGE_GPU),
        (Hardware(2, 8_192, (GPU_MIB_MIN - 1,)), "cpu", "int8", Machine.FEW_CORES),
        (Hardware(2, 8_192, (0,)), "auto", "auto", Machine.FEW_CORES),
    ],
)
def test_where_it_runs(hardware: Hardware, device: str, compute_type: str, machine: Machine) -> None:
    chosen = choose("auto", hardware, ALL)
    assert (chosen.device, chosen.compute_type, chosen.machine) == (device, compute_type, machine)


@pytest.mark.parametrize(
    ("wanted", "hardware", "fetched"),
    [
        ("auto", TWO_CORES, "base.en"),
        ("auto", ONE_CORE, "tiny.en"),
        ("auto", MANY, "base.en"),
        ("auto", GPU, "small.en"),
        ("auto", LARGE, "large-v3-turbo"),
        ("accurate", TWO_CORES, "small.en"),
        ("accurate", LARGE, "large-v3"),
        ("accurate", BOTH, "large-v3-turbo"),
    ],
)
def test_what_is_fetched(wanted: str, hardware: Hardware, fetched: str) -> None:
    assert choose(wanted, hardware, ()).fetch == fetched


def test_any_whisper_that_is_here_is_taken_and_what_is_fetched_would_be() -> None:
    for wanted, hardware in itertools.product(TIERS, (ONE_CORE, LITTLE, TWO_CORES, MANY, GPU, LARGE, BOTH)):
        for name in ALL:
            assert choose(wanted, hardware, {name}).model == name
        assert choose(wanted, hardware, {choose(wanted, hardware, ()).fetch}).final_model is None


def test_the_tables_are_whole() -> None:
    assert set(TABLE) == set(itertools.product(Tier, Machine))
    assert set(REST) == ALL
    for line in TABLE.values():
        assert {*line.live, *line.finals} <= ALL
        assert line.fetch in line.live


def test_the_setting() -> None:
    assert [load({"PARLANCE_TIER": name}).tier for name in TIERS] == list(TIERS)
    assert load({}).tier == "auto"
    assert {tier.value for tier in Tier} | {"auto"} == set(TIERS)
    with pytest.raises(ConfigError, match="PARLANCE_TIER: 'best' is none of auto, fast, balanced, accurate"):
        load({"PARLANCE_TIER": "best"})
