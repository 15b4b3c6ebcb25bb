"""The diarisation worker of the second pass, where pyannote's own pipeline is on this machine. Run in the models
environment.

    python -P -m streaming.diariser.pyannote --fd N [--nice N] [--idle] [--pipeline NAME_OR_FOLDER]

Policy: the pipeline tells the speakers of a piece apart (a few seconds of the piece before it included), each of them
gets a voice from the model of `streaming.diariser.worker`, and pieces are put together by these voices
(`streaming.diariser.offline`): so labels are those of live talk, over hours, with the memory of one piece. Of the
pipelines in the hub's cache the newest that is there counts; it never uses the network, and so needs no token. Without
one, or when it does not load, it is the worker of live talk; so it is for a piece that the pipeline fails on.

pyannote.audio 4 loads the tables of VBx' clustering (`plda`) from community-1 whatever the pipeline; one that clusters
otherwise, such as 3.1, gets none, since it never asks. It reads no files here: torchcodec wants ffmpeg's libraries.
pyannote loads weights with pickled code: a folder that is named is trusted as the program is.

Boundary: the only module that imports pyannote. Invariant: as of `streaming.diariser.worker`.
"""

import argparse
import contextlib
import logging
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streaming import calls
from streaming.diariser import decode
from streaming.diariser.heard import WINDOW_MS_MAX, DiariserInfo, Heard
from streaming.diariser.votes import Span
from streaming.diariser.worker import SAMPLES_MIN, Ears, find, levelled, refuse
from streaming.model import SAMPLE_RATE

PIPELINES = ("pyannote/speaker-diarization-community-1", "pyannote/speaker-diarization-3.1")
CONFIG = "config.yaml"
LOCALS_MAX = 20
"""Speakers of one piece: those who say most."""

Pipeline = Callable[[dict[str, Any]], Any]
"""pyannote's: {"waveform": (1, n) float32, "sample_rate": int} in, `DiarizeOutput` out; an old one gives the
`Annotation` itself."""

FAILURES = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError)
"""What pyannote raises where files are missing or of another version, or where audio is not to its taste."""

log = logging.getLogger("parlance.worker")


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", module=r"pyannote\..*")  # of codecs that nobody here needs
    parser = argparse.ArgumentParser(description="Parlance's diarisation worker of the second pass.")
    parser.add_argument("--fd", type=int, required=True, help="an inherited unix socket")
    parser.add_argument("--nice", type=int, default=0, help="how far it stands behind captions")
    parser.add_argument("--idle", action="store_true", help="only what nobody else wants")
    parser.add_argument("--pipeline", help="a folder, or a name on the hub; default: what is in the cache")
    arguments = parser.parse_args()
    calls.stand_back(arguments.nice, idle=arguments.idle)
    with socket.socket(fileno=arguments.fd) as sock:
        folder = find()
        if folder is None:
            calls.serve(sock, msgspec.msgpack.encode(DiariserInfo("", 0, 0, 0)), refuse)
            return 0
        place = pipeline_folder(arguments.pipeline)
        pipeline = None if place is None else load(place)
        ears = Ears(folder) if pipeline is None else PipelineEars(folder, pipeline)
        calls.serve(sock, msgspec.msgpack.encode(ears.info), ears.handle)
    return 0


def pipeline_folder(wanted: str | None) -> Path | None:
    """Where its files are; None where there are none."""
    if wanted is not None and Path(wanted).is_dir():
        return Path(wanted) if (Path(wanted) / CONFIG).is_file() else None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    for name in PIPELINES if wanted is None else (wanted,):
        with contextlib.suppress(LocalEntryNotFoundError, HFValidationError):
            place = Path(snapshot_download(name, local_files_only=True))
            if (place / CONFIG).is_file():
                return place
    return None


def load(folder: Path) -> Pipeline | None:
    """The pipeline; None when some of its files are missing, or are another version's."""
    import torch
    import yaml
    from pyannote.audio import Pipeline as Loaded
    from pyannote.audio.core.pipeline import expand_subfolders
    from pyannote.audio.core.plda import PLDA

    torch.set_num_threads(1)
    try:
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        expand_subfolders(config, folder)
        params = config["pipeline"].setdefault("params", {})
        if params.get("clustering", "VBxClustering") != "VBxClustering":
            params.setdefault("plda", PLDA.__new__(PLDA))
        with contextlib.redirect_stdout(sys.stderr):
            pipeline = Loaded.from_pretrained(config)
    except (*FAILURES, yaml.YAMLError) as error:
        log.warning("the diarisation pipeline does not load error=%s", type(error).__name__)
        return None
    log.info("pyannote's pipeline tells speakers apart")
    return pipeline  # type: ignore[no-any-return]


class PipelineEars(Ears):
    """Answers `Listen` with `Heard`: who speaks when by the pipeline, the voices as `Ears`."""

    def __init__(self, folder: Path, pipeline: Pipeline) -> None:
        super().__init__(folder)
        self._pipeline = pipeline
        self.info = DiariserInfo(self.info.model, self.info.dim, WINDOW_MS_MAX, LOCALS_MAX)

    def hear(self, audio: NDArray[np.int16]) -> Heard:
        import torch

        wave = levelled(audio)
        if len(audio) < SAMPLES_MIN or wave is None:
            return Heard(len(audio), ())
        tensor = torch.from_numpy(wave / np.float32(32_768))[None]
        try:
            found = self._pipeline({"waveform": tensor, "sample_rate": SAMPLE_RATE})
        except FAILURES as error:
            log.warning("the diarisation pipeline failed error=%s", type(error).__name__)
            return super().hear(audio)
        return self.told(wave, parts_of(getattr(found, "speaker_diarization", found), len(audio)))


def parts_of(annotation: Any, samples: int) -> list[tuple[Span, ...]]:
    """Where each speaker of an `Annotation` is active, those who say most first, `LOCALS_MAX` at most."""
    parts: dict[str, list[Span]] = {}
    for segment, _, label in annotation.itertracks(yield_label=True):
        start, end = (round(edge * SAMPLE_RATE) for edge in (segment.start, segment.end))
        parts.setdefault(label, []).append((max(0, start), min(samples, end)))
    tidied = [decode.tidy(spans) for spans in parts.values()]
    said = [(sum(end - start for start, end in spans), spans) for spans in tidied if spans]
    return [spans for _, spans in sorted(said, key=lambda each: -each[0])[:LOCALS_MAX]]


if __name__ == "__main__":
    sys.exit(main())
