"""runtime > behind: work that goes on after the call that began it has returned."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Behind:
    """Threads that end by themselves, before the interpreter at the latest.

    They are no daemons: Python waits for them before it exits, so that nothing that was begun is
    left half done. In a forked child they count as ended; the parent's go on.
    """

    def __init__(self) -> None:
        self._running: set[threading.Thread] = set()

    def begin(self, work: Callable[[], object]) -> None:
        """Do ``work``, which raises nothing, on a thread of its own; here if there can be none."""
        thread = threading.Thread(target=self._run, args=(work,), name="leptonc-behind")
        self._running.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, or there are too many
            self._running.discard(thread)
            work()

    def wait(self) -> None:
        """Return when all that was begun before is done. Not for use within such work."""
        for thread in tuple(self._running):
            thread.join()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        finally:
            self._running.discard(threading.current_thread())


BEHIND = Behind()
