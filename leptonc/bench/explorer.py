"""How fast the explorer opens and scrolls: ``python -m leptonc.bench.explorer [--repeats N]``.

The reports of ResNet-50 and of a transformer encoder of 24 layers are written as files and opened
in the system's headless Chromium, which playwright drives. Painted and ready count from the start
of the navigation, in ms; frames are those of a scroll through the longer list at one page in
eight frames. ``--screenshots FOLDER`` saves pictures of what people see.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import leptonc
from leptonc.bench import suites
from leptonc.bench.encoder import Encoder
from leptonc.errors import LeptoncError

REPEATS = 7
FRAMES = 120
VIEW = {"width": 1400, "height": 800}
DEEP = "encoder_24"
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
# Rows can be in the document a frame before they are painted: wait for the entry.
_PAINT = """() => new Promise((done) => new PerformanceObserver((list) => {
  for (const e of list.getEntriesByName('first-contentful-paint')) done(e.startTime);
}).observe({type: 'paint', buffered: true}))"""
_SCROLL = """async (frames) => {
  const lists = [...document.querySelectorAll('.lx-list')];
  const list = lists.reduce((a, b) => (a.scrollHeight >= b.scrollHeight ? a : b));
  const next = () => new Promise(requestAnimationFrame);
  const times = [];
  let last = await next();
  for (let i = 0; i < frames; i++) {
    list.scrollTop += list.clientHeight / 8;
    const now = await next();
    times.push(now - last);
    last = now;
  }
  return times;
}"""


@dataclass(frozen=True)
class Opened:
    """One report: bytes of the file, medians of opening in ms, frame times of scrolling in ms."""

    net: str
    file_bytes: int
    painted_ms: float
    ready_ms: float
    frame_p50_ms: float
    frame_p95_ms: float
    frame_longest_ms: float


def _model(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    if name == DEEP:
        ids = torch.arange(64).reshape(1, 64)
        return Encoder(layers=24, width=128, heads=4).eval(), (ids, torch.ones_like(ids))
    (net,) = suites.pick(tuple(suites.SUITES), [name])
    return suites.build(net), net.inputs(1)


def write(name: str, folder: Path) -> Path:
    """Write the report of a network into ``folder`` and return its path."""
    model, inputs = _model(name)
    with torch.no_grad():
        made = leptonc.compile(model, inputs, cache=False, tune=False, verify="off")
    return made.explore(folder / f"{name}.html")


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield the system's headless Chromium. Raises LeptoncError where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        playwright = importlib.import_module("playwright.sync_api")
    except ImportError:
        text = "the explorer is measured with playwright: pip install playwright"
        raise LeptoncError(text) from None
    if found is None:
        raise LeptoncError("no chromium on the path: install the system's package")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=found, args=list(_FLAGS))
        yield browser
        browser.close()


def measure(browser: Any, name: str, file: Path, repeats: int) -> Opened:
    """Return how a report opens and scrolls; the first opening does not count."""
    painted: list[float] = []
    ready: list[float] = []
    frames: list[float] = []
    for _ in range(1 + repeats):
        context = browser.new_context(viewport=VIEW, offline=True)
        page = context.new_page()
        start = time.perf_counter()
        page.goto(file.as_uri())
        page.wait_for_selector(".lx-row")
        ready.append(1e3 * (time.perf_counter() - start))
        painted.append(page.evaluate(_PAINT))
        frames += page.evaluate(_SCROLL, FRAMES)
        context.close()
    some = np.array(frames[FRAMES:])
    return Opened(
        net=name,
        file_bytes=file.stat().st_size,
        painted_ms=statistics.median(painted[1:]),
        ready_ms=statistics.median(ready[1:]),
        frame_p50_ms=float(np.percentile(some, 50)),
        frame_p95_ms=float(np.percentile(some, 95)),
        frame_longest_ms=float(some.max()),
    )


def pictures(browser: Any, file: Path, folder: Path) -> list[Path]:
    """Save what people see of a report: light, dark, narrow, a difference, a search."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = (
        ("light", VIEW, "light", ()),
        ("dark", VIEW, "dark", ()),
        ("narrow", {"width": 700, "height": 800}, "light", ()),
        ("difference", VIEW, "light", ("d",)),
        ("search", VIEW, "light", ("/", "conv", "Enter")),
    )
    made: list[Path] = []
    for what, size, scheme, keys in shown:
        context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
        page = context.new_page()
        page.goto(file.as_uri())
        page.wait_for_selector(".lx-row")
        for key in keys:
            (page.keyboard.press if len(key) == 1 or key.istitle() else page.keyboard.type)(key)
        page.wait_for_timeout(200)
        made.append(folder / f"{file.stem}-{what}.png")
        page.screenshot(path=made[-1])
        context.close()
    return made


def table(rows: Sequence[Opened]) -> Table:
    """Return the figures of all reports."""
    made = Table("report", "MiB", "painted ms", "ready ms", "frame p50", "p95", "longest ms")
    for r in rows:
        times = (r.painted_ms, r.ready_ms, r.frame_p50_ms, r.frame_p95_ms, r.frame_longest_ms)
        made.add_row(r.net, f"{r.file_bytes / 2**20:.2f}", *(f"{t:.1f}" for t in times))
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print; write JSON and pictures where paths are given."""
    parser = argparse.ArgumentParser(prog="leptonc.bench.explorer")
    parser.add_argument("nets", nargs="*", default=("resnet50", DEEP))
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--screenshots", type=Path, default=None)
    args = parser.parse_args(argv)
    rows: list[Opened] = []
    with tempfile.TemporaryDirectory(prefix="leptonc-bench-") as folder, chromium() as browser:
        for name in args.nets:
            file = write(name, Path(folder))
            rows.append(measure(browser, name, file, args.repeats))
            if args.screenshots is not None:
                pictures(browser, file, args.screenshots)
    Console(width=120).print(table(rows))
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
