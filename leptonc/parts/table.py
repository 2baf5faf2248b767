"""parts > table: the parts of a model at a glance, as text and for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from leptonc.ir.kinds.data import Constant
from leptonc.show import amounts, html_table
from leptonc.show.html_table import Cell

HEADS = ("part", "ops", "inputs", "outputs", "weights", "work", "share", "arriving", "target")
_NUMERIC = {"ops", "weights", "work", "share", "arriving"}
_WIDEST = 32  # characters of a column of names


def line(part: Any) -> str:
    """Return what ``repr`` says of one part."""
    cost = part.cost
    return (
        f"<leptonc.Part {part.name}: {operations(part)} ops, ({', '.join(part.inputs)}) -> "
        f"({', '.join(part.outputs)}), {amounts.nbytes(part.weights_bytes)} of weights, "
        f"{amounts.share(cost.share)} of the cost, {part.target}>"
    )


def text(parts: Sequence[Any]) -> str:
    """Return the table of parts, a line each, with a line about the whole."""
    rows = [[c.text for c in _row(p)] for p in parts]
    widths = [max(len(r[i]) for r in [list(HEADS), *rows]) for i in range(len(HEADS))]
    lines = [_line(HEADS, widths), *(_line(r, widths) for r in rows)]
    return "\n".join([_summary(parts), *lines]) if parts else "no parts"


def html(parts: Sequence[Any]) -> str:
    """Return the table as an HTML fragment."""
    if not parts:
        return "<p>no parts</p>"
    inner = f'<p class="soft">{escape(_summary(parts))}</p>'
    return (
        f'{html_table.STYLE}<div class="leptonc">{inner}{html_table.table(HEADS, map(_row, parts))}'
        "</div>"
    )


def operations(part: Any) -> int:
    """Return how many ops a part has, constants not counted."""
    return sum(not isinstance(op.kind, Constant) for op in part.module.piece.function.ops)


def _summary(parts: Sequence[Any]) -> str:
    slowest = max(parts, key=lambda p: p.cost.seconds + p.cost.arriving_s)
    whole = sum(p.cost.seconds for p in parts)
    name = parts[0].plan.name
    took = slowest.cost.seconds + slowest.cost.arriving_s
    return (
        f"{name} in {len(parts)} part{'s' * (len(parts) != 1)}, estimated: "
        f"{amounts.seconds(whole)} of work, {amounts.seconds(took)} in the slowest ({slowest.name})"
    )


def _row(part: Any) -> list[Cell]:
    cost = part.cost
    return [
        Cell(part.name),
        Cell(str(operations(part)), operations(part)),
        Cell(_names(part.inputs)),
        Cell(_names(part.outputs)),
        Cell(amounts.nbytes(part.weights_bytes), part.weights_bytes),
        Cell(amounts.flops(cost.flops), cost.flops),
        Cell(amounts.share(cost.share), cost.share, bar=cost.share),
        Cell(amounts.nbytes(cost.arriving), cost.arriving),
        Cell(part.target),
    ]


def _names(names: Sequence[str]) -> str:
    whole = ", ".join(names)
    return whole if len(whole) <= _WIDEST else f"{whole[: _WIDEST - 4]} ..."


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    made = (
        c.rjust(w) if head in _NUMERIC else c.ljust(w)
        for head, c, w in zip(HEADS, cells, widths, strict=True)
    )
    return "  ".join(made).rstrip()
