"""What an engine cannot do is refused with the field that asked for it."""

import msgspec
import pytest

from server.live.opening import check_engine
from streaming.audio.endpoint import PRESETS
from streaming.errors import BadRequest, UnsupportedLanguage
from streaming.model import Capabilities
from streaming.protocol.messages import RecordingStart

ENGLISH = Capabilities("whisperx", "base.en", ("en",), 480, 0, 0, "speech", 64, 28_000)
SEVERAL = msgspec.structs.replace(ENGLISH, model="base", languages=("de", "en"), tasks=("transcribe", "translate"))


def wish(**fields: str) -> RecordingStart:
    return msgspec.convert({"encoding": "pcm_s16le", **fields}, RecordingStart)


def test_what_it_can_is_taken() -> None:
    for engine in (ENGLISH, SEVERAL):
        check_engine(wish(), engine)
        check_engine(wish(language="en-GB", task="transcribe"), engine)
    check_engine(wish(language="de-AT", task="translate"), SEVERAL)


def test_another_language_is_refused() -> None:
    with pytest.raises(UnsupportedLanguage, match="understands en only") as raised:
        check_engine(wish(language="de"), ENGLISH)
    assert raised.value.field == "language"


def test_translating_is_refused_by_a_model_of_one_language() -> None:
    with pytest.raises(BadRequest, match=r"with the model base\.en cannot translate") as raised:
        check_engine(wish(task="translate"), ENGLISH)
    assert raised.value.field == "task"


def test_every_preset_of_the_protocol_has_rules() -> None:
    for name in ("conversation", "dictation", "lecture"):
        assert wish(preset=name).preset in PRESETS
    assert len(PRESETS) == 3
