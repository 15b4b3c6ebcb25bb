"""The tables of docs/benchmarks.md about how good search is, from bench/results/quality.json."""

from typing import Any

from bench.quality.corpus import KINDS

SYSTEMS = ("keyword", "vector", "hybrid")


def markdown(found: dict[str, Any]) -> str:
    """Means with their intervals; what is better by another rule, query by query."""
    raw, settings = found["raw"], found["settings"]
    rows: dict[tuple[str, str, str, str], dict[str, Any]] = {
        (r["index"], r["system"], r["split"], r["kind"]): r for r in raw["rows"]
    }
    indexes = list(dict.fromkeys(r["index"] for r in raw["rows"]))
    head = f"{found['date'][:10]}, {settings['segments']} segments, {sum(settings['queries'].values())} queries"
    out = [
        f"{head}; {settings['model']}. nDCG@10 / recall@20.",
        "",
        "| index | recordings | queries | keyword | vector | hybrid |",
        "|---|---|---|---|---|---|",
    ]
    for index in indexes:
        for split in ("dev", "test"):
            cells = [_with_interval(rows[index, system, split, "all"]) for system in SYSTEMS]
            n = rows[index, "hybrid", split, "all"]["ndcg"]["n"]
            out.append(f"| {index} | {split} | {n} | {' | '.join(cells)} |")
    out += ["", "| kind (test) | queries | " + " | ".join(f"{i}: {s}" for i in indexes for s in SYSTEMS) + " |"]
    out.append("|---|---|" + "---|" * (len(indexes) * len(SYSTEMS)))
    for kind in KINDS:
        of = [rows[index, system, "test", kind] for index in indexes for system in SYSTEMS]
        cells = [f"{r['ndcg']['value']:.2f} / {r['recall']['value']:.2f}" for r in of]
        out.append(f"| {kind} | {of[0]['ndcg']['n']} | {' | '.join(cells)} |")
    out += ["", "| another rule | " + " | ".join(f"{i}, {s}" for i in indexes for s in ("dev", "test")) + " |"]
    out.append("|---|" + "---|" * (2 * len(indexes)))
    gains = {(r["index"], r["system"], r["split"]): r["gain"] for r in raw["variants"]}
    for variant in dict.fromkeys(r["system"] for r in raw["variants"]):
        told = [gains.get((index, variant, split)) for index in indexes for split in ("dev", "test")]
        out.append(f"| {variant} | {' | '.join(map(_gain, told))} |")
    out += ["", "The last table: nDCG@10 over the program's own, query by query, with its interval of 95%."]
    return "\n".join(out)


def _with_interval(row: dict[str, Any]) -> str:
    ndcg, recall = row["ndcg"], row["recall"]
    return f"{ndcg['value']:.3f} ({ndcg['low']:.3f} to {ndcg['high']:.3f}) / {recall['value']:.3f}"


def _gain(gain: dict[str, Any] | None) -> str:
    return "–" if gain is None else f"{gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"
