"""What `parlance stream --encoding` sends is what its name says: our own decoders hear the same words in it."""

import numpy as np
import pytest

from server.cli import ENCODINGS
from server.console.encoder import encoder_for
from streaming.audio.decode import decoder_for
from streaming.model import AudioFormat, Encoding
from streaming.protocol.messages import RecordingStart
from tests.fakes.tones import hear, labels_of, random_sentences, talk


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2)])
def test_the_words_survive(encoding: str, rate: int, channels: int) -> None:
    said = talk(random_sentences(5, 2), sample_rate=rate)
    pcm = said.audio.repeat(channels).astype("<i2").tobytes()
    encoder = encoder_for(encoding, sample_rate=rate, channels=channels)
    step = rate // 10 * 2 * channels
    pieces = [*(encoder.feed(pcm[at : at + step]) for at in range(0, len(pcm), step)), encoder.finish()]
    decoder = decoder_for(AudioFormat(Encoding(encoding), encoder.sample_rate or 48_000, encoder.channels or 1))
    audio = np.concatenate([*(decoder.feed(piece) for piece in pieces), decoder.finish()])
    assert [word for word, _, _ in hear(audio, labels_of(audio))] == " ".join(said.texts).split()
    assert abs(len(audio) - len(said.audio) * 16_000 // rate) < 400
    if Encoding(encoding).is_container:
        assert sum(map(bool, pieces)) > len(said.audio) / rate / 0.6, "it leaves about as it is spoken"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_nothing_is_nothing(encoding: str) -> None:
    encoder = encoder_for(encoding, sample_rate=16_000, channels=1)
    decoder = decoder_for(AudioFormat(Encoding(encoding), 16_000, 1))
    assert len(decoder.feed(encoder.finish())) + len(decoder.finish()) == 0


def test_the_choice_is_the_protocols() -> None:
    for encoding in ENCODINGS:
        assert RecordingStart(encoding=encoding).encoding == encoding  # type: ignore[arg-type]
    assert set(ENCODINGS) == {encoding.value for encoding in Encoding}
