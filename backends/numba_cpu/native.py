"""numba_cpu > native: the native loops that run a program, alone or with a team of threads.

Everything is an ``int64`` word in memory that :mod:`executor` and :mod:`pool` allocate.

Segment (one stretch of steps without Python in between), words:
``0`` steps address, ``1`` number of steps, ``2`` threads, ``3`` patches address, ``4`` number of
patches, ``5`` address of the input and output addresses, ``6`` team address, ``7`` address of the
clock's words or 0: per thread and step when it began and when it had finished, two words each.
Step: kernel address, record address, flags. Patch: slot address, index, byte offset:
``*slot = io[index] + offset``.

Team, words cache lines apart: ``EPOCH`` (incremented to start work), ``SLEEPERS`` (workers
blocked on it), ``COUNT`` and ``GENERATION`` (the barrier), ``BLOCKED`` (threads blocked there),
``SEGMENT`` (what to run), ``STOP``, ``SPIN``, ``YIELDS``, ``IDLE`` (iterations before the next
stage of waiting), ``NOW`` (``SPIN``, or 0 while spinning would be in the way), and from ``CORES``
on the core that each thread was last seen on.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.atomics import (
    atomic_add,
    atomic_load,
    atomic_store,
    core_number,
    invoke,
    load,
    pause,
    stamp,
    store,
    wait_while,
    wake_all,
    yield_core,
)
from leptonc.backends.numba_cpu.kernels.base import inline_njit, make_kernel

SERIAL, NO_BARRIER = 1, 2
SEGMENT_WORDS = 8
CLOCK = 7  # word of a segment
STEP_WORDS = PATCH_WORDS = 3
CLOCK_WORDS = 4  # of one thread and one step

# Byte offsets in the team block: words that different threads write lie 128 bytes apart, because
# processors fetch cache lines in pairs.
EPOCH, SLEEPERS, COUNT, GENERATION, BLOCKED = 0, 128, 256, 384, 512
SEGMENT, STOP, SPIN, YIELDS, IDLE, NOW = 640, 648, 656, 664, 672, 680
CORES, CORE_BYTES = 768, 128


@inline_njit
def _patch(segment):
    """Write this call's input and output addresses into the records."""
    patches, count, io = load(segment + 24), load(segment + 32), load(segment + 40)
    for i in range(count):
        patch = patches + 24 * i
        store(load(patch), load(io + 8 * load(patch + 8)) + load(patch + 16))


@inline_njit
def _block(word, seen, sleepers):
    """Sleep until ``word`` differs from ``seen``.

    The sleeper counts itself before it looks at the word, the waker changes the word before it
    looks at the count: one of the two always sees the other.
    """
    atomic_add(sleepers, 1)
    while atomic_load(word) == seen:
        wait_while(word, seen)
    atomic_add(sleepers, -1)


@inline_njit
def _wake(word, sleepers):
    """Wake whoever sleeps on ``word``, which was changed just before."""
    if atomic_load(sleepers) > 0:
        wake_all(word)


@inline_njit
def _await(word, seen, sleepers, spins, yields):
    """Wait until ``word`` differs from ``seen``: spin, then give the core away, then sleep."""
    for _ in range(spins):
        if atomic_load(word) != seen:
            return
        pause()
    for _ in range(yields):
        if atomic_load(word) != seen:
            return
        yield_core()
    _block(word, seen, sleepers)


@inline_njit
def _barrier(team, nt):
    """Return when all ``nt`` threads have arrived; what they wrote before is visible after."""
    generation = atomic_load(team + GENERATION)
    if atomic_add(team + COUNT, 1) == nt - 1:
        atomic_store(team + COUNT, 0)
        atomic_add(team + GENERATION, 1)
        _wake(team + GENERATION, team + BLOCKED)
        return
    spins, yields = load(team + NOW), load(team + YIELDS)
    _await(team + GENERATION, generation, team + BLOCKED, spins, yields)


@inline_njit
def _show_core(team, tid):
    """Tell the team which core this thread runs on, and return it."""
    core, place = core_number(tid), team + CORES + CORE_BYTES * tid
    if atomic_load(place) != core:
        atomic_store(place, core)
    return core


@inline_njit
def _choose_spin(team, nt):
    """Let threads spin at barriers unless a worker shares our core: it could not run meanwhile.

    A busy machine's scheduler does put a woken worker beside its waker.
    """
    core, spins = _show_core(team, 0), load(team + SPIN)
    for tid in range(1, nt):
        if atomic_load(team + CORES + CORE_BYTES * tid) == core:
            spins = 0
    if load(team + NOW) != spins:
        store(team + NOW, spins)


@inline_njit
def _clock(segment, tid):
    """Return where this thread notes its times, or 0 if nobody wants them."""
    words = load(segment + 56)
    if words == 0:
        return 0
    return words + 32 * load(segment + 8) * tid


@inline_njit
def _share(segment, tid, team):
    """Run this thread's share of every step, meeting the others at the barriers."""
    step, count, nt = load(segment), load(segment + 8), load(segment + 16)
    clock = _clock(segment, tid)
    for i in range(count):
        kernel, args, flags = load(step), load(step + 8), load(step + 16)
        if clock:
            stamp(clock + 32 * i)
        if flags & SERIAL == 0:
            invoke(kernel, args, tid, nt)
        elif tid == 0:
            invoke(kernel, args, 0, 1)
        if clock:
            stamp(clock + 32 * i + 16)
        if flags & NO_BARRIER == 0:
            _barrier(team, nt)
        step += 24


def _run_alone(segment, tid, nt):
    """Run a segment on the calling thread, one share after another: the same bits as a team."""
    _patch(segment)
    step, count, threads = load(segment), load(segment + 8), load(segment + 16)
    clock = _clock(segment, 0)
    for i in range(count):
        kernel, args, flags = load(step), load(step + 8), load(step + 16)
        if clock:
            stamp(clock + 32 * i)
        shares = threads
        if flags & SERIAL:
            shares = 1
        for share in range(shares):
            invoke(kernel, args, share, shares)
        if clock:
            stamp(clock + 32 * i + 16)
        step += 24


def _run_team(segment, tid, nt):
    """Run a segment as thread 0 of its team; returns when every thread has finished it."""
    team = load(segment + 48)
    _patch(segment)
    _choose_spin(team, load(segment + 16))
    store(team + SEGMENT, segment)
    atomic_add(team + EPOCH, 1)
    _wake(team + EPOCH, team + SLEEPERS)
    _share(segment, 0, team)


def _work(team, tid, nt):
    """Serve the team as thread ``tid`` until it is stopped."""
    epoch = 0
    while True:
        spins = load(team + IDLE)
        if _show_core(team, tid) == atomic_load(team + CORES):
            spins = 0
        _await(team + EPOCH, epoch, team + SLEEPERS, spins, 0)
        # The last barrier of a segment holds the caller until we are done: no epoch is missed.
        epoch += 1
        if load(team + STOP) != 0:
            return
        _share(load(team + SEGMENT), tid, team)


def _stop(team, tid, nt):
    """Tell the team's workers to leave; nobody may be running on it."""
    store(team + STOP, 1)
    atomic_add(team + EPOCH, 1)
    wake_all(team + EPOCH)


def _pauses(count, tid, nt):
    """Pause ``count`` times; timed to learn how long a pause takes here."""
    for _ in range(count):
        pause()


def _nothing(args, tid, nt):
    """Do nothing: the cheapest step there is, for measuring overheads."""


RUN_ALONE = make_kernel(_run_alone, "run_alone")
RUN_TEAM = make_kernel(_run_team, "run_team")
WORK = make_kernel(_work, "work")
STOP_TEAM = make_kernel(_stop, "stop")
PAUSES = make_kernel(_pauses, "pauses")
NOTHING = make_kernel(_nothing, "nothing")
