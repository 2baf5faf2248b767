"""The progress line: only when slow, in a terminal or below a notebook's cell, gone at the end."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from leptonc.show import progress
from leptonc.show.progress import Progress

NEVER_S = 3600.0


class Handle:
    """What ``display(display_id=True)`` returns; keeps what was shown."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []
        self.first = threading.Event()

    def __call__(self, data: dict[str, str], raw: bool, display_id: bool) -> Handle:
        assert raw and display_id
        self.update(data, raw=True)
        self.first.set()
        return self

    def update(self, data: dict[str, str], raw: bool) -> None:
        self.shown.append(data)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Handle:
    """A process in which IPython runs with a kernel."""
    handle = Handle()
    ipython: Any = ModuleType("IPython")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())
    display: Any = ModuleType("IPython.display")
    display.display = handle
    ipython.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return handle


def test_a_notebook_sees_each_stage_and_nothing_stays(notebook: Handle) -> None:
    with Progress("compiling A<b>", 0.0) as say:
        assert notebook.first.wait(30)
        say("passes")
    assert [d["text/plain"] for d in notebook.shown] == [
        "compiling A<b> ...", "compiling A<b>: passes ...", "",
    ]  # fmt: skip
    assert notebook.shown[0]["text/html"] == "<i>compiling A&lt;b&gt; ...</i>"


def test_what_is_fast_shows_nothing(notebook: Handle) -> None:
    with Progress("compiling A", NEVER_S) as say:
        say("passes")
    assert notebook.shown == []


def test_a_timer_that_fires_too_late_shows_nothing(notebook: Handle) -> None:
    with Progress("compiling A", NEVER_S) as late:
        pass
    late._show()  # pyright: ignore[reportPrivateUsage]
    assert notebook.shown == []


def test_an_error_takes_the_line_away_too(notebook: Handle) -> None:
    with pytest.raises(ValueError, match="boom"), Progress("compiling A", 0.0):
        assert notebook.first.wait(30)
        raise ValueError("boom")
    assert notebook.shown[-1]["text/plain"] == ""


@pytest.mark.parametrize(("tty", "shown"), [(True, True), (False, False)])
def test_ipython_in_a_terminal_is_a_terminal(
    notebook: Handle, monkeypatch: pytest.MonkeyPatch, tty: bool, shown: bool
) -> None:
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: SimpleNamespace())
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: tty))
    assert (progress.place() is not None) == shown


def test_a_pipe_stays_empty() -> None:
    code = "from leptonc.show.progress import Progress\nwith Progress('a', 0.0) as p: p('b')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
