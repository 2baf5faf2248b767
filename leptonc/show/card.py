"""A compiled model at a glance: a card for notebooks, a coloured report for terminals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from rich.highlighter import RegexHighlighter
from rich.style import Style
from rich.text import Text

from leptonc.show import amounts, html_table, summary
from leptonc.show.html_table import Cell
from leptonc.show.profile import Profile
from leptonc.show.report import describe

HEAVIEST = 8  # units listed
_STYLES = (
    ("bold", r"\A[^\n:]+"),
    ("bold cyan", r"(?m)^  [a-z]+(?: [a-z]+)*(?= |\n|$)"),
    ("green", r"\b100\.0 %"),
    ("yellow", r"\b[1-9]\d* through torch\b"),
    ("yellow", r"(?m)^    \S+ missed: "),
    ("green", r"(?m)^    \S+ applied: "),
    ("dim", r" \([^()\n]*:\d+\)"),
)


class _Paint(RegexHighlighter):
    highlights = ()  # the styles are given by themselves: no theme needs to know them

    def highlight(self, text: Text) -> None:
        for style, pattern in _STYLES:
            text.highlight_regex(pattern, Style.parse(style))


def coloured(report: str) -> Text:
    """Return a text report with the styles of its parts; on no terminal it prints as it is."""
    return _Paint()(report)


def line(net: Any) -> str:
    """Return what ``repr`` says of a compiled model."""
    specs = net.specializations
    if not specs:
        return f"<leptonc.CompiledModel {net.name}: compiled at its first call>"
    count = f"{len(specs)} specialization{'s' * (len(specs) != 1)}"
    if not specs[0].bindings:
        return f"<leptonc.CompiledModel {net.name}: {count}>"
    rows, work = summary.units(net.schedule), summary.work(net.schedule)
    threads = net.schedule.threads
    return (
        f"<leptonc.CompiledModel {net.name}: {count}, {len(rows)} unit{'s' * (len(rows) != 1)}, "
        f"{amounts.share(work.ops_native_share)} native, {threads} thread{'s' * (threads != 1)}>"
    )


def text(net: Any) -> Text:
    """Return the report of a compiled model in colour."""
    return coloured(describe(net))


def html(net: Any, profile: Profile | None = None) -> str:
    """Return a card of a ``CompiledModel`` as an HTML fragment; ``profile`` adds times."""
    if not net.specializations or not net.specializations[0].bindings:
        return f"<p><code>{escape(line(net))}</code></p>"
    inner = "".join(_card(net, summary.units(net.schedule), profile))
    return f'{html_table.STYLE}<div class="leptonc">{inner}</div>'


def _card(net: Any, rows: Sequence[summary.UnitRow], profile: Profile | None) -> Iterator[str]:
    plan, work = net.schedule, summary.work(net.schedule)
    yield f'<p><b>{escape(net.name)}</b> <span class="soft">compiled by leptonc</span></p>'
    facts = [
        (amounts.share(work.ops_native_share), f"of {work.ops} ops native"),
        (str(len(rows)), "units"),
        (str(plan.threads), "threads" if plan.threads > 1 else "thread"),
        (amounts.nbytes(plan.arena_bytes), "arena"),
        (amounts.nbytes(sum(c.nbytes for c in plan.consts)), "constants"),
    ]
    if profile is not None:
        facts.insert(0, (f"{profile.total_us / 1e3:.3f} ms", "a run"))
    if "total_s" in net.stats:
        facts.append((amounts.seconds(net.stats["total_s"]), "to compile"))
    shown = (f"<span><b>{escape(a)}</b> {escape(b)}</span>" for a, b in facts)
    yield f'<p class="facts">{"".join(shown)}</p>'
    yield from _heaviest(rows, profile)
    for reason, names in summary.refusals(rows):
        listed = escape(", ".join(names[:4]) + (" ..." if len(names) > 4 else ""))
        yield f'<p><span class="torch">through torch</span> {listed}: {escape(reason)}</p>'
    yield (
        '<p class="soft"><code>.report()</code> says more, <code>.explore()</code> shows every '
        "stage, <code>.profile(x)</code> measures, <code>.explain()</code> gives reasons.</p>"
    )


def _heaviest(rows: Sequence[summary.UnitRow], profile: Profile | None) -> Iterator[str]:
    """Yield the units with most time, or most work where no time was measured."""
    if profile is not None and len(profile.units) == len(rows):
        weights = [u.us for u in profile.units]
        head = ("us", [f"{w:.1f}" for w in weights])
    else:
        weights = [float(r.flops) for r in rows]
        head = ("work", [amounts.flops(w) for w in weights])
    order = sorted(range(len(rows)), key=lambda i: -weights[i])[:HEAVIEST]
    most = max(weights, default=0.0) or 1.0
    yield html_table.table(
        ("unit", "pattern", "kernels", "runs", head[0]),
        (
            [
                Cell(rows[i].name or rows[i].where, code=True),
                Cell(rows[i].pattern),
                Cell(", ".join(rows[i].kernels), code=True),
                Cell(rows[i].runs, look=rows[i].runs),
                Cell(head[1][i], weights[i], bar=weights[i] / most),
            ]
            for i in order
        ),
    )
    if len(rows) > len(order):
        yield f'<p class="soft">and {len(rows) - len(order)} lighter units</p>'
