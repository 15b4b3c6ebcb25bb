"""The models that Parlance knows by short names, and what of a repository is needed.

Policy: the default Whisper is `base.en`. An update of a 5 s window costs it 142 ms of CPU, 640 ms where the model needs
padding (tiny.en: 77 and 320, small.en: 462 and 2,000), so on two cores it is the largest that keeps the promise of a
word within a second; it makes a quarter fewer errors than tiny.en. The multilingual ones cost the same and are a little
worse in English, so whoever wants other languages fetches `base` or `small`. Other machines and wishes have other
ones: `server.models.tiers`.

Pure: names in, names out. `server.models.cache` looks at disks, `server.models.hub` at the network.
"""

import difflib
import re
from collections.abc import Collection
from enum import Enum

import msgspec

from streaming.errors import NotFound

MB = 1_000_000
GB = 1_000 * MB


class Kind(Enum):
    WHISPER = "whisper"
    ALIGNMENT = "alignment"
    EMBEDDING = "embedding"
    OTHER = "other"


class Model(msgspec.Struct, frozen=True):
    """`name`: what a person types; `repo`: where it lives on the hub; `size_bytes`: of what is fetched, about."""

    name: str
    repo: str
    kind: Kind
    size_bytes: int
    about: str


class UnknownModel(NotFound):
    """No model has this name; the message has near ones."""


_WHISPERS = (
    ("tiny.en", "Systran/faster-whisper-tiny.en", 76, "English; the quickest"),
    ("tiny", "Systran/faster-whisper-tiny", 76, "99 languages; the quickest, rough"),
    ("base.en", "Systran/faster-whisper-base.en", 146, "English; keeps up on two cores; the default"),
    ("base", "Systran/faster-whisper-base", 146, "99 languages; keeps up on two cores"),
    ("small.en", "Systran/faster-whisper-small.en", 484, "English; better, wants four fast cores"),
    ("small", "Systran/faster-whisper-small", 484, "99 languages; better, wants four fast cores"),
    ("medium.en", "Systran/faster-whisper-medium.en", 1_528, "English; wants a GPU"),
    ("medium", "Systran/faster-whisper-medium", 1_528, "99 languages; wants a GPU"),
    ("large-v2", "Systran/faster-whisper-large-v2", 3_087, "99 languages; wants a GPU"),
    ("large-v3", "Systran/faster-whisper-large-v3", 3_090, "99 languages; the best, wants a GPU"),
    ("large-v3-turbo", "mobiuslabsgmbh/faster-whisper-large-v3-turbo", 1_621, "99 languages; nearly as good; a GPU"),
    ("distil-large-v3", "Systran/faster-distil-whisper-large-v3", 1_516, "English; quick for its size, wants a GPU"),
)  # fmt: skip
"""As in `faster_whisper.utils._MODELS` (a test compares them)."""

_ALIGNERS = {
    "en": "facebook/wav2vec2-base-960h",
    "fr": "jonatasgrosman/wav2vec2-large-xlsr-53-french",
    "de": "jonatasgrosman/wav2vec2-large-xlsr-53-german",
    "es": "jonatasgrosman/wav2vec2-large-xlsr-53-spanish",
    "it": "jonatasgrosman/wav2vec2-large-xlsr-53-italian",
    "ja": "jonatasgrosman/wav2vec2-large-xlsr-53-japanese",
    "zh": "jonatasgrosman/wav2vec2-large-xlsr-53-chinese-zh-cn",
    "nl": "jonatasgrosman/wav2vec2-large-xlsr-53-dutch",
    "uk": "Yehor/wav2vec2-xls-r-300m-uk-with-small-lm",
    "pt": "jonatasgrosman/wav2vec2-large-xlsr-53-portuguese",
    "ar": "jonatasgrosman/wav2vec2-large-xlsr-53-arabic",
    "cs": "comodoro/wav2vec2-xls-r-300m-cs-250",
    "ru": "jonatasgrosman/wav2vec2-large-xlsr-53-russian",
    "pl": "jonatasgrosman/wav2vec2-large-xlsr-53-polish",
    "hu": "jonatasgrosman/wav2vec2-large-xlsr-53-hungarian",
    "fi": "jonatasgrosman/wav2vec2-large-xlsr-53-finnish",
    "fa": "jonatasgrosman/wav2vec2-large-xlsr-53-persian",
    "el": "jonatasgrosman/wav2vec2-large-xlsr-53-greek",
    "tr": "mpoyraz/wav2vec2-xls-r-300m-cv7-turkish",
    "da": "saattrupdan/wav2vec2-xls-r-300m-ftspeech",
    "he": "imvladikon/wav2vec2-xls-r-300m-hebrew",
    "vi": "nguyenvulebinh/wav2vec2-base-vi-vlsp2020",
    "ko": "kresnik/wav2vec2-large-xlsr-korean",
    "ur": "kingabzpro/wav2vec2-large-xls-r-300m-Urdu",
    "te": "anuragshas/wav2vec2-large-xlsr-53-telugu",
    "hi": "theainerd/Wav2Vec2-large-xlsr-hindi",
    "ca": "softcatala/wav2vec2-large-xlsr-catala",
    "ml": "gvs/wav2vec2-large-xlsr-malayalam",
    "no": "NbAiLab/nb-wav2vec2-1b-bokmaal-v2",
    "nn": "NbAiLab/nb-wav2vec2-1b-nynorsk",
    "sk": "comodoro/wav2vec2-xls-r-300m-sk-cv8",
    "sl": "anton-l/wav2vec2-large-xlsr-53-slovenian",
    "hr": "classla/wav2vec2-xls-r-parlaspeech-hr",
    "ro": "gigant/romanian-wav2vec2",
    "eu": "stefan-it/wav2vec2-large-xlsr-53-basque",
    "gl": "ifrz/wav2vec2-large-xlsr-galician",
    "ka": "xsway/wav2vec2-large-xlsr-georgian",
    "lv": "jimregan/wav2vec2-large-xlsr-latvian-cv",
    "tl": "Khalsuu/filipino-wav2vec2-l-xls-r-300m-official",
    "sv": "KBLab/wav2vec2-large-voxrex-swedish",
    "id": "cahya/wav2vec2-large-xlsr-indonesian",
}
"""whisperx's `DEFAULT_ALIGN_MODELS_HF`; the first five, whose defaults torchaudio fetches from elsewhere, have the best
known models of the same kind here."""
_ALIGNER_SIZES = {"en": 378 * MB, "vi": 380 * MB, "no": 3_850 * MB, "nn": 3_850 * MB}
_ALIGNER_SIZE = 1_262 * MB

TORCH_ALIGNERS = {
    "en": "wav2vec2_fairseq_base_ls960_asr_ls960.pth",
    "fr": "wav2vec2_voxpopuli_base_10k_asr_fr.pt",
    "de": "wav2vec2_voxpopuli_base_10k_asr_de.pt",
    "es": "wav2vec2_voxpopuli_base_10k_asr_es.pt",
    "it": "wav2vec2_voxpopuli_base_10k_asr_it.pt",
}
"""Files of torchaudio's bundles, whisperx's defaults for these languages, as torch.hub keeps them."""

_EMBEDDERS = (
    ("minilm", "sentence-transformers/all-MiniLM-L6-v2", 91, "English; the models environment brings it along"),
    ("minilm-multilingual", "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", 480, "50 languages"),
)  # fmt: skip

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        *(Model(name, repo, Kind.WHISPER, size * MB, about) for name, repo, size, about in _WHISPERS),
        *(
            Model(f"align-{code}", repo, Kind.ALIGNMENT, _ALIGNER_SIZES.get(code, _ALIGNER_SIZE), f"word times, {code}")
            for code, repo in _ALIGNERS.items()
        ),
        *(Model(name, repo, Kind.EMBEDDING, size * MB, about) for name, repo, size, about in _EMBEDDERS),
    )
}
DEFAULT = "base.en"

_WHISPER_FILE = re.compile(r"((preprocessor_)?config|tokenizer|parlance)\.json|model\.bin|vocabulary\..+")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def resolve(name: str) -> Model:
    """The model of a short name, of "default", or of an `owner/name` on the hub. Raises `UnknownModel`."""
    name = name.strip()
    if name == "default":
        return MODELS[DEFAULT]
    if name in MODELS:
        return MODELS[name]
    if _REPO.fullmatch(name) and ".." not in name:
        return by_repo(name)
    near = difflib.get_close_matches(name, [*MODELS, "default"], 3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`parlance models list` shows them."
    raise UnknownModel(f"There is no model called {name}; {hint}", field="name")


def by_repo(repo: str) -> Model:
    """The known model that lives there, else a nameless one."""
    for model in MODELS.values():
        if model.repo.lower() == repo.lower():
            return model
    return Model(repo, repo, Kind.OTHER, 0, "")


def is_whisper(files: Collection[str]) -> bool:
    """A repository with these files holds CTranslate2 weights."""
    return "model.bin" in files


def wanted_files(files: Collection[str]) -> list[str]:
    """What is fetched of a repository: a Whisper's files, with Parlance's own card; or a transformer's weights in one
    format, its tokenizer and settings (also of a sentence-transformer's modules, in folders such as `1_Pooling`),
    and its README, which tells its language."""
    if is_whisper(files):
        return sorted(f for f in files if _WHISPER_FILE.fullmatch(f))
    safe = [f for f in files if re.fullmatch(r"(\d+_\w+/)?model(-\d+-of-\d+)?\.safetensors", f)]
    weights = safe or [f for f in files if re.fullmatch(r"(\d+_\w+/)?pytorch_model(-\d+-of-\d+)?\.bin", f)]
    settings = [f for f in files if re.fullmatch(r"(\d+_\w+/)?[\w.-]+\.(json|txt|model)", f)]
    return sorted({*weights, *settings, *({"README.md"} & set(files))})


def complete(files: Collection[str]) -> bool:
    """These files of a snapshot are enough to load the model without the hub."""
    if is_whisper(files):
        return {"config.json", "tokenizer.json"} <= set(files) and any(f.startswith("vocabulary.") for f in files)
    weights = any(f.endswith((".safetensors", ".bin")) for f in files)
    return weights and "config.json" in files


def megabytes(size_bytes: int) -> str:
    """ "146 MB", "1.5 GB"."""
    if size_bytes >= GB:
        return f"{size_bytes / GB:.1f} GB"
    return f"{size_bytes / MB:.0f} MB" if size_bytes >= MB else f"{size_bytes / MB:.1f} MB"
