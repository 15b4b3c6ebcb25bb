"""Write down every durable event of a tenant, each once and in order, whoever is killed when.

    export PARLANCE_TOKEN=$(parlance token --tenant demo --role viewer --user minutes-bot)
    python durable_bot.py http://127.0.0.1:8000 minutes.jsonl

The room's log is the truth, what arrives live is only the hint to look there. So the bot reads pages after the number
that its journal names, makes a record of each event, and writes a page's records down in one piece: see `Journal` for
what that guarantees. Which recordings to follow is read from the journal too. Nothing else is kept.
"""

import asyncio
import logging
import os
import sys
from typing import Any

from parlance_client import CallFailed, CallTimeout, Client, Disconnected, Event, EventsLost, Journal

log = logging.getLogger("durable-bot")
ROOMS_MAX = 200
"""Rooms joined at a time; the server allows 256 to a socket. Older ones are read at each start."""


def record_of(event: Event) -> dict[str, Any]:
    """What this bot does: a line for each event. Change it to what yours is for."""
    record = {"room": event.room, "seq": event.seq, "at": event.body["at"], "event": event.name}
    match event.name:
        case "transcript:final":
            return {**record, "text": event.body["text"]}
        case "recording:started" | "recording:ended":
            return {**record, "recording": event.body["recording"]["id"], "title": event.body["recording"]["title"]}
    return record


class Bot:
    def __init__(self, client: Client, journal: Journal) -> None:
        self.client = client
        self.journal = journal
        self.joined: list[str] = []
        self.due = {f"tenant:{client.ready.tenant.id}": None}
        """Rooms that may hold something new, in the order in which they will be looked at."""
        for record in journal.records():
            self.follow(record)

    def follow(self, record: dict[str, Any]) -> None:
        if record.get("event") == "recording:started":
            self.due[f"recording:{record['recording']}"] = None

    async def run(self) -> None:
        """Until the client gives up, which raises the reason."""
        hints = self.client.events()
        while True:
            while self.due:
                room = next(iter(self.due))
                try:
                    await self.join(room)
                    await self.read(room)
                    del self.due[room]
                except (Disconnected, CallTimeout):
                    await asyncio.sleep(1)
                except CallFailed as error:
                    await self.failed(room, error)
            try:
                hint = await anext(hints)
                if hint.seq is not None and hint.room in self.joined and hint.seq > self.journal.after(hint.room):
                    self.due[hint.room] = None
            except EventsLost as lost:  # more hints than we took, or a room's log is shorter than we thought
                self.joined = [room for room in self.joined if room != lost.room]
                self.due |= dict.fromkeys([lost.room] if lost.room else self.joined)

    async def join(self, room: str) -> None:
        """Be told of what is new in the room from now on."""
        if room not in self.joined:
            if len(self.joined) >= ROOMS_MAX:
                await self.client.leave(self.joined.pop(1))  # the oldest but the tenant's
            await self.client.join(room)
            self.joined.append(room)

    async def read(self, room: str) -> None:
        """Record what the room's log holds after what we have."""
        async for page in self.client.read_events(room, self.journal.after(room)):
            records = [record_of(event) for event in page.events]
            await asyncio.to_thread(self.journal.record, records)
            for record in records:
                self.follow(record)

    async def failed(self, room: str, error: CallFailed) -> None:
        if error.code == "history_truncated" and error.first_seq is not None:
            lost = self.journal.skip(room, error.first_seq)
            log.warning("%d events of %s are gone: the server keeps them for a limited time", lost, room)
        elif error.code == "not_found":  # a recording that was deleted, or made private
            del self.due[room]
        elif error.retryable:
            await asyncio.sleep((error.retry_after_ms or 1_000) / 1_000)
        else:
            raise error


async def main(url: str, file: str, token: str) -> None:
    with Journal(file) as journal:
        async with Client(url, token, client="durable-bot/1.0") as client:
            await Bot(client, journal).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(sys.argv[1], sys.argv[2], os.environ["PARLANCE_TOKEN"]))
