"""The alignment worker: whisperx in the models environment, asked for the exact word times of finals.

    python -P -m streaming.recogniser.whisperx --fd N [--model FOLDER_OR_NAME] [--language en]

Policy: it never uses the network. A language is offered when its weights are on this machine: the given folder or
name, else whisperx' own choice where torch hub or the Hugging Face cache holds it. With no weights at all it says so
before it imports anything large. Weights are loaded at a language's first final, the least used ones are let go.
Captions never wait for it: it stands behind everything else on the machine.

Boundary: the only module that imports whisperx, torch and transformers; `streaming.calls` carries requests. The rules
about words and times are in `streaming.recogniser.alignment`.
Invariant: what was said is never written to the log (whisperx' own log quotes it and is switched off).
"""

import argparse
import contextlib
import logging
import math
import os
import re
import socket
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streaming import calls
from streaming.errors import BadRequest, Unavailable
from streaming.model import SAMPLE_RATE
from streaming.recogniser.alignment import (
    ALIGN_MS_MAX,
    Align,
    Aligned,
    AlignerInfo,
    Token,
    primary,
    times_of,
    transcript,
)
from streaming.recogniser.card import MEL_FRAMES_MAX, card_of
from streaming.recogniser.devices import batch_max, devices
from streaming.recogniser.features import FRAME_SAMPLES as MEL_SAMPLES
from streaming.recogniser.features import frames_of, log_mel
from streaming.recogniser.guards import is_repetitive
from streaming.recogniser.pieces import Heard, placed

MODELS_MAX = 2
"""Languages whose weights are held: 0.4 GB each for the base models, 1.3 GB for the large ones."""
NICE = 10
"""Words are shown by others; this one only makes their times better."""
MARK = "wav2vec2"
"""In the name of every default of whisperx 3.8, on torch hub and on the Hugging Face hub."""

INSTEAD_OF_BUNDLES = {
    "en": "facebook/wav2vec2-base-960h",
    **{
        code: f"jonatasgrosman/wav2vec2-large-xlsr-53-{name}"
        for code, name in (("fr", "french"), ("de", "german"), ("es", "spanish"), ("it", "italian"))
    },
}
"""Models on the hub (`parlance models pull align-en`) for languages whose default is a file of torchaudio's."""

log = logging.getLogger("parlance.worker")


class Source(msgspec.Struct, frozen=True):
    """Where a language's weights are: a folder, or the name of a torchaudio bundle whose file is in torch hub."""

    name: str


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(description="Parlance's alignment worker.")
    parser.add_argument("--fd", type=int, required=True, help="an inherited unix socket")
    parser.add_argument("--model", help="a folder with a Wav2Vec2 model, or its name; default: what is here")
    parser.add_argument("--language", help="what the model speaks, where its card does not tell")
    arguments = parser.parse_args()
    calls.stand_back(NICE)
    with socket.socket(fileno=arguments.fd) as sock:
        sources = find(arguments.model, arguments.language)
        aligner = Aligner(sources)
        calls.serve(sock, msgspec.msgpack.encode(AlignerInfo(tuple(sorted(sources)))), aligner.handle)
    return 0


# --- what is here -----------------------------------------------------------------------------------------------------
def find(model: str | None, language: str | None) -> Mapping[str, Source]:
    """Languages with weights on this machine."""
    if model is not None and Path(model).is_dir():
        return _of_folder(Path(model), language)
    if model is None and not _anything_cached():
        return {}
    return _defaults() if model is None else _of_name(model, language)


def _of_folder(folder: Path, language: str | None) -> Mapping[str, Source]:
    spoken = (primary(language),) if language else card_languages(folder)
    if not spoken:
        log.error("the alignment model's README.md does not say its language: nothing is aligned")
    return dict.fromkeys(spoken, Source(str(folder))) if _complete(folder) else {}


def _of_name(name: str, language: str | None) -> Mapping[str, Source]:
    from whisperx.alignment import DEFAULT_ALIGN_MODELS_HF, DEFAULT_ALIGN_MODELS_TORCH

    defaults = {**DEFAULT_ALIGN_MODELS_HF, **DEFAULT_ALIGN_MODELS_TORCH}
    known = [code for code, default in defaults.items() if default == name]
    language = language or (known[0] if known else None)
    if _is_bundle(name):
        return {primary(language): Source(name)} if language and _bundle_here(name) else {}
    folder = _snapshot(name)
    return _of_folder(folder, language) if folder is not None else {}


def _defaults() -> Mapping[str, Source]:
    from whisperx.alignment import DEFAULT_ALIGN_MODELS_HF, DEFAULT_ALIGN_MODELS_TORCH

    found = {code: Source(name) for code, name in DEFAULT_ALIGN_MODELS_TORCH.items() if _bundle_here(name)}
    for code, name in {**DEFAULT_ALIGN_MODELS_HF, **INSTEAD_OF_BUNDLES}.items():
        folder = _snapshot(name)
        if folder is not None:
            found[code] = Source(str(folder))
    return found


def _anything_cached() -> bool:
    """A look at names only, which spares the 16 s import where nothing was ever downloaded."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return any(
        MARK in path.name.lower()
        for folder, pattern in ((_hub_checkpoints(), "*"), (Path(HF_HUB_CACHE), "models--*"))
        for path in folder.glob(pattern)
    )


def _hub_checkpoints() -> Path:
    """Where torch.hub keeps files, without importing torch."""
    places = ("$TORCH_HOME", "$XDG_CACHE_HOME/torch", "~/.cache/torch")
    home = next(path for path in map(os.path.expandvars, places) if "$" not in path)
    return Path(home).expanduser() / "hub" / "checkpoints"


def _is_bundle(name: str) -> bool:
    import torchaudio

    return name in torchaudio.pipelines.__all__


def _bundle_here(name: str) -> bool:
    import torchaudio

    return (_hub_checkpoints() / Path(getattr(torchaudio.pipelines, name)._path).name).is_file()


def _snapshot(name: str) -> Path | None:
    """The cached folder of a model on the hub, if it is whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if _complete(folder) else None


def _complete(folder: Path) -> bool:
    weights = any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))
    return weights and (folder / "config.json").is_file() and (folder / "vocab.json").is_file()


def card_languages(folder: Path) -> tuple[str, ...]:
    """`language:` of the model card's front matter: one code, or a list of them."""
    try:
        card = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    front = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
    found = re.search(r"^languages?:(.*(?:\n\s*-\s.*)*)", front[1], re.MULTILINE) if front else None
    codes = re.findall(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]+)*", found[1]) if found else []
    return tuple(dict.fromkeys(primary(code) for code in codes))


# --- aligning ---------------------------------------------------------------------------------------------------------
class Aligner:
    """Answers `Align` with `Aligned`."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = sources
        self._held: OrderedDict[str, tuple[Any, dict[str, Any]]] = OrderedDict()

    def handle(self, body: bytes) -> bytes:
        """Raises `BadRequest` for what is no request, `Unavailable` for a language without weights."""
        try:
            request = msgspec.msgpack.decode(body, type=Align)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest("no alignment request") from error
        if len(request.pcm) % 2 or len(request.pcm) > ALIGN_MS_MAX * SAMPLE_RATE // 500:
            raise BadRequest("audio of a wrong size")
        return msgspec.msgpack.encode(self.align(request))

    def align(self, request: Align) -> Aligned:
        """Raises `Unavailable` for a language without weights."""
        language = primary(request.language)
        model, metadata = self._model(language)
        alphabet = metadata["dictionary"]
        text = transcript(request.words, alphabet, language)
        audio = np.frombuffer(request.pcm, "<i2").astype(np.float32) / 32_768
        if not text or not len(audio):
            return Aligned(None)
        seconds = len(audio) / SAMPLE_RATE
        import whisperx

        heard = whisperx.align([{"start": 0.0, "end": seconds, "text": text}], model, metadata, audio, "cpu")
        tokens = [
            Token(word["word"], _number(word.get("start")), _number(word.get("end"))) for word in heard["word_segments"]
        ]
        duration_ms = len(audio) * 1000 // SAMPLE_RATE
        return Aligned(times_of(request.words, tokens, alphabet=alphabet, language=language, duration_ms=duration_ms))

    def _model(self, language: str) -> tuple[Any, dict[str, Any]]:
        if language in self._held:
            self._held.move_to_end(language)
            return self._held[language]
        source = self._sources.get(language)
        if source is None:
            raise Unavailable("there are no alignment weights for this language")
        while len(self._held) >= MODELS_MAX:
            self._held.popitem(last=False)
        held = self._held[language] = load(language, source)
        log.info("alignment model loaded language=%s", language)
        return held


class _OneSentence:
    """In the place of nltk's sentence splitter, which wants a download: word times need no sentences."""

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def load(language: str, source: Source) -> tuple[Any, dict[str, Any]]:
    """The model and whisperx' metadata of it."""
    import torch
    import whisperx
    from whisperx import alignment

    torch.set_num_threads(1)  # one of the cores, whatever OMP_NUM_THREADS says
    alignment.nltk_load = lambda _name: _OneSentence()
    _be_quiet()
    with contextlib.redirect_stdout(sys.stderr):
        model, metadata = whisperx.load_align_model(language, "cpu", model_name=source.name, model_cache_only=True)
    return model.float().eval(), metadata


# --- transcribing -----------------------------------------------------------------------------------------------------
class BatchedWhisper:
    """whisperx' batched pipeline over a local folder, with word times from the model's attention.

    A model of which it is known that it needs less padding (`streaming.recogniser.card`) gets no more than the longest
    window of a piece wants; any other is padded to 30 s, in whisperx' own way."""

    def __init__(self, folder: Path, *, device: str, compute_type: str) -> None:
        """`device`, `compute_type`: as PARLANCE_DEVICE and PARLANCE_COMPUTE_TYPE."""
        _be_quiet()
        import torch
        import whisperx

        torch.set_num_threads(1)
        card = card_of(folder)
        place = devices(device, compute_type)[0]
        self._batch = batch_max(place)
        self._takes_vocabulary = card.vocabulary
        self._model: Any = _placing()(
            str(folder), device=place.kind, device_index=place.index, compute_type=place.compute_type,
            cpu_threads=1, local_files_only=True,
        )  # fmt: skip
        self._filters = np.asarray(self._model.feature_extractor.mel_filters, np.float32)
        self._frames = MEL_FRAMES_MAX
        self._several = bool(self._model.model.is_multilingual)
        self._voices: Any = _told()(0.5)
        with contextlib.redirect_stdout(sys.stderr):
            self._pipeline = whisperx.load_model(
                str(folder), place.kind, model=self._model, vad_model=self._voices,
                language=None if self._several else "en",
            )  # fmt: skip
        self._options = self._pipeline.options
        self._padding = card.padding
        self.is_padded = card.padding.frames(1) == MEL_FRAMES_MAX
        if not self.is_padded:
            self._pipeline.preprocess = self._picture

    @property
    def languages(self) -> tuple[str, ...]:
        """Empty: any that Whisper knows."""
        return () if self._several else ("en",)

    def transcribe(
        self,
        audio: NDArray[np.float32],
        windows: Sequence[tuple[int, int]],
        *,
        language: str,
        task: str,
        vocabulary: Sequence[str],
    ) -> list[tuple[int, int, str, float, Heard, Any]]:
        """(start, end, language, log probability, tokens, tokeniser) of each window of samples, each below 30 s."""
        wanted = "en" if not self._several else None if language == "auto" else primary(language)
        terms = ", ".join(vocabulary) if self._takes_vocabulary else ""
        self._pipeline.options = replace(self._options, hotwords=terms or None)
        self._voices.windows = windows
        lengths = [end - start for start, end in windows]
        self._model.begin(lengths)
        self._frames = self._padding.frames(frames_of(max(lengths)))
        task = task if self._several else "transcribe"
        found = self._pipeline.transcribe(audio, batch_size=self._batch, language=wanted, task=task)
        spoken = found["language"]
        return [
            (start, end, spoken, float(segment["avg_logprob"]), *self._model.found[number])
            for number, ((start, end), segment) in enumerate(zip(windows, found["segments"], strict=True))
        ]

    def _picture(self, given: dict[str, Any]) -> dict[str, Any]:
        """In the place of the pipeline's, which pads to 30 s."""
        import torch

        mel = log_mel(np.asarray(given["inputs"], np.float32), self._filters)[:, : self._frames]
        return {"inputs": torch.from_numpy(np.pad(mel, ((0, 0), (0, self._frames - mel.shape[1]))))}


def _told() -> Any:
    """A voice detector for whisperx that was told where people speak: its own want a download, or torch.hub."""
    from whisperx.diarize import Segment
    from whisperx.vads import Vad

    class Told(Vad):  # type: ignore[misc]
        windows: Sequence[tuple[int, int]] = ()

        def __call__(self, _audio: object, **_: object) -> list[Any]:
            return [Segment(start, end, "") for start, end in self.windows]

        @staticmethod
        def merge_chunks(windows: list[Any], *_: object, **__: object) -> list[dict[str, float]]:
            # whisperx multiplies by the rate and rounds down: half a sample more, and it is the same sample again.
            return [
                {"start": (each.start + 0.5) / SAMPLE_RATE, "end": (each.end + 0.5) / SAMPLE_RATE} for each in windows
            ]

    return Told


def _placing() -> Any:
    """whisperx' model (no other will do), which also says where each token of a text begins."""
    from whisperx.asr import WhisperModel

    class Placing(WhisperModel):  # type: ignore[misc]
        def begin(self, samples: Sequence[int]) -> None:
            """A new piece, with windows of these lengths."""
            self.lengths = list(samples)
            self.found: list[tuple[Heard, Any]] = []
            self.features = self.encoded = None

        def encode(self, features: Any) -> Any:
            if features is not self.features:
                self.features, self.encoded = features, super().encode(features)
            return self.encoded

        def generate_segment_batched(self, features: Any, tokenizer: Any, options: Any, **given: Any) -> Any:
            output = super().generate_segment_batched(features, tokenizer, options, **given)
            plain = super().generate_segment_batched(features, tokenizer, replace(options, beam_size=1), **given)
            output = likelier(output, plain)
            encoded = _rows(self.encoded)
            self.features = self.encoded = None
            for row, text in enumerate(output["text"]):
                tokens = tokenizer.encode(text)
                n_samples = self.lengths[len(self.found)]
                heard = Heard((), [0], [])
                if tokens:
                    view = encoded(row)
                    frames = max(1, n_samples // MEL_SAMPLES)
                    heard = placed(tokens, self.model.align(view, tokenizer.sot_sequence, [tokens], [frames])[0])
                self.found.append((heard, tokenizer))
            return output

    return Placing


def likelier(beams: Mapping[str, list[Any]], plain: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Of two searches (`text` and `avg_logprob` of each window) the texts that are more probable.

    A search with five beams ends with its fifth text, and where the model is sure these may be five beginnings of the
    text: it lost the end of 1 in 91 utterances, whose whole text was five times as probable. A plain search goes on to
    the end, but may repeat itself, and repetitions are probable: such a text does not count. The micro Whisper on two
    meetings of 878 and 1,271 words: 5 and 9 errors with beams, 4 and 5 with both, for the same CPU within 10%."""
    both = [
        (text, logprob) if logprob > best and not is_repetitive(text) else (found, best)
        for found, best, text, logprob in zip(
            beams["text"], beams["avg_logprob"], plain["text"], plain["avg_logprob"], strict=True
        )
    ]
    return {"text": [text for text, _ in both], "avg_logprob": [logprob for _, logprob in both]}


def _rows(encoded: Any) -> Any:
    """The encoder's output of one window of a batch: together, texts of unequal length get worse times."""
    import ctranslate2

    if encoded.shape[0] == 1:
        return lambda _row: encoded
    whole = np.asarray(encoded.to_device(ctranslate2.Device.cpu) if encoded.device != "cpu" else encoded)
    return lambda row: ctranslate2.StorageView.from_array(np.ascontiguousarray(whole[[row]]))


def _be_quiet() -> None:
    """whisperx' log quotes what was said."""
    logger = logging.getLogger("whisperx")
    logger.handlers[:] = [logging.NullHandler()]
    logger.setLevel(logging.CRITICAL + 1)


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


if __name__ == "__main__":
    sys.exit(main())
