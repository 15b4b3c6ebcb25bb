"""What the nodes of one installation agree on through their database.

Boundary: connects as the database's owner, as `migrate` does; the application role cannot read the table.
"""

import asyncpg

from server.store.migrate import CONNECT_S_MAX
from server.store.pool import translated


async def shared_secret(dsn: str, proposed: str) -> str:
    """The secret that signs this installation's tokens: what the first node proposed. Raises `Unavailable`."""
    with translated():
        connection = await asyncpg.connect(dsn, timeout=CONNECT_S_MAX, command_timeout=CONNECT_S_MAX)
        try:
            await connection.execute(
                "INSERT INTO installation (secret) VALUES ($1) ON CONFLICT (only_row) DO NOTHING", proposed
            )
            return str(await connection.fetchval("SELECT secret FROM installation"))
        finally:
            connection.terminate()
