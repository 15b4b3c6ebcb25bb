"""Measuring a Whisper's padding from the server's or the command line's side (`streaming.recogniser.calibrate`).

Boundary: `streaming.recogniser.calibration` runs as a process behind everything else, which loads the model; whoever is
cancelled kills it, and nothing was written then.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from server.models.process import module, told
from streaming.errors import Unavailable
from streaming.recogniser.calibrate import Failed, Step, Verdict, parse
from streaming.recogniser.card import Source, Treatment


class CalibrationFailed(Unavailable):
    """The padding of a model cannot be measured. `message` is one sentence."""


async def calibrate(
    folder: Path,
    name: str,
    tell: Callable[[Step], None],
    *,
    speech: Sequence[Path] = (),
    language: str = "auto",
    device: str = "auto",
) -> Verdict:
    """Measure and keep what was found. `speech`: files and folders; none: what comes with Parlance; `language`: of it;
    `device`: as in PARLANCE_DEVICES, one. Paths are absolute. Raises `CalibrationFailed`."""
    end: Verdict | Failed | None = None

    def heard(line: str) -> bool:
        nonlocal end
        match event := parse(line):
            case Step():
                tell(event)
            case Verdict() | Failed():
                end = event
        return event is not None

    given = [argument for path in speech for argument in ("--speech", str(path))]
    options = ("--name", name, "--language", language, "--device", device)
    command, settings = module("streaming.recogniser.calibration", str(folder), *options, *given)
    try:
        ended = await told(command, settings, heard)
    except OSError as error:
        raise CalibrationFailed(f"The program that measures models cannot be started: {error.strerror}.") from error
    if isinstance(end, Verdict) and ended.status == 0:
        return end
    if isinstance(end, Failed):
        raise CalibrationFailed(end.message)
    raise CalibrationFailed(f"The program that measures models ended {ended}.")


def words(treatment: Treatment) -> str:
    """One clause about a model's padding, for people."""
    padding = treatment.card.padding
    if treatment.source is Source.DEFAULT:
        return f"{padding}, the safe default"
    if treatment.source is Source.CARD:
        return f"{padding}, as its parlance.json says"
    assert treatment.calibration is not None
    found = treatment.calibration
    on = "synthetic speech" if found.synthetic else "recordings"
    cost = f"{found.cpu_ms:.0f} ms of CPU a window, {found.padded_cpu_ms:.0f} padded to 30 s"
    return f"{padding}, calibrated on {on}: {cost}"
