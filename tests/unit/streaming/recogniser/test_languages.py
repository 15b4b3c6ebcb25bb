"""Which language a stream is in."""

from streaming.recogniser.languages import LONG_SAMPLES, SURE_P, SURE_SAMPLES, Choice, choose, known


def test_enough_audio_and_no_doubt_settle_it() -> None:
    assert choose([("de", SURE_P), ("en", 0.1)], SURE_SAMPLES) == Choice("de", settled=True, certain=True)
    assert choose([("de", 0.99)], SURE_SAMPLES - 1) == Choice("de", settled=False, certain=False)
    assert choose([("de", SURE_P - 0.01)], SURE_SAMPLES) == Choice("de", settled=False, certain=False)


def test_a_long_utterance_must_be_in_some_language_but_says_nothing_of_the_next() -> None:
    assert choose([("de", 0.4)], LONG_SAMPLES) == Choice("de", settled=True, certain=False)


def test_wishes_are_tags() -> None:
    assert known("de-AT", ["en", "de"]) == "de"
    assert known("DE", ["en", "de"]) == "de"
    assert known("fr", ["en", "de"]) is None
    assert known("auto", ["en", "de"]) is None
