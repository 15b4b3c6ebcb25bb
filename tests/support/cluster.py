"""Several real nodes that share one PostgreSQL, one Redis and one folder of kept audio, each a process tree of its own.

Every method blocks; in a test with a loop use `asyncio.to_thread` for what waits (`start`, `stop`). Nodes keep their
ports, so that a client finds a restarted node where it was. What `through` names goes over a proxy's port instead.
"""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from auth.model import Role
from tests.support.postgres import Postgres
from tests.support.process import TONES, Account, ServerProcess
from tests.support.redis import Redis
from tests.support.spawn import free_port

SECRET = "the secret that all nodes of these tests share"


class Cluster:
    """`nodes[i]` are real servers (`ServerProcess`); `start` brings up what does not run yet."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 2,
        engine: str = TONES,
        redis: bool = True,
        postgres_port: int | None = None,
        redis_port: int | None = None,
        **settings: str,
    ) -> None:
        """`postgres_port`, `redis_port`: where the nodes connect to, a proxy's ports; by default the servers' own."""
        self.folder = folder
        self.postgres = Postgres(folder / "database" / "postgres")
        self.redis = Redis(folder / "redis") if redis else None
        storage = folder / "storage"
        storage.mkdir(parents=True)
        shared = {
            "database_url": self.postgres.url if postgres_port is None else self.postgres.url_at(postgres_port),
            "storage_url": storage.as_uri(),
            "secret": SECRET,
            **settings,
        }
        if self.redis is not None:
            shared["redis_url"] = self.redis.url if redis_port is None else self.redis.url_at(redis_port)
        self.storage = storage
        self.nodes = [
            ServerProcess(folder / f"node-{number}", engine=engine, port=free_port(), **shared)
            for number in range(nodes)
        ]

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def start(self) -> None:
        """Everything that does not run; nodes at the same time."""
        if not self.postgres.running:
            self.postgres.start()
        if self.redis is not None and not self.redis.running:
            self.redis.start()
        self.start_nodes()

    def start_nodes(self) -> None:
        waiting = [node for node in self.nodes if not node.running]
        with ThreadPoolExecutor(len(self.nodes)) as starters:
            for started in [starters.submit(node.start) for node in waiting]:
                started.result()

    def stop(self) -> None:
        """Nodes in order, then Redis and PostgreSQL. What was suspended goes on first. Idempotent."""
        with ThreadPoolExecutor(len(self.nodes)) as stoppers:
            ends = [(node, stoppers.submit(node.stop)) for node in self.nodes if node.running]
        if self.redis is not None:
            self.redis.stop()
        self.postgres.stop()
        for node in self.nodes:
            if node.running:
                node.kill()
        for node, end in ends:
            assert end.result() == 0, "a node did not stop in order:\n" + "".join(node.output[-40:])

    async def account(
        self, tenant: str, user: str = "owner", role: Role = Role.OWNER, *, ttl_s: int = 3_600
    ) -> Account:
        """A member, created when missing, with a token that every node takes."""
        return await self.nodes[0].account(tenant, user, role, ttl_s=ttl_s)


@contextlib.contextmanager
def clustered(folder: Path, **options: object) -> Iterator[Cluster]:
    """A started cluster that is stopped at the end."""
    cluster = Cluster(folder, **options)  # type: ignore[arg-type]
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
