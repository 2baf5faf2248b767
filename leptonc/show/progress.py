"""Progress of a compile: silent below a second, then one line on a terminal's stderr."""

from __future__ import annotations

import sys
import threading
from types import TracebackType

from rich.console import Console
from rich.status import Status

DELAY_S = 1.0


class Progress:
    """Context manager; call it with the stage's name. Prints only to a terminal, only when slow."""

    def __init__(self, title: str, delay_s: float = DELAY_S) -> None:
        self._title = title
        self._stage = ""
        self._status: Status | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(delay_s, self._show)
        self._timer.daemon = True

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._timer.start()
        return self

    def __call__(self, stage: str) -> None:
        """Say what is going on now."""
        with self._lock:
            self._stage = stage
            if self._status is not None:
                self._status.update(self._text())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            if self._status is not None:
                self._status.stop()

    def _show(self) -> None:
        with self._lock:
            self._status = Status(self._text(), console=Console(stderr=True))
            self._status.start()

    def _text(self) -> str:
        return f"{self._title}: {self._stage}" if self._stage else self._title
