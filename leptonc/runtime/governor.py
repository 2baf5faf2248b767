"""runtime > governor: how many cores this process may use, and why.

The number is the minimum of the processor affinity, the cgroup processor quota (versions 2 and 1,
every ancestor's) and what the user asked for. A quota is a share of time, not a set of cores: more
threads than its cores only get throttled, so it is rounded down.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from threadpoolctl import ThreadpoolController

from leptonc.settings import read_settings

# A quota this little below a whole number of cores still counts as that number.
_ROUNDING = 0.05


@dataclass(frozen=True)
class Quota:
    """A processor quota: ``cores`` of processor time per second of time, set in ``source``."""

    cores: float
    source: str


@dataclass(frozen=True)
class Decision:
    """How many threads to use and what that follows from.

    Attributes:
        cores: the decision, at least 1.
        affinity: number of cores the scheduler may put us on.
        quota: the tightest quota, or None.
        asked: the user's number, or None.
        reasons: one line of text for each limit, the binding ones marked.
    """

    cores: int
    affinity: int
    quota: Quota | None
    asked: int | None
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        plural = "thread" if self.cores == 1 else "threads"
        return f"{self.cores} {plural}: " + "; ".join(self.reasons)


@dataclass(frozen=True)
class _Mount:
    """Where a cgroup hierarchy is visible: ``root`` of the hierarchy at directory ``point``."""

    root: str
    point: str
    version: int


class Governor:
    """Decides the thread count; asks again when told to.

    Args:
        threads: the user's number; None takes ``LEPTONC_NUM_THREADS``, if that is set.
        root: where ``/proc`` and ``/sys`` are (tests use a directory of their own).
        affinity: returns the number of cores of the processor affinity.
    """

    def __init__(
        self,
        threads: int | None = None,
        root: Path = Path("/"),
        affinity: Callable[[], int] | None = None,
    ) -> None:
        self._threads = threads if threads is not None else read_settings().num_threads
        self._root = root
        self._affinity = affinity or affinity_cores
        self._read = 0.0
        self._decision = self.refresh()

    @property
    def decision(self) -> Decision:
        """The decision of the latest :meth:`refresh`."""
        return self._decision

    def refresh(self, older_than_s: float = 0.0) -> Decision:
        """Read the limits again if the last reading is ``older_than_s`` seconds old."""
        now = time.monotonic()
        if not self._read or now - self._read >= older_than_s:
            self._read = now
            self._decision = decide(self._affinity(), read_quota(self._root), self._threads)
        return self._decision


def decide(affinity: int, quota: Quota | None, asked: int | None) -> Decision:
    """Return the decision that follows from the three limits."""
    found = [(max(1, affinity), f"affinity allows {affinity}")]
    if quota is not None:
        whole = max(1, math.floor(quota.cores + _ROUNDING))
        found.append((whole, f"quota {quota.cores:g} cores ({quota.source}) allows {whole}"))
    if asked is not None:
        found.append((max(1, asked), f"the user asked for {asked}"))
    cores = min(limit for limit, _ in found)
    reasons = tuple(text + (" (binding)" if limit == cores else "") for limit, text in found)
    return Decision(cores, affinity, quota, asked, reasons)


def affinity_cores() -> int:
    """Return the number of cores that the scheduler may put this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_quota(root: Path = Path("/")) -> Quota | None:
    """Return the tightest processor quota of our cgroups and their ancestors, or None.

    Source: Linux ``Documentation/admin-guide/cgroup-v2.rst`` (``cpu.max``) and
    ``scheduler/sched-bwc.rst`` (``cpu.cfs_quota_us``).
    """
    groups = _groups(_text(root / "proc/self/cgroup"))
    found = []
    for mount in _mounts(_text(root / "proc/self/mountinfo")):
        group = groups.get(mount.version)
        if group is None:
            continue
        for directory in _ancestors(mount, group):
            cores = _READERS[mount.version](root / directory.lstrip("/"))
            if cores is not None:
                found.append(Quota(cores, directory))
    return min(found, key=lambda quota: quota.cores, default=None)


def _text(path: Path) -> str:
    """Return the file's text, empty if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _groups(text: str) -> dict[int, str]:
    """Return the path of our cgroup by version, from lines ``id:controllers:path``."""
    groups = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            groups[2] = path
        elif "cpu" in controllers.split(","):
            groups[1] = path
    return groups


def _mounts(text: str) -> list[_Mount]:
    """Return the mounted hierarchies that can hold a processor quota (proc(5), mountinfo)."""
    mounts = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        root, point = _unescape(fields[3]), _unescape(fields[4])
        if kind[0] == "cgroup2":
            mounts.append(_Mount(root, point, 2))
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            mounts.append(_Mount(root, point, 1))
    return mounts


def _unescape(field: str) -> str:
    """Return a mountinfo field with its octal escapes (of spaces and the like) undone."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _ancestors(mount: _Mount, group: str) -> list[str]:
    """Return the directories from our group up to the mount point.

    In a container the group's path may be the host's, of which only the part below the mount's root
    is visible; where it does not lie below that, the mount point is all we can see.
    """
    try:
        below = PurePosixPath(group).relative_to(mount.root).parts
    except ValueError:
        below = ()
    if ".." in below:
        below = ()
    return ["/".join((mount.point, *below[:depth])) for depth in range(len(below), -1, -1)]


def _quota_v2(directory: Path) -> float | None:
    """Return the quota in cores from ``cpu.max``: ``"max 100000"`` or ``"150000 100000"``."""
    fields = _text(directory / "cpu.max").split()
    if not fields or fields[0] == "max":
        return None
    return _ratio(fields[0], fields[1] if len(fields) > 1 else "100000")


def _quota_v1(directory: Path) -> float | None:
    """Return the quota in cores from ``cpu.cfs_quota_us``, which is -1 without one."""
    quota = _text(directory / "cpu.cfs_quota_us").strip()
    return _ratio(quota, _text(directory / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float | None:
    """Return ``quota / period`` if both are positive numbers."""
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None


_READERS: dict[int, Callable[[Path], float | None]] = {1: _quota_v1, 2: _quota_v2}


class _Libraries:
    """The thread counts of torch and of BLAS libraries: set together, put back together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._before = 0
        self._limiter: contextlib.ExitStack | None = None

    @contextlib.contextmanager
    def limited(self, threads: int) -> Iterator[None]:
        """See :func:`library_threads`."""
        self._enter(threads)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, threads: int) -> None:
        # torch is limited only if somebody has imported it: this module has no need to.
        torch = sys.modules.get("torch")
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._before = torch.get_num_threads() if torch else 0
                self._limiter = contextlib.ExitStack()
                limit = _controller(len(sys.modules)).limit(limits=threads, user_api="blas")
                self._limiter.enter_context(limit)
            if torch and torch.get_num_threads() != threads:
                torch.set_num_threads(threads)

    def _leave(self) -> None:
        torch = sys.modules.get("torch")
        with self._lock:
            self._depth -= 1
            if self._depth:
                return
            if torch and self._before and torch.get_num_threads() != self._before:
                torch.set_num_threads(self._before)
            if self._limiter is not None:
                self._limiter.close()


@functools.lru_cache(maxsize=1)
def _controller(modules: int) -> ThreadpoolController:
    """Return the libraries loaded so far; finding them takes milliseconds.

    ``modules`` is the number of imported modules: an import may have brought another library.
    """
    return ThreadpoolController()


LIBRARIES = _Libraries()


def library_threads(threads: int) -> contextlib.AbstractContextManager[None]:
    """Return a context in which torch and BLAS use ``threads`` threads; for torch fallbacks.

    The counts belong to the process: contexts of several Python threads may overlap, and the last
    one to leave restores what the first one found.
    """
    return LIBRARIES.limited(threads)
