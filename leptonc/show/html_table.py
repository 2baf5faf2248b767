"""Tables for notebooks: cells that stand right where they are numbers and may carry a bar."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_DARK = (
    "--bar: #5a3d25; --line: #46413b; --soft: #a39d93; --torch: #e0ab4a; --native: #62c08f; "
    "--ink: #ece8e1;"
)
LONG = 40  # characters, two an em, that a column shows at most; a longer cell has its text as title
STYLE = f"""<style>
.leptonc {{ --bar: #f3d9c2; --line: #e2ded7; --soft: #6b665f; --torch: #8f5500; --native: #1f7a4d;
  --ink: #22201d;  font: 14px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }}
@media (prefers-color-scheme: dark) {{
  body:not([data-jp-theme-light="true"]) .leptonc {{ {_DARK} }} }}
body[data-jp-theme-light="false"] .leptonc {{ {_DARK} }}
.leptonc p {{ margin: .25em 0; }} .leptonc .soft {{ color: var(--soft); }}
.leptonc .facts span {{ display: inline-block; margin-right: 1.4em; color: var(--soft); }}
.leptonc .facts b {{ color: var(--ink); }}
.leptonc .scroll {{ margin: .6em 0; overflow-x: auto; }}
.leptonc table {{ border-collapse: collapse; font-size: .88em; }}
/* Twice the class: JupyterLab sets every cell right, and says so with two classes. */
.leptonc.leptonc table th, .leptonc.leptonc table td {{ padding: .2em .45em; text-align: left;
  white-space: nowrap; border-bottom: 1px solid var(--line); background: none;
  max-width: {LONG // 2}em; overflow: hidden; text-overflow: ellipsis; }}
.leptonc.leptonc table .n {{ text-align: right; font-variant-numeric: tabular-nums; }}
.leptonc .torch, .leptonc .both {{ color: var(--torch); font-weight: 600; }}
.leptonc .native {{ color: var(--native); }}
</style>"""


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what it shows, the number it shows, and how it looks.

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
        if self.bar > 0:
            edge = f"{100 * min(self.bar, 1.0):.1f}%"
            attributes += (
                f' style="background: linear-gradient(to left, var(--bar) {edge}, transparent 0)"'
            )
        text = escape(self.text)
        if len(self.text) > LONG:
            attributes += f' title="{text}"'
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
