"""Write figures into the README: ``python -m leptonc.bench.readme FIGURES README CHART``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leptonc.bench import chart
from leptonc.errors import LeptoncError

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
NAMES = ("leptonc", "eager", "inductor", "onnxruntime", "openvino")


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
    rows = figures["rows"]
    names = [n for n in NAMES if any("min_ms" in r["contestants"].get(n, {}) for r in rows)]
    yield f"| net | threads | {' | '.join(names)} | x eager | x best peer [95 %] |"
    yield "|---|---|" + "---:|" * (len(names) + 1) + "---|"
    for r in rows:
        batch = f", batch {r['batch']}" if r["batch"] > 1 else ""
        cells = " | ".join(_time(r["contestants"].get(n, {})) for n in names)
        eager = f"{r['vs_eager']['value']:.2f}" if r["vs_eager"] else ""
        best = _best(r["vs_best"])
        yield f"| {r['net']}{batch} | {r['threads']} | {cells} | {eager} | {best} |"
    m = figures["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in m["versions"].items())
    yield ""
    yield (
        f"Milliseconds, fastest call; {m['processor']}, {m['lanes']} float32 lanes; {m['date']}; "
        f"{versions}. Protocol: {m['protocol']}. A ratio above 1 means that leptonc is faster; "
        "the ratios compare the medians of the rounds' fastest calls."
    )


def _time(entry: Mapping[str, Any]) -> str:
    if "min_ms" not in entry:
        return ""
    return f"{entry['min_ms']:.3g}" if entry["min_ms"] < 100 else f"{entry['min_ms']:.0f}"


def _best(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return ""
    text = f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] {ratio['peer']}"
    return f"**{text}**" if ratio["low"] > 1 else text


def main(figures_path: str, readme_path: str, chart_path: str) -> None:
    """Rewrite the README's table and draw the chart next to it."""
    figures = json.loads(Path(figures_path).read_text(encoding="utf-8"))
    readme, picture = Path(readme_path), Path(chart_path)
    chart.draw(figures, picture)
    link = picture.resolve().relative_to(readme.resolve().parent).as_posix()
    readme.write_text(rewrite(readme.read_text(encoding="utf-8"), figures, link), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:4])
