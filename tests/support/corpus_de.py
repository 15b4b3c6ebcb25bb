"""German sentences that the micro Whisper knows, and what each means word for word in the English of
`tests.support.corpus`: an exact reference for its translation.

The grammar holds only what has the same order of words in both languages.

Pure. Invariant: every German word has one English meaning, of words that the English corpus knows.
"""

from collections.abc import Iterator

from tests.support import corpus

THINGS = {
    "der": "Server Bericht Plan Test Vertrag Preis Kunde",
    "die": "Datenbank Aufnahme Suche Sicherheit",
    "das": "Projekt Budget Netzwerk Produkt Mikrofon Büro Treffen Team",
}
GRAMMAR: dict[str, tuple[str, ...]] = {
    "SENTENCE": ("STATE", "STATE", "PLAN", "PLAN", "MOVE", "ASK", "COUNT", "COUNT", "SAY", "SHORT"),
    "STATE": (
        "THING ist HOW",
        "THING ist nicht HOW",
        "THING beginnt WHEN",
        "THING ist am DAY",
        "THING ist HOW und THING ist HOW",
        "THING ist HOW denn THING ist HOW",
    ),
    "PLAN": (
        "wir DO OBJECT WHEN",
        "wir DO OBJECT und OBJECT",
        "wir DO OBJECT vor DAY",
        "wir DO OBJECT mit NAME",
        "NAME und NAME DO OBJECT WHEN",
    ),
    "MOVE": ("wir verschoben OBJECT auf DAY", "NAME verschob OBJECT von DAY auf DAY"),
    "ASK": (
        "wo ist THING ?",
        "wann ist THING ?",
        "ist THING HOW ?",
        "wie viele ITEMS sind HOW ?",
    ),
    "COUNT": (
        "wir haben NUMBER ITEMS",
        "wir haben NUMBER ITEMS und NUMBER ITEMS",
        "wir brauchen NUMBER ITEMS",
        "THING hat NUMBER ITEMS",
        "NUMBER ITEMS sind HOW",
        "NAME fand NUMBER ITEMS WHEN",
        "THING kostet NUMBER Dollar",
    ),
    "SAY": ("NAME sagte THING ist HOW", "ich denke THING ist HOW", "meine Frage ist HOW"),
    "SHORT": (
        "guten Morgen",
        "guten Morgen NAME",
        "hallo NAME",
        "danke NAME",
        "ja THING ist HOW",
        "nein THING ist nicht HOW",
    ),
    "THING": tuple(f"{article} {noun}" for article, nouns in THINGS.items() for noun in nouns.split()),
    "OBJECT": tuple(
        f"{'den' if article == 'der' else article} {noun}"
        for article, nouns in THINGS.items()
        for noun in nouns.split()
        if noun not in ("Kunde", "Team", "Sicherheit")
    ),
    "ITEMS": corpus.alternatives("Projekte Kunden Berichte Fragen Risiken Tests Leute"),
    "HOW": corpus.alternatives(
        "neu alt spät früh hoch niedrig fertig wichtig langsam schnell offen geschlossen grün rot"
    ),
    "DO": corpus.alternatives("prüfen besprechen senden testen beenden ändern genehmigen liefern reparieren"),
    "WHEN": ("heute", "morgen", "jetzt", "nächste Woche", "diese Woche", "nächsten Monat", "am DAY", "um NUMBER"),
    "NUMBER": corpus.alternatives(
        "zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn zwanzig "
        "dreißig vierzig fünfzig"
    ),
    "DAY": corpus.alternatives("Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag"),
    "NAME": corpus.GRAMMAR["NAME"],
}
"""As `corpus.GRAMMAR`."""

WORDS = corpus.words_of(GRAMMAR)

_MEANINGS = """
der the, die the, das the, den the, Server server, Bericht report, Plan plan, Test test, Vertrag contract, Preis price,
Kunde customer, Datenbank database, Aufnahme recording, Suche search, Sicherheit security, Projekt project,
Budget budget, Netzwerk network, Produkt product, Mikrofon microphone, Büro office, Treffen meeting, Team team,
ist is, nicht not, beginnt starts, am on, und and, denn because, wir we, vor before, mit with, verschoben moved,
verschob moved, auf to, von from, wo where, wann when, wie how, viele many, sind are, haben have, brauchen need,
hat has, fand found, kostet costs, Dollar dollars, sagte said, ich I, denke think, meine my, Frage question, guten good,
Morgen morning, hallo hello, danke thank you, ja yes, nein no, Projekte projects, Kunden customers, Berichte reports,
Fragen questions, Risiken risks, Tests tests, Leute people, neu new, alt old, spät late, früh early, hoch high,
niedrig low, fertig ready, wichtig important, langsam slow, schnell fast, offen open, geschlossen closed, grün green,
rot red, prüfen check, besprechen discuss, senden send, testen test, beenden finish, ändern update, genehmigen approve,
liefern ship, reparieren fix, heute today, morgen tomorrow, jetzt now, nächste next, nächsten next, Woche week,
diese this, Monat month, um at, zwei two, drei three, vier four, fünf five, sechs six, sieben seven, acht eight,
neun nine, zehn ten, elf eleven, zwölf twelve, dreizehn thirteen, vierzehn fourteen, fünfzehn fifteen, sechzehn sixteen,
zwanzig twenty, dreißig thirty, vierzig forty, fünfzig fifty, Montag Monday, Dienstag Tuesday, Mittwoch Wednesday,
Donnerstag Thursday, Freitag Friday, Samstag Saturday, Sonntag Sunday
"""
MEANINGS: dict[str, str] = {
    **{name: name for name in GRAMMAR["NAME"]},
    **dict(entry.split(maxsplit=1) for entry in " ".join(_MEANINGS.split()).split(", ")),
}


def sentences(seed: int, *, words_min: int = 2) -> Iterator[str]:
    """As `corpus.sentences`, such as "Wir haben zehn Tests."."""
    return corpus.sentences(seed, words_min=words_min, grammar=GRAMMAR)


def meaning(word: str) -> str:
    """English for one word without its mark; a capital that only begins the sentence is dropped."""
    return MEANINGS[word] if word in MEANINGS else MEANINGS[word[0].lower() + word[1:]]


def english(text: str) -> str:
    """The sentence in English, such as "We have ten tests."."""
    words = " ".join(meaning(word) for word in text[:-1].split())
    return words[0].upper() + words[1:] + text[-1]
