"""Run every benchmark: `python -m bench [NAME ...] [--quick] [--speech FOLDER]`; `make bench` runs it plain.

Policy: what needs no outside data always runs; a benchmark whose program is missing is listed as skipped. Servers are
real ones, started from this checkout with data folders of their own. Raw results go to bench/results/<name>.json, one
table to standard output. Promises that were missed are marked and do not fail the command: machines differ.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import uvloop

from bench import engines, live, search, speech, startup, streams
from bench.report import ROOT, Figure, Result, table, write
from streaming.recogniser.pocketsphinx import PocketSphinxEngine
from tests.support.process import TONES, ServerProcess, running

SPHINX = "pocketsphinx"
SEARCH_P95_MS = 50
"""The promise of ARCHITECTURE.md, over 100,000 segments."""


class Options(msgspec.Struct, frozen=True):
    """`speech`: a folder of recordings with manifest.json."""

    quick: bool
    speech: Path | None
    seed: int


Benchmark = Callable[[Options], Awaitable[Result]]


async def start_up(options: Options) -> Result:
    return startup.benchmark(1 if options.quick else 3, SPHINX)


async def captions(options: Options) -> Result:
    if options.speech is not None:
        clips, voice = speech.recorded(options.speech, 30 if options.quick else 180), "recordings"
    else:
        try:
            clips, voice = speech.synthesised(4 if options.quick else len(speech.SENTENCES)), "espeak-ng en-us"
        except FileNotFoundError as error:
            return Result("captions", [], {}, {}, skipped=str(error))
    return await with_server(SPHINX, lambda server: live.benchmark(server, clips, voice))


async def tones(options: Options) -> Result:
    seconds = 10 if options.quick else 30
    return await with_server(TONES, lambda server: streams.benchmark(server, (1, 4, 16), seconds, options.seed))


async def searchable(options: Options) -> Result:
    seconds = 8 if options.quick else 20
    return await with_server(
        TONES, lambda server: streams.searchable(server, streams.STREAMS_FOR_50_PER_S, seconds, options.seed)
    )


async def ingest(options: Options) -> Result:
    seconds = 8 if options.quick else 20
    return await with_server(SPHINX, lambda server: streams.ingest(server, 16, seconds, options.seed))


async def prefixes(options: Options) -> Result:
    """`bench.search` at its usual sizes, first results only."""
    segments, rounds = (10_000, 10) if options.quick else (100_000, 100)
    found = await search.run(segments, rounds, None)
    rows: list[Figure] = []
    for f in found:
        name = f"{segments:,} segments, {f.sort}: {f.query}"
        rows.append(Figure(f"{name}, p50", round(f.p50_ms, 1), "ms", f.searches))
        rows.append(Figure(f"{name}, p95", round(f.p95_ms, 1), "ms", f.searches, SEARCH_P95_MS))
    return Result("search", rows, {"segments": segments, "rounds": rounds}, {"figures": msgspec.to_builtins(found)})


async def engine(options: Options) -> Result:
    """`bench.engines`: the engine alone, with the commit policy that it asks for."""
    if options.speech is None:
        return Result("engine", [], {}, {}, skipped="needs --speech FOLDER")
    subject = PocketSphinxEngine()
    capabilities = subject.capabilities
    heard = engines.listen(options.speech, subject, seconds_max=30 if options.quick else 180)
    own = heard.figures
    shown = engines.policy(heard, capabilities.hop_ms, capabilities.agreement, capabilities.holdback_words)
    n = len(heard.references)
    rows = [
        Figure("word error rate, finals", own["wer"], "share", n),
        Figure("word error rate, shown text", shown["wer_committed"], "share", n),
        Figure("words stable before the final", shown["stable_share"], "share", n),
        Figure("stable words that the final has otherwise", shown["contradicted"], "share", n),
        Figure("CPU of the engine", own["cpu"], "s/audio s", n),
        Figure("end of the audio to the final, mean", own["final_ms_mean"], "ms", n),
    ]
    return Result("engine", rows, {"engine": capabilities.name, "model": capabilities.model}, {**own, **shown})


BENCHMARKS: dict[str, Benchmark] = {
    "startup": start_up,
    "captions": captions,
    "tones": tones,
    "searchable": searchable,
    "ingest": ingest,
    "search": prefixes,
    "engine": engine,
}


async def with_server(engine: str, measure: Callable[[ServerProcess], Awaitable[Result]]) -> Result:
    """Measure against a fresh server with an empty data folder."""
    with (
        tempfile.TemporaryDirectory(prefix="parlance-bench-") as folder,
        running(Path(folder) / "data", engine=engine) as server,
    ):
        return await measure(server)


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Parlance; see docs/benchmarks.md.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(BENCHMARKS)}; default all")
    parser.add_argument("--quick", action="store_true", help="less of everything, under two minutes")
    parser.add_argument("--speech", type=Path, metavar="FOLDER", help="recordings with a manifest.json: id, file, text")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results", metavar="FOLDER")
    options = parser.parse_args(given)
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    if options.speech is not None and not (options.speech / "manifest.json").is_file():
        parser.error(f"{options.speech} holds no manifest.json")
    return options


async def run(given: argparse.Namespace) -> list[Result]:
    options = Options(given.quick, given.speech, given.seed)
    results = []
    for name in given.names or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        began = time.perf_counter()
        result = await BENCHMARKS[name](options)
        write(given.output, result, seed=given.seed, quick=given.quick, seconds=time.perf_counter() - began)
        results.append(result)
    return results


def main(given: list[str] | None = None) -> int:
    if not Path("/proc/self/stat").exists():
        print("bench: CPU and memory are read from /proc; run it on Linux.", file=sys.stderr)
        return 1
    options = arguments(given)
    results = uvloop.run(run(options))
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
