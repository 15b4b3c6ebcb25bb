"""Diarisation error rates by pyannote.metrics, which lives in the models environment:
`.venv-models/bin/python -m bench.der < PAIRS`, a JSON list of {"seconds", "reference", "told"} with turns as
[start, end, speaker] in seconds; writes a list of rates with their parts.

The error rate is `DiarizationErrorRate` of pyannote.metrics and nothing else. (Word error rates with speakers, which
it does not have, are `bench.speakerwords`; they equalled those of meeteval on 60 random talks.)

Overlap counts; `collar` is pyannote's: a quarter of a second around each reference boundary is left out, an eighth on
each side. `overlap`: the part of the error that lies where the reference has several speakers at once.
"""

import json
import sys
import warnings
from typing import Any

COLLAR_S = 0.25


def rates(seconds: float, reference: list[Any], told: list[Any]) -> dict[str, float]:
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    def annotation(turns: list[Any]) -> Annotation:
        made = Annotation()
        for number, (start, end, speaker) in enumerate(turns):
            made[Segment(start, end), number] = speaker
        return made

    whole = Timeline([Segment(0, seconds)])
    true, found = annotation(reference), annotation(told)
    parts = DiarizationErrorRate(collar=COLLAR_S)(true, found, uem=whole, detailed=True)
    alone = DiarizationErrorRate(collar=COLLAR_S, skip_overlap=True)(true, found, uem=whole, detailed=True)
    total = parts["total"]
    errors = [parts[name] for name in ("missed detection", "false alarm", "confusion")]
    outside = sum(alone[name] for name in ("missed detection", "false alarm", "confusion"))
    missed, false, confused = (error / total for error in errors)
    return {
        "der": sum(errors) / total,
        "missed": missed,
        "false_alarm": false,
        "confusion": confused,
        "overlap": (sum(errors) - outside) / total,
        "total_s": total,
    }


def main() -> None:
    warnings.simplefilter("ignore")
    pairs = json.load(sys.stdin)
    sys.stdout.write(json.dumps([rates(pair["seconds"], pair["reference"], pair["told"]) for pair in pairs]))


if __name__ == "__main__":
    main()
