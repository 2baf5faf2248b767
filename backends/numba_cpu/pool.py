"""numba_cpu > pool: worker threads that wait inside native code, one team for each thread count.

A team of ``nt`` threads is the caller and ``nt - 1`` Python daemon threads, parked in one native
function without the interpreter lock. The caller never waits for a worker to come. After work they
spin for some microseconds, so that the next call finds them awake, then they block and cost
nothing. Teams start when they are first used, end at exit, and a forked child starts its own.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import mmap
import os
import threading
import time
import weakref

import numpy as np

from leptonc.backends.numba_cpu import native, team_words
from leptonc.runtime.governor import affinity_cores, decide, read_quota
from leptonc.settings import read_settings

ALIGN = 64
LARGE = 2**20  # bytes from which a block is mapped, not taken from the heap
HUGE = 2**22  # bytes from which huge pages are worth asking for
BARRIER_SPIN_US = 200.0
STEAL_SPIN_US = 1.0  # how long a thread may be late before others do its share
# With more threads than cores, whoever spins keeps the awaited thread from running.
CROWDED_SPIN_US = 1.0
BALANCE_US = 100.0  # programs that take longer are shared by how fast the cores are
_EXIT_WAIT_S = 1.0

# Addresses go as void pointers: ctypes converts those faster than integers.
native_call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)


def aligned_zeros(nbytes: int, align: int = ALIGN) -> np.ndarray:
    """Return ``nbytes`` zero bytes whose address is a multiple of ``align``."""
    raw = np.zeros(nbytes + align, np.uint8) if nbytes < LARGE else _pages(nbytes + align)
    start = -raw.ctypes.data % align
    return raw[start : start + nbytes]


def _pages(nbytes: int) -> np.ndarray:
    """Return zero bytes straight from the system: they go back whole and leave no holes."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros(nbytes, np.uint8)
    block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if nbytes >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            block.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(block, np.uint8)


def usable_cores() -> int:
    """Return the number of cores this process may use, by affinity and quota."""
    return decide(affinity_cores(), read_quota(), None).cores


@functools.cache
def pauses_per_us() -> float:
    """Return how many iterations of a spin loop take a microsecond here (measured once)."""
    count = 2000
    best = min(_timed(count) for _ in range(3))
    return count / max(best * 1e6, 1e-3)


@functools.cache
def ticks_per_us() -> float:
    """Return how many ticks of :mod:`atomics` a microsecond has; 0.0 where there are none."""
    words, count = np.zeros(1, np.int64), int(1000 * pauses_per_us())
    begin, first = time.perf_counter(), _ticks(words)
    native.PAUSES(count)
    return max(_ticks(words) - first, 0) / max((time.perf_counter() - begin) * 1e6, 1e-3)


def _ticks(words: np.ndarray) -> int:
    native.TICKS(words)
    return int(words[0])


def _timed(count: int) -> float:
    begin = time.perf_counter()
    native.PAUSES(count)
    return time.perf_counter() - begin


class Team:
    """The caller and ``nt - 1`` workers that run segments together.

    Attributes:
        nt: number of threads, the caller included.
        lock: held while workers start or leave.
        address: address of the words described in :mod:`native`; stays the same after a fork.
    """

    def __init__(self, nt: int) -> None:
        self.nt = nt
        self.lock = threading.Lock()
        self._words = aligned_zeros(team_words.team_bytes(nt), team_words.LINE).view(np.int64)
        self.address = self._words.ctypes.data
        self._threads: list[threading.Thread] = []
        self._call = native_call(native.RUN_TEAM.address)
        self._alone = native_call(native.RUN_ALONE.address)
        self._started = False
        self._closed = False

    def run(self, segment: int) -> None:
        """Run the segment at address ``segment``; returns when all threads have finished it.

        A second caller waits in native code until the first one's segment has ended.
        """
        if self._call(segment):
            with self.lock:
                started = self._started or self._start()
            if not started or self._call(segment):
                self._alone(segment)

    def _start(self) -> bool:
        """Start the workers; False if that is impossible now (interpreter exit, thread limit)."""
        if self._closed:
            return False
        self._prepare()
        native.WORK.compile()
        self._started = True
        try:
            for tid in range(1, self.nt):
                self._hire(tid)
        except RuntimeError:
            self._leave()
            self._closed = True
            return False
        self._words[team_words.READY // 8] = 1
        return True

    def _prepare(self) -> None:
        """Fill in the team's words."""
        crowded = self.nt > usable_cores()
        rate = pauses_per_us()
        barrier = CROWDED_SPIN_US if crowded else BARRIER_SPIN_US
        settings = read_settings()
        idle = CROWDED_SPIN_US if crowded else settings.spin_us
        words = self._words
        words[:] = 0
        words[team_words.NOW // 8] = 1
        words[team_words.CORES // 8 :][: self.nt * team_words.LINE // 8] = team_words.NOWHERE
        words[team_words.SPIN // 8] = int(barrier * rate)
        words[team_words.STEAL // 8] = int(STEAL_SPIN_US * rate)
        words[team_words.IDLE // 8] = int(idle * rate)
        balanced = settings.balance and not crowded
        fewest = int(BALANCE_US * ticks_per_us()) if balanced else 0
        words[team_words.FEWEST // 8] = fewest or team_words.NEVER

    def _hire(self, tid: int) -> None:
        """Start worker ``tid``. Raises RuntimeError if there can be no more threads."""
        thread = threading.Thread(
            target=native.WORK,
            args=(self.address, tid, self.nt),
            name=f"leptonc-{self.nt}.{tid}",
            daemon=True,
        )
        thread.start()
        self._words[(team_words.CORES + team_words.LINE * tid + team_words.THREAD) // 8] = (
            thread.native_id or -1
        )
        self._threads.append(thread)

    def _leave(self) -> None:
        """Send the workers home and wait for them; the lock is held or nobody else is left."""
        if self._started:
            native.STOP_TEAM(self.address, int(_EXIT_WAIT_S * 1e6 * pauses_per_us()))
            for thread in self._threads:
                thread.join(_EXIT_WAIT_S)
        self._threads.clear()
        self._started = False

    def close(self) -> None:
        """Stop the workers; later runs use the calling thread alone."""
        if self.lock.acquire(timeout=_EXIT_WAIT_S):
            self._closed = True
            self._leave()
            self.lock.release()

    def after_fork(self) -> None:
        """Forget the threads, which exist in the parent only; the next run starts new ones."""
        self.lock = threading.Lock()
        self._threads = []
        self._started = False
        self._words[:] = 0  # a thread of the parent may have run on it


class _Teams:
    """The teams of this process, by thread count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._teams: dict[int, Team] = {}
        self._forked: weakref.WeakSet = weakref.WeakSet()
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.after_fork)

    def get(self, nt: int) -> Team:
        """Return the team of ``nt`` threads."""
        with self._lock:
            if nt not in self._teams:
                self._teams[nt] = Team(nt)
            return self._teams[nt]

    def on_fork(self, thing: object) -> None:
        """Call ``thing.after_fork()`` in forked children for as long as ``thing`` exists."""
        with self._lock:
            self._forked.add(thing)

    def after_fork(self) -> None:
        """Make everything usable in a forked child."""
        self._lock = threading.Lock()
        for thing in (*self._teams.values(), *self._forked):
            thing.after_fork()

    def close(self) -> None:
        """Stop all workers."""
        with self._lock:
            teams = tuple(self._teams.values())
        for team in teams:
            team.close()


TEAMS = _Teams()
