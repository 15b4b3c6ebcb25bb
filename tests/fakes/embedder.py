"""An embedder at our own port: words of one concept point in one direction, any other word in one of its own. And a
worker program of it that loads nothing; `interpreter` makes it what `LocalEmbedder` runs as the environment's python.
"""

import argparse
import asyncio
import socket
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from search.embed import decode_call, encode_info, pack_vectors
from search.model import EmbedderInfo, QueryVector, Vector
from search.ports import CannotEmbed
from search.query import FUNCTION_WORDS, words_of
from streaming import calls
from streaming.errors import WorkerLost

CONCEPTS = (
    {"money", "budget", "cash", "cost"},
    {"journey", "travel", "trip", "tea"},
    {"cat", "kitten", "pet"},
    {"rain", "weather", "storm"},
)
DIMENSIONS = 384
SIMILARITY_MIN = 0.3


def vector_of(text: str, dimensions: int = DIMENSIONS) -> Vector:
    """Concepts take the first dimensions, words without one share the others by their hash."""
    values = np.zeros(dimensions, dtype=np.float32)
    for word in (span.folded for span in words_of(text)):
        if word in FUNCTION_WORDS:
            continue
        known = [n for n, concept in enumerate(CONCEPTS) if word in concept]
        at = known[0] if known else len(CONCEPTS) + zlib.crc32(word.encode()) % (dimensions - len(CONCEPTS))
        values[at] += 1
    length = float(np.linalg.norm(values))
    return values / length if length else np.eye(1, dimensions, dimensions - 1, dtype=np.float32)[0]


class FakeEmbedder:
    """Ready at once; `kill`: not any more, until `start`. A text with "lethal" kills it, one with "refused" is refused.
    `gate`: calls wait for it; `seen`: the texts of every call; `restarts_itself`: after a lethal text."""

    def __init__(self, model: str = "concepts", dimensions: int = DIMENSIONS) -> None:
        self._loaded = EmbedderInfo(model, dimensions, SIMILARITY_MIN)
        self.info: EmbedderInfo | None = None
        self.seen: list[list[str]] = []
        self.running_max = self.running = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._ready = asyncio.Event()
        self.restarts_itself = True
        self.start()

    def start(self) -> None:
        self.info = self._loaded
        self._ready.set()

    def kill(self) -> None:
        self.info = None
        self._ready.clear()

    async def ready(self) -> None:
        await self._ready.wait()

    async def embed(self, texts: Sequence[str], *, as_query: bool = False) -> list[Vector]:
        info = self.info
        if info is None:
            raise WorkerLost("not ready")
        self.seen.append(list(texts))
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        lethal = any("lethal" in text for text in texts)
        if self.info is None or lethal:
            self.kill()
            if lethal and self.restarts_itself:
                self.start()
            raise WorkerLost("died")
        if any("refused" in text for text in texts):
            raise CannotEmbed("no")
        return [vector_of(text, info.dimensions) for text in texts]

    def query(self, text: str) -> QueryVector:
        return QueryVector(self._loaded, vector_of(text, self._loaded.dimensions))


def interpreter(folder: Path) -> Path:
    """A "python" that runs the worker program whatever module it is asked for."""
    path = folder / "python"
    root = Path(__file__).parents[2]
    path.write_text(f'#!/bin/sh\nshift 3\nPYTHONPATH={root} exec {sys.executable} -m tests.fakes.embedder "$@"\n')
    path.chmod(0o700)
    return path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    arguments, _ = parser.parse_known_args()
    with socket.socket(fileno=arguments.fd) as sock:
        info = encode_info(EmbedderInfo("concepts", DIMENSIONS, SIMILARITY_MIN))
        calls.serve(sock, info, lambda body: pack_vectors([vector_of(text) for text in decode_call(body).texts]))


if __name__ == "__main__":
    main()
