"""Wake everybody who waits for a change; each then looks for itself.

Usage: take `ticket = bell.ticket()`, look at the state, `await ticket.wait()`: a change after the ticket was taken is
never missed.
"""

import asyncio


class Bell:
    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ticket(self) -> asyncio.Event:
        """An event that the next `ring` sets."""
        return self._event

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()
