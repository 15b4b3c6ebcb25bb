"""The tests' Whisper with the compute of a real one: engines for PARLANCE_ENGINE, as `bench.compute:TinyEn`.

`bench.mirror` does the work twice; shapes are those of `bench.shapes`.

Boundary: worker processes of benchmarks. Invariant: what the engine gets is what the small model says.
"""

from typing import ClassVar

import msgspec

from bench import shapes
from bench.mirror import mirrored
from streaming.model import Capabilities
from streaming.recogniser.engine import EngineUnavailable
from streaming.recogniser.whisper import WhisperEngine


class Shaped(WhisperEngine):
    """The engine as it is; `SHAPE` names one of `bench.shapes.SHAPES`, which must have been made."""

    SHAPE: ClassVar[str]

    @property
    def capabilities(self) -> Capabilities:
        known = super().capabilities
        return msgspec.structs.replace(known, model=f"{known.model} with the compute of {self.SHAPE}")

    def load(self) -> None:
        folder = shapes.folder_of(self.SHAPE)
        if not folder.is_dir():
            raise EngineUnavailable(f"there is no shape {self.SHAPE}: run python -m bench.shapes {self.SHAPE}")
        with mirrored(folder) as made:
            super().load()
        if not made:
            raise EngineUnavailable("the engine loaded no Whisper that could be mirrored")


class TinyEn(Shaped):
    SHAPE = "tiny.en"


class BaseEn(Shaped):
    SHAPE = "base.en"


class SmallEn(Shaped):
    SHAPE = "small.en"


class LargeV3Turbo(Shaped):
    """For a GPU."""

    SHAPE = "large-v3-turbo"


ENGINES: dict[str, type[Shaped]] = {engine.SHAPE: engine for engine in (TinyEn, BaseEn, SmallEn, LargeV3Turbo)}


def reference(shape: str) -> str:
    """The engine of a shape as PARLANCE_ENGINE wants it."""
    return f"{__name__}:{ENGINES[shape].__name__}"
