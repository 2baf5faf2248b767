"""Benchmark rows as plain data, and the JSON file that holds every figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leptonc.bench.protocol import Ratio
from leptonc.bench.rows import OURS, Entry, Row

FORMAT = 1
_SIGNIFICANT = 6


def plain(rows: Sequence[Row], facts: Mapping[str, Any], skipped: Sequence[str]) -> dict[str, Any]:
    """Return everything as dicts, lists, strings and numbers; times in milliseconds."""
    return {
        "format": FORMAT,
        "machine": dict(facts),
        "rows": [_row(r) for r in rows],
        "skipped": list(skipped),
    }


def write(
    path: Path, rows: Sequence[Row], facts: Mapping[str, Any], skipped: Sequence[str]
) -> None:
    """Write the figures to ``path`` as JSON; the directory is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plain(rows, facts, skipped), indent=1, allow_nan=False, default=str)
    path.write_text(text + "\n", encoding="utf-8")


def _row(row: Row) -> dict[str, Any]:
    others = [name for name in row.entries if name != OURS]
    stats = {k: v for k, v in row.stats.items() if isinstance(v, int | float | str)}
    return {
        "net": row.net,
        "batch": row.batch,
        "threads": row.threads,
        "vs_eager": _ratio(row.ratio(["eager"])),
        "vs_best": _ratio(row.ratio(others)),
        "onnx_export_s": _number(row.export.seconds),
        "contestants": {name: _entry(e) for name, e in row.entries.items()},
        "stats": {k: _number(v) if isinstance(v, float) else v for k, v in stats.items()},
    }


def _ratio(ratio: Ratio | None) -> dict[str, Any] | None:
    if ratio is None:
        return None
    return {k: _number(v) if isinstance(v, float) else v for k, v in asdict(ratio).items()}


def _entry(entry: Entry) -> dict[str, Any]:
    t = entry.times
    if t is None:
        return {"reason": entry.reason}
    return {
        "min_ms": _number(t.min * 1e3),
        "median_ms": _number(t.median * 1e3),
        "p90_ms": _number(t.p90 * 1e3),
        "rounds": len(t.rounds),
        "setup_s": _number(entry.setup.seconds),
        "setup_peak_bytes": entry.setup.peak_bytes,
        "error": _number(entry.error),
    }


def _number(value: float | None) -> float | str | None:
    """Return ``value`` to six digits; JSON has no infinity or NaN, so those become text."""
    if value is None:
        return None
    rounded = float(f"{value:.{_SIGNIFICANT}g}")
    return rounded if abs(rounded) < float("inf") else str(rounded)
