"""The recognisers of this node: one takes new streams; an older one serves its streams to their end.

Policy (DESIGN, decision 10): `engine=auto` takes Whisper when weights are here, else PocketSphinx with a notice. When
weights arrive while the server runs, the new engine is started beside the old one and takes new streams once it is
ready; the old one ends with its last stream. One that does not get ready is given up, and the old one stays.

Invariant: a stream keeps the recogniser that it began with; all running workers serve new streams or have a lease.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from server.config import Config, ConfigError
from server.workers.devices import AUTO
from server.workers.local import LocalRecogniser, engine_ref
from server.workers.pool import Pool
from streaming.aio import Scope
from streaming.errors import Unavailable
from streaming.limits import Limits
from streaming.model import Capabilities
from streaming.ports import Recogniser
from streaming.protocol.messages import EngineInfo

SETTINGS = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    "MALLOC_TOP_PAD_": "268435456",
    "HF_HUB_OFFLINE": "1",
}
"""Keep CTranslate2's big buffers instead of giving them back: a padded 30 s encode costs 35% less (measured). No engine
fetches anything: `parlance models pull` does."""

log = logging.getLogger(__name__)


class Choice(msgspec.Struct, frozen=True):
    """An engine to run: its name or class, and its model's folder when it needs one. `calibrated`: the model was
    measured since it was loaded as another choice, so it is loaded anew."""

    engine: str
    model: Path | None = None
    calibrated: bool = False


def choose(config: Config, found: Path | None) -> Choice:
    """What the configuration wants, given the Whisper weights that are here. Raises `ConfigError`."""
    if config.engine == "auto":
        return Choice("pocketsphinx") if found is None else Choice("whisperx", found)
    if config.engine != "whisperx":
        return Choice(config.engine, None if config.model is None else Path(config.model))
    if found is None:
        missing = f"no Whisper called {config.model} is here" if config.model else "no Whisper weights are here"
        raise ConfigError(
            f"PARLANCE_ENGINE: {missing}; run `parlance models pull {config.model or 'default'}`, "
            "or set PARLANCE_MODEL to a folder with CTranslate2 files"
        )
    return Choice("whisperx", found)


class Lease:
    """A stream's hold on a recogniser; `release` once it has ended."""

    def __init__(self, seat: "_Seat", recogniser: Recogniser) -> None:
        self.recogniser = recogniser
        self._seat: _Seat | None = seat

    def is_thinned(self, tenant_id: str) -> bool:
        """This tenant's partials come more rarely, because the recogniser cannot keep up."""
        return self._seat is not None and self._seat.recogniser.is_thinned(tenant_id)

    def release(self) -> None:
        if self._seat is not None:
            self._seat.leases -= 1
            self._seat.changed()
            self._seat = None


class _Seat:
    """Running workers and who uses them."""

    def __init__(self, choice: Choice, recogniser: Pool, changed: Callable[[], None]) -> None:
        self.choice = choice
        self.recogniser = recogniser
        self.changed = changed
        self.leases = 0
        self.task: asyncio.Task[None] | None = None


class Engines:
    """`lease` serves streams, `info` tells clients, `run` is a component, `switch` comes when weights arrived.

    `devices`: where models run (`server.workers.devices`), a worker on each; an engine that knows no devices has one.
    `remote`: wraps the local recogniser for streams of `remote_tenants`, whose final text a remote service makes."""

    def __init__(
        self,
        choice: Choice,
        *,
        command: str | None,
        limits: Limits,
        devices: Sequence[str] = (AUTO,),
        settings: Mapping[str, str] | None = None,
        remote: Callable[[Recogniser], Recogniser] | None = None,
        remote_tenants: Collection[str] = (),
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._command = command
        self._devices = tuple(devices)
        self._settings = dict(settings or {})
        self._limits = limits
        self._remote = remote
        self._remote_tenants = remote_tenants
        self._on_change = on_change
        self._scope = Scope("recognisers")
        self._current = self._seat(choice)
        self._retired: list[_Seat] = []

    @property
    def state(self) -> str:
        return self._current.recogniser.state

    @property
    def whole(self) -> bool:
        """Every worker of the engine that takes new streams is ready."""
        return self._current.recogniser.whole

    def admit(self, tenant_id: str) -> None:
        """A new stream. Raises `Overloaded` when its captions could not be on time."""
        self._current.recogniser.admit(tenant_id, first=not self._current.leases)

    @property
    def capabilities(self) -> Capabilities:
        """Of the engine that takes new streams. Raises `WorkerLost` before its first start."""
        return self._current.recogniser.capabilities

    @property
    def idle(self) -> bool:
        """Nobody speaks to the engine that takes new streams."""
        return not any(worker.utterances for worker in self._current.recogniser.workers)

    @property
    def device(self) -> str:
        """Where the first worker's model runs, as PARLANCE_DEVICE."""
        return self._devices[0]

    @property
    def whisper(self) -> Path | None:
        """The folder of the Whisper that takes new streams; None while another engine does."""
        choice = self._current.choice
        return choice.model if choice.engine == "whisperx" else None

    def info(self) -> EngineInfo:
        """What clients are told about it."""
        recogniser = self._current.recogniser
        try:
            capabilities = recogniser.capabilities
        except Unavailable:
            return EngineInfo(name=self._current.choice.engine, model="", state=recogniser.state)
        return EngineInfo(
            name=capabilities.name, model=capabilities.model, state=recogniser.state, notice=capabilities.notice
        )

    async def ready(self) -> None:
        """Wait until the first engine has loaded its model."""
        await self._current.recogniser.ready()

    def remote_allowed(self, tenant_name: str) -> bool:
        """Final text of this tenant's new streams comes from the remote service ("*": of every tenant's)."""
        return self._remote is not None and bool({"*", tenant_name} & set(self._remote_tenants))

    def lease(self, *, remote: str) -> Lease:
        """The recogniser for a new stream. `remote`: the tenant whose finals come from the remote service, if it still
        may (a stream outlives a change of the settings); empty: finals from here."""
        seat = self._current
        seat.leases += 1
        local = seat.recogniser
        if self._remote is None or not remote or not self.remote_allowed(remote):
            return Lease(seat, local)
        return Lease(seat, self._remote(local))

    async def switch(self, choice: Choice) -> bool:
        """Start `choice` beside the present engine and let it take new streams; False when it did not get ready."""
        if choice == self._current.choice:
            return True
        seat = self._seat(choice)
        self._launch(seat)
        try:
            async with asyncio.timeout(self._limits.worker_hello_ms_max / 1000):
                await seat.recogniser.ready()
        except TimeoutError:
            log.error("the new engine does not start, the old one stays", extra={"engine": choice.engine})  # noqa: TRY400
            self._end(seat)
            return False
        older, self._current = self._current, seat
        self._retired.append(older)
        self._sweep()
        log.info("new streams take another engine", extra={"engine": choice.engine, "model": self.info().model})
        self._on_change()
        return True

    async def run(self) -> None:
        """A component: keep the workers alive until cancelled."""
        async with self._scope as scope:
            self._launch(self._current)
            await scope.wait_failed()

    def _seat(self, choice: Choice) -> _Seat:
        settings = {**SETTINGS, **self._settings}
        if choice.model is not None:
            settings["PARLANCE_MODEL"] = str(choice.model)
        devices = (AUTO,) if choice.engine == "pocketsphinx" else self._devices
        workers = [
            LocalRecogniser(
                engine_ref(choice.engine),
                command=self._command,
                limits=self._limits,
                settings=settings,
                device=device,
                name=device if devices.count(device) == 1 else f"{device} ({number})",
            )
            for number, device in enumerate(devices, 1)
        ]
        return _Seat(choice, Pool(workers, self._limits), self._sweep)

    def _launch(self, seat: _Seat) -> None:
        seat.task = self._scope.spawn(seat.recogniser.run(), name=seat.choice.engine)

    def _sweep(self) -> None:
        """End retired workers that nobody uses any more."""
        for seat in [seat for seat in self._retired if seat.leases == 0]:
            self._retired.remove(seat)
            self._end(seat)

    def _end(self, seat: _Seat) -> None:
        if seat.task is not None:
            seat.task.cancel()
