"""A Whisper's folder on this machine: which one is meant, what it is called, and what was measured about it.

Policy: `parlance.json` beside the weights says how the model wants to be treated (`ModelCard`); without one it gets the
safe defaults. Real Whisper was trained on windows of 30 s and may degrade or loop on shorter ones, so 30 s of padding
is the rule and less has to be measured.

Boundary: folders and faster-whisper's table of names; no weights are read, no network is used.
"""

from pathlib import Path

import msgspec
from faster_whisper.utils import download_model

from streaming.recogniser.engine import EngineUnavailable

FILES = ("model.bin", "config.json", "tokenizer.json")
CARD = "parlance.json"
MEL_FRAMES_MAX = 3_000
"""30 s, Whisper's window."""
FRAMES_PER_S = 100


class Padding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A window is padded to at least `min_s`, and by at least `tail_s`, seconds; then up to a multiple of `step_s`, so
    that windows of nearly equal length can be decoded in one batch."""

    min_s: float = 30.0
    tail_s: float = 0.0
    step_s: float = 1.0

    def frames(self, n_frames: int) -> int:
        """Mel frames of a window that has `n_frames` of audio."""
        step = max(2, round(self.step_s * FRAMES_PER_S / 2) * 2)
        wanted = max(round(self.min_s * FRAMES_PER_S), n_frames + round(self.tail_s * FRAMES_PER_S), 1)
        return min(MEL_FRAMES_MAX, -(-wanted // step) * step)


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured about a model. `window_s`: longer windows lose their finished sentences; `vocabulary`: it
    profits from a client's vocabulary as a prompt; `carry`: and from the text before; `name`, `notice`: for
    `Capabilities`."""

    padding: Padding = Padding()
    window_s: float = 15.0
    vocabulary: bool = True
    carry: bool = True
    name: str | None = None
    notice: str | None = None


def find(wanted: str) -> Path:
    """The model's folder: `wanted` itself, or what the local Hugging Face cache holds under that name. Raises
    `EngineUnavailable`."""
    if not wanted:
        raise EngineUnavailable("PARLANCE_MODEL names no Whisper model")
    folder = Path(wanted)
    if not folder.is_dir():
        if folder.is_absolute() or wanted.startswith("."):
            raise EngineUnavailable(f"there is no folder {wanted} with a Whisper model")
        try:
            folder = Path(download_model(wanted, local_files_only=True))
        except (ValueError, OSError) as error:
            raise EngineUnavailable(f"no Whisper model called {wanted} is on this machine") from error
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise EngineUnavailable(f"{folder} holds no Whisper model for CTranslate2: {', '.join(missing)} missing")
    return folder


def name_of(wanted: str, folder: Path) -> str:
    """What people call the model: the name it was found by, its repository in a cache, or its folder."""
    if not Path(wanted).is_dir():
        return wanted
    for part in reversed(folder.parts):
        if part.startswith("models--"):
            return part.rpartition("--")[2].removeprefix("faster-whisper-")
    return folder.resolve().name


def card_of(folder: Path) -> ModelCard:
    """The model's `parlance.json`, or the safe defaults. Raises `EngineUnavailable` when it makes no sense."""
    try:
        return msgspec.json.decode((folder / CARD).read_bytes(), type=ModelCard)
    except FileNotFoundError:
        return ModelCard()
    except (OSError, msgspec.DecodeError) as error:
        raise EngineUnavailable(f"{folder / CARD} is no model card: {error}") from error
