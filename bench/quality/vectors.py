"""Vectors of the evaluation's texts by the packaged MiniLM, made once and kept beside the results, outside of git.

Boundary: the models environment's worker (`server.workers.embedder`), as a server runs it.
"""

import asyncio
import tempfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.report import ROOT
from search.model import EmbedderInfo, Vector
from server.workers.embedder import LocalEmbedder
from streaming.aio import Scope
from streaming.limits import LIMITS

MODELS_PYTHON = ROOT / ".venv-models" / "bin" / "python"
READY_S_MAX = 120.0
Rows = NDArray[np.float32]
MISSING = "the models environment is not installed"


class Embedded:
    """Vectors by text. `info`: the model that made them."""

    def __init__(self, info: EmbedderInfo, passages: dict[str, Vector], queries: dict[str, Vector]) -> None:
        self.info = info
        self.passages = passages
        self.queries = queries


async def embedded(passages: list[str], queries: list[str], folder: Path, name: str) -> Embedded:
    """From `folder`/<name>.npz where that was made of the same texts, else by the model, and kept there."""
    key = zlib.crc32("\n".join([*passages, "", *queries]).encode())
    path = folder / f"{name}.npz"
    if path.is_file():
        with np.load(path) as held:
            if int(held["key"]) == key:
                info = EmbedderInfo(str(held["model"]), int(held["dimensions"]), float(held["similarity_min"]))
                return _of(info, passages, queries, held["passages"], held["queries"])
    info, rows, asked = await _embed(passages, queries)
    _keep(path, key, info, rows, asked)
    return _of(info, passages, queries, rows, asked)


def _keep(path: Path, key: int, info: EmbedderInfo, rows: Rows, asked: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        key=key,
        model=info.model,
        dimensions=info.dimensions,
        similarity_min=info.similarity_min,
        passages=rows,
        queries=asked,
    )


def _of(info: EmbedderInfo, passages: list[str], queries: list[str], rows: Rows, asked: Rows) -> Embedded:
    return Embedded(info, dict(zip(passages, rows, strict=True)), dict(zip(queries, asked, strict=True)))


async def _embed(passages: list[str], queries: list[str]) -> tuple[EmbedderInfo, Rows, Rows]:
    with tempfile.TemporaryDirectory(prefix="parlance-bench-") as cache:
        embedder = LocalEmbedder(MODELS_PYTHON, model=None, cache=Path(cache), limits=LIMITS)
        async with Scope("bench") as scope:
            scope.spawn(embedder.run(), name="embedder")
            async with asyncio.timeout(READY_S_MAX):
                await embedder.ready()
            info = embedder.info
            assert info is not None
            rows = np.stack(await embedder.embed(passages))
            asked = np.stack([(await embedder.embed([text], as_query=True))[0] for text in queries])
    return info, rows, asked
