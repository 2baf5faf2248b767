"""A profile as people read it: a table for terminals, and HTML for notebooks."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from leptonc.show import amounts, html_table
from leptonc.show.html_table import Cell

if TYPE_CHECKING:
    from leptonc.show.profile import Profile, UnitTime

_NAME, _NARROWEST = "unit", 8  # the column that is cut where there is no room
_GAP = 2  # between columns
ROWS = 30  # units listed in a terminal; the heaviest ones


@dataclass(frozen=True)
class Column:
    """One column of the table: its head, what it shows, and from which width on it is there."""

    head: str
    show: Callable[[Profile, UnitTime], str]
    least: int = 0
    number: Callable[[Profile, UnitTime], float] | None = None
    bar: bool = False
    threads: int = 1  # shown for at least so many


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %" if part < 10 else ">999 %"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _source(u: UnitTime) -> str:
    """Return the last folder, file and line of the source."""
    return "/".join(u.source.split("/")[-2:])


def _of_peak(p: Profile, u: UnitTime) -> float:
    return u.gflops / p.limits.gflops


def _of_memory(p: Profile, u: UnitTime) -> float:
    return u.gbytes / p.limits.gbytes


def _waiting(p: Profile, u: UnitTime) -> float:
    return u.wait_us / (p.threads * u.us) if u.us else 0.0


COLUMNS = (
    Column("#", lambda p, u: str(u.index), number=lambda p, u: u.index),
    Column(_NAME, lambda p, u: u.name or u.where),
    Column("source", lambda p, u: _source(u), least=120),
    Column("result", lambda p, u: u.shape, least=140),
    Column("how", lambda p, u: u.algorithm),
    Column("us", lambda p, u: f"{u.us:.1f}", number=lambda p, u: u.us),
    Column(
        "share", lambda p, u: amounts.share(u.share), number=lambda p, u: u.share, bar=True
    ),
    Column("GF/s", lambda p, u: _rate(u.gflops), number=lambda p, u: u.gflops),
    Column("of peak", lambda p, u: _percent(_of_peak(p, u)), 76, _of_peak),
    Column("GB/s", lambda p, u: _rate(u.gbytes), 70, number=lambda p, u: u.gbytes),
    Column("of mem", lambda p, u: _percent(_of_memory(p, u)), 96, _of_memory),
    Column("waits", lambda p, u: _percent(_waiting(p, u)), 70, _waiting, threads=2),
)  # fmt: skip


def _columns(p: Profile) -> list[Column]:
    """Return the columns that say something about this profile."""
    shown = [c for c in COLUMNS if p.threads >= c.threads]
    return [c for c in shown if c.head != "source" or any(u.source for u in p.units)]


def heading(p: Profile) -> tuple[str, ...]:
    """Return lines that say what was measured and what it comes to."""
    plural = "s" if p.threads > 1 else ""
    waits = f"; {_percent(p.wait_share)} of the threads' time is waiting" if plural else ""
    return (
        f"{p.name}: {p.total_us / 1e3:.3f} ms on {p.threads} thread{plural} (median of {p.runs} "
        f"runs, fastest {p.fastest_us / 1e3:.3f} ms), {', '.join(p.inputs)}",
        f"{amounts.flops(p.flops)} at {_rate(p.gflops)} GF/s, "
        f"{_percent(p.gflops / p.limits.gflops)} of the measured peak of "
        f"{p.limits.gflops:.0f} GF/s; memory reads {p.limits.gbytes:.0f} GB/s{waits}",
    )


def text(p: Profile, width: int | None = None) -> str:
    """Return the heading and the table, ``width`` columns wide (default: the terminal's)."""
    wide = width or shutil.get_terminal_size((100, 24)).columns
    out = io.StringIO()
    console = Console(file=out, width=wide, color_system=None)
    for part in parts(p, wide):
        console.print(part, highlight=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def parts(p: Profile, width: int) -> Iterator[RenderableType]:
    """Yield the heading, the heaviest units in the order they run, and the time by kernel."""
    yield from (Text(line) for line in heading(p))
    chosen = sorted(sorted(p.units, key=lambda u: -u.us)[:ROWS], key=lambda u: u.index)
    columns = [c for c in _columns(p) if width >= c.least]
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for c, wide in zip(columns, _widths(p, chosen, columns, width), strict=True):
        side = "left" if c.number is None else "right"
        table.add_column(c.head, justify=side, no_wrap=True, overflow="ellipsis", width=wide)
    for u in chosen:
        style = "yellow" if u.runs in ("torch", "both") else None
        table.add_row(*(Text(c.show(p, u)) for c in columns), style=style)
    yield table
    rest = [u for u in p.units if u not in chosen]
    if rest:
        yield Text(
            f"and {len(rest)} lighter units: {sum(u.us for u in rest):.1f} us, "
            f"{amounts.share(sum(u.share for u in rest))}"
        )
    yield Text(f"by kernel: {', '.join(_kernels(p))}")
    yield from (Text(line) for line in notes(p))


def _widths(
    p: Profile, rows: Sequence[UnitTime], columns: Sequence[Column], width: int
) -> list[int]:
    """Return the columns' widths: the names get what the figures leave."""
    widest = [max([len(c.head), *(len(c.show(p, u)) for u in rows)]) for c in columns]
    name = next(i for i, c in enumerate(columns) if c.head == _NAME)
    left = width - sum(widest) + widest[name] - _GAP * len(columns)
    widest[name] = max(_NARROWEST, min(left, widest[name]))
    return widest


def notes(p: Profile) -> Iterator[str]:
    """Yield what a reader may stumble over in this table."""
    if any(_of_peak(p, u) > 1 for u in p.units):
        yield "above 100 % of peak: Winograd multiplies less than the convolution that is counted,"
        yield "tile registers (bf16x3) multiply faster than the vectors whose peak is measured"
    if any(_of_memory(p, u) > 1 for u in p.units):
        yield "above 100 % of mem: operands came from a cache"


def _kernels(p: Profile) -> Iterator[str]:
    """Yield each kernel with its share of the time, largest first."""
    spent: dict[str, float] = {}
    for s in p.steps:
        spent[s.kernel] = spent.get(s.kernel, 0.0) + s.us
    total = sum(spent.values()) or 1.0
    for name, us in sorted(spent.items(), key=lambda item: -item[1]):
        yield f"{name} {amounts.share(us / total)}"


def html(p: Profile) -> str:
    """Return the heading and the table of all units as an HTML fragment with its own style."""
    most = max((u.share for u in p.units), default=1.0) or 1.0
    columns = _columns(p)
    head = "".join(f"<p>{escape(line)}</p>" for line in heading(p))
    table = html_table.table(
        [c.head for c in columns], (_cells(p, u, columns, most) for u in p.units)
    )
    foot = "".join(f"<p>{escape(line)}</p>" for line in notes(p))
    return f'{html_table.STYLE}<div class="leptonc">{head}{table}{foot}</div>'


def _cells(p: Profile, u: UnitTime, columns: Sequence[Column], most: float) -> list[Cell]:
    look = "torch" if u.runs in ("torch", "both") else ""
    return [
        Cell(
            c.show(p, u), None if c.number is None else c.number(p, u),
            look=look, bar=u.share / most if c.bar else 0.0,
        )
        for c in columns
    ]  # fmt: skip
