"""A busy machine on purpose: processes that do nothing but take time from the cores."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

_SPIN = "while True: pass"


@contextlib.contextmanager
def spinning(count: int) -> Iterator[None]:
    """Keep ``count`` processes spinning on the cores of the calling thread for a while."""
    command = [sys.executable, "-S", "-E", "-c", _SPIN]
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            process = subprocess.Popen(command)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield
