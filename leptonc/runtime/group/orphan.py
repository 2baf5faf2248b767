"""runtime > group > orphan: a worker ends when its controller does, however that ended.

The controller alone holds the writing end of a pipe on which nothing is ever written. When it is
closed, Linux itself kills the worker, even one that is stopped or stuck in native code; elsewhere a
thread does. The thread also watches the controller's process, in case a child that the controller
forked holds the pipe open.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading

try:
    import fcntl
except ImportError:  # not on this system: the thread alone has to do
    fcntl = None


def end_with_controller(pipe: int) -> None:
    """End this process as soon as the writing end of ``pipe``, or the parent process, is gone."""
    parent = os.getppid()
    _ask_kernel(pipe)
    threading.Thread(target=_watch, args=(pipe, parent), daemon=True).start()


def _ask_kernel(pipe: int) -> None:
    """Let Linux send SIGKILL when something happens to ``pipe`` (fcntl(2), F_SETSIG)."""
    if fcntl is None or not hasattr(fcntl, "F_SETSIG"):
        return
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def _watch(pipe: int, parent: int) -> None:
    """Wait for either end, then leave at once."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    with contextlib.suppress(OSError, AttributeError):
        poll.register(os.pidfd_open(parent), select.POLLIN)
    # It may have ended before we looked; then its pipe is closed, or its child holds that open.
    if os.getppid() == parent:
        poll.poll()
    os._exit(3)
