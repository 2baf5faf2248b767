"""The explorer in headless Chromium: open, search, difference, fold, click through, keys.

Skipped where there is no Chromium. The page is served by nobody: it is opened as a file.
"""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import leptonc
from leptonc.show.explorer.view import explore

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
DEPTH = 24


class Block(nn.Module):
    """One layer of a transformer encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, s, 3, 4, 8).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(b, s, 32))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Encoder(nn.Module):
    """A transformer of 24 layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(DEPTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = Encoder().eval()
    net = leptonc.compile(model, torch.randn(1, 8, 32), cache=False, tune=False, verify="off")
    return net.explore(tmp_path_factory.mktemp("explorer") / "net.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        found = p.chromium.launch(executable_path=CHROMIUM, args=list(_FLAGS))
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1400, "height": 800}, offline=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.on("request", lambda r: problems.append(r.url) if r.url != file.as_uri() else None)
    page.goto(file.as_uri())
    page.wait_for_selector(".lx-row")
    yield page
    context.close()
    assert problems == []


def _rows(page: Any, pane: int) -> list[str]:
    return page.locator(".lx-list").nth(pane).locator(".lx-row").all_inner_texts()


def test_opens_with_two_stages_and_draws_only_what_is_in_sight(page: Any) -> None:
    assert page.title().startswith("Encoder")
    assert page.locator(".lx-pane").count() == 2
    assert 10 < page.locator(".lx-list").first.locator(".lx-row").count() < 100
    tall = page.evaluate("document.querySelector('.lx-fill').offsetHeight")
    assert tall > 20 * DEPTH * 8, "the list is as long as the program"


def test_opens_within_two_seconds(browser: Any, file: Path) -> None:
    page = browser.new_page()
    start = time.perf_counter()
    page.goto(file.as_uri())
    page.wait_for_selector(".lx-row")
    took = time.perf_counter() - start
    page.close()
    assert took < 2 * 5, "2 s on a quiet machine; this only catches what grows out of hand"


def test_search_counts_marks_and_walks(page: Any) -> None:
    page.keyboard.press("/")
    page.keyboard.type("layers.7.up")
    assert "hit" in page.locator("[aria-live]").inner_text()
    assert not page.locator("[aria-live]").inner_text().startswith("0")
    page.keyboard.press("Enter")
    assert page.locator(".lx-sel").count() >= 1
    assert "layers.7.up" in page.locator(".lx-body").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("[aria-live]").inner_text() == ""


def test_search_brings_a_hit_into_sight_and_moves_nothing_else(page: Any) -> None:
    top = page.locator(".lx-list").first.bounding_box()
    page.keyboard.press("/")
    page.keyboard.type(f"layers.{DEPTH - 1}.up")
    page.wait_for_timeout(50)
    for pane in range(2):
        shown = page.locator(".lx-list").nth(pane)
        inside = shown.bounding_box()
        hit = shown.locator(".lx-row:not(.lx-dim)").first.bounding_box()
        assert inside["y"] <= hit["y"] < inside["y"] + inside["height"]
    assert page.locator(".lx-list").first.bounding_box() == top, "the count needs no room"
    at = page.locator(".lx-list").first.evaluate("e => e.scrollTop")
    page.keyboard.type("x")
    assert page.locator(".lx-list").first.evaluate("e => e.scrollTop") == at, "nothing found"


def test_difference_aligns_both_sides(page: Any) -> None:
    page.keyboard.press("d")
    left, right = _rows(page, 0), _rows(page, 1)
    assert len(left) == len(right)
    marks = page.locator(".lx-add, .lx-del, .lx-chg").count()
    assert marks > 0
    notes = page.locator(".lx-bar .lx-soft").all_inner_texts()
    assert notes[0].startswith("−") and notes[1].startswith("+"), "what went, what came"
    assert page.locator(".lx-heat", has_text="s").count(), "times stand beside the difference too"
    news = page.locator(".lx-chg .lx-new").first
    assert 0 < len(news.inner_text()) < len(page.locator(".lx-chg").first.inner_text()) / 2
    page.locator(".lx-list").first.evaluate("e => e.scrollTop = 2000")
    page.wait_for_timeout(100)
    assert page.locator(".lx-list").nth(1).evaluate("e => e.scrollTop") == 2000
    page.keyboard.press("d")
    assert page.locator(".lx-gap").count() == 0


def test_equal_blocks_are_told_once_and_unfold(page: Any) -> None:
    page.locator("label", has_text="group").locator("select").select_option("module")
    texts = _rows(page, 0)
    like = [t for t in texts if "same as layers.0" in t]
    assert len(like) == DEPTH - 1
    assert any(f"× {DEPTH}" in t for t in texts)
    list_, tall = page.locator(".lx-list").first, "document.querySelector('.lx-fill').offsetHeight"
    before = page.evaluate(tall)
    list_.locator(".lx-row", has_text="same as layers.0").first.locator(".lx-tw").click()
    assert page.evaluate(tall) > before
    assert list_.locator(".lx-row", has_text="layers_1_qkv").count()


def test_click_leads_to_source_code_and_arena(page: Any) -> None:
    page.locator(".lx-list").nth(1).locator(".lx-row", has_text="gelu").first.click()
    page.get_by_role("tab", name="Source").click()
    line = page.locator(".lx-body .lx-on").inner_text()
    assert "gelu" in line, "the very line of the model"
    page.get_by_role("tab", name="Code").click()
    assert "p.step" in page.locator(".lx-body .lx-on").last.inner_text()
    page.get_by_role("tab", name="Arena").click()
    assert page.locator(".lx-body svg rect.lx-on").count() > 0
    page.get_by_role("tab", name="Remarks").click()
    assert "Remarks" in page.locator(".lx-body").inner_text()


def test_the_chosen_op_is_marked_in_the_other_pane(page: Any) -> None:
    page.locator(".lx-list").nth(1).locator(".lx-row", has_text="gelu").first.click()
    assert page.locator(".lx-list").first.locator(".lx-kin").count() >= 1


def test_works_by_keyboard_alone(page: Any) -> None:
    page.locator(".lx-list").first.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowLeft", "End", "Home", "PageDown"):
        page.keyboard.press(key)
    assert page.locator(".lx-list").first.locator("[aria-selected=true], .lx-sel").count() == 1
    page.keyboard.press("]")
    assert page.locator(".lx-bar select").first.input_value() == "1"
    page.keyboard.press("4")
    assert page.get_by_role("tab", name="Code").get_attribute("aria-selected") == "true"
    page.keyboard.press("?")
    assert page.locator(".lx-help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator(".lx-help").is_visible()
    theme = page.locator(".lx").get_attribute("data-theme")
    page.keyboard.press("t")
    assert page.locator(".lx").get_attribute("data-theme") != theme


def test_overlays_follow_what_was_measured(page: Any) -> None:
    box = page.locator("label", has_text="show").locator("select")
    names = box.locator("option").all_inner_texts()
    assert {"none", "time", "bytes"} <= set(names)
    for name in names:
        box.select_option(name)
        shown = [t for t in page.locator(".lx-heat").all_inner_texts() if t]
        assert bool(shown) == (name != "none"), name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_schemes(browser: Any, file: Path, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto(file.as_uri())
    page.wait_for_selector(".lx-row")
    colours = page.evaluate(
        """() => ['.lx', '.lx-k', '.lx-t', '.lx-soft', '.lx-chip'].map(s => {
             const e = document.querySelector(s);
             const ground = e => getComputedStyle(e).backgroundColor;
             let b = e;
             while (ground(b) === 'rgba(0, 0, 0, 0)') b = b.parentElement;
             return [getComputedStyle(e).color, ground(b)]; })"""
    )
    page.close()
    for ink, ground in colours:
        assert _contrast(ink, ground) >= 4.5, (ink, ground)


def _contrast(a: str, b: str) -> float:
    """Return the contrast ratio of two CSS colours (WCAG 2.1, relative luminance)."""

    def light(text: str) -> float:
        rgb = [float(x) / 255 for x in text[text.index("(") + 1 : -1].split(",")[:3]]
        lin = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * lin[0] + 0.7152 * lin[1] + 0.0722 * lin[2]

    hi, lo = sorted((light(a), light(b)), reverse=True)
    return (hi + 0.05) / (lo + 0.05)


def test_a_picture_of_the_neighbours_leads_to_them(page: Any) -> None:
    page.locator(".lx-list").nth(1).locator(".lx-row", has_text="gelu").first.click()
    graph = page.locator(".lx-graph")
    assert graph.locator("g.lx-on").count() == 1
    assert graph.locator("g.lx-go").count() >= 2, "what it reads, and what reads it"
    reader = graph.locator("g.lx-go").last
    name = reader.get_attribute("aria-label").removeprefix("go to ")
    reader.focus()
    page.keyboard.press("Enter")
    assert page.locator(".lx-body h2").first.inner_text().startswith(f"{name} =")
    page.locator(".lx-graph g.lx-go").first.click()
    assert "gelu" in page.locator(".lx-body h2").first.inner_text()


def test_search_reads_attributes_and_source_lines(page: Any) -> None:
    for text in ("axis", "test_explorer_browser.py:"):
        page.keyboard.press("/")
        page.locator("input[type=search]").fill(text)
        assert not page.locator("[aria-live]").inner_text().startswith("0"), text
        page.keyboard.press("Escape")


def test_a_third_pane_opens_takes_keys_and_closes(page: Any) -> None:
    page.locator(".lx-list").first.focus()
    page.keyboard.press("p")
    assert page.locator(".lx-pane").count() == 3
    assert "lx-active" in page.locator(".lx-pane").nth(2).get_attribute("class")
    page.keyboard.press("[")
    stages = page.locator(".lx-bar select").nth(2)
    assert int(stages.input_value()) == stages.locator("option").count() - 2
    page.keyboard.press("ArrowDown")
    assert page.locator(".lx-pane").nth(2).locator(".lx-sel").count() == 1
    page.keyboard.press("x")
    assert page.locator(".lx-pane").count() == 2
    page.keyboard.press("x")
    assert page.locator(".lx-pane").count() == 2, "two panes stay"


def test_a_box_of_the_arena_leads_to_its_unit(page: Any) -> None:
    page.keyboard.press("5")
    page.locator(".lx-arena rect").nth(3).click()
    assert page.locator(".lx-sel").count() == 1
    assert page.locator(".lx-arena rect.lx-on").count() > 0


def test_remarks_stand_at_their_op_and_lead_to_it(page: Any) -> None:
    page.keyboard.press("2")
    remark = page.locator(".lx-remark", has=page.locator("a")).first
    where = remark.locator("a").inner_text()
    remark.locator("a").click()
    assert "Remarks on this op" in page.locator(".lx-body h2").inner_text()
    assert where in page.locator(".lx-body .lx-remark").first.inner_text()


def test_what_a_reader_of_the_screen_is_told(page: Any) -> None:
    lists = page.locator(".lx-list")
    names = [lists.nth(i).get_attribute("aria-label") for i in range(2)]
    assert names[0] != names[1] and "captured" in names[0]
    lists.first.focus()
    page.keyboard.press("ArrowDown")
    active = lists.first.get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('.lx button, .lx select, .lx input')].filter(e =>
             !(e.ariaLabel || e.textContent.trim() || e.closest('label'))).length"""
    )
    assert nameless == 0
    page.get_by_role("tab", name="Op", exact=True).focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tab", name="Remarks").get_attribute("aria-selected") == "true"


@pytest.mark.parametrize("width", [700, 1000, 1400])
def test_nothing_sticks_out_at_any_width(browser: Any, file: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 700})
    page.goto(file.as_uri())
    page.wait_for_selector(".lx-row")
    page.keyboard.press("d")
    wide = page.evaluate("document.documentElement.scrollWidth")
    right = page.evaluate(
        "Math.max(...[...document.querySelectorAll('.lx button, .lx select, .lx input')]"
        ".map(e => e.getBoundingClientRect().right))"
    )
    page.close()
    assert wide <= width and right <= width


def test_the_widget_s_module_loads_and_draws(browser: Any, tmp_path: Path, file: Path) -> None:
    pytest.importorskip("anywidget")
    widget = importlib.import_module("leptonc.show.explorer.widget")
    (tmp_path / "widget.mjs").write_text(widget.SOURCE)
    text = file.read_text()
    start = text.index('id="document">') + len('id="document">')
    found = text[start : text.index("</script>", start)]
    (tmp_path / "host.html").write_text(
        "<!doctype html><style>.jp-html dt { float: left; width: 1em; font-weight: bold; }</style>"
        "<body data-jp-theme-light='false'><div id='cell' class='jp-html'></div>"
        f"<script type='application/json' id='document'>{found}</script><script type='module'>"
        "import widget from './widget.mjs'; const el = document.getElementById('cell');"
        "const values = {height: 500, document: document.getElementById('document').textContent};"
        "window.outside = 0; document.addEventListener('keydown', () => { window.outside += 1; });"
        "widget.render({model: {get: name => values[name]}, el});</script>"
    )
    page = browser.new_page()
    page.route("**/*", lambda route: _local(route, tmp_path))
    page.goto("http://widget.test/host.html")
    page.wait_for_selector(".lx-row")
    assert page.locator(".lx").get_attribute("data-theme") == "dark", "the notebook's theme"
    assert page.locator(".lx").evaluate("e => e.offsetHeight") == 500, "not as tall as the program"
    page.locator(".lx-row", has_text="gelu").first.click()
    assert page.locator(".lx-body dt").first.evaluate("e => e.offsetHeight") < 30, "one line"
    page.keyboard.press("d")
    assert page.locator(".lx-chg").count() and page.evaluate("outside") == 0, "d stays in here"
    page.close()


def _local(route: Any, folder: Path) -> None:
    """Serve a file of ``folder``: modules cannot be imported from the file system."""
    file = folder / route.request.url.rpartition("/")[2]
    kind = "text/javascript" if file.suffix == ".mjs" else "text/html"
    route.fulfill(body=file.read_text() if file.exists() else "", content_type=kind)


def test_explore_needs_a_compiled_model() -> None:
    net = leptonc.compile(Encoder().eval())
    with pytest.raises(leptonc.LeptoncError, match="first call"):
        explore(net, None, None)
