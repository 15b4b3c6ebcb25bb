"""Which Whisper this installation takes: what the settings name, else what the tier chooses of what is here.

Boundary: folders only. `server.models.tiers` has the rules.
"""

from pathlib import Path

import msgspec

from server.config import Config
from server.hardware import Hardware
from server.models.cache import find_whisper, whispers
from server.models.tiers import Selection, choose


class Chosen(msgspec.Struct, frozen=True):
    """`path`, `final`: folders, None where there is none here; `selection`: how the tier chose, None where
    PARLANCE_MODEL names the model; `fetch`: what to get when there is none."""

    path: Path | None
    final: Path | None
    selection: Selection | None
    fetch: str

    @property
    def tier(self) -> str | None:
        """Which tier runs: the one that chose the model."""
        return self.selection.tier.value if self.selection is not None and self.path is not None else None

    @property
    def reason(self) -> str:
        """Why this model, as the end of a sentence."""
        if self.selection is None:
            return "as PARLANCE_MODEL says"
        return f"the first that is here for the tier {self.selection.tier.value} with {self.selection.machine.value}"


def chosen(config: Config, hardware: Hardware, cache: Path) -> Chosen:
    final = None if config.final_model is None else find_whisper(config.final_model, cache)
    if config.model is not None:
        return Chosen(find_whisper(config.model, cache), final, None, config.model)
    selection = choose(config.tier, hardware, whispers(cache))
    path = None if selection.model is None else find_whisper(selection.model, cache)
    if config.final_model is None and selection.final_model is not None:
        final = find_whisper(selection.final_model, cache)
    return Chosen(path, final, selection, selection.fetch)
