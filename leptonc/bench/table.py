"""The printed tables of a benchmark: times and ratios, then set-up, memory and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from leptonc.bench.protocol import Footprint, Ratio
from leptonc.bench.rows import OURS, Entry, Row

MAX_ERROR = 1e-3  # of the largest element: beyond this a result is marked as wrong
MIB = 1 << 20


def line(row: Row) -> str:
    """Return one line that says how a row went, printed while the others are measured."""
    where = f"{row.net:<20} batch {row.batch}, {row.threads} thread(s): "
    entry = row.entries[OURS]
    if entry.times is None:
        return f"{where}[red]failed[/red]: {escape(entry.reason)}"
    ratio = row.ratio([n for n in row.entries if n != OURS])
    best = f", {_coloured(ratio)} as fast as {ratio.peer}" if ratio is not None else ""
    return f"{where}{ms(entry.times.min)} ms{best}"


def show(
    console: Console, rows: Sequence[Row], facts: Mapping[str, Any], skipped: Sequence[str]
) -> None:
    """Print both tables, what is missing and why, and what it was measured on."""
    names = list(dict.fromkeys(n for r in rows for n in r.entries))
    exports: dict[str, str] = {}
    console.print(speed(rows, names))
    if any("unit_us" in r.stats for r in rows):
        console.print(units(rows))
    console.print(_details(rows))
    for row in (r for r in rows if r.export.seconds):
        exports[row.net] = f"{row.net} {row.export.seconds:.1f} s"
    if exports:
        console.print(f"[dim]ONNX export, not in the set-up: {', '.join(exports.values())}[/dim]")
    for text in (*_reasons(rows), *skipped):
        console.print(f"[dim]no figure:[/dim] {escape(text)}", highlight=False, soft_wrap=True)
    for key in ("processor", "threads", "system", "protocol"):
        console.print(f"[dim]{key}: {escape(str(facts[key]))}[/dim]", highlight=False)
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    console.print(f"[dim]versions: {escape(versions)}[/dim]", highlight=False)
    for peer, flags in facts["flags"].items():
        console.print(f"[dim]{peer}: {escape(flags)}[/dim]", highlight=False)


def speed(rows: Sequence[Row], names: Sequence[str]) -> Table:
    """Return the table of the fastest calls and the ratios to eager and to the best peer."""
    table = _table("fastest call in ms; how many times faster leptonc is", ("batch", "threads"))
    for title in (*names, "x eager"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("x best peer [95 %]", no_wrap=True)
    for row in rows:
        others = [n for n in row.entries if n != OURS]
        times = (row.times(n) for n in names)
        table.add_row(
            row.net,
            str(row.batch),
            str(row.threads),
            *("" if t is None else ms(t.min) for t in times),
            _coloured(row.ratio(["eager"])),
            _with_interval(row.ratio(others)),
        )
    return table


def units(rows: Sequence[Row]) -> Table:
    """Return the table of single units: what leptonc's kernel does of what the machine can."""
    table = _table("the heaviest unit alone, by what the machine does at most", ("threads",))
    table.add_column("how", no_wrap=True)
    for title in ("us", "GF/s", "of peak", "GB/s", "of memory"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in (r for r in rows if "unit_us" in r.stats):
        s = row.stats
        table.add_row(
            row.net,
            str(row.threads),
            s["unit"],
            f"{s['unit_us']:.1f}",
            *_rate(s["unit_gflops"], s["peak_gflops"]),
            *_rate(s["unit_gbytes"], s["peak_gbytes"]),
        )
    return table


def _rate(value: float, limit: float) -> tuple[str, str]:
    return f"{value:.1f}", f"{100 * value / limit:.0f} %"


_DETAILS = ("median ms", "p90 ms", "set-up s", "peak MiB", "error")


def _details(rows: Sequence[Row]) -> Table:
    table = _table(
        "set-up time, growth of memory at its peak, error of the largest element",
        ("batch", "threads"),
    )
    table.add_column("contestant", no_wrap=True)
    for title in _DETAILS:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        where = (row.net, str(row.batch), str(row.threads))
        for name, entry in row.entries.items():
            if entry.times is not None:
                table.add_row(*where, name, *_figures(entry))
                where = ("", "", "")
    return table


def _table(title: str, numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("net", no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _figures(entry: Entry) -> Sequence[str]:
    assert entry.times is not None
    return (
        ms(entry.times.median),
        ms(entry.times.p90),
        f"{entry.setup.seconds:.2f}",
        _peak(entry.setup),
        _error(entry.error),
    )


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Return why cells are blank; one line for a peer that is missing everywhere."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for name, entry in row.entries.items():
            if entry.times is None:
                where = f"{row.net} ({row.threads})"
                found.setdefault(f"{name}: {entry.reason}", []).append(where)
    everywhere = len(rows) if len(rows) > 1 else 0
    return [
        text if len(where) == everywhere else f"{text} [{', '.join(where)}]"
        for text, where in found.items()
    ]


def _peak(setup: Footprint) -> str:
    return "?" if setup.peak_bytes is None else f"{setup.peak_bytes / MIB:.0f}"


def _error(error: float | None) -> str:
    if error is None:
        return "?"
    text = f"{error:.0e}"
    return text if error <= MAX_ERROR else f"[bold red]{text}[/bold red]"


def _coloured(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    colour = "green" if ratio.low > 1 else "red" if ratio.high < 1 else "yellow"
    return f"[{colour}]{ratio.value:.2f}x[/{colour}]"


def _with_interval(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    return f"{_coloured(ratio)} \\[{ratio.low:.2f}, {ratio.high:.2f}] {ratio.peer}"


def ms(seconds: float) -> str:
    """Return seconds as milliseconds with three significant digits or so."""
    value = seconds * 1e3
    digits = 4 if value < 0.1 else 3 if value < 1 else 2 if value < 10 else 1
    return f"{value:.{digits}f}"
