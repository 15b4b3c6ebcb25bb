"""From the command to the line that says the server is ready: with an empty data folder, and with the one it made."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.meter import cpu_of
from bench.report import Figure, Result, percentiles
from tests.support.process import running


def benchmark(rounds: int, engine: str) -> Result:
    """`rounds` data folders, two starts each; the server's processes and the database's are counted."""
    wall: dict[str, list[float]] = {"first": [], "second": []}
    cpu: dict[str, list[float]] = {"first": [], "second": []}
    for _ in range(rounds):
        with TemporaryDirectory(prefix="parlance-bench-") as folder:
            for which in wall:
                began = time.perf_counter()
                with running(Path(folder) / "data", engine=engine) as server:
                    wall[which].append(time.perf_counter() - began)
                    used = cpu_of(server)
                    cpu[which].append(used.server_s + used.workers_s + used.database_s)
    rows: list[Figure] = []
    for which in wall:
        rows += percentiles(f"{which} start to ready", wall[which], "s")[:1]
        rows += percentiles(f"{which} start, CPU", cpu[which], "s")[:1]
    return Result("startup", rows, {"engine": engine, "rounds": rounds}, {"wall_s": wall, "cpu_s": cpu})
