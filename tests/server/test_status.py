"""What the server can do, as clients are told."""

from tests.support.wire import Wire


async def test_the_status_follows_the_greeting(wire: Wire) -> None:
    status = await wire.wait("server:status")
    names = [name for name, _ in wire.events]
    assert names.index("ready") < names.index("server:status")
    ready = wire.named("ready")[0]
    assert "server_status" in ready["features"]
    assert status["engine"] == ready["engine"]
    assert status["vectors"] is False, "the models environment is off in tests"
    assert status["alignment"] == []
