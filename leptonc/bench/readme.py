"""Write figures into the README: ``python -m leptonc.bench.readme FIGURES README CHART FULL``.

FIGURES is one file, or several by comma whose rows follow one another; a row that was measured
again in a later file takes the place of the earlier one.

The README gets one line per network at batch 1 and the geometric means of the suites; FULL, a page
of its own, gets every row with every peer.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from leptonc.bench import chart, suites
from leptonc.errors import LeptoncError

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
NAMES = ("leptonc", "eager", "inductor", "onnxruntime", "openvino", "ncnn")


def joined(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of several runs on one machine as one.

    Its facts are the first run's, but for the protocol: the different ones, in order.

    Raises:
        LeptoncError: runs on different processors, whose rows cannot stand in one table.
    """
    first, *_ = figures
    processors = dict.fromkeys(f["machine"]["processor"] for f in figures)
    if len(processors) > 1:
        raise LeptoncError(f"figures of different processors: {', '.join(processors)}")
    rows = {(r["net"], r["batch"], r["threads"]): r for f in figures for r in f["rows"]}
    protocols = dict.fromkeys(f["machine"]["protocol"] for f in figures)
    machine = {**first["machine"], "protocol": " | ".join(protocols)}
    return {**first, "machine": machine, "rows": list(rows.values())}


def rewrite(readme: str, figures: Mapping[str, Any], picture: str = "") -> str:
    """Return the README's text with the table between its markers replaced.

    ``picture`` is the chart's path as the README links it.

    Raises:
        LeptoncError: the markers are missing.
    """
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise LeptoncError(f"the README needs the lines {BEGIN} and {END}")
    lines = list(_lines(figures))
    if picture:
        lines = [f"![times faster than eager]({picture})", "", *lines]
    body = "\n".join(lines)
    return f"{head}{BEGIN}\n{body}\n{END}{tail}"


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield the README's table: a line per network, both ratios for each thread count."""
    rows = [r for r in figures["rows"] if r["batch"] == 1]
    threads = sorted({r["threads"] for r in rows})
    heads = [f"{_count(n)}: ms | x eager | x best peer [95 %]" for n in threads]
    yield f"| net | {' | '.join(heads)} |"
    yield "|---|" + "---:|---:|---|" * len(threads)
    at = {(r["net"], r["threads"]): r for r in rows}
    for net in dict.fromkeys(r["net"] for r in rows):
        yield f"| {net} | {' | '.join(_short(at.get((net, n))) for n in threads)} |"
    yield ""
    yield from _means(figures["rows"])
    yield ""
    yield _legend(figures["machine"])


def full(figures: Mapping[str, Any]) -> str:
    """Return the page with every row: all peers, batches and thread counts."""
    rows = figures["rows"]
    names = [n for n in NAMES if any("min_ms" in r["contestants"].get(n, {}) for r in rows)]
    lines = ["# Speed, every row", "", *_means(rows), ""]
    lines.append(f"| net | batch | threads | {' | '.join(names)} | x eager | x best peer [95 %] |")
    lines.append("|---|---:|---:|" + "---:|" * (len(names) + 1) + "---|")
    for r in rows:
        cells = " | ".join(_time(r["contestants"].get(n, {})) for n in names)
        tail = f"{_eager(r)} | {_best(r['vs_best'])}"
        lines.append(f"| {r['net']} | {r['batch']} | {r['threads']} | {cells} | {tail} |")
    return "\n".join([*lines, "", _legend(figures["machine"]), ""])


def _means(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table of the geometric means of the ratios, by suite, batch and thread count."""
    yield "| suite | batch | threads | nets | x eager | x best peer | lost |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for suite, nets in suites.SUITES.items():
        mine = [r for r in rows if r["net"] in {n.name for n in nets} and r["vs_best"]]
        for batch, threads in dict.fromkeys((r["batch"], r["threads"]) for r in mine):
            group = [r for r in mine if (r["batch"], r["threads"]) == (batch, threads)]
            eager = [r["vs_eager"]["value"] for r in group if r["vs_eager"]]
            best = [r["vs_best"]["value"] for r in group]
            lost = sum(v < 1 for v in best)
            figures = f"{_mean(eager)} | {_mean(best)} | {lost}"
            yield f"| {suite} | {batch} | {threads} | {len(group)} | {figures} |"


def _mean(values: Sequence[float]) -> str:
    """Return the geometric mean."""
    return f"{math.exp(math.fsum(map(math.log, values)) / len(values)):.2f}" if values else ""


def _legend(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    return (
        f"Milliseconds, fastest call; {machine['processor']}, {machine['lanes']} float32 lanes; "
        f"{machine['date']}; {versions}. Protocol: {machine['protocol']}. A ratio above 1 means "
        "that leptonc is faster; the ratios compare the medians of the rounds' fastest calls."
    )


def _count(threads: int) -> str:
    return f"{threads} thread" + "s" * (threads > 1)


def _short(row: Mapping[str, Any] | None) -> str:
    """Return the three cells of a network at one thread count."""
    if row is None:
        return " | | "
    ours = _time(row["contestants"].get("leptonc", {}))
    return f"{ours} | {_eager(row)} | {_best(row['vs_best'])}"


def _eager(row: Mapping[str, Any]) -> str:
    return f"{row['vs_eager']['value']:.2f}" if row["vs_eager"] else ""


def _time(entry: Mapping[str, Any]) -> str:
    if "min_ms" not in entry:
        return ""
    return f"{entry['min_ms']:.3g}" if entry["min_ms"] < 100 else f"{entry['min_ms']:.0f}"


def _best(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return ""
    text = f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] {ratio['peer']}"
    return f"**{text}**" if ratio["low"] > 1 else text


def main(figures_path: str, readme_path: str, chart_path: str, full_path: str) -> None:
    """Rewrite the README's table, draw the chart next to it and write the page of all rows."""
    figures = joined(
        [json.loads(Path(p).read_text(encoding="utf-8")) for p in figures_path.split(",")]
    )
    readme, picture = Path(readme_path), Path(chart_path)
    chart.draw(figures, picture)
    link = picture.resolve().relative_to(readme.resolve().parent).as_posix()
    readme.write_text(rewrite(readme.read_text(encoding="utf-8"), figures, link), encoding="utf-8")
    Path(full_path).write_text(full(figures), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:5])
