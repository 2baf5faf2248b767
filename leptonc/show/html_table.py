"""Tables of the HTML reports: cells that sort by number and may carry a bar."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what it shows, the number it sorts by, and how it looks.

    ``text`` is escaped; ``bar`` (0 to 1) draws a bar behind it.
    """

    text: str
    value: float | None = None
    look: str = ""
    code: bool = False
    bar: float = 0.0

    def html(self) -> str:
        """Return the cell as HTML."""
        look = f"{self.look} n".strip() if self.value is not None else self.look
        attributes = f' class="{escape(look)}"' if look else ""
        if self.value is not None:
            attributes += f' data-v="{self.value:.6g}"'
        if self.bar > 0:
            edge = f"{100 * min(self.bar, 1.0):.1f}%"
            attributes += (
                f' style="background: linear-gradient(to left, var(--bar) {edge}, transparent 0)"'
            )
        text = escape(self.text)
        return f"<td{attributes}>{f'<code>{text}</code>' if self.code and text else text}</td>"


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a table of rows of cells; columns of numbers stand right."""
    body = list(rows)
    looks = ["n" if c.value is not None else "" for c in body[0]] if body else [""] * len(heads)
    head = "".join(
        f'<th class="{look}">{escape(h)}</th>' for h, look in zip(heads, looks, strict=True)
    )
    lines = "\n".join(f"<tr>{''.join(c.html() for c in row)}</tr>" for row in body)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{lines}\n</tbody></table></div>"
    )
