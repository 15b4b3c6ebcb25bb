"""What the desk needs of the recognisers: one for each stream, for as long as it lives."""

from typing import Protocol

from streaming.model import Capabilities
from streaming.ports import Recogniser


class EngineLease(Protocol):
    """A stream's hold on the recogniser that it began with."""

    @property
    def recogniser(self) -> Recogniser: ...

    def release(self) -> None: ...


class EnginePool(Protocol):
    """The recognisers of this node (`server.workers.engines`)."""

    @property
    def capabilities(self) -> Capabilities:
        """Of the engine that takes new streams."""
        ...

    def remote_allowed(self, tenant_name: str) -> bool:
        """Final text of this tenant's new streams comes from the remote service."""
        ...

    def lease(self, *, remote: str) -> EngineLease:
        """`remote`: the tenant whose final text comes from the remote service, if it still may; empty: from here."""
        ...
