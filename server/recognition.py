"""Who turns speech into text: the local engines, a Whisper that comes by itself, a remote service for final text.

Policy (DESIGN, decision 10): `engine=auto` looks only at what is here; without Whisper one is fetched behind everything
else, and new streams take it when it has arrived. Audio goes to the remote service for tenants that allow it alone.

Boundary: a part of the composition (`server.app`), as `server.enrichment`.
"""

from pathlib import Path

import msgspec

from server.config import Config, ConfigError
from server.models.cache import cache_folder, find_whisper
from server.models.fetching import ModelFetch
from server.workers.devices import found as found_devices
from server.workers.engines import Engines, choose
from server.workers.remote import RemoteService
from streaming.limits import Limits
from streaming.protocol.messages import EngineInfo, StatusTask


def _settings(config: Config) -> dict[str, str]:
    """What a Whisper's worker is told besides its model. Raises `ConfigError` when the model for finals is not here."""
    settings = {"PARLANCE_COMPUTE_TYPE": config.compute_type}
    if config.final_model is not None:
        found = find_whisper(config.final_model, cache_folder())
        if found is None:
            raise ConfigError(f"PARLANCE_FINAL_MODEL: no Whisper called {config.final_model} is here")
        settings["PARLANCE_FINAL_MODEL"] = str(found)
    return settings


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
        found = find_whisper(config.model, cache_folder())
        self.engines = Engines(
            choose(config, found),
            command=config.worker_command,
            limits=limits,
            devices=found_devices(config.devices),
            settings=_settings(config),
            remote=self._remote.over if self._remote is not None else None,
            remote_tenants=config.remote_tenants,
        )
        self._fetch: ModelFetch | None = None
        if config.engine == "auto" and found is None:
            self._fetch = ModelFetch(
                cache_folder(), wanted=config.model, offline=config.offline, limits=limits, on_model=self._arrived
            )

    def info(self, tenant_name: str = "") -> EngineInfo:
        """What a tenant's clients are told about the recogniser."""
        info = self.engines.info()
        if self._remote is None or not self.engines.remote_allowed(tenant_name):
            return info
        notices = [notice for notice in (self._remote.notice, info.notice) if notice]
        return msgspec.structs.replace(info, notice=" ".join(notices))

    @property
    def tasks(self) -> list[StatusTask]:
        """Long work of the server on itself."""
        return [self._fetch.task] if self._fetch is not None and self._fetch.task is not None else []

    async def works(self) -> bool:
        """Every worker is ready: with one of several lost, captions may be late."""
        return self.engines.whole

    async def fetch(self) -> None:
        """Get a Whisper when none is here; returns when there is nothing left to do."""
        if self._fetch is not None:
            await self._fetch.run()

    async def _arrived(self, folder: Path) -> None:
        await self.engines.switch(choose(self._config, folder))

    async def close(self) -> None:
        if self._remote is not None:
            await self._remote.close()
