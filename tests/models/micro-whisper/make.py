"""Makes the micro Whisper: trains it on synthetic speech and writes it as CTranslate2 reads it.

From the repository, in the models environment (it holds torch, faster-whisper and CTranslate2), with espeak-ng:

    export PYTHONPATH=.
    python tests/models/micro-whisper/make.py train CHECKPOINT --start tests/models/micro-whisper/en --steps 8000
    python tests/models/micro-whisper/make.py export CHECKPOINT FOLDER
    python tests/models/micro-whisper/make.py export CHECKPOINT FOLDER --english-only

`--start`: models whose weights and tokens to start from, else from nothing; `--genuine`: a model in Whisper's own
layout of 51,865 tokens, for its tokenizer. `train` goes on from CHECKPOINT where there is one, and leaves one when it
is interrupted. `export` into a folder with a `model.zip` packs the files into that.
"""

import argparse
import logging
import shutil
import signal
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from train.layout import Table, export
from train.loop import Plan, Training
from train.network import Size, finished, fresh, started

from tests.support.models import PACK, unpacked


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=("train", "export"))
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path, nargs="?", help="of export: folder for the model")
    parser.add_argument("--genuine", type=Path, help="default: the packed model")
    parser.add_argument("--start", type=Path, action="append", default=[])
    parser.add_argument("--layers", type=int, nargs=2, default=(3, 2), help="of encoder and decoder")
    parser.add_argument("--steps", type=int, default=8_000, help="in all, those of the checkpoint included")
    parser.add_argument("--early", type=int, default=1_300, help="steps with short windows")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="learning rate at its highest")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--german", type=float, default=0.35, help="share of German speech")
    parser.add_argument("--english-only", action="store_true", help="of export: the small layout")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves a checkpoint
    torch.set_num_threads(2)
    torch.manual_seed(options.seed)
    genuine = options.genuine or unpacked("multilingual")
    table = Table(genuine)
    size = Size(encoder=options.layers[0], decoder=options.layers[1])
    training = Training(started(size, table, options.start) if options.start else fresh(size, table), table)
    if options.checkpoint.exists():
        training.load(options.checkpoint)
    if options.action == "train":
        plan = Plan(options.steps, options.early, options.rate, options.seed, options.german)
        training.run(genuine, options.checkpoint, plan)
    else:
        weights = finished(training.result)
        with TemporaryDirectory() as folder:
            export(weights, table, genuine, Path(folder), multilingual=not options.english_only)
            hand_over(Path(folder), options.out)


def hand_over(folder: Path, out: Path) -> None:
    """Put the files into `out`, packed where a packed model is; equal files make equal packs."""
    files = sorted(folder.iterdir())
    if not (out / PACK).exists():
        out.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(file, out / file.name)
        return
    with zipfile.ZipFile(out / PACK, "w", zipfile.ZIP_LZMA) as pack:
        for file in files:
            pack.writestr(zipfile.ZipInfo(file.name), file.read_bytes(), zipfile.ZIP_LZMA)


if __name__ == "__main__":
    main()
