"""numba_cpu > team_words: the words in memory through which the threads of a team share work.

Team, words cache lines apart. ``BUSY``: whether a caller runs a segment on it, which takes turns
with others; ``READY``: whether it has its workers. ``NOW``: number of the phase being run, counted
since the team exists, and in the bits from ``TASKS`` on how many tasks it has (0 between segments).
Whoever is there takes tasks of it: thread ``t`` first those numbered ``t``, ``t + nt`` ..., then
what is left. Claim ``i`` is the number of the latest phase whose task ``i`` was taken, ``DONE``
counts the finished ones, and who finishes the last one begins the next phase. So nobody waits for a
thread that has no core, unless that thread has taken a task; and one that comes late finds out from
``NOW`` where the others are. Such a thread must not look at a segment, which may be gone, before a
claim has succeeded: then the phase cannot end without it.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.atomics import CORE_MASK_WORDS

TASKS = 48  # bits of NOW below the number of tasks
NUMBER = (1 << TASKS) - 1
SLOTS = 4  # the most tasks of a phase, for each thread of the team
NEVER = 2**62  # ticks
NEVER_TOOK = -(2**62)  # ticks of a thread whose share somebody else took, and less than none after

# Byte offsets in the team block: words that different threads write lie 128 bytes apart, because
# processors fetch cache lines in pairs. What describes the running phase lies together.
NOW, TABLE, PHASE, LAST, STEPS, COUNT, CLOCK_AT, MEASURED = 0, 8, 16, 24, 32, 40, 48, 56
DONE, SLEEPERS = 128, 256
# Set when the team starts, except SPIN_NOW: SPIN, or 0 while spinning would be in the way.
STOP, SPIN, IDLE, STEAL, SPIN_NOW, FEWEST = 384, 392, 400, 408, 416, 424
BUSY, READY = 512, 520
# A line for each thread: the core it was last seen on, its number in the system (workers only),
# the ticks that its shares have taken since a segment began that is measured.
# Behind them a line for each claim, then three masks of cores for each thread.
CORES, THREAD, TOOK, LINE = 640, 8, 16, 128
MASK = 8 * CORE_MASK_WORDS
# Instead of a core: nobody has seen the thread yet; it was sent away from ours.
NOWHERE, SOMEWHERE = -1, -2
# Values of BUSY: nobody runs; somebody does; and others may sleep until that has ended.
VACANT, TAKEN, WANTED = 0, 1, 2


def team_bytes(nt: int) -> int:
    """Return the size of the block of a team of ``nt`` threads."""
    return CORES + (LINE * (1 + SLOTS) + 3 * MASK) * nt
