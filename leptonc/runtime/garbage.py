"""runtime > garbage: less of it while compiling, and Python's collector paused meanwhile."""

from __future__ import annotations

import contextlib
import gc
import linecache
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.fx.experimental import proxy_tensor

from leptonc.runtime.heap import trim


class Pause:
    """Pauses the collector; compiles may nest and run in several threads, the last one resumes it.

    numba and traces build millions of objects that live until the compile ends. Looking
    through all of them again and again costs a fifth of a cold compile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._was_on = False

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Pause until the end of the ``with`` block; a collector that was off stays off."""
        with self._lock:
            if self._users == 0:
                self._was_on = gc.isenabled()
                gc.disable()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0 and self._was_on:
                    gc.enable()


paused = Pause().__call__


def swept() -> None:
    """Collect what is young and give back what is free.

    While the collector is paused, all that was made since the last call is young: passes leave
    cycles, and looking at those alone costs little.
    """
    gc.collect(0)
    trim()


class Unread:
    """Keeps Python from reading the sources of one package for tracebacks; uses may nest.

    Torch notes the stack of every op it traces, the text of each line included: 3 MiB of its own
    sources, which stay in ``linecache`` and take a fifth of the time of a small capture. Lines of
    other files are read as ever, and so are those that ``inspect`` asks for.
    """

    def __init__(self, package: str) -> None:
        self._folder = str(Path(package).parent) + os.sep
        self._lock = threading.Lock()
        self._users = 0
        self._getline = linecache.getline

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Give out empty lines of these sources until the end of the ``with`` block."""
        with self._lock:
            if self._users == 0:
                self._getline, linecache.getline = linecache.getline, self._line
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    linecache.getline = self._getline

    def _line(self, filename: str, *where: Any) -> str:
        return "" if filename.startswith(self._folder) else self._getline(filename, *where)


torch_unread = Unread(torch.__file__).__call__


def release_trace() -> None:
    """Let go of the last graph that torch.export traced.

    A table of torch's maps ids of traced tensors to nodes, for messages about tensors that leak
    from a trace, and is emptied at the next one only: it holds the whole graph and its weights'
    stand-ins. Graphs are full of cycles. What comes next finds room where they lay; else Python
    would take more from the system, of which it hardly ever gives anything back.
    """
    table = getattr(proxy_tensor, "_FAKE_TENSOR_ID_TO_PROXY_MAP_FOR_EXPORT", None)
    if isinstance(table, dict):
        table.clear()
    gc.collect(0)  # the collector is paused: all that the trace made is young
