"""From what somebody types to a `Query`, and from text to the words that are indexed.

Policy: text and query go through the same `words_of`, so no index's own idea of a word ever matters: it only ever sees
folded words (and their stems, `search.analysis`). The last word of a query is a prefix
until a space or punctuation follows it. Scripts that are written without spaces are indexed character by character;
words that stand side by side without a space are searched as a phrase.

Boundary: typed text and cursors come from clients; any string is a query, a cursor that is not ours is `BadRequest`.
Pure. Invariant: a folded word holds letters, digits, marks and single spaces only, so no tsquery can be injected.
"""

import base64
import binascii
import re
import unicodedata
import zlib
from collections.abc import Sequence

import msgspec

from search.model import Cursor, Filters, Mode, Query, Sort
from streaming.errors import BadRequest
from streaming.limits import LIMITS, Limits

WORD_CHARS_MAX = LIMITS.search_word_chars_max

ASCII_WORD = re.compile("[0-9A-Za-z]+")
APOSTROPHES = frozenset("'\u2019")
JOINERS = frozenset("\u200c\u200d\u00ad")
"""Zero-width joiners and the soft hyphen: written inside words, typed by few."""

UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han, compatibility
    (0x20000, 0x323AF),  # Han, extensions B to H
)
"""Scripts that are written without spaces between words."""


_FUNCTION_WORDS = """
a about after all am an and any are as at be been before but by can could d did do does doesn doing don down each for
from had has have he her here hers him his how i if in into is isn it its just ll m me more most my no nor not of off on
once only or other our out over own re s same she should so some such t than that the their them then there these they
this those through to too under until up ve very was we were what when where which while who whom why will with would
you your
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English words without a meaning of their own: what holds nothing else is not embedded. Saves work, decides nothing;
in other languages the model has to know."""


class WordSpan(msgspec.Struct, frozen=True):
    """A word of a text: its folded form, and where it stands, [start, end) in code points.

    `joined`: it follows the word before with at most an apostrophe between ("don't", and scripts without spaces).
    """

    folded: str
    start: int
    end: int
    joined: bool = False


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def words_of(text: str) -> list[WordSpan]:
    """The words of NFC text, in order: runs of letters, digits, marks and joiners; a character of an unspaced script
    is a word with its marks. Folded: composed, without joiners, in the case for comparison (`str.casefold`)."""
    if text.isascii():
        return _ascii_words_of(text)
    spans: list[WordSpan] = []
    at = 0
    while at < len(text):
        if not _begins_word(text[at]):
            at += 1
            continue
        start = at
        at = _end_of_word(text, at)
        folded = _fold(text[start:at])
        if folded:
            between = text[spans[-1].end : start] if spans else " "
            spans.append(WordSpan(folded, start, at, joined=between == "" or between in APOSTROPHES))
    return spans


def parse(
    text: str,
    *,
    filters: Filters | None = None,
    mode: Mode = Mode.HYBRID,
    sort: Sort = Sort.RELEVANCE,
    limit: int = 20,
    cursor: str | None = None,
    around: int = 0,
    grouped: bool = False,
    limits: Limits = LIMITS,
) -> Query:
    """The query that was typed; `limit` and `around` are clamped. Raises `BadRequest` (field "cursor") for a foreign
    cursor."""
    text = nfc(text)
    spans = words_of(text)
    taken = spans[: limits.query_words_max]
    words: list[str] = []
    for span in taken:
        if span.joined:
            words[-1] += f" {span.folded}"
        else:
            words.append(span.folded)
    query = Query(
        words=tuple(words),
        prefix=bool(taken) and _goes_on(text[taken[-1].end :]),
        filters=_clean(filters or Filters()),
        sort=sort,
        limit=min(max(limit, 1), limits.search_hits_max),
        mode=mode,
        text=_without_surrogates(text.strip()),
        around=min(max(around, 0), limits.search_neighbours_max),
        grouped=grouped,
    )
    if cursor is None:
        return query
    return msgspec.structs.replace(query, cursor=decode_cursor(cursor, query))


def quoted(word: str) -> str:
    """One operand of a tsquery, or lexeme of a tsvector: quotes and backslashes doubled, so that any word is only a
    word."""
    inside = word.replace("\x00", " ").replace("\\", "\\\\").replace("'", "''")
    return f"'{inside}'"


def has_meaning(query: Query) -> bool:
    """Whether the query says anything but function words: two letters of others at least, or it is not embedded."""
    words = (word for entry in query.words for word in entry.split(" "))
    return sum(len(word) for word in words if word not in FUNCTION_WORDS) >= 2


def query_key(query: Query) -> int:
    """A number that tells queries apart, the same for every page of one."""
    parts = (query.words, query.prefix, query.filters, query.sort.value, query.mode.value, query.grouped)
    return zlib.crc32(msgspec.msgpack.encode(parts))


def encode_cursor(cursor: Cursor) -> str:
    """Opaque to clients: base64url of msgpack, without padding."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(cursor)).rstrip(b"=").decode("ascii")


def decode_cursor(text: str, query: Query) -> Cursor:
    """Raises `BadRequest` (field "cursor") unless the cursor was given out for this query."""
    try:
        raw = text.encode("ascii")
        cursor = msgspec.msgpack.decode(
            base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True), type=Cursor
        )
    except (UnicodeEncodeError, binascii.Error, msgspec.DecodeError, ValueError) as error:
        raise BadRequest("This cursor was not given out by this server.", field="cursor") from error
    if cursor.query_key != query_key(query):
        raise BadRequest("This cursor belongs to another query.", field="cursor")
    return cursor


def _ascii_words_of(text: str) -> list[WordSpan]:
    """The same for what most texts are, in a third of the time."""
    spans: list[WordSpan] = []
    for match in ASCII_WORD.finditer(text):
        start, end = match.span()
        joined = start > 1 and text[start - 1] == "'" and bool(spans) and spans[-1].end == start - 1
        spans.append(WordSpan(match.group()[:WORD_CHARS_MAX].lower(), start, end, joined))
    return spans


def _begins_word(char: str) -> bool:
    """Letters and decimal digits: what Postgres takes for a word in every locale (unlike "²" and "½")."""
    return char.isalpha() or char.isdecimal()


def _is_mark(char: str) -> bool:
    return unicodedata.category(char)[0] == "M"


def _end_of_word(text: str, start: int) -> int:
    """Where the word that begins at `start` ends."""
    alone = _is_unspaced(text[start])
    at = start + 1
    while at < len(text):
        char = text[at]
        follows = _begins_word(char) and not alone and not _is_unspaced(char)
        if not (follows or _is_mark(char) or char in JOINERS):
            break
        at += 1
    while text[at - 1] in JOINERS:
        at -= 1
    return at


def _fold(word: str) -> str:
    plain = "".join(char for char in word if char not in JOINERS)
    folded = nfc(nfc(plain).casefold())
    return "".join(char for char in folded if _begins_word(char) or _is_mark(char))[:WORD_CHARS_MAX]


def _goes_on(rest: str) -> bool:
    """Whether what follows the last word leaves it open: nothing, or an apostrophe that is being typed."""
    return all(char in APOSTROPHES or char in JOINERS for char in rest)


def _is_unspaced(char: str) -> bool:
    code = ord(char)
    return code >= UNSPACED[0][0] and any(low <= code <= high for low, high in UNSPACED)


def _clean(filters: Filters) -> Filters:
    """Values that no stored text can equal (NUL, lone surrogates) are dropped; an empty list means no filter. Nothing
    was spoken before 1970."""
    return Filters(
        recording_ids=_storable(filters.recording_ids),
        speakers=_storable(filters.speakers),
        languages=_storable(filters.languages and tuple(tag.lower() for tag in filters.languages)),
        tags=_storable(filters.tags),
        from_ms=None if filters.from_ms is None else max(filters.from_ms, 0),
        to_ms=None if filters.to_ms is None else max(filters.to_ms, 0),
    )


def _storable(values: Sequence[str] | None) -> tuple[str, ...] | None:
    if not values:
        return None
    return tuple(v for v in values if "\x00" not in v and _without_surrogates(v) == v)


def _without_surrogates(text: str) -> str:
    """UTF-8 has no lone surrogates; JSON can bring them."""
    return "".join(char for char in text if not "\ud800" <= char <= "\udfff")


__all__ = [
    "WordSpan",
    "decode_cursor",
    "encode_cursor",
    "has_meaning",
    "nfc",
    "parse",
    "query_key",
    "quoted",
    "words_of",
]
