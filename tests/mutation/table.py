"""mutation > table: the rows of a run as markdown, with totals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mutation.catalogue import FAULTS

_HEAD = """# Seeded faults

Written by `make mutation`. Each row is one fault, seeded in a copy of the sources (the faults are
data: `tests/mutation/in_*.py`). *Tests*: the first test that fails, of the fault's own selection,
then of broader ones. *Self-check*: what a compile of a small model with `verify="unit"` or
`verify="pass"` says (`retreat`: the unit runs through torch instead). *Named*: whether that names
the guilty pass or unit. A dash: not caught; where no compile can see a fault, *none*.

"""
_COLUMNS = (
    "| Fault | Layer | Kind | Tests | Self-check | Named | Check s | Tests s |\n"
    "|---|---|---|---|---|---|---:|---:|\n"
)


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> str:
    """Write the table to ``path``; return the line of totals."""
    faults = {f.name: f for f in FAULTS}
    line = totals(rows)
    text = _HEAD + line + "\n\n" + _COLUMNS
    for r in rows:
        f = faults[r["name"]]
        checked = (r["noticed"] or "—") if f.models else "none"
        named = ("yes" if r["named"] else "—") if f.models and f.names else "none"
        cells = (r["name"], f.layer, f.category, _tests(r), checked, named)
        text += f"| {' | '.join(cells)} | {r['check_s']:.1f} | {r['tests_s']:.1f} |\n"
    text += _survivors(rows)
    path.write_text(text)
    return line


def totals(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures of the whole table."""
    count = len(rows)
    tests = sum(bool(r["tests"]) for r in rows)
    checked = sum(bool(r["noticed"]) for r in rows)
    either = sum(bool(r["tests"] or r["noticed"]) for r in rows)
    named = sum(bool(r["named"]) for r in rows)
    return (
        f"{count} of {len(FAULTS)} faults judged: {either} caught, {tests} of them by tests and "
        f"{checked} by the self-check, which named the pass or unit of {named}."
    )


def _tests(row: Mapping[str, Any]) -> str:
    node = row["tests"].removeprefix("tests/").replace("|", "/")
    return f"`{node}`" if node else "not run" if row["which"] == "none" else "—"


def _survivors(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a list of what neither caught, and what a compile let pass although it was wrong."""
    judged = [r for r in rows if r["which"] != "none"]
    lost = [r["name"] for r in judged if not (r["tests"] or r["noticed"])]
    waiting = [r["name"] for r in rows if r["which"] == "none"]
    blind = [r["name"] for r in rows if r["wrong"]]
    parts = []
    if lost:
        parts.append("Caught by nothing: " + ", ".join(lost) + ".")
    if waiting:
        parts.append("Their tests have not run yet: " + ", ".join(waiting) + ".")
    if blind:
        parts.append("The results were wrong and the self-check silent: " + ", ".join(blind) + ".")
    return "\n" + "\n\n".join(parts) + "\n" if parts else ""
