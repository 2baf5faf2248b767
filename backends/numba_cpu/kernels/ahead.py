"""numba_cpu > kernels > ahead: processes that compile kernels, so that this one need not.

Most of a kernel's compile time is numba's Python, so threads cannot share it; and a process that
compiled one keeps what numba and LLVM needed for it, up to a hundred MiB. So helpers do it, see
:mod:`helping`: they leave machine code in the cache. Who needs kernels waits until helpers have
done what they can, and compiles the rest. Nothing is pickled, the user's main module is not
imported, and helpers end with the session, with this process at the latest.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from leptonc.backends.numba_cpu.kernels.base import PATIENCE_S, Native
from leptonc.backends.numba_cpu.kernels.helping import order
from leptonc.backends.numba_cpu.kernels.loaded_code import code_size
from leptonc.runtime.governor import Governor
from leptonc.settings import read_settings

MIN_KERNELS = 3  # fewer are compiled before helpers have started (about 0.5 s)
_LONGEST = 4096  # answers read at a time
_EXIT_WAIT_S, _EXIT_STEP_S = 1.0, 0.001  # that the first process may take to end its helpers
_ENTRY = (  # without the collector: a short life, and collections are a fifth of it
    "import gc, json, sys; gc.disable(); sys.path[:], *job = json.loads(sys.stdin.readline()); "
    "from leptonc.backends.numba_cpu.kernels.helping import supervise; supervise(*job)"
)


@dataclass
class Helper:
    """The near end of a helper's socket, how many answers are due, and how many have come.

    The first says that the helper is there, each of the others that it is done with a kernel.
    """

    line: socket.socket
    due: int = 1
    got: int = 0

    def ask(self, kernels: Sequence[Native]) -> None:
        """Ask for kernels; a helper that has ended is no loss."""
        self.due += len(kernels)
        with contextlib.suppress(OSError):
            self.line.sendall("".join(map(order, kernels)).encode())

    def busy(self) -> bool:
        """Return whether it is at work; one that has ended is not."""
        while self.got < self.due:
            try:
                answers = self.line.recv(_LONGEST, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not answers:
                return False
            self.got += len(answers)
        return False


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
        """Start afresh: a forked child has no helpers, and its copies of sockets must not stay.

        Its parent's helpers are not its own; it neither waits for nor ends them.
        """
        self._lock = threading.Lock()
        if getattr(self, "_process", None) is not None:
            self._close()
            self._process.returncode = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._running: list[Helper] = []
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
                self._start(_count(), {k.module for k in missing})
            self._asked.update(((k.module, k.name), k) for k in missing)
            for helper in self._running:
                helper.ask(missing)

    def wait(self, kernels: Iterable[Native]) -> None:
        """Return when ``kernels`` are on disk, or no helper is busy that might store them."""
        missing = [k for k in kernels if not k.ready]
        end = time.monotonic() + PATIENCE_S
        while missing and (busy := self._busy()) and (left := end - time.monotonic()) > 0:
            with selectors.DefaultSelector() as heard:
                for line in busy:
                    heard.register(line, selectors.EVENT_READ)
                heard.select(left)
            missing = [k for k in missing if not k.ready]

    def settle(self) -> None:
        """Return when helpers have nothing to do; what they could not compile is compiled here.

        Call it before anything is timed.
        """
        with self._lock:
            asked = tuple(self._asked.values())
        self.wait(asked)
        for kernel in [k for k in asked if not k.try_compile()]:
            kernel.compile()

    def _busy(self) -> list[socket.socket]:
        """Return the sockets of the helpers that are busy."""
        with self._lock:
            return [w.line for w in self._running if w.busy()]

    def _start(self, count: int, modules: Iterable[str]) -> None:
        """Start ``count`` helpers, if that can be, which import ``modules`` at once."""
        if not count or not _can_start():
            return
        pairs = [socket.socketpair() for _ in range(count)]
        theirs = [end.fileno() for _, end in pairs]
        paths = [p for p in sys.path if isinstance(p, str)]
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-c", _ENTRY],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=theirs,
            )
            self._running = [Helper(own) for own, _ in pairs]
            assert self._process.stdin is not None
            job = json.dumps([paths, theirs, sorted(modules)])
            self._process.stdin.write(f"{job}\n".encode())
            self._process.stdin.flush()
        for own, end in pairs:
            end.close()
            if not self._running:
                own.close()

    def _end(self) -> None:
        if self._process is not None:
            idle = [h for h in self._running if not h.busy()]
            forked = bool(idle) or any(h.got for h in self._running)
            self._close()
            if not forked:
                self._process.kill()
            end = time.monotonic() + _EXIT_WAIT_S
            while self._process.poll() is None and time.monotonic() < end:
                time.sleep(_EXIT_STEP_S)  # Popen.wait sleeps 50 ms at a time
            self._process.kill()
            self._process.wait()
        self._process, self._running = None, []
        self._asked.clear()

    def _close(self) -> None:
        """Close this process's ends: the first of the other processes ends its helpers, then."""
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        for helper in self._running:
            helper.line.close()


HELPERS = Helpers()


def with_parts(kernels: Iterable[Native]) -> Iterator[Native]:
    """Yield kernels, then what they call, which takes less time: small work evens out the ends."""
    kernels = tuple(kernels)
    yield from kernels
    for kernel in kernels:
        yield from kernel.parts


def compile_all(kernels: Iterable[Native]) -> None:
    """Load every kernel once helpers have compiled it, the longest ones first; compile the rest."""
    kernels = tuple(kernels)
    with HELPERS.session():
        missing = [k for k in dict.fromkeys(with_parts(kernels)) if not k.try_load()]
        missing.sort(key=lambda k: code_size(k.fn), reverse=True)
        HELPERS.ask(missing)
        HELPERS.wait(missing)
        for kernel in [k for k in missing if not k.try_compile()]:
            kernel.compile()


def _count() -> int:
    """Return how many helpers this machine has cores for: this process waits for them.

    None with one core: starting one would only take longer.
    """
    cores = Governor().decision.cores
    return min(read_settings().helpers, cores) if cores > 1 else 0


def _can_start() -> bool:
    """Return whether ``sys.executable`` is a Python that forks."""
    python = Path(sys.executable or "").name.lower().startswith(("python", "pypy"))
    return python and not getattr(sys, "frozen", False) and hasattr(os, "fork")
