"""Tables in a notebook's page, whose own style sets every cell right: text left, numbers right."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from leptonc.show import html_table
from leptonc.show.html_table import Cell

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# As JupyterLab has it.
PAGE = """<!doctype html><style>.jp-RenderedHTMLCommon td { padding: .5em; }
:not(.jp-RenderedMarkdown).jp-RenderedHTMLCommon td,
:not(.jp-RenderedMarkdown).jp-RenderedHTMLCommon th { text-align: right; }</style>
<div class="jp-RenderedHTMLCommon">%s</div>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_text_stands_left_and_numbers_right(tmp_path: Path) -> None:
    playwright: Any = pytest.importorskip("playwright.sync_api")
    rows = [[Cell("conv1"), Cell("1.5 ms", 1.5, bar=0.5)]]
    table = html_table.table(("unit", "time"), rows)
    file = tmp_path / "page.html"
    file.write_text(PAGE % f'{html_table.STYLE}<div class="leptonc">{table}</div>')
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(file.as_uri())
        sides = page.evaluate(
            "[...document.querySelectorAll('th, td')].map(e => getComputedStyle(e).textAlign)"
        )
        browser.close()
    assert sides == ["left", "right"] * 2


def test_a_long_text_is_whole_in_its_title() -> None:
    for length in (html_table.LONG, html_table.LONG + 1):
        text = "<" * length
        assert (f'title="{"&lt;" * length}"' in Cell(text).html()) == (length > html_table.LONG)
