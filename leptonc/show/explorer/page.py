"""show > explorer > page: the document, its script and its look as one HTML file or a frame."""

from __future__ import annotations

import json
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

# Joined in this order.
SCRIPTS = ("model.js", "list.js", "graph.js", "details.js", "rows.js", "keys.js", "app.js")
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>html, body {{ margin: 0; height: 100%; }} #app {{ height: 100vh; }}
{css}</style>
</head>
<body>
<div id="app"></div>
<script type="application/json" id="document">{data}</script>
<script>{js}
mount(document.getElementById("app"), JSON.parse(document.getElementById("document").textContent))
  .focus();
</script>
</body>
</html>
"""


@cache
def script() -> str:
    """Return the explorer's script: top-level functions, ``mount(host, document)`` among them."""
    return "\n".join(_asset(name) for name in SCRIPTS)


@cache
def look() -> str:
    """Return the explorer's style sheet; every rule of it begins with ``.lx``."""
    return _asset("style.css")


def page(document: dict[str, Any]) -> str:
    """Return the explorer of a document as one HTML file that loads nothing."""
    title = escape(f"{document['name']}: leptonc explorer")
    return _PAGE.format(title=title, css=look(), js=script(), data=embedded(document))


def embedded(document: dict[str, Any]) -> str:
    """Return a document as JSON that may stand inside a script element."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def frame(document: dict[str, Any], height: int = 640) -> str:
    """Return the page inside an element for notebooks that have no widgets."""
    text = escape(page(document), quote=True)
    return (
        f'<iframe srcdoc="{text}" style="width:100%;height:{height}px;border:0" '
        'sandbox="allow-scripts" title="leptonc explorer"></iframe>'
    )


def _asset(name: str) -> str:
    return (files("leptonc.show.explorer") / "assets" / name).read_text(encoding="utf-8")
