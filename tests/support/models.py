"""Where the models are that tests run: real Whispers of little size, see tests/models/micro-whisper.

`ENGLISH` lies open in the repository. The others are packed (most of Whisper's own vocabulary is unused here);
`unpacked` puts them into a cache of this user, once for each content.
"""

import hashlib
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

MICRO = Path(__file__).resolve().parents[1] / "models" / "micro-whisper"
ENGLISH = MICRO / "en"
PACK = "model.zip"
CARD = "parlance.json"


def unpacked(name: str, cache: Path | None = None) -> Path:
    """The folder of the model `name`, "multilingual" or "large", as an engine opens it. `cache`: default
    `~/.cache/parlance-tests`. Several processes may ask at once: each sees nothing or all of it."""
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parlance-tests"
    pack, card = MICRO / name / PACK, MICRO / name / CARD
    digest = hashlib.sha256(pack.read_bytes() + card.read_bytes()).hexdigest()[:16]
    folder = cache / f"{name}-{digest}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
        try:
            with zipfile.ZipFile(pack) as file:
                file.extractall(part)
            shutil.copyfile(card, part / CARD)
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder
