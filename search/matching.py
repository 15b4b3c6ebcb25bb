"""What must occur in a segment for a query to find it, as a tree of tokens, and whether and where it does.

Policy: each word of a query may occur as it was typed or by its stem in any of the tenant's languages, the last one as
the beginning of a word (a stem never is one: "running" would find every runway). Words that were typed side by side
must stand side by side. A language's stop words need not occur unless there is nothing else, the last word neither.
Languages that keep the same words share a clause: talk mixes languages, and the expression stays small.

Pure: the indexes make their own queries from the `Expression`; `matches` decides the same for one text in memory.
Invariant: `matches` agrees with Postgres' `@@` on `tsquery` and the text's tokens (a test compares them).
"""

from collections.abc import Iterable, Mapping, Sequence, Set

from search.analysis import STEM, Analysed, is_stop, stem
from search.model import Expression, Form, Query, Term
from search.query import quoted

NO_LANGUAGE = ("",)
NOTHING: Mapping[str, Sequence[str]] = {}


def expression(query: Query, languages: Sequence[str], similar: Mapping[str, Sequence[str]] = NOTHING) -> Expression:
    """`languages`: those of the tenant's texts that have stems; `similar`: for words of the query, other words that may
    stand in their place."""
    if not query.words:
        return Expression(())
    kept: dict[tuple[int, ...], list[str]] = {}
    for language in languages or NO_LANGUAGE:
        kept.setdefault(_vital(query, language), []).append(language)
    last = len(query.words) - 1
    return Expression(
        tuple(
            tuple(_term(query.words[at], query.prefix and at == last, sharing, similar) for at in places)
            for places, sharing in kept.items()
        )
    )


def loosened(wanted: Expression) -> Expression:
    """Any of the words where all were wanted."""
    return Expression(tuple(dict.fromkeys((term,) for clause in wanted.clauses for term in clause)))


def matches(wanted: Expression, analysed: Analysed) -> bool:
    return any(all(_occurs(term, analysed) for term in clause) for clause in wanted.clauses)


def marks(wanted: Expression, analysed: Analysed) -> tuple[tuple[int, int], ...]:
    """Where the words that were looked for stand, in code points; joined words that both match are one range. Of the
    clauses that match; of all when none does, because an index may have known another text."""
    matching = [clause for clause in wanted.clauses if all(_occurs(term, analysed) for term in clause)]
    found: set[int] = set()
    for clause in matching or wanted.clauses:
        for term in clause:
            for form in term.forms:
                for begin in _begins(form, analysed):
                    found.update(range(begin - 1, begin - 1 + len(form.tokens)))
    return ranges(found, analysed)


def ranges(found: Set[int], analysed: Analysed) -> tuple[tuple[int, int], ...]:
    """Where these of its words stand, counted from 0; joined words that are both among them are one range."""
    words = analysed.words
    return merged(
        (words[i - 1].end if words[i].joined and i - 1 in found else words[i].start, words[i].end) for i in found
    )


def tsquery(wanted: Expression) -> str:
    """In the syntax of Postgres' type `tsquery`; "" when nothing matches."""
    return " | ".join(_joined(" & ", [_alternatives(term) for term in clause]) for clause in wanted.clauses)


def merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges [from, to) in order, without overlaps; those that touch become one. Empty ranges vanish."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(r for r in ranges if r[0] < r[1]):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return tuple(out)


def _vital(query: Query, language: str) -> tuple[int, ...]:
    """Places of the query's words that must occur in this language."""
    every = range(len(query.words))
    return tuple(at for at in every if _edges(query.words[at].split(" "), language)) or tuple(every)


def _term(word: str, prefix: bool, languages: Sequence[str], similar: Mapping[str, Sequence[str]]) -> Term:
    parts = tuple(word.split(" "))
    forms = [Form(parts, prefix)]
    for language in languages:
        forms += _stemmed(parts, language)
    for other in similar.get(word, ()):
        forms.append(Form((other,)))
        for language in languages:
            forms += _stemmed((other,), language)
    return Term(tuple(dict.fromkeys(forms)))


def _stemmed(parts: Sequence[str], language: str) -> list[Form]:
    """By stems, without the stop words that stand at either end ("l'homme", "Anna's")."""
    tokens = [(part, stem(part, language)) for part in _edges(parts, language)]
    if all(by_stem is None for _, by_stem in tokens):
        return []
    return [Form(tuple(part if by_stem is None else STEM + by_stem for part, by_stem in tokens))]


def _edges(parts: Sequence[str], language: str) -> Sequence[str]:
    """Without stop words at either end."""
    telling = [at for at, part in enumerate(parts) if not is_stop(part, language)]
    return parts[telling[0] : telling[-1] + 1] if telling else ()


def _occurs(term: Term, analysed: Analysed) -> bool:
    return any(_begins(form, analysed) for form in term.forms)


def _begins(form: Form, analysed: Analysed) -> list[int]:
    """Positions at which the form occurs."""
    places = analysed.places
    *before, last = form.tokens
    if form.prefix:
        ends = sorted({at for token, held in places.items() if token.startswith(last) for at in held})
    else:
        ends = places.get(last, [])
    begins = [at - len(before) for at in ends]
    return [at for at in begins if all(at + n in places.get(token, ()) for n, token in enumerate(before))]


def _alternatives(term: Term) -> str:
    return _joined(" | ", [_joined(" <-> ", _operands(form)) for form in term.forms])


def _operands(form: Form) -> list[str]:
    operands = [quoted(token) for token in form.tokens]
    if form.prefix:
        operands[-1] += ":*"
    return operands


def _joined(operator: str, parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({operator.join(parts)})"


__all__ = ["expression", "loosened", "marks", "matches", "merged", "ranges", "tsquery"]
