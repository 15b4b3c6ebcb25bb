"""Say so whenever somebody says something; a bot that may be killed. PARLANCE_TOKEN is its token.

    python keyword_alerts.py http://127.0.0.1:8000 "budget" budget.cursor

An alert is given before its cursor is stored: a kill between them repeats it, and none is left out.
"""

import asyncio
import os
import sys
from pathlib import Path

from parlance_client import Client, Match, MatchesLost


def alert(match: Match) -> None:  # change it to what yours is for
    print(f"{match.hit.title}, {match.hit.speaker or 'somebody'}: {match.hit.text}", flush=True)


def store(file: Path, cursor: str) -> None:
    file.with_suffix(".new").write_text(cursor)
    file.with_suffix(".new").replace(file)  # a kill leaves the old one or the new one


async def main(url: str, text: str, file: Path) -> None:
    async with Client(url, os.environ["PARLANCE_TOKEN"], client="keyword-alerts/1.0") as client:
        while True:
            try:
                async with client.subscribe(text, after=file.read_text() if file.exists() else None) as matches:
                    store(file, matches.cursor or "")  # so that what is said before the first match counts too
                    async for match in matches:
                        alert(match)
                        store(file, match.cursor)
            except MatchesLost:
                file.unlink()
                print("The server does not remember all of the time away.", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
