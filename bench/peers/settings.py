"""The other servers' settings that are measured: the best that their own documents name, and where they name them.

Pure data. What a setting may say about the machine it says in its own server's words; nothing here tunes one server to
the clips.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.peers.environments import WHISPER_LIVE, WHISPER_LIVE_KIT, Environment
from bench.report import cores

CLIENTS_MAX = 512
"""More than are ever measured: WhisperLive takes 4 by default."""


class Place(msgspec.Struct, frozen=True):
    """What a server is started with. `model`: a folder for CTranslate2; `checkpoint`, `heads`: the same model for
    PyTorch, where a setting wants it (`Setting.own_decoder`)."""

    port: int
    model: Path
    warm_up: Path
    checkpoint: Path | None = None
    encoder: Path | None = None
    heads: str = ""


class Setting(msgspec.Struct, frozen=True):
    """`kind`: "wlk" or "wl"; `options`: for the command line of WhisperLiveKit, or of WhisperLive's `run`; `hello`: of
    WhisperLive's first message; `environ`: beside what `HUSHED` says; `source`: where its documents name it;
    `own_decoder`: it decodes with PyTorch; `shapes`: computes with which it is measured, all when empty."""

    name: str
    title: str
    kind: str
    source: str
    options: dict[str, Any] = {}
    hello: dict[str, Any] = {}
    environ: dict[str, str] = {}
    own_decoder: bool = False
    shapes: tuple[str, ...] = ()

    @property
    def environment(self) -> Environment:
        return WHISPER_LIVE_KIT if self.kind == "wlk" else WHISPER_LIVE

    def arguments(self, place: Place) -> list[str]:
        """For `bench.peers.launch`."""
        if self.kind == "wl":
            given = {
                "port": place.port,
                "backend": "faster_whisper",
                "faster_whisper_custom_model_path": str(place.model),
                "max_clients": CLIENTS_MAX,
                **self.options,
            }
            return [json.dumps(given)]
        given = {
            "--host": "127.0.0.1",
            "--port": str(place.port),
            "--language": "en",
            "--pcm-input": None,
            "--warmup-file": str(place.warm_up),
            "--log-level": "WARNING",
            **self.options,
        }
        if self.own_decoder:
            given |= {
                "--model-path": str(place.checkpoint),
                "--encoder-model-path": str(place.encoder),
                "--custom-alignment-heads": place.heads,
            }
        else:
            given["--model_dir"] = str(place.model)
        return [part for name, value in given.items() for part in ([name] if value is None else [name, str(value)])]

    def url(self, port: int) -> str:
        return f"ws://127.0.0.1:{port}/asr" if self.kind == "wlk" else f"ws://127.0.0.1:{port}"


HUSHED = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
LOCAL_AGREEMENT = {"--backend-policy": "localagreement", "--backend": "faster-whisper"}
OWN_POLICY = {"--backend-policy": "simulstreaming"}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""WhisperLive's README, "Controlling OpenMP Threads": what its run_server.py sets unless it is told otherwise.
WhisperLiveKit's documents name no number."""

SETTINGS: Sequence[Setting] = (
    Setting(
        "wlk-agreement",
        "WhisperLiveKit, LocalAgreement",
        "wlk",
        "README (WhisperStreaming, LocalAgreement policy); --help: --backend-policy, --pcm-input, --warmup-file",
        options=LOCAL_AGREEMENT,
        environ=ONE_THREAD,
    ),
    Setting(
        "wlk-threads",
        "WhisperLiveKit, LocalAgreement, threads as it comes",
        "wlk",
        "as wlk-agreement; faster-whisper: cpu_threads, 4 by default",
        options=LOCAL_AGREEMENT,
        shapes=("tiny.en",),
    ),
    Setting(
        "wlk-confidence",
        "WhisperLiveKit, LocalAgreement, confidence validation",
        "wlk",
        '--help: --confidence-validation, "Accelerates validation of tokens using confidence scores"',
        options={**LOCAL_AGREEMENT, "--confidence-validation": None},
        environ=ONE_THREAD,
    ),
    Setting(
        "wlk-simul",
        "WhisperLiveKit, SimulStreaming (its default)",
        "wlk",
        "README (Simul-Whisper/Streaming); --help: --model-path, --encoder-model-path, --custom-alignment-heads",
        options=OWN_POLICY,
        environ=ONE_THREAD,
        own_decoder=True,
    ),
    Setting(
        "wl-single",
        "WhisperLive, single model",
        "wl",
        "README, Single model mode (-fw)",
        options={"single_model": True},
        environ=ONE_THREAD,
    ),
    Setting(
        "wl-threads",
        "WhisperLive, single model, a thread for each core",
        "wl",
        "README, Single model mode (-fw), Controlling OpenMP Threads (--omp_num_threads)",
        options={"single_model": True},
        environ={"OMP_NUM_THREADS": str(cores())},
        shapes=("tiny.en",),
    ),
    Setting(
        "wl-batch",
        "WhisperLive, batch inference",
        "wl",
        "README, Batch Inference (--batch_inference --batch_max_size 8 --batch_window_ms 50)",
        options={"single_model": True, "batch_enabled": True, "batch_max_size": 8, "batch_window_ms": 50},
        environ=ONE_THREAD,
    ),
    Setting(
        "wl-each",
        "WhisperLive, a model per connection",
        "wl",
        "README, Single model mode (--no_single_model)",
        options={"single_model": False},
        environ=ONE_THREAD,
    ),
)


def chosen(kinds: Sequence[str]) -> list[Setting]:
    """Those of these servers, or of these names; all without any. Raises ValueError for one that does not exist."""
    for kind in kinds:
        if all(kind not in (setting.kind, setting.name) for setting in SETTINGS):
            raise ValueError(f"there is no peer {kind}")
    return [s for s in SETTINGS if not kinds or s.kind in kinds or s.name in kinds]
