"""runtime > group > process: one worker process as its controller sees it.

A fresh interpreter, never a fork of ours; in a session of its own, so that Ctrl-C in a terminal
reaches the controller alone, and everything it starts can be ended with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import leptonc
from leptonc.runtime.group.message import Message, Reader, send
from leptonc.settings import child_environ

_MODULE = "leptonc.runtime.group.worker"
_ROOT = str(Path(leptonc.__file__).resolve().parents[1])
_THREADS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "LEPTONC_NUM_THREADS",
)  # fmt: skip
_MOST_OUTPUT = 16_000
_SOFT_S, _HARD_S = 0.3, 5.0  # after SIGTERM; SIGKILL takes as long as the system needs
_STATES = {"T": "stopped by a signal", "t": "stopped by a debugger", "Z": "ended", "D": "waiting"}


class Worker:
    """A started worker; ``worker.py`` is the other side.

    Args:
        rank: its rank.
        environ: changes of the environment.
        keep: descriptors that it shall inherit, by the same numbers.
    """

    def __init__(self, rank: int, environ: Mapping[str, str], keep: Iterable[int]) -> None:
        self.rank = rank
        self._output = tempfile.TemporaryFile(prefix="leptonc-")  # noqa: SIM115 - has no name
        command_read, self._command = os.pipe()
        reply_read, reply_write = os.pipe()
        death_read, self._death = os.pipe()
        theirs = (command_read, reply_write, death_read)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, str(rank), *map(str, theirs)],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env=child_environ(environ),
                pass_fds=(*theirs, *keep),
                start_new_session=True,
            )
        except BaseException:
            for fd in (self._command, self._death, reply_read):
                os.close(fd)
            self._output.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self.reader = Reader(reply_read)
        self.pidfd = _pidfd(self.pid)
        self._mine = [self._command, self._death, reply_read]
        if self.pidfd is not None:
            self._mine.append(self.pidfd)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What becomes readable when it answers or ends."""
        return (self.reader.fd,) if self.pidfd is None else (self.reader.fd, self.pidfd)

    def send(self, message: Message) -> None:
        """Send it a message; one that has ended is noticed elsewhere."""
        if self._mine:
            with contextlib.suppress(OSError):
                send(self._command, message)

    def signal(self, number: int) -> None:
        """Send a signal to it and whatever it has started."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def show_stacks(self) -> None:
        """Let it write to its output where its threads are."""
        if not self.ended():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)

    def ended(self) -> bool:
        """Return whether the process has ended; its number stays taken until :meth:`close`."""
        if self._process.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(ChildProcessError):
            return os.waitid(os.P_PID, self.pid, flags) is not None
        return True

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, as :mod:`subprocess` counts, or None if it has not ended by then.

        What it had started ends as well.
        """
        end = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > end:
                return None
            time.sleep(0.001)
        # Before its number is given back: it is also the number of its process group.
        self.signal(signal.SIGKILL)
        return self._process.wait()

    def state(self) -> str:
        """Return in words what the process does now."""
        with contextlib.suppress(OSError, IndexError):
            text = Path(f"/proc/{self.pid}/stat").read_text()
            return _STATES.get(text.rpartition(")")[2].split()[0], "running")
        return "unknown"

    def output(self) -> str:
        """Return the last of what it has written to its standard output and error."""
        if self._output.closed:
            return ""
        size = os.fstat(self._output.fileno()).st_size
        begin = max(0, size - _MOST_OUTPUT)
        return os.pread(self._output.fileno(), _MOST_OUTPUT, begin).decode(errors="replace")

    def close(self) -> None:
        """Give back everything that was held for it; it must have ended."""
        while self._mine:
            os.close(self._mine.pop())
        self._output.close()


def thread_environ(threads: int) -> dict[str, str]:
    """Return the variables by which libraries learn how many threads they may use."""
    return dict.fromkeys(_THREADS, str(threads))


def path_environ() -> dict[str, str]:
    """Return the variable by which a new interpreter finds this leptonc and no other."""
    inherited = child_environ({}).get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(p for p in (_ROOT, inherited) if p)}


def loopback_environ() -> dict[str, str]:
    """Return the variable that keeps gloo on this machine."""
    return {"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"}


def end_all(workers: Iterable[Worker], patience_s: float = 0.0) -> None:
    """End all workers and give back what was held for them.

    ``patience_s``: how long they may take to leave by themselves, in seconds.
    """
    workers = list(workers)
    steps = ((None, patience_s), (signal.SIGTERM, _SOFT_S), (signal.SIGKILL, _HARD_S))
    for number, seconds in steps:
        left = [w for w in workers if not w.ended()]
        if number is not None:
            for worker in left:
                worker.signal(number)
        end = time.monotonic() + seconds
        while left and time.monotonic() < end:
            time.sleep(0.001)
            left = [w for w in left if not w.ended()]
    for worker in workers:
        worker.wait(0.0)
        worker.close()


def _pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends, where there are such."""
    with contextlib.suppress(AttributeError, OSError):
        return os.pidfd_open(pid)
    return None
