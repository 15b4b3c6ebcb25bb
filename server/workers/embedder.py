"""The embedding model in a worker process of the models environment, behind `search.ports.Embedder`.

Policy: texts are sent in small calls. Of the background's calls one is in flight at a time, so a query waits for one at
most, whatever is queued behind it.

Boundary: `search.embed` is what is said over the worker's socket. The worker may come long after the server, when its
environment has been installed: until `run` has one that is ready, `info` is None and `embed` raises `WorkerLost`.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from search.embed import decode_info, encode_call, in_calls, unpack_vectors
from search.model import EmbedderInfo, Vector
from search.ports import CannotEmbed
from server.workers.calls import CallFailed, CallWorker
from streaming.errors import WorkerLost
from streaming.limits import Limits


class LocalEmbedder:
    """`python`: the models environment's interpreter; `model`: a folder or a name on the hub, None takes the packaged
    MiniLM; `cache`: a folder of the server's for exports; `offline`: no hub is asked. `run` is a component."""

    def __init__(self, python: Path, *, model: str | None, cache: Path, limits: Limits, offline: bool = False) -> None:
        argv = [str(python), "-P", "-m", "search.embed_worker", "--cache", str(cache)]
        settings = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
        if model is not None:
            argv += ["--model", model]
        if offline or model is None or Path(model).is_dir():
            settings["HF_HUB_OFFLINE"] = "1"  # without it, an unreachable hub is asked for half a minute
        stall_s = limits.worker_stall_ms / 1000
        self._worker = CallWorker("embedder", argv, stall_s=stall_s, limits=limits, settings=settings)
        self._background = asyncio.Lock()
        self._known: tuple[bytes, EmbedderInfo] | None = None

    @property
    def state(self) -> str:
        """ "starting", "ready" or "down"."""
        return self._worker.state

    @property
    def pid(self) -> int | None:
        return self._worker.pid

    @property
    def info(self) -> EmbedderInfo | None:
        told = self._worker.info
        if told is None:
            return None
        if self._known is None or self._known[0] != told:
            self._known = (told, decode_info(told))
        return self._known[1]

    async def ready(self) -> None:
        await self._worker.ready()

    async def run(self) -> None:
        """Keep the worker alive until cancelled."""
        await self._worker.run()

    async def embed(self, texts: Sequence[str], *, as_query: bool = False) -> list[Vector]:
        vectors: list[Vector] = []
        for part in in_calls(texts):
            if as_query:
                vectors += await self._call(part, as_query=True)
            else:
                async with self._background:
                    vectors += await self._call(part, as_query=False)
        return vectors

    async def _call(self, texts: Sequence[str], *, as_query: bool) -> list[Vector]:
        info = self.info
        if info is None:
            raise WorkerLost("the embedder is not ready", retry_after_ms=1_000)
        try:
            answer = await self._worker.call(encode_call(texts, as_query))
            return unpack_vectors(answer, len(texts), info.dimensions)
        except CallFailed as error:
            raise CannotEmbed(error.message) from error
        except (ValueError, msgspec.DecodeError) as error:
            raise CannotEmbed("the worker's answer holds no vectors") from error
