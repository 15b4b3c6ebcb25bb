"""Where the recogniser's models run: one worker process for each device of `PARLANCE_DEVICES`.

Policy: `auto` is one worker for each GPU where there are several; with one the engine looks for itself, and falls back
to the CPU where it cannot be used. Without any GPU it is two workers on the CPU, on machines that have a core and 4 GB
for each: tiny.en's compute carries 13 live streams so on two cores that it shares with everything else, with one worker
9 (`bench captions`). One decode with all threads would not: short windows keep few threads busy.
"""

AUTO = "auto"
CPU = "cpu"
TWO_CORES, TWO_MEMORY_MIB = 2, 7_000
"""8 GB as a kernel reports them: room for two of the largest model that a CPU is expected to run (small, 0.5 GB)."""


def found(wanted: str, gpus: int, *, cores: int = 1, memory_mib: int = 0) -> tuple[str, ...]:
    """The devices to start a worker for. `wanted`: the setting, checked; `gpus`: that a worker sees."""
    if wanted != AUTO:
        return tuple(wanted.split(","))
    if gpus > 1:
        return tuple(f"cuda:{number}" for number in range(gpus))
    if gpus == 0 and cores >= TWO_CORES and memory_mib >= TWO_MEMORY_MIB:
        return (CPU, CPU)
    return (AUTO,)
