"""What is left of a socket that said goodbye: the same as with the stock manager, nothing."""

import copy
from typing import Any

import pytest
import socketio

from server.rooms.manager import BoundedManager


async def state_after(manager: Any, goodbye: bool) -> Any:
    """Two sockets come; the first goes, in the library's two ways."""
    first = await manager.connect("engine-1", "/")
    await manager.connect("engine-2", "/")
    manager.callbacks[first] = {1: print}
    if goodbye:
        manager.pre_disconnect(first, "/")
    manager.basic_disconnect(first, "/")
    return copy.copy(
        (len(manager.rooms["/"]), len(manager.rooms["/"][None]), manager.callbacks, manager.pending_disconnect)
    )


@pytest.mark.parametrize("goodbye", [True, False])
async def test_a_goodbye_leaves_what_the_stock_manager_leaves(goodbye: bool) -> None:
    ours, stock = BoundedManager(), socketio.AsyncManager()
    for manager in (ours, stock):
        socketio.AsyncServer(client_manager=manager)
    assert await state_after(ours, goodbye) == await state_after(stock, goodbye) == (2, 1, {}, {})


async def test_who_never_came_may_go() -> None:
    BoundedManager().basic_disconnect("nobody", "/")
