"""Text that nobody said: loops, and what a decoder invents over silence.

Pure.
"""

import zlib
from collections.abc import Sequence

from streaming.transcript.agreement import key_of

UNLIKELY_LOGPROB, NO_SPEECH, COMPRESSION_MAX = -1.0, 0.6, 2.4
"""Whisper's own thresholds (openai/whisper, `transcribe.py`)."""
DOUBTFUL_LOGPROB = -0.5
"""Below it a voice detector is asked whether there was anything to hear."""
VOICED_MS_MIN = 100
"""Of voice in a window that is worth a word: the shortest vowels last 50 ms, and the detector is a frame late.

Asked as inside speech: of 38 utterances of people 1 has less, of 32 with noise as loud as they are 2 (asked as at its
beginning 4); of 78 windows of noise, machines and music (`tests.support.nonspeech`) none has more, either way."""
LOOP_TOKENS_MIN = 9
"""Three times "in the morning" is a loop, "no, no, no" is not."""
REPEATED_WORDS_MIN = 4
"""So many words again as they stood in the prompt: "Yes, I do." is said twice, longer sentences hardly ever."""

SILENCE_TEXTS = frozenset(
    tuple(text.split())
    for text in (
        "you", "bye", "bye bye", "thank you", "thank you very much", "thank you so much", "thanks for watching",
        "thank you for watching", "thank you for watching this video", "thank you for listening", "please subscribe",
        "please subscribe to my channel", "like and subscribe", "see you next time", "see you in the next video",
        "subtitles by the amara org community", "subs by www zeoranger co uk", "untertitel der amara org community",
        "untertitelung des zdf 2020", "untertitel im auftrag des zdf für funk 2017", "vielen dank",
        "vielen dank fürs zuschauen", "sous titres réalisés par la communauté d amara org", "merci d avoir regardé",
        "sous titrage st 501", "subtítulos realizados por la comunidad de amara org", "gracias por ver el video",
    )
)  # fmt: skip
"""What Whisper is known to write when nobody speaks: endings of the videos it was trained on (Koenecke et al. 2024,
"Careless Whisper"; openai/whisper discussions 679 and 928). People say some of it, so only over likely silence."""


def is_word(text: str) -> bool:
    """Something that can be said: marks alone cannot."""
    return any(char.isalnum() for char in text)


def loop_start(tokens: Sequence[int]) -> int | None:
    """Where a decoder began to repeat itself for good: the index behind the first of at least three equal pieces that
    reach to the end and have `LOOP_TOKENS_MIN` tokens together, or None."""
    for length in range(1, len(tokens) // 3 + 1):
        same = 0
        while same + length < len(tokens) and tokens[-1 - same] == tokens[-1 - same - length]:
            same += 1
        if same >= 2 * length and same + length >= LOOP_TOKENS_MIN:
            return len(tokens) - same
    return None


def is_repetitive(text: str) -> bool:
    """Compresses better than anything that people say."""
    data = text.encode()
    return bool(data) and len(data) / len(zlib.compress(data)) > COMPRESSION_MAX


def is_silence_text(words: Sequence[str]) -> bool:
    keys = " ".join(words).replace("-", " ").replace(".", " ").replace("'", " ").replace("’", " ").split()
    return tuple(key_of(word) for word in keys if is_word(word)) in SILENCE_TEXTS


def repeats(words: Sequence[str], before: str) -> bool:
    """`words`, all of them, are how `before` ends."""
    ours, theirs = [key_of(word) for word in words], [key_of(word) for word in before.split()]
    return len(ours) >= REPEATED_WORDS_MIN and theirs[-len(ours) :] == ours
