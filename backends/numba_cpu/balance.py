"""numba_cpu > balance: shares of threads as large as their cores are fast, if that is asked for.

Cores are not equally fast: those of a phone or a laptop by design, those of a virtual machine when
somebody else computes on the other half of a core. So a program learns its shares: after each call
the ticks that the threads took for theirs are compared, and the cuts between them move a part of
the way to where all would have taken as long. All phases have the same cuts: a thread reads what it
wrote, which lies in the caches of its core.

Shares are of whole tiles, and threads that took as long in all may have waited for each other in
every phase. So what counts is the time of a call, the least of some: the shares with which it was
least are kept, and come back when some moves have not made it less; then the program rests, twice
as long each time.

The words of a program (of a segment of it) for ``nt`` threads: the address of the cuts, 0 while
shares are equal; the cuts, where each one's share begins, in ``ONE`` parts of the work, then
``ONE`` (see :mod:`shares`); the cuts of the best try, as many; and ``TRIES`` to ``COUNT``. They
change only between two calls. Programs of few ticks, and such that rest, are not measured.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.atomics import load, store
from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.shares import ONE

# A thread may take this much longer than another before the cuts move, as a fraction.
SLACK = 4
# How far a cut moves at most, as a fraction of an equal share: one late thread is no slow core.
STEP = 8
LEAST = 8  # no share gets smaller than this fraction of an equal one
GAIN = 32  # a try is better whose calls took less time by this fraction
MOST_TRIES = 5  # moves in a row without gain
CALLS = 3  # of a try
REST, LONGEST_REST = 32, 1024  # calls after them without a move
# Behind both sets of cuts: moves since the last gain, calls left to rest, how long the next rest
# is, the ticks of a call of the best try, of the last call, the least of the try that goes on, and
# how many calls it has had.
TRIES, RESTING, PAUSE, BEST, LAST, FASTEST, COUNT = 0, 8, 16, 24, 32, 40, 48
_MOST_TICKS = 1 << 38  # longer ones say nothing: the computer slept


def words(threads: int) -> list[int]:
    """Return the words of a program in which all of ``threads`` have equal shares."""
    even = [-(-ONE * t // threads) for t in range(threads + 1)]
    return [0, *even, *even, 0, 0, REST, 0, 0, 0, 0]


@inline_njit
def wants_ticks(words, nt, fewest):
    """Return whether the next call of a program is to be measured; ``fewest``: ticks of a call."""
    state = words + 8 + 16 * (nt + 1)
    resting = load(state + RESTING)
    if resting > 0:
        store(state + RESTING, resting - 1)
        return False
    return load(state + LAST) >= fewest


@inline_njit
def note_call(words, nt, ticks):
    """Note the ticks that a call took."""
    store(words + 8 + 16 * (nt + 1) + LAST, ticks)


@inline_njit
def adjust(words, nt, took, line):
    """Move the cuts of a program that has run; return whether they moved.

    ``took``: address of the ticks that thread 0 took for its shares, each thread's ``line`` bytes
    behind; less than 1: somebody else did some of them.
    """
    cuts = words + 8
    state = cuts + 16 * (nt + 1)
    least = most = load(took)
    for tid in range(1, nt):
        ticks = load(took + line * tid)
        least, most = min(least, ticks), max(most, ticks)
    if least <= 0 or most > _MOST_TICKS or not _tried(state):
        return False
    even = most - least <= least // SLACK
    tries, best, now = load(state + TRIES), load(state + BEST), load(state + FASTEST)
    gained = tries > 0 and now < best - best // GAIN
    if gained or tries == 0:
        if even:
            store(state + TRIES, 0)
            store(state + PAUSE, REST if gained else load(state + PAUSE))
            return False
        _copy(cuts, cuts + 8 * (nt + 1), nt)
        store(state + BEST, now)
        tries = 0
    elif even or tries >= MOST_TRIES:
        _copy(cuts + 8 * (nt + 1), cuts, nt)
        pause = load(state + PAUSE)
        store(state + RESTING, pause)
        store(state + PAUSE, min(2 * pause, LONGEST_REST))
        store(state + TRIES, 0)
        return True
    store(state + TRIES, tries + 1)
    store(words, cuts)
    _move(cuts, nt, took, line)
    return True


@inline_njit
def _tried(state):
    """Count a call of the try that goes on; return whether it was the last, ``FASTEST`` noted."""
    count, ticks = load(state + COUNT), load(state + LAST)
    store(state + FASTEST, ticks if count == 0 else min(ticks, load(state + FASTEST)))
    store(state + COUNT, (count + 1) % CALLS)
    return count + 1 == CALLS


@inline_njit
def _move(cuts, nt, took, line):
    """Move all cuts the same part of the way to where all threads would have taken as long."""
    total, whole = 0, 0
    for tid in range(nt):
        whole = max(whole, load(took + line * tid))
    for tid in range(nt):
        total += _pace(cuts, tid, load(took + line * tid), whole)
    faster, farthest = 0, 1
    for tid in range(nt - 1):
        faster += _pace(cuts, tid, load(took + line * tid), whole)
        away = ONE * faster // total - load(cuts + 8 * tid + 8)
        farthest = max(farthest, max(away, -away))
    step, room = min(farthest // 2, ONE // (STEP * nt)), ONE // (LEAST * nt)
    faster, share, before = 0, _pace(cuts, 0, load(took), whole), 0
    for tid in range(nt - 1):
        faster += share
        share = _pace(cuts, tid + 1, load(took + line * (tid + 1)), whole)  # before its cut moves
        old = load(cuts + 8 * tid + 8)
        new = old + (ONE * faster // total - old) * step // farthest
        before = max(before + room, min(new, ONE - room * (nt - 1 - tid)))
        store(cuts + 8 * tid + 8, before)


@inline_njit
def _pace(cuts, tid, ticks, whole):
    """Return how much of the work a thread does in a tick, if that is what it had to do.

    In units that keep the digits: ``whole`` ticks for all of it are ``ONE``; at most ``4 ONE``.
    """
    share = load(cuts + 8 * tid + 8) - load(cuts + 8 * tid)
    return share * min((whole << 16) // ticks, 1 << 18) >> 16


@inline_njit
def _copy(source, to, nt):
    for i in range(nt + 1):
        store(to + 8 * i, load(source + 8 * i))
