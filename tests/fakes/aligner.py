"""An alignment worker program that needs no models: it finds tone words exactly, and misbehaves on certain words.

    python -m tests.fakes.aligner --fd N --model FILE     the file holds the languages it claims, one a line

`interpreter` makes it what `LocalAligner` runs as the models environment's python.
"""

import argparse
import os
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from streaming import calls
from streaming.errors import Unavailable
from streaming.model import ms_of
from streaming.recogniser.alignment import Align, Aligned, AlignerInfo
from tests.fakes.tones import hear, labels_of

KILLS, STALLS, FAILS, NOWHERE, SHORT = "kills", "stalls", "fails", "nowhere", "short"
"""Words at which the worker is killed, never answers, refuses, finds nothing, and answers for too few words."""


def interpreter(folder: Path) -> Path:
    """A "python" that runs this program whatever module it is asked for."""
    path = folder / "python"
    root = Path(__file__).parents[2]
    path.write_text(f'#!/bin/sh\nshift 3\nPYTHONPATH={root} exec {sys.executable} -m tests.fakes.aligner "$@"\n')
    path.chmod(0o700)
    return path


def handle(body: bytes) -> bytes:
    request = msgspec.msgpack.decode(body, type=Align)
    if KILLS in request.words:
        os.kill(os.getpid(), signal.SIGKILL)
    while STALLS in request.words:
        time.sleep(1)
    if FAILS in request.words:
        raise Unavailable("the test wants it so")
    audio = np.frombuffer(request.pcm, "<i2")
    heard = {text: (ms_of(start), ms_of(end)) for text, start, end in hear(audio, labels_of(audio))}
    found = [heard[word] for word in request.words if word in heard]
    if NOWHERE in request.words or (len(found) < len(request.words) and SHORT not in request.words):
        return msgspec.msgpack.encode(Aligned(None))
    return msgspec.msgpack.encode(Aligned(tuple(found)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    arguments = parser.parse_args()
    languages = tuple(arguments.model.read_text().split())
    with socket.socket(fileno=arguments.fd) as sock:
        calls.serve(sock, msgspec.msgpack.encode(AlignerInfo(languages)), handle)


if __name__ == "__main__":
    main()
