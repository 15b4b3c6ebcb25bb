"""From a client's messages to the packets it sent: understood before anything is done with them.

python-socketio trusts its peers: a bad placeholder leaves a connection dead, an attachment that never comes may grow
for ever, each broken frame writes a traceback, and CONNECT can be repeated. So nothing reaches it that
`streaming.protocol.packets` does not know; what is no packet ends the connection (`server.edge.engine`).

Boundary: besides `sockets`, `delivery` and `engine` only this module knows the insides of python-socketio 5.18.
"""

from typing import Any

import socketio

from server.edge.engine import Engine, EngineSocket
from streaming.limits import Limits
from streaming.protocol.packets import BrokenPacket, Connect, Disconnect, Event, Packet


class ReadingServer(socketio.AsyncServer):  # type: ignore[misc]
    """python-socketio that is told packets instead of reading them."""

    eio: Engine

    def __init__(self, limits: Limits, **options: Any) -> None:
        super().__init__(**options)
        self.eio.limits = limits

    def _engineio_server_class(self) -> type[Engine]:
        return Engine

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        client: EngineSocket = self.eio.sockets[eio_sid]
        try:
            await self._handle_packet(eio_sid, client, client.packet(data))
        except BrokenPacket as error:
            client.broken(error)

    async def _handle_packet(self, eio_sid: str, client: EngineSocket, packet: Packet | None) -> None:
        match packet:
            case Connect(namespace, auth):
                if not client.visit.hello():
                    raise BrokenPacket("A client connects once.")
                await self._handle_connect(eio_sid, namespace, auth)
            case Disconnect():
                client.end()
                await self._handle_disconnect(eio_sid, "/", self.reason.CLIENT_DISCONNECT)
            case Event(id, arguments):
                if self.manager.is_connected(self.manager.sid_from_eio_sid(eio_sid, "/"), "/"):
                    await self._handle_event(eio_sid, "/", id, arguments)
                elif not client.visit.entered:
                    raise BrokenPacket("Nobody is connected.")
