"""Who turns speech into text: the local engines, a Whisper that comes by itself, a remote service for final text.

Policy (DESIGN, decision 10): `engine=auto` looks only at what is here; without Whisper the tier's is fetched behind
everything else, and new streams take it when it has arrived. It is used at once, with the safe padding; then its
padding is measured (`server.models.calibrating`), and where less will do new streams take a worker that knows it. A
measurement that was interrupted begins anew at the next start. Audio goes to the remote service for tenants that allow
it alone.

Boundary: a part of the composition (`server.app`), as `server.enrichment`.
"""

import asyncio
import logging
from pathlib import Path

import msgspec

from server import hardware
from server.config import Config, ConfigError
from server.hardware import Hardware
from server.models.cache import cache_folder, name_of
from server.models.calibrating import CalibrationFailed, calibrate
from server.models.choosing import Chosen, chosen
from server.models.fetching import ModelFetch
from server.workers.devices import AUTO
from server.workers.devices import found as found_devices
from server.workers.engines import Choice, Engines, choose
from server.workers.remote import RemoteService
from streaming.limits import Limits
from streaming.protocol.messages import EngineInfo, StatusTask
from streaming.recogniser.calibrate import LADDER, PADDED, Step
from streaming.recogniser.card import Source, treatment_of
from streaming.recogniser.engine import EngineUnavailable

PADDING_TASK = "whisper_padding"

log = logging.getLogger(__name__)


def _settings(config: Config, found: Chosen) -> dict[str, str]:
    """What a Whisper's worker is told besides its model. Raises `ConfigError` when the model for finals is not here."""
    settings = {"PARLANCE_COMPUTE_TYPE": config.compute_type}
    if config.final_model is not None and found.final is None:
        raise ConfigError(f"PARLANCE_FINAL_MODEL: no Whisper called {config.final_model} is here")
    if found.final is not None:
        settings["PARLANCE_FINAL_MODEL"] = str(found.final)
    return settings


def _devices(config: Config, found: Chosen, machine: Hardware) -> tuple[str, ...]:
    """Where the workers run: a GPU without room for any model of the tier is left alone, and so is the second worker of
    an engine of somebody's own."""
    too_small = found.selection is not None and found.selection.device == "cpu" and machine.gpus_mib
    wanted = "cpu" if config.devices == AUTO and too_small else config.devices
    cores = machine.cores if config.engine in ("auto", "whisperx") else 1
    return found_devices(wanted, len(machine.gpus_mib), cores=cores, memory_mib=machine.memory_mib)


class Recognition:
    """`engines` serves the desk; `run` and `fetch` are components, `close` comes last. Raises `ConfigError` when the
    wanted engine is not here."""

    def __init__(self, config: Config, limits: Limits) -> None:
        self._config = config
        self._remote: RemoteService | None = None
        if config.remote_url is not None:
            self._remote = RemoteService(
                url=config.remote_url, key=config.remote_key, model=config.remote_model, limits=limits
            )
        self._hardware = machine = hardware.look()
        self._chosen = found = chosen(config, machine, cache_folder())
        self._is_whisper = config.engine in ("auto", "whisperx")
        self.engines = Engines(
            choose(config, found.path),
            command=config.worker_command,
            limits=limits,
            devices=_devices(config, found, machine),
            settings=_settings(config, found),
            remote=self._remote.over if self._remote is not None else None,
            remote_tenants=config.remote_tenants,
        )
        self._fetch: ModelFetch | None = None
        self._measuring: StatusTask | None = None
        if config.engine == "auto" and found.path is None:
            self._fetch = ModelFetch(
                cache_folder(), name=found.fetch, look=self._look, offline=config.offline, limits=limits,
                on_model=self._arrived,
            )  # fmt: skip
        if self._is_whisper and found.path is not None:
            self._log_choice()

    def info(self, tenant_name: str = "") -> EngineInfo:
        """What a tenant's clients are told about the recogniser."""
        info = self.engines.info()
        if self._is_whisper and info.name != "pocketsphinx":
            info = msgspec.structs.replace(info, tier=self._chosen.tier)
        if self._remote is None or not self.engines.remote_allowed(tenant_name):
            return info
        notices = [notice for notice in (self._remote.notice, info.notice) if notice]
        return msgspec.structs.replace(info, notice=" ".join(notices))

    @property
    def tasks(self) -> list[StatusTask]:
        """Long work of the server on itself."""
        fetching = self._fetch.task if self._fetch is not None else None
        return [task for task in (fetching, self._measuring) if task is not None]

    async def works(self) -> bool:
        """Every worker is ready: with one of several lost, captions may be late."""
        return self.engines.whole

    async def fetch(self) -> None:
        """Get a Whisper when none is here, and measure its padding; returns when there is nothing left to do."""
        if self._fetch is not None:
            await self._fetch.run()
        live, final = self._chosen.path, self._chosen.final
        if self._config.engine != "auto" or live is None:
            return
        measured = [await self._needs_less(folder) for folder in (live, final) if folder is not None]
        if any(measured):
            await self.engines.switch(Choice("whisperx", live, calibrated=True))

    def _look(self) -> Path | None:
        return chosen(self._config, self._hardware, cache_folder()).path

    async def _arrived(self, folder: Path) -> None:
        self._chosen = await asyncio.to_thread(chosen, self._config, self._hardware, cache_folder())
        self._log_choice()
        await self.engines.switch(choose(self._config, folder))

    def _log_choice(self) -> None:
        selection = self._chosen.selection
        if selection is None:
            return
        log.info(
            "a tier chose the model",
            extra={
                "tier": selection.tier.value, "machine": selection.machine.value, "model": selection.model,
                "final_model": selection.final_model, "device": selection.device, "cores": self._hardware.cores,
                "gpus_mib": list(self._hardware.gpus_mib),
            },
        )  # fmt: skip

    async def _needs_less(self, folder: Path) -> bool:
        """Measure the padding of a model that nobody has measured: whether less than 30 s will do."""
        try:
            treatment = await asyncio.to_thread(treatment_of, folder)
        except EngineUnavailable:
            return False  # the worker says so
        if treatment.source is not Source.DEFAULT:
            return False
        name = name_of(folder)
        self._tell("running", 0.0, f"Measuring how much padding Whisper {name} needs; captions work meanwhile.")
        try:
            # On the CPU: a GPU's free memory is the workers', who counted it when they started.
            verdict = await calibrate(folder, name, lambda step: self._heard(name, step), device="cpu")
        except CalibrationFailed as error:
            log.warning("the padding cannot be measured", extra={"model": name, "reason": error.message})
            self._tell("failed", None, f"Whisper {name} stays padded to 30 s: {error.message}")
            return False
        padding = verdict.chosen
        log.info("the padding is measured", extra={"model": name, "padding": str(padding)})
        self._tell("done", 1.0, f"Whisper {name} is measured: {padding}.")
        return padding != PADDED

    def _heard(self, name: str, step: Step) -> None:
        place = 0 if step.padding == PADDED else 1 + LADDER.index(step.padding)
        fraction = (place + step.done / step.windows) / (1 + len(LADDER))
        self._tell("running", round(fraction, 2), f"Measuring how much padding Whisper {name} needs: {step.padding}.")

    def _tell(self, state: str, fraction: float | None, text: str) -> None:
        self._measuring = msgspec.convert(
            {"name": PADDING_TASK, "state": state, "fraction": fraction, "text": text}, StatusTask
        )

    async def close(self) -> None:
        if self._remote is not None:
            await self._remote.close()
