"""numba_cpu > cores: which cores the threads of a team run on: each on one of its own."""

from __future__ import annotations

from leptonc.backends.numba_cpu.atomics import (
    CORE_MASK_WORDS,
    atomic_load,
    atomic_store,
    core_number,
    load,
    read_cores,
    store,
    write_cores,
)
from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.team_words import (
    CORES,
    LINE,
    MASK,
    NOWHERE,
    SLOTS,
    SOMEWHERE,
    SPIN,
    SPIN_NOW,
    THREAD,
)


@inline_njit
def show_core(team, tid):
    """Tell the team which core this thread runs on, and return it."""
    core, place = core_number(tid), team + CORES + LINE * tid
    if atomic_load(place) != core:
        atomic_store(place, core)
    return core


@inline_njit
def _move_away(team, tid, nt, core):
    """Forbid worker ``tid`` to run on ``core``; return whether it may run elsewhere.

    Every other core that it was allowed stays so, and what we forbade before is forgotten. A mask
    that is not the one we gave came from somebody else, and holds.
    """
    found = team + CORES + LINE * nt * (1 + SLOTS) + 3 * MASK * tid
    given, allowed = found + MASK, found + 2 * MASK
    thread = load(team + CORES + LINE * tid + THREAD)
    if core >= 64 * CORE_MASK_WORDS or read_cores(thread, found) != 0:
        return False
    ours, some = True, False
    for i in range(0, MASK, 8):
        ours = ours and load(found + i) == load(given + i)
    for i in range(0, MASK, 8):
        if not ours:
            store(allowed + i, load(found + i))
        forbidden = 1 << (core & 63) if core >> 6 == i >> 3 else 0
        store(given + i, load(allowed + i) & ~forbidden)
        some = some or load(given + i) != 0
    return some and write_cores(thread, given) == 0


@inline_njit
def spread(team, nt):
    """Move workers off the calling thread's core, and let threads spin unless one must stay there.

    A scheduler puts a woken worker beside its waker where other cores do not look idle, as those of
    a virtual machine that have halted: the worker would begin when the call is over.
    """
    core, spins = show_core(team, 0), load(team + SPIN)
    for tid in range(1, nt):
        place = team + CORES + LINE * tid
        seen = atomic_load(place)
        if seen in (core, NOWHERE):
            if _move_away(team, tid, nt, core):
                atomic_store(place, SOMEWHERE)
            elif seen == core:
                spins = 0
    if load(team + SPIN_NOW) != spins:
        store(team + SPIN_NOW, spins)
