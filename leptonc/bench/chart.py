"""The speed chart: how many times faster than eager each contestant is, as a PNG."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leptonc.errors import LeptoncError

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS: Mapping[str, str] = {
    "leptonc": "#d55e00",
    "inductor": "#0072b2",
    "onnxruntime": "#009e73",
    "openvino": "#cc79a7",
    "ncnn": "#e69f00",
}
_BAR = 0.16
_ROW_INCHES = 0.55


def check() -> None:
    """Raise LeptoncError if charts cannot be drawn here."""
    if importlib.util.find_spec("matplotlib") is None:
        raise LeptoncError("a chart needs matplotlib: pip install 'leptonc[bench]'")


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Draw the figures of ``record.plain`` into ``path``, a panel for each thread count.

    Rows of batch 1 are drawn; the others only where there is none.

    Raises:
        LeptoncError: matplotlib is not installed, or there is no row to draw.
    """
    check()
    timed = [r for r in figures["rows"] if "min_ms" in r["contestants"].get("eager", {})]
    rows = [r for r in timed if r["batch"] == 1] or timed
    if not rows:
        raise LeptoncError("no row with eager's time: nothing to draw")
    figure_class = importlib.import_module("matplotlib.figure").Figure
    counts = sorted({r["threads"] for r in rows})
    tallest = max(sum(r["threads"] == n for r in rows) for n in counts)
    size = (5.5 * len(counts) + 1.0, _ROW_INCHES * tallest + 1.6)
    figure = figure_class(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(counts), squeeze=False)[0]
    for axes, count in zip(panels, counts, strict=True):
        _panel(axes, [r for r in rows if r["threads"] == count], count)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(
        "Speed relative to PyTorch eager, fastest call (right of 1 is faster)", fontsize=12
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _panel(axes: Any, rows: Sequence[Mapping[str, Any]], threads: int) -> None:
    names = [n for n in COLOURS if any("min_ms" in r["contestants"].get(n, {}) for r in rows)]
    for k, name in enumerate(names):
        places = [i + (k - (len(names) - 1) / 2) * _BAR for i in range(len(rows))]
        values = [_speed(r["contestants"], name) for r in rows]
        lengths = [v - 1.0 for v in values]
        look = {"height": _BAR * 0.9, "color": COLOURS[name], "label": name}
        bars = axes.barh(places, lengths, left=1.0, **look)
        labels = [f"{v:.2f}" if v != 1.0 else "" for v in values]
        axes.bar_label(bars, labels=labels, fontsize=6, padding=2)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.axvline(1.0, color="#666666", linewidth=0.8)
    titles = [r["net"] + (f", batch {r['batch']}" if r["batch"] > 1 else "") for r in rows]
    axes.set_yticks(range(len(rows)), titles, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.01)
    axes.set_title(f"{threads} thread" + "s" * (threads > 1), fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _speed(contestants: Mapping[str, Any], name: str) -> float:
    """Return eager's fastest call over the contestant's; 1 (no bar) where it has none."""
    mine = contestants.get(name, {}).get("min_ms")
    return contestants["eager"]["min_ms"] / mine if mine else 1.0
