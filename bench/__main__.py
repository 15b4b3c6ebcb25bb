"""Run every benchmark: `python -m bench [NAME ...] [--quick] [--speech FOLDER] [--model FOLDER]`; `make bench` runs it
plain. `captions` also takes `--streams`, `--shape`, `--engine` and `--resume`; `peers` runs only when it is named.

Policy: what needs no outside data always runs; a benchmark whose program is missing is listed as skipped. Servers are
real ones, started from this checkout with data folders of their own. Raw results go to bench/results/<name>.json, one
table to standard output. Promises that were missed are marked and do not fail the command: machines differ.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import uvloop

from bench import (
    captions,
    crossnode,
    encodings,
    engines,
    fanout,
    hour,
    idle,
    intake,
    keystrokes,
    policies,
    preparation,
    replay,
    resume,
    search,
    searchload,
    second_pass,
    setups,
    speakers,
    speech,
    stalled,
    startup,
    streams,
    subscriptions,
    tables,
)
from bench.beside import ROUNDS
from bench.peers import run as peers
from bench.peers.settings import chosen
from bench.quality import run as quality
from bench.report import ROOT, Figure, Result, table, write
from streaming.recogniser.pocketsphinx import PocketSphinxEngine
from tests.support import synth
from tests.support.process import TONES, ServerProcess, running

SPHINX = "pocketsphinx"
RESULTS = ROOT / "bench" / "results"
SEARCH_P95_MS = 50
"""The promise of ARCHITECTURE.md, over 100,000 segments."""


class Options(msgspec.Struct, frozen=True):
    """`speech`: a folder of recordings with manifest.json; `model`: folder or name of a Whisper for CTranslate2;
    `streams`, `shape`, `engine`, `resume`: of `captions`; `streams`, `shape`, `resume` and `peers`: of `peers`."""

    quick: bool
    speech: Path | None
    model: str
    seed: int
    output: Path
    streams: tuple[int, ...] = ()
    shape: str | None = None
    engine: str | None = None
    resume: bool = False
    peers: tuple[str, ...] = ()


Benchmark = Callable[[Options], Awaitable[Result]]
Found = TypeVar("Found")


async def start_up(options: Options) -> Result:
    return startup.benchmark(1 if options.quick else 3, SPHINX)


async def live_captions(options: Options) -> Result:
    recordings = []
    if options.speech is not None:
        recordings = speech.recorded(options.speech, 30 if options.quick else 180)
    wanted = setups.setups(quick=options.quick, counts=options.streams, shape=options.shape, engine=options.engine)
    return await captions.benchmark(
        list(wanted), options.model, recordings, options.output, seed=options.seed, resume=options.resume
    )


async def an_hour(options: Options) -> Result:
    return await hour.benchmark(options.model, 240 if options.quick else 3_600, options.seed)


async def a_second_pass(options: Options) -> Result:
    seconds, live_s = (600, 40) if options.quick else (7_200, 60)
    return await second_pass.benchmark(options.model, seconds, live_s, options.seed)


async def every_encoding(options: Options) -> Result:
    if synth.PROGRAM is None:
        return Result("encodings", [], {}, {}, skipped="espeak-ng is not installed")
    sentences = 10 if options.quick else 40
    return await with_server(
        setups.WHISPER, lambda server: encodings.benchmark(server, sentences, options.seed), model=str(captions.MICRO)
    )


async def prepared(options: Options) -> Result:
    return await preparation.benchmark(options.model, 2 if options.quick else 8, options.seed)


async def commit_policies(options: Options) -> Result:
    recordings = speech.recorded(options.speech, 30 if options.quick else 90) if options.speech is not None else []
    seconds, talks = (10, 1) if options.quick else (30, 4)
    return await policies.benchmark(options.model, seconds, talks, options.seed, recordings)


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


async def searches(options: Options) -> Result:
    """`bench.search`: first results at its usual sizes, and by meaning over fewer, whose index takes long to make."""
    segments, rounds = (10_000, 10) if options.quick else (100_000, 100)
    vectors = 2_000 if options.quick else 20_000
    rows: list[Figure] = []
    found = await search.run(segments, rounds, None)
    rows += searched(f"{segments:,} segments", found)
    backlog, queries = (300, 50) if options.quick else (search.BACKLOG, search.EMBEDDED_QUERIES)
    meaning = await search.run_meaning(vectors, max(rounds, 20), None, backlog=backlog, queries=queries)
    rows += searched(f"{vectors:,} vectors", meaning.figures)
    rows.append(Figure(f"{vectors:,} vectors: their index made at once", round(meaning.index_build_s, 1), "s", 1))
    for name, (p50, p95) in meaning.embed_ms.items():
        rows.append(Figure(f"a query becomes a vector, {name}, p50", round(p50, 1), "ms", queries))
        rows.append(Figure(f"a query becomes a vector, {name}, p95", round(p95, 1), "ms", queries))
    if meaning.backlog_per_s is not None and meaning.embed_cpu_ms is not None:
        rows.append(Figure("vectors of a backlog", round(meaning.backlog_per_s, 1), "1/s", backlog))
        rows.append(Figure("CPU of a vector", round(meaning.embed_cpu_ms, 2), "ms", backlog))
    return Result(
        "search",
        rows,
        {"segments": segments, "rounds": rounds, "vectors": vectors},
        {"figures": msgspec.to_builtins(found), "meaning": msgspec.to_builtins(meaning)},
        skipped="" if meaning.embed_ms else "how fast the model makes vectors; the models environment is not installed",
    )


async def search_quality(options: Options) -> Result:
    return await quality.benchmark(options.output, options.seed, quick=options.quick)


async def search_load(options: Options) -> Result:
    return await searchload.benchmark(
        options.output, options.seed, searchload.QUICK if options.quick else searchload.FULL
    )


async def typed_keys(options: Options) -> Result:
    size = keystrokes.QUICK if options.quick else keystrokes.FULL
    return await keystrokes.benchmark(options.output, options.seed, size, 2 if options.quick else 20)


async def subscribed(options: Options) -> Result:
    return await subscriptions.benchmark(options.seed, quick=options.quick)


def searched(over: str, found: list[search.Figure]) -> list[Figure]:
    rows: list[Figure] = []
    for f in found:
        name = f"{over}, {f.sort}: {f.query}"
        rows.append(Figure(f"{name}, p50", round(f.p50_ms, 1), "ms", f.searches))
        rows.append(Figure(f"{name}, p95", round(f.p95_ms, 1), "ms", f.searches, SEARCH_P95_MS))
    return rows


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


async def fan_out(options: Options) -> Result:
    return await fanout.benchmark(1_000, 2 if options.quick else 4, 3 if options.quick else 6, rounds(options))


async def cross_node(options: Options) -> Result:
    return await crossnode.benchmark(1_000, 2 if options.quick else 4, rounds(options))


async def intakes(options: Options) -> Result:
    """`bench.intake`: beside Node, then the whole server."""
    seconds = 2 if options.quick else 4
    runs, skipped = await intake.compare(seconds, rounds(options), options.seed)
    wholes = await with_server(
        TONES, lambda server: intake.whole(server, intake.WHOLE_STREAMS, 2 * seconds, options.seed)
    )
    return intake.result(runs, skipped, wholes, seconds, rounds(options))


async def idles(options: Options) -> Result:
    """Three rounds: what is measured differs by a tenth of a kB between them, and connecting takes long."""
    return await idle.benchmark(1_000 if options.quick else 5_000, min(3, rounds(options)))


async def stalls(options: Options) -> Result:
    return await stalled.benchmark(100, 5, 1 if options.quick else 3)


async def replays(options: Options) -> Result:
    return await with_server(TONES, lambda server: replay.benchmark(server, 10_000 if options.quick else 100_000))


async def resumes(options: Options) -> Result:
    cuts, kills = (4, 1) if options.quick else (15, 4)
    return await with_server(TONES, lambda server: resume.benchmark(server, cuts, kills, options.seed))


async def who_speaks(options: Options) -> Result:
    if options.speech is None:
        return Result("speakers", [], {}, {}, skipped="needs --speech FOLDER")
    return await speakers.benchmark(options.speech, 3 if options.quick else 18, options.seed)


async def other_servers(options: Options) -> Result:
    return await peers.benchmark(
        options.output, options.peers, quick=options.quick, seed=options.seed, counts=options.streams,
        shape=options.shape, resume=options.resume,
    )  # fmt: skip


def rounds(options: Options) -> int:
    """Of each side of a comparison."""
    return 1 if options.quick else ROUNDS


BENCHMARKS: dict[str, Benchmark] = {
    "startup": start_up,
    "captions": live_captions,
    "hour": an_hour,
    "pass": a_second_pass,
    "encodings": every_encoding,
    "preparation": prepared,
    "policies": commit_policies,
    "tones": tones,
    "searchable": searchable,
    "ingest": ingest,
    "search": searches,
    "quality": search_quality,
    "searchload": search_load,
    "keystrokes": typed_keys,
    "subscriptions": subscribed,
    "engine": engine,
    "fanout": fan_out,
    "crossnode": cross_node,
    "intake": intakes,
    "idle": idles,
    "stalled": stalls,
    "replay": replays,
    "resume": resumes,
    "speakers": who_speaks,
    "peers": other_servers,
}
ONLY_BY_NAME = frozenset({"peers"})
"""Installs 7 GB of other programs; nobody gets that unasked."""


async def with_server(engine: str, measure: Callable[[ServerProcess], Awaitable[Found]], **settings: str) -> Found:
    """Measure against a fresh server with an empty data folder."""
    with (
        tempfile.TemporaryDirectory(prefix="parlance-bench-") as folder,
        running(Path(folder) / "data", engine=engine, **settings) as server,
    ):
        return await measure(server)


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Parlance; see docs/benchmarks.md.")
    known = ", ".join(BENCHMARKS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {known}; default all but peers")
    parser.add_argument("--quick", action="store_true", help="less of everything, about twelve minutes")
    parser.add_argument("--speech", type=Path, metavar="FOLDER", help="recordings with a manifest.json: id, file, text")
    parser.add_argument(
        "--model",
        default=os.environ.get("PARLANCE_MODEL") or str(captions.MICRO),
        metavar="FOLDER",
        help="a Whisper for CTranslate2, a folder or a name; default PARLANCE_MODEL, else the tests' micro Whisper",
    )
    parser.add_argument("--seed", type=int, default=1)
    counts = parser.add_argument_group("captions, peers")
    counts.add_argument(
        "--streams", type=counted, default=(), metavar="N,N", help="at once; default: to twice the knee"
    )
    counts.add_argument("--shape", choices=["micro", *setups.SHAPES], help="whose compute; default all")
    counts.add_argument("--engine", choices=[setups.WHISPER, setups.SPHINX], help="default both")
    counts.add_argument("--resume", action="store_true", help="go on with what an interrupted run has measured")
    counts.add_argument(
        "--peers", type=listed, default=(), metavar="WHO,WHO", help="wlk, wl, or their settings; default all"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER")
    options = parser.parse_args(given)
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    if options.speech is not None and not (options.speech / "manifest.json").is_file():
        parser.error(f"{options.speech} holds no manifest.json")
    return options


def counted(text: str) -> tuple[int, ...]:
    """Numbers of streams, such as "1,2,4"."""
    counts = tuple(int(part) for part in text.split(","))
    if any(count < 1 for count in counts):
        raise ValueError("at least one stream")
    return counts


def listed(text: str) -> tuple[str, ...]:
    """Names, such as "wlk,wl"."""
    names = tuple(part.strip() for part in text.split(","))
    chosen(names)
    return names


async def run(given: argparse.Namespace) -> list[Result]:
    options = Options(
        given.quick, given.speech, given.model, given.seed, given.output,
        given.streams, given.shape, given.engine, given.resume, given.peers,
    )  # fmt: skip
    results = []
    for name in given.names or [name for name in BENCHMARKS if name not in ONLY_BY_NAME]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        began = time.perf_counter()
        result = await BENCHMARKS[name](options)
        write(given.output, result, seed=given.seed, quick=given.quick, seconds=time.perf_counter() - began)
        results.append(result)
        if name in tables.DRAWN and not result.skipped and given.output == RESULTS and not given.quick:
            tables.draw(RESULTS)
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
