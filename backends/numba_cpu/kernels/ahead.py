"""numba_cpu > kernels > ahead: processes that compile kernels while this one does other work.

Most of a kernel's compile time is numba's Python, so threads cannot share it. A helper is a new
interpreter that reads names of kernels from its standard input and leaves their machine code in the
cache; who needs one that a helper is at waits for its file. Nothing is pickled, the user's main
module is not imported, and a helper ends when its input does, with this process at the latest.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from leptonc.backends.numba_cpu.kernels.base import KERNELS, Native
from leptonc.backends.numba_cpu.kernels.loaded_code import code_size
from leptonc.runtime.governor import Governor
from leptonc.settings import read_settings

MIN_KERNELS = 3  # fewer are compiled before a helper has started (about 0.5 s)
_ENTRY = (  # without the collector: a short life, and collections are a fifth of it
    "import gc, json, sys; gc.disable(); sys.path[:] = json.loads(sys.stdin.readline()); "
    f"from {__name__} import serve; serve(sys.stdin)"
)


class Helpers:
    """The helpers of this process: started when many kernels are missing, ended with the session.

    Sessions may nest and run in several threads; the last one to end takes the helpers along.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Start afresh: a forked child has no helpers, and its copies of pipes must not stay open.

        Its parent's helpers are no children of its own; it neither waits for nor ends them.
        """
        for process in getattr(self, "_running", ()):
            process.stdin.close()
            process.returncode = 0
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[str]] = []
        self._sessions = 0
        self._asked: dict[tuple[str, str], Native] = {}

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Keep helpers, once started, until the end of the ``with`` block."""
        with self._lock:
            self._sessions += 1
        try:
            yield
        finally:
            with self._lock:
                self._sessions -= 1
                if self._sessions <= 0:
                    self._end()

    def ask(self, kernels: Iterable[Native], enough: int = MIN_KERNELS) -> None:
        """Let helpers compile those of ``kernels`` that are missing; returns at once.

        Call it inside a session. Starts helpers if so many are missing that it pays: ``enough``.
        """
        with self._lock:
            wanted = dict.fromkeys(with_parts(kernels))
            missing = [k for k in wanted if (k.module, k.name) not in self._asked and not k.ready]
            if not missing or (not self._running and len(missing) < enough):
                return
            if not self._running:
                self._running = [p for _ in range(_count()) if (p := _start()) is not None]
            self._asked.update(((k.module, k.name), k) for k in missing)
            for process in self._running:
                _tell(process, "".join(f"{k.module} {k.name}\n" for k in missing))

    def settle(self) -> None:
        """Return when helpers have nothing to do: compile what they have not begun, await the rest.

        Call it before anything is timed.
        """
        with self._lock:
            asked = tuple(self._asked.values())
        for kernel in [k for k in asked if not k.try_compile()]:
            kernel.compile()

    def _end(self) -> None:
        for process in self._running:
            process.kill()  # all that was asked for is done, or nobody wants it any more
            process.wait()
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
        self._running = []
        self._asked.clear()


HELPERS = Helpers()


def with_parts(kernels: Iterable[Native]) -> Iterator[Native]:
    """Yield kernels, then what they call, which takes less time: small work evens out the ends."""
    kernels = tuple(kernels)
    yield from kernels
    for kernel in kernels:
        yield from kernel.parts


def compile_all(kernels: Iterable[Native]) -> None:
    """Compile or load every kernel, the longest ones first, together with helpers."""
    kernels = tuple(kernels)
    with HELPERS.session():
        missing = [k for k in dict.fromkeys(with_parts(kernels)) if not k.try_load()]
        missing.sort(key=lambda k: code_size(k.fn), reverse=True)
        HELPERS.ask(missing)
        for kernel in [k for k in missing if not k.try_compile()]:
            kernel.compile()


def _count() -> int:
    """Return how many helpers this machine has cores for beside this process."""
    return min(read_settings().helpers, Governor().decision.cores - 1)


def _start() -> subprocess.Popen[str] | None:
    """Return a new helper; None where ``sys.executable`` is no Python or cannot be run."""
    if not Path(sys.executable or "").name.lower().startswith(("python", "pypy")):
        return None
    if getattr(sys, "frozen", False) or os.name != "posix":
        return None
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _ENTRY],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError:
        return None
    _tell(process, json.dumps([p for p in sys.path if isinstance(p, str)]) + "\n")
    return process


def _tell(process: subprocess.Popen[str], text: str) -> None:
    """Write to a helper; one that has ended is no loss."""
    assert process.stdin is not None
    with contextlib.suppress(OSError, ValueError):
        process.stdin.write(text)
        process.stdin.flush()


def serve(lines: Iterable[str]) -> None:
    """Compile the kernels that are named in ``lines``, each "module name", until they end."""
    for line in lines:
        module, _, name = line.rstrip("\n").partition(" ")
        importlib.import_module(module)
        found = KERNELS.find(module, name)
        if found is not None:  # else a factory has to make it, which takes what only the asker has
            found.store()
