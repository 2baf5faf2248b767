"""The HTML report: one file with everything in it, for a browser without server or network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from leptonc.errors import InputError
from leptonc.ir.text import dump
from leptonc.show import amounts, style, summary
from leptonc.show.html_table import Cell, table

_HEIGHT = 220  # of the arena's picture; its width is 1000
_MOST_BUFFERS = 2000
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
{body}
<script>{js}</script>
</body>
</html>
"""


def page(net: Any) -> str:
    """Return the report of a ``CompiledModel`` as one HTML document.

    Raises:
        InputError: the model has not been compiled yet.
    """
    if not net.specializations:
        raise InputError(f"{net.name} is compiled at its first call; call it once first")
    title = escape(f"{net.name}: leptonc report")
    return _PAGE.format(title=title, css=style.CSS, js=style.JS, body="\n".join(_body(net)))


def _body(net: Any) -> Iterator[str]:
    plan, rows = net.schedule, summary.units(net.schedule)
    yield f"<h1>{escape(net.name)}</h1>"
    yield f'<p class="soft">{escape(str(net.stats.get("governor", "")))}</p>'
    yield from _tiles(net, rows)
    yield "<h2>Units</h2>"
    yield '<p class="soft">What runs, in order: the schedule calls these one after another.</p>'
    yield from _units(rows)
    yield "<h2>Passes</h2>"
    yield from _stages(net.stages)
    yield "<h2>Memory</h2>"
    yield from _arena(plan)
    yield "<h2>Remarks</h2>"
    yield from _remarks(summary.remarks(net))
    yield "<h2>Programs</h2>"
    if net.stages:
        yield _folded("IR as captured", dump(net.stages[0].before))
    yield _folded("IR as optimized", dump(net.ir))
    yield _folded("Emitted schedule (Python)", net.source)


def _tiles(net: Any, rows: Sequence[summary.UnitRow]) -> Iterator[str]:
    plan, work, stats = net.schedule, summary.work(net.schedule), net.stats
    native = sum(r.runs == "native" for r in rows)
    tiles = [
        (amounts.share(work.ops_native_share), f"of {work.ops} ops native"),
        (amounts.share(work.flops_native_share), f"of {amounts.flops(work.flops)} native"),
        (f"{native} / {len(rows)}", "units wholly native"),
        (str(len(plan.steps)), f"steps on {plan.threads} thread(s)"),
        (amounts.nbytes(plan.arena_bytes), "arena for activations"),
        (amounts.nbytes(sum(c.nbytes for c in plan.consts)), "constants, packed"),
    ]
    if "total_s" in stats:
        tiles.append((amounts.seconds(stats["total_s"]), "compile, capture to check"))
    yield '<div class="tiles">'
    for big, small in tiles:
        yield f'<div class="tile"><b>{escape(big)}</b><span>{escape(small)}</span></div>'
    yield "</div>"


def _units(rows: Sequence[summary.UnitRow]) -> Iterator[str]:
    most = max((r.flops for r in rows), default=0) or 1
    heads = (
        "#", "unit", "source", "pattern", "runs", "ops", "work", "moves", "steps", "kernels",
        "why not natively",
    )  # fmt: skip
    shown = len(heads) if any(r.reason for r in rows) else len(heads) - 1
    yield table(heads[:shown], (_unit_cells(r, most)[:shown] for r in rows))


def _unit_cells(r: summary.UnitRow, most: int) -> list[Cell]:
    kernels = ", ".join(k if n == 1 else f"{n} x {k}" for k, n in r.kernels.items())
    return [
        Cell(str(r.index), r.index),
        Cell(r.name or r.where, code=True),
        Cell(r.source, code=True),
        Cell(r.pattern),
        Cell(r.runs, look=r.runs),
        Cell(str(r.native_ops + r.torch_ops), r.native_ops + r.torch_ops),
        Cell(amounts.flops(r.flops), r.flops, bar=r.flops / most),
        Cell(amounts.nbytes(r.bytes), r.bytes),
        Cell(str(r.steps), r.steps),
        Cell(kernels, code=True),
        Cell(r.reason),
    ]


def _stages(stages: Sequence[Any]) -> Iterator[str]:
    if not stages:
        yield '<p class="soft">None ran: the program came from the compile cache.</p>'
        return
    longest = max(s.seconds for s in stages) or 1.0
    heads = ("#", "pass", "time", "ops before", "ops after", "what fired")
    yield table(heads, (_stage_cells(s, longest) for s in stages))


def _stage_cells(s: Any, longest: float) -> list[Cell]:
    before, after = len(s.before.ops), len(s.after.ops)
    fired = ", ".join(k if n == 1 else f"{n} x {k}" for k, n in s.fired.items())
    return [
        Cell(str(s.index + 1), s.index),
        Cell(s.name, code=True),
        Cell(f"{s.seconds * 1e3:.2f} ms", s.seconds, bar=s.seconds / longest),
        Cell(str(before), before),
        Cell(str(after), after),
        Cell(fired or ("" if s.changed else "no change"), look="" if s.changed else "soft"),
    ]


def _arena(plan: Any) -> Iterator[str]:
    figures = (
        ("largest live set (the lower bound)", plan.lower_bound),
        ("arena", plan.arena_bytes),
        ("all activations side by side", plan.sum_bytes),
        ("scratch of each thread", plan.scratch_bytes),
        ("constants", sum(c.nbytes for c in plan.consts)),
    )
    most = max(size for _, size in figures[:3]) or 1
    rows = [
        [Cell(name), Cell(amounts.nbytes(size), size, bar=size / most if i < 3 else 0.0)]
        for i, (name, size) in enumerate(figures)
    ]
    yield table(("what", "bytes"), rows)
    found = summary.lives(plan)
    if found and plan.arena_bytes:
        yield (
            '<p class="soft">Each box is a buffer: from left to right the steps during which it is '
            "in use, from bottom to top where it lies in the arena.</p>"
        )
        yield _picture(found[:_MOST_BUFFERS], len(plan.steps), plan.arena_bytes)


def _picture(found: Sequence[summary.Life], steps: int, arena: int) -> str:
    """Return the arena over time as SVG."""
    boxes: list[str] = []
    for b in found:
        x, width = 1000 * b.first / steps, 1000 * (b.last - b.first + 1) / steps
        height = _HEIGHT * b.nbytes / arena
        y = _HEIGHT * (1 - b.offset / arena) - height
        text = f"steps {b.first} to {b.last}, {amounts.nbytes(b.nbytes)} at {b.offset} {b.note}"
        boxes.append(
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{max(height, 0.5):.2f}">'
            f"<title>{escape(text.strip())}</title></rect>"
        )
    return (
        f'<div class="scroll"><svg viewBox="0 0 1000 {_HEIGHT}" role="img" '
        f'preserveAspectRatio="none" aria-label="arena over time">{"".join(boxes)}</svg></div>'
    )


def _remarks(rows: Sequence[summary.RemarkRow]) -> Iterator[str]:
    if not rows:
        yield '<p class="soft">None.</p>'
        return
    yield table(
        ("by", "says", "of", "where", "why", "times"),
        (
            [
                Cell(r.by, code=True),
                Cell(r.says, look=r.says),
                Cell(r.what, code=True),
                Cell(r.where, code=True),
                Cell(r.why),
                Cell(str(r.count), r.count),
            ]
            for r in rows
        ),
    )


def _folded(title: str, text: str) -> str:
    lines = text.count("\n")
    head = f'{escape(title)} <span class="soft">{lines} lines</span>'
    return f"<details><summary>{head}</summary><pre>{escape(text)}</pre></details>"
