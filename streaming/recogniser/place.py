"""Which folder a Whisper's name means, and what people call it.

Boundary: folders and faster-whisper's table of names; no weights are read, no network is used. Imported in worker
processes only.
"""

from pathlib import Path

from faster_whisper.utils import download_model

from streaming.recogniser.engine import EngineUnavailable

FILES = ("model.bin", "config.json", "tokenizer.json")


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
