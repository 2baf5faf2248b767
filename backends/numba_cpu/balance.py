"""numba_cpu > balance: shares of threads as large as their cores are fast.

Cores are not equally fast: those of a phone or a laptop by design, those of a virtual machine when
somebody else computes on the other half of a core. How much slower one is depends on what it does,
so every phase of a program learns its own shares: who ends it compares how long the threads took
and moves the cuts between them a part of the way to where all would have ended together.

Shares are of whole tiles, and of few tiles none may be better than equal ones. So the shares with
which a phase took least are kept, and come back when some moves have not made it faster; then it
rests, twice as long each time.

A phase's words, for ``nt`` threads: the cuts, where each one's share begins, in ``ONE`` parts of
the work, then ``ONE`` (see :mod:`shares`); the cuts of the best try, as many; and ``TRIES`` to
``BEST``. They change only between two runs of their phase.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.atomics import load, store
from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.shares import ONE

# A thread may take this much longer than another before the cuts move, as a fraction.
SLACK = 8
# How far a cut moves at most, as a fraction of an equal share: one late thread is no slow core.
STEP = 8
LEAST = 8  # no share gets smaller than this fraction of an equal one
GAIN = 32  # a try is better that took less time by this fraction
MOST_TRIES = 5  # moves in a row without gain
REST, LONGEST_REST = 32, 1024  # runs after them without a move
# Behind both sets of cuts: moves since the last gain, runs left to rest, how long the next rest is,
# the ticks of the best try.
TRIES, RESTING, PAUSE, BEST = 0, 8, 16, 24
_MOST_TICKS = 1 << 38  # longer ones say nothing: the computer slept


def words(threads: int) -> list[int]:
    """Return the words of a phase in which all of ``threads`` have equal shares."""
    even = [-(-ONE * t // threads) for t in range(threads + 1)]
    return [*even, *even, 0, 0, REST, 0]


@inline_njit
def adjust(cuts, nt, took, line, fewest):
    """Move the cuts of a phase that has ended; return whether they moved.

    ``took``: address of the ticks that thread 0 took for its share, each thread's ``line`` bytes
    behind; 0: somebody else did it. Phases of less than ``fewest`` ticks stay as they are.
    """
    state = cuts + 16 * (nt + 1)
    if load(state + RESTING) > 0:
        store(state + RESTING, load(state + RESTING) - 1)
        return False
    least = most = load(took)
    for tid in range(1, nt):
        ticks = load(took + line * tid)
        least, most = min(least, ticks), max(most, ticks)
    if least <= 0 or most < fewest or most > _MOST_TICKS:
        return False
    if most - least <= least // SLACK:
        store(state + TRIES, 0)
        store(state + PAUSE, REST)
        return False
    tries, best = load(state + TRIES), load(state + BEST)
    if tries == 0 or most < best - best // GAIN:
        _copy(cuts, cuts + 8 * (nt + 1), nt)
        store(state + BEST, most)
        tries = 0
    if tries >= MOST_TRIES:
        _copy(cuts + 8 * (nt + 1), cuts, nt)
        pause = load(state + PAUSE)
        store(state + RESTING, pause)
        store(state + PAUSE, min(2 * pause, LONGEST_REST))
        store(state + TRIES, 0)
        return True
    store(state + TRIES, tries + 1)
    _move(cuts, nt, took, line)
    return True


@inline_njit
def _move(cuts, nt, took, line):
    """Move cuts towards where all threads would have ended together."""
    total, whole = 0, 0
    for tid in range(nt):
        whole = max(whole, load(took + line * tid))
    for tid in range(nt):
        total += _pace(
            load(cuts + 8 * tid), load(cuts + 8 * tid + 8), load(took + line * tid), whole
        )
    step, room = ONE // (STEP * nt), ONE // (LEAST * nt)
    faster, begin, before = 0, 0, 0
    for tid in range(nt - 1):
        old = load(cuts + 8 * tid + 8)
        faster += _pace(begin, old, load(took + line * tid), whole)
        new = old + max(-step, min(step, (ONE * faster // total - old) // 2))
        before = max(before + room, min(new, ONE - room * (nt - 1 - tid)))
        store(cuts + 8 * tid + 8, before)
        begin = old


@inline_njit
def _pace(begin, end, ticks, whole):
    """Return how much of the work a thread does in a tick, if that is what it had to do.

    In units that keep the digits: ``whole`` ticks for all of it are ``ONE``; at most ``4 ONE``.
    """
    return (end - begin) * min((whole << 16) // ticks, 1 << 18) >> 16


@inline_njit
def _copy(source, to, nt):
    for i in range(nt + 1):
        store(to + 8 * i, load(source + 8 * i))
