"""What the desk needs of the recognisers: one for each stream, for as long as it lives."""

from typing import Protocol

from streaming.model import Capabilities
from streaming.ports import Recogniser


class EngineLease(Protocol):
    """A stream's hold on the recogniser that it began with."""

    @property
    def recogniser(self) -> Recogniser: ...

    def is_thinned(self, tenant_id: str) -> bool:
        """This tenant's partials come more rarely, because the recogniser cannot keep up."""
        ...

    def release(self) -> None: ...


class EnginePool(Protocol):
    """The recognisers of this node (`server.workers.engines`)."""

    @property
    def capabilities(self) -> Capabilities:
        """Of the engine that takes new streams."""
        ...

    def admit(self, tenant_id: str) -> None:
        """A new stream of this tenant. Raises `Overloaded` when its captions could not be on time."""
        ...

    def remote_allowed(self, tenant_name: str) -> bool:
        """Final text of this tenant's new streams comes from the remote service."""
        ...

    def lease(self, *, remote: str) -> EngineLease:
        """`remote`: the tenant whose final text comes from the remote service, if it still may; empty: from here."""
        ...
