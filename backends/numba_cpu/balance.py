"""numba_cpu > balance: shares of threads as large as their cores are fast.

Cores are not equally fast: those of a phone or a laptop by design, those of a virtual machine when
somebody else computes on the other half of a core. How much slower one is depends on what it does,
so every phase of a program learns its own shares: who ends it compares how long the threads took
and moves the cuts between them a part of the way to where all would have ended together.

A phase's words: where each thread's share begins, in ``ONE`` parts of the work, then ``ONE``; see
:mod:`shares`. They change only between two runs of their phase.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.atomics import load, store
from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.shares import ONE

# A thread may take this much longer than another before the cuts move, as a fraction: less is
# noise, or shares of whole tiles that no cut makes equal.
SLACK = 8
# How far a cut moves at most, as a fraction of an equal share: one late thread is no slow core.
STEP = 8
LEAST = 8  # no share gets smaller than this fraction of an equal one
_PACE = 1 << 40  # pace is work for each tick, in these units
_MOST_TICKS = 1 << 38  # longer ones say nothing: the computer slept


def words(threads: int) -> list[int]:
    """Return the words of a phase in which all of ``threads`` have equal shares."""
    return [-(-ONE * t // threads) for t in range(threads + 1)]


@inline_njit
def adjust(cuts, nt, took, line, fewest):
    """Move the cuts of a phase that has ended; return whether they moved.

    ``took``: address of the ticks that thread 0 took for its share, each thread's ``line`` bytes
    behind; 0: somebody else did it. Phases of less than ``fewest`` ticks stay as they are.
    """
    least = most = load(took)
    for tid in range(1, nt):
        ticks = load(took + line * tid)
        least, most = min(least, ticks), max(most, ticks)
    if least <= 0 or most < fewest or most - least <= least // SLACK or most > _MOST_TICKS:
        return False
    total = 0
    for tid in range(nt):
        total += _pace(cuts, tid, load(took + line * tid))
    if total <= 0:
        return False
    step, room = ONE // (STEP * nt), ONE // (LEAST * nt)
    faster, before = 0, 0
    for tid in range(nt - 1):
        faster += _pace(cuts, tid, load(took + line * tid))
        old = load(cuts + 8 * tid + 8)
        new = old + max(-step, min(step, (ONE * faster // total - old) // 2))
        before = max(before + room, min(new, ONE - room * (nt - 1 - tid)))
        store(cuts + 8 * tid + 8, before)
    return True


@inline_njit
def _pace(cuts, tid, ticks):
    """Return how much of the work a thread does in a tick, if that is what it had to do."""
    return (load(cuts + 8 * tid + 8) - load(cuts + 8 * tid)) * (_PACE // ONE) // ticks
