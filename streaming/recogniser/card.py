"""How a Whisper wants to be treated: what its folder says about it, or what was measured on this machine.

Policy: `parlance.json` beside the weights says it (`ModelCard`). Without one a `Calibration` counts, which
`parlance models calibrate` leaves in a folder of this user: a model in the Hugging Face cache is not ours to write to.
Calibrations are kept under a fingerprint of the weights, so a model that changed is not treated as the old one was.
Without either it gets the safe defaults: real Whisper was trained on windows of 30 s and may degrade or loop on shorter
ones, so 30 s of padding is the rule and less has to be measured.

Boundary: small files, and a few pages of the weights; no model library, so the server's process may look too.
"""

import hashlib
import logging
import os
import tempfile
from enum import Enum
from pathlib import Path

import msgspec

from streaming.recogniser.engine import EngineUnavailable

WEIGHTS, SETTINGS = "model.bin", "config.json"
CARD = "parlance.json"
MEL_FRAMES_MAX = 3_000
"""30 s, Whisper's window."""
FRAMES_PER_S = 100
FINGERPRINT_PAGES, PAGE_BYTES = 64, 4_096
"""Of the weights, evenly spread: 256 kB instead of the 3 GB of large-v3, and a page of every layer. Training, even of a
few layers, changes them; so does another precision."""

log = logging.getLogger("parlance.worker")


class Padding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A window is padded to at least `min_s`, and by at least `tail_s`, seconds; then up to a multiple of `step_s`, so
    that windows of nearly equal length can be decoded in one batch."""

    min_s: float = 30.0
    tail_s: float = 0.0
    step_s: float = 1.0

    def __str__(self) -> str:
        if self.min_s >= MEL_FRAMES_MAX / FRAMES_PER_S:
            return "padded to 30 s"
        least = f", to {self.min_s:g} s at least" if self.min_s else ""
        return f"padded by {self.tail_s:g} s{least}"

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


class Calibration(msgspec.Struct, frozen=True):
    """What was measured of a model's padding (`streaming.recogniser.calibrate`). `synthetic`: on the speech that comes
    with Parlance, not on recordings of somebody's own; `differ`: of so many `words` with this padding; `cpu_ms`: of a
    window, and when it is padded to 30 s."""

    model: str
    padding: Padding
    synthetic: bool
    words: int
    differ: int
    cpu_ms: float
    padded_cpu_ms: float


class Source(Enum):
    CARD = "card"
    CALIBRATED = "calibrated"
    DEFAULT = "default"


class Treatment(msgspec.Struct, frozen=True):
    """A model's card, and who says so."""

    card: ModelCard
    source: Source
    calibration: Calibration | None = None


def card_of(folder: Path) -> ModelCard:
    """How the model is treated. Raises `EngineUnavailable` when its own `parlance.json` makes no sense."""
    return treatment_of(folder).card


def treatment_of(folder: Path) -> Treatment:
    """Raises `EngineUnavailable`, as `card_of`."""
    try:
        card = msgspec.json.decode((folder / CARD).read_bytes(), type=ModelCard)
    except FileNotFoundError:
        found = calibration_of(folder)
        if found is None:
            return Treatment(ModelCard(), Source.DEFAULT)
        return Treatment(ModelCard(padding=found.padding), Source.CALIBRATED, found)
    except (OSError, msgspec.DecodeError) as error:
        raise EngineUnavailable(f"{folder / CARD} is no model card: {error}") from error
    return Treatment(card, Source.CARD)


def calibrations_folder() -> Path:
    """Where calibrations are kept: `$XDG_CACHE_HOME/parlance/models`, else `~/.cache/parlance/models`."""
    root = Path(os.path.expandvars("$XDG_CACHE_HOME"))
    return (root if root.is_absolute() else Path("~/.cache").expanduser()) / "parlance" / "models"


def fingerprint(folder: Path) -> str:
    """What tells these weights from others, wherever they lie. Raises OSError."""
    digest = hashlib.sha256((folder / SETTINGS).read_bytes())
    with (folder / WEIGHTS).open("rb") as weights:
        size = weights.seek(0, os.SEEK_END)
        digest.update(b"%d" % size)
        for page in range(FINGERPRINT_PAGES):
            weights.seek(page * max(0, size - PAGE_BYTES) // (FINGERPRINT_PAGES - 1))
            digest.update(weights.read(PAGE_BYTES))
    return digest.hexdigest()[:32]


def calibration_of(folder: Path) -> Calibration | None:
    """What was measured of this model on this machine. A damaged file is none: the safe default always works."""
    try:
        path = calibrations_folder() / f"{fingerprint(folder)}.json"
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, RuntimeError) as error:  # RuntimeError: there is no home folder
        log.warning("the calibration of %s cannot be read: %s", folder, type(error).__name__)
        return None


def writable() -> Path:
    """The folder of calibrations, made when it was missing. Raises OSError when nothing can be kept there."""
    place = calibrations_folder()
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=place):
        return place


def keep(folder: Path, calibration: Calibration) -> Path:
    """Write it down, whole or not at all; where it is now. Raises OSError."""
    place = writable()
    path = place / f"{fingerprint(folder)}.json"
    with tempfile.NamedTemporaryFile(dir=place, prefix=".new-", delete=False) as new:
        try:
            new.write(msgspec.json.format(msgspec.json.encode(calibration)))
            new.flush()
            Path(new.name).replace(path)
        except OSError:
            Path(new.name).unlink(missing_ok=True)
            raise
    return path
