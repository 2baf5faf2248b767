"""runtime > garbage: Python's cyclic garbage collector, paused while a compile makes no garbage."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator


class Pause:
    """Pauses the collector; compiles may nest and run in several threads, the last one resumes it.

    numba and torch.export build millions of objects that live until the compile ends. Looking
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
