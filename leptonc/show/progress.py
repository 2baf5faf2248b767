"""Progress of a compile: silent below a second, then one line in a terminal or a notebook.

Elsewhere (a pipe, a log file) nothing is shown.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from html import escape
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.status import Status

DELAY_S = 1.0


class Display(Protocol):
    """Where the line appears once a compile is slow."""

    def update(self, text: str) -> None:
        """Show ``text`` in the place of what was there."""
        ...

    def stop(self) -> None:
        """Remove the line."""
        ...


class _Terminal:
    """A line with a spinner on stderr."""

    def __init__(self, text: str) -> None:
        self._status = Status(text, console=Console(stderr=True))
        self._status.start()

    def update(self, text: str) -> None:
        self._status.update(text)

    def stop(self) -> None:
        self._status.stop()


class _Notebook:
    """A line below the cell; ``show`` is ``IPython.display.display``."""

    def __init__(self, text: str, show: Callable[..., Any]) -> None:
        self._handle = show(_mime(text), raw=True, display_id=True)

    def update(self, text: str) -> None:
        self._handle.update(_mime(text), raw=True)

    def stop(self) -> None:
        self._handle.update({"text/plain": "", "text/html": ""}, raw=True)


def _mime(text: str) -> dict[str, str]:
    return {"text/plain": f"{text} ...", "text/html": f"<i>{escape(text)} ...</i>"}


def place() -> Callable[[str], Display] | None:
    """Return what opens a display here, or None where nobody would see one.

    A notebook is told by the kernel that its shell talks to; IPython is never imported for it.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and getattr(shell, "kernel", None) is not None:
        show = importlib.import_module("IPython.display").display
        return lambda text: _Notebook(text, show)
    return _Terminal if sys.stderr.isatty() else None


class Progress:
    """Context manager; call it with the stage's name. Shows something only when it gets slow."""

    def __init__(self, title: str, delay_s: float = DELAY_S) -> None:
        self._title = title
        self._stage = ""
        self._open = place()
        self._display: Display | None = None
        self._done = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(delay_s, self._show)
        self._timer.daemon = True

    def __enter__(self) -> Progress:
        if self._open is not None:
            self._timer.start()
        return self

    def __call__(self, stage: str) -> None:
        """Say what is going on now."""
        with self._lock:
            self._stage = stage
            if self._display is not None:
                self._display.update(self._text())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._done = True
            if self._display is not None:
                self._display.stop()

    def _show(self) -> None:
        with self._lock:
            if not self._done and self._open is not None:
                self._display = self._open(self._text())

    def _text(self) -> str:
        return f"{self._title}: {self._stage}" if self._stage else self._title
