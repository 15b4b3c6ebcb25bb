"""From tokens to words: what is shown is what the tokenizer decodes, however the windows fall."""

from functools import cache

from faster_whisper.tokenizer import Tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer

from streaming.recogniser.pieces import Heard, given_again, hypothesis_of, joined, pieces_of, unplaced
from streaming.recogniser.policy import LocalAgreement, Piece, Tail
from streaming.recogniser.rolling import Progress, advance
from tests.support.models import ENGLISH

WORDS = st.sampled_from(
    [
        "We",
        "café",
        "isn't",
        "launch",
        "3",
        "1,000",
        "e.g.",
        "good-bye",
        "Zürich",
        "好",
        "naïve",
        "$5",
        "50%",
        "A.M.",
        "-",
    ]
)
MARKS = st.sampled_from(["", "", "", ",", ".", "?", "!", "...", ":", ";", '."', ",'", ")"])
OPENINGS = st.sampled_from(["", "", "", '"', "(", "'"])
TEXTS = st.lists(st.tuples(OPENINGS, WORDS, MARKS).map("".join), min_size=1, max_size=12).map(" ".join)


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(HfTokenizer.from_file(str(ENGLISH / "tokenizer.json")), False)


def words(tokens: list[int], *, first: bool = True) -> list[str]:
    return [piece.text for piece in pieces_of(unplaced(tokens, 1.0), tokenizer(), first=first)]


@given(TEXTS, st.data())
def test_the_words_that_are_fixed_are_the_text(text: str, data: st.DataObject) -> None:
    """A decoder that writes `text`, a few tokens more with each window, behind the words that are fixed."""
    tokens = tokenizer().encode(" " + text)
    steps = data.draw(st.lists(st.integers(0, 4), min_size=len(tokens), max_size=len(tokens)))
    progress, end = Progress(language="en", settled=True), 0
    for number, step in enumerate(steps):
        end = min(len(tokens), end + step)
        progress = advance(
            progress, behind(progress, tokens[:end]), LocalAgreement(), until=number * 16_000, at_rest=False
        )
        fixed = [piece.text for piece in progress.fixed]
        assert text.split()[: len(fixed)] == fixed
    whole = [piece.text for piece in (*progress.fixed, *behind(progress, tokens))]
    assert joined(whole, "en") == tokenizer().decode(tokens).strip() == text


def behind(progress: Progress, tokens: list[int]) -> tuple[Piece, ...]:
    given_tokens = sum(len(piece.tokens) for piece in progress.fixed)
    return pieces_of(unplaced(tokens[given_tokens:], 1.0), tokenizer(), first=not progress.fixed)


def test_marks_belong_to_the_word_before_them() -> None:
    assert words(tokenizer().encode(' He said: "Ready?" Yes, 3.5 - or so...')) == [
        *("He", "said:", '"Ready?"', "Yes,", "3.5", "-", "or", "so..."),
    ]


def test_what_is_glued_to_a_given_word_is_left_out() -> None:
    for glued in (".", ", ", "s.", '."'):
        assert words(tokenizer().encode(f"{glued.strip()} The launch"), first=False) == ["The", "launch"]


def test_where_nothing_is_given_a_first_word_without_a_space_is_one() -> None:
    """After a cut, too: the words before it are not in the window."""
    for text in ('"Hello there', "Hello there", "(Hello there"):
        assert words(tokenizer().encode(text)) == text.split()


def test_marks_without_a_word_at_the_beginning_are_left_out() -> None:
    for marks in (".", "...", ",", "?!"):
        assert words(tokenizer().encode(f"{marks} The launch")) == ["The", "launch"]


def test_a_text_of_no_tokens_has_no_words() -> None:
    assert pieces_of(Heard([], [0], []), tokenizer(), first=True) == ()


def test_half_a_character_is_none() -> None:
    assert words(tokenizer().encode(" ready 好")[:-1]) == ["ready"]


def test_where_nobody_writes_spaces_clauses_are_the_words() -> None:
    chinese = Tokenizer(tokenizer().tokenizer, False)
    chinese.language_code = "zh"
    tokens = chinese.encode("你好，今天很好。我们")
    for first in (True, False):
        pieces = pieces_of(unplaced(tokens, 1.0), chinese, first=first)
        assert [piece.text for piece in pieces] == ["你好，", "今天很好。", "我们"]
    assert joined([piece.text for piece in pieces], "zh") == chinese.decode(tokens)


def test_words_have_the_times_of_their_tokens() -> None:
    tokens = tokenizer().encode(" The café isn't open")
    pieces = pieces_of(Heard(tokens, range(len(tokens) + 1), [0.5] * len(tokens)), tokenizer(), first=True)
    at = 0
    for piece in pieces:
        assert (piece.start, piece.end, piece.p) == (at, at + len(piece.tokens), 0.5)
        at = piece.end
    assert at == len(tokens)


def test_given_words_that_did_not_fit_are_placed_as_far_as_they_did() -> None:
    given = (Piece("a", (1, 2), 0, 0, 0.5, False), Piece("b", (3, 4), 0, 0, 0.5, False))
    again = given_again(given, Heard([2, 3, 4], [100, 200, 300, 400], [0.9, 0.8, 0.6]))
    assert [(piece.start, piece.end, piece.p) for piece in again] == [(100, 200, 0.9), (200, 400, 0.7)]
    assert all(piece.aligned for piece in again)


def test_words_lie_inside_the_audio_in_order() -> None:
    words = (Piece("a", (), 8_000, 4_000, 1.2), Piece("b", (), 2_000, 99_000, 0.5), Piece("c", (), 99_000, 99_000, 0.5))
    heard = hypothesis_of(Progress(fixed=words[:1], tails=(Tail(words[1:], 0),), language="de"), 16_000, 32_000)
    assert [(w.text, w.start_ms, w.end_ms) for w in heard.words] == [
        ("a", 1_500, 1_520),
        ("b", 1_500, 3_000),
        ("c", 2_980, 3_000),
    ]
    assert (heard.fixed, heard.language, heard.until_sample) == (1, "de", 48_000)
    assert all(0 <= word.p <= 1 for word in heard.words)
