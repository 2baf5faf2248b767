"""Text with roles: how functions, ops, units and remarks look in a notebook and in a terminal.

Here stands which part of a text plays which role; notebooks get HTML, rich gets its own styles.
Rich itself is never imported: a console that draws a ``Painted`` object hands in what is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from leptonc.ir.types import QUOTED

Piece = tuple[str, str]  # role, text

STYLES = {
    "note": "dim", "text": "green", "name": "", "func": "bold", "word": "bold",
    "type": "cyan", "kind": "bold magenta", "attr": "dim", "good": "green", "bad": "yellow",
    "head": "bold",
}  # fmt: skip
# Indentation is part of what it indents: tools that clean HTML drop blanks between two elements.
_TOKEN = re.compile(
    rf"(?P<note>  // [^\n]*)|(?P<text>{QUOTED})|(?P<func>@[\w.\-]+)|(?P<name>(?:^ +)?%\w+)"
    r"|(?P<type>\b(?:bool|other|bf16|[fiuc]\d+)\[[^\]\n]*\](?:@\w+)?)"
    r"|(?P<word>^ *(?:func|return)\b)|(?P<kind>(?<= = )[\w.]+)|(?P<attr>\b\w+=)",
    re.MULTILINE,
)
_UNIT = re.compile(r"( *)%.* = unit\b")
CSS = """<style>
.lir { --kind: #7a3e9d; --type: #1f5f80; --soft: #6b665f; --text: #1f6b43; --bad: #8f5500;
  --line: #d5d0c8; --ground: transparent; font: 12px/1.5 ui-monospace, "DejaVu Sans Mono", Menlo,
  monospace; max-height: 36em; overflow: auto; border: 1px solid var(--line); border-radius: 4px;
  padding: .4em .7em; white-space: pre; text-align: left; color: #22201d; background: #fbfaf8; }
@media (prefers-color-scheme: dark) { body:not([data-jp-theme-light="true"]) .lir { %(dark)s } }
body[data-jp-theme-light="false"] .lir { %(dark)s }
.lir summary { cursor: pointer; } .lir details > div { border-left: 2px solid var(--line); }
.lir .note, .lir .attr { color: var(--soft); } .lir .text, .lir .good { color: var(--text); }
.lir .type { color: var(--type); } .lir .kind { color: var(--kind); font-weight: 600; }
.lir .func, .lir .word, .lir .head { font-weight: 600; } .lir .bad { color: var(--bad); }
</style>""".replace(
    "%(dark)s",
    "--kind: #cfa3ec; --type: #86c5e4; --soft: #a39d93; --text: #74cc9c; --bad: #e5b35a; "
    "--line: #46413b; color: #ece8e1; background: #1b1917;",
)


def pieces(text: str) -> Iterator[Piece]:
    """Yield IR text cut into pieces, each with the role it plays; joined they are the text."""
    at = 0
    for m in _TOKEN.finditer(text):
        if m.start() > at:
            yield "", text[at : m.start()]
        yield m.lastgroup or "", m[0]
        at = m.end()
    if at < len(text):
        yield "", text[at:]


def spans(parts: Iterable[Piece]) -> str:
    """Return pieces as HTML, escaped."""
    return "".join(
        f'<span class="{role}">{escape(text)}</span>' if role else escape(text)
        for role, text in parts
    )


def block(inner: str) -> str:
    """Return HTML in a box of its own that reads well on light and on dark pages."""
    return f'{CSS}<div class="lir">{inner}</div>'


def listing(text: str) -> str:
    """Return IR text as HTML; bodies of units fold below the unit's line."""
    found: list[str] = []
    ends: list[str] = []  # the lines that close the units that are open
    for line in text.split("\n"):
        shown = spans(pieces(line))
        if (m := _UNIT.match(line)) and " {" in line:
            ends.append(f"{m[1]}}}")
            found.append(f"<details><summary>{shown}</summary><div>")
        elif ends and line == ends[-1]:
            ends.pop()
            found.append(f"{shown}</div></details>")
        else:
            found.append(f"{shown}\n")
    return "".join(found)


class Painted:
    """Looks the same in a notebook and in a terminal: subclasses say in which pieces."""

    __slots__ = ()

    def painted(self) -> Iterable[Piece]:
        """Return what is shown, piece by piece."""
        raise NotImplementedError(type(self).__name__)

    def _repr_html_(self) -> str:
        """Return HTML for notebooks: escaped, with a style of its own, loading nothing."""
        return block(spans(self.painted()))

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """Give rich the coloured text; it decides by terminal, ``NO_COLOR`` and width."""
        text = console.render_str("", markup=False, highlight=False)
        for role, part in self.painted():
            text.append(part, STYLES[role] if role else None)
        yield text
