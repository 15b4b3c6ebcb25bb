"""Inside another server's process: put the compute of a shape under its model, then start it as its own program does.

    python -m bench.peers.launch wlk SHAPE_FOLDER -- OPTIONS OF THE SERVER
    python -m bench.peers.launch wl SHAPE_FOLDER -- '{"port": ..., options of TranscriptionServer.run}'

SHAPE_FOLDER is "-" for the model as it is. WhisperLive's package does not hold its `run_server.py`; what that does is
call `TranscriptionServer().run`, with OMP_NUM_THREADS set before.

Boundary: the other's environment, which knows nothing of ours but what `bench.mirror` imports. Invariant: who starts it
holds its standard input; when that closes, because the benchmark was killed, the server ends as well.
"""

import importlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from bench.mirror import mirrored


def whisper_live_kit(options: list[str], shape: Path | None) -> None:
    sys.argv = ["whisperlivekit-server", *options]
    if shape is not None and "simulstreaming" in options:
        from bench.peers.shadow import shadow_decoder

        shadow_decoder(shape)
    importlib.import_module("whisperlivekit.basic_server").main()


def whisper_live(options: list[str]) -> None:
    given: dict[str, Any] = json.loads(options[0])
    importlib.import_module("whisper_live.server").TranscriptionServer().run("127.0.0.1", **given)


def end_with_its_starter() -> None:
    """On a thread of its own, because nothing of the other's program waits for standard input."""

    def watch() -> None:
        while sys.stdin.buffer.read(1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def launch(arguments: list[str]) -> None:
    end_with_its_starter()
    kind, folder, _, *options = arguments
    shape = None if folder == "-" else Path(folder)
    with mirrored(shape):
        if kind == "wlk":
            whisper_live_kit(options, shape)
        else:
            whisper_live(options)


if __name__ == "__main__":
    launch(sys.argv[1:])
