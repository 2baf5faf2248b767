"""numba_cpu > collective: the exchange between ranks through memory that they share, natively.

Every collective is *rounds* of three steps: a rank packs its next bytes into its slot, says so,
and once all ranks have said so takes what it wants from their slots: moves it, or combines it.
There are two slots for each rank, used in turn, which saves the second wait: who begins round
``k + 1`` has seen everybody in round ``k``, so nobody reads round ``k - 1`` any more.

Segment, shared, zero at first. Byte ``ABORT``: 1 + the number of a rank that gave up. From
``RANKS`` on a line for each rank: the number of the round it has posted, for rounds of either
parity what it is doing, which must be the same everywhere, and how many sleep until it posts.
From ``data_offset`` on the slots.

State, a rank's own, 64-bit words: see the constants from ``SEGMENT`` on. Plan, 64-bit words, the
same for every call of one form::

    0 state  1 source  2 target  3 fingerprint  4 rounds  5 parts of a slot  6 bytes of a part
    7 combining kernel or 0  8 its record  9.. blocks sent [parts], blocks received [world]

With one part everybody takes the same bytes, with ``world`` parts rank ``r`` takes part ``r``. A
block is where a part's bytes lie in the source or target, ``BLOCK_WORDS`` words: offset, bytes,
bytes of a row, distance of rows. A combining kernel's record: target, elements, number of sources,
their addresses.
"""

from __future__ import annotations

from collections.abc import Callable

from leptonc.backends.numba_cpu.atomics import (
    atomic_add,
    atomic_cas,
    atomic_load,
    atomic_store,
    invoke,
    load,
    pause,
    stamp,
    store,
    wait_shared,
    wake_shared,
)
from leptonc.backends.numba_cpu.kernels.base import (
    Kernel,
    factory,
    inline_njit,
    kernel,
    make_kernel,
)
from leptonc.backends.numba_cpu.kernels.ew_loop import copy_bytes
from leptonc.backends.numba_cpu.kernels.vec import (
    ldd,
    ldf,
    ldi8,
    ldi16,
    ldi32,
    ldi64,
    ldu8,
    std,
    stf,
    sti8,
    sti16,
    sti32,
    sti64,
    stu8,
)

ABORT, RANKS, LINE = 0, 128, 128  # byte offsets in a segment; bytes of a line
# Byte offsets in a rank's line; DOING has a word for either parity.
POSTED, DOING, SLEEPERS = 0, 8, 64

# Words of a state.
SEGMENT, RANK, WORLD, ROUND, SLOT_BYTES, PAUSES, PATIENCE_NS, STATUS, CULPRIT = range(9)
# Two words each: scratch for the clock; seconds and nanoseconds of a sleep, after which a rank
# looks whether waiting is of any use still.
CLOCK, SLEEP, STATE_WORDS = 9, 11, 13
SLEEP_NS = 5_000_000

# Values of STATUS; CULPRIT is the rank that it is about.
FINE, ABORTED, LATE, MISMATCH = range(4)

PLAN_WORDS, BLOCK_WORDS = 9, 4
SOURCE, TARGET = 1, 2  # words of a plan that every call sets
COMBINE_WORDS = 3  # of a combining kernel's record, before the addresses
_PAGE = 4096
_NS = 1_000_000_000


def data_offset(world: int) -> int:
    """Return the offset in bytes of the slots in a segment for ``world`` ranks."""
    return -(-(RANKS + LINE * world) // _PAGE) * _PAGE


def segment_bytes(world: int, slot_bytes: int) -> int:
    """Return the size of a segment for ``world`` ranks with slots of ``slot_bytes`` bytes."""
    return data_offset(world) + 2 * world * slot_bytes


@inline_njit
def _pack(to, base, block, begin, count):
    """Copy ``count`` bytes from byte ``begin`` of a block on to dense memory."""
    start, width, step = base + load(block), load(block + 16), load(block + 24)
    row = begin // width
    column = begin - row * width
    while count > 0:
        n = min(width - column, count)
        copy_bytes(to, start + row * step + column, n)
        to += n
        count -= n
        row += 1
        column = 0


@inline_njit
def _unpack(source, base, block, begin, count):
    """Copy ``count`` bytes of dense memory to where byte ``begin`` of a block and others lie."""
    start, width, step = base + load(block), load(block + 16), load(block + 24)
    row = begin // width
    column = begin - row * width
    while count > 0:
        n = min(width - column, count)
        copy_bytes(start + row * step + column, source, n)
        source += n
        count -= n
        row += 1
        column = 0


@inline_njit
def _now(state):
    """Return the monotonic clock in nanoseconds."""
    clock = state + 8 * CLOCK
    stamp(clock)
    return load(clock) * _NS + load(clock + 8)


@inline_njit
def _give_up(state, status, culprit):
    """Note why an exchange ended early."""
    store(state + 8 * STATUS, status)
    store(state + 8 * CULPRIT, culprit)


@inline_njit
def _patiently(state, rank, line, number):
    """Sleep until a rank that is late comes; return whether it did.

    Giving the core away instead would cost a whole time slice where others want it.
    """
    abort, word = load(state + 8 * SEGMENT) + ABORT, line + POSTED
    end = _now(state) + load(state + 8 * PATIENCE_NS)
    while True:
        seen = atomic_load(word)
        if seen >= number:
            return True
        gone = atomic_load(abort)
        if gone != 0:
            _give_up(state, ABORTED, gone - 1)
            return False
        if _now(state) > end:
            _give_up(state, LATE, rank)
            return False
        # A sleeper says so before it looks at the word, a poster changes the word before it looks
        # who sleeps: one of the two always sees the other.
        atomic_add(line + SLEEPERS, 1)
        if atomic_load(word) == seen:
            wait_shared(word, seen, state + 8 * SLEEP)
        atomic_add(line + SLEEPERS, -1)


@inline_njit
def _meet(state, number, doing):
    """Wait until every rank has posted round ``number``; return whether all do the same."""
    segment, world = load(state + 8 * SEGMENT), load(state + 8 * WORLD)
    for rank in range(world):
        line = segment + RANKS + LINE * rank
        spins = load(state + 8 * PAUSES)
        while atomic_load(line + POSTED) < number and spins > 0:
            spins -= 1
            pause()
        if spins == 0 and not _patiently(state, rank, line, number):
            return False
        if load(line + DOING + 8 * (number & 1)) != doing:
            _give_up(state, MISMATCH, rank)
            return False
    return True


@inline_njit
def _combine(plan, slots, slot_bytes, world, begin, count):
    """Combine ``count`` bytes of all slots into the target from byte ``begin`` on."""
    record = load(plan + 64)
    store(record, load(plan + 8 * TARGET) + begin)
    store(record + 8, count)
    for rank in range(world):
        store(record + 8 * (COMBINE_WORDS + rank), slots + rank * slot_bytes)
    invoke(load(plan + 56), record, 0, 1, 0)


@inline_njit
def _take(plan, state, slots, turn):
    """Take what this rank wants of all slots in a round."""
    rank, world = load(state + 8 * RANK), load(state + 8 * WORLD)
    slot_bytes, parts, piece = load(state + 8 * SLOT_BYTES), load(plan + 40), load(plan + 48)
    begin = turn * piece
    if parts > 1:
        slots += rank * piece
    block = plan + 8 * (PLAN_WORDS + BLOCK_WORDS * parts)
    if load(plan + 56) != 0:
        count = min(piece, load(block + 8) - begin)
        if count > 0:
            _combine(plan, slots, slot_bytes, world, begin, count)
        return
    for source in range(world):
        count = min(piece, load(block + 8) - begin)
        if count > 0:
            _unpack(slots + source * slot_bytes, load(plan + 8 * TARGET), block, begin, count)
        block += 8 * BLOCK_WORDS


@inline_njit
def _give(plan, slot, turn):
    """Put what the others want of this rank in a round into its slot."""
    parts, piece = load(plan + 40), load(plan + 48)
    begin = turn * piece
    block = plan + 8 * PLAN_WORDS
    for part in range(parts):
        count = min(piece, load(block + 8) - begin)
        if count > 0:
            _pack(slot + part * piece, load(plan + 8 * SOURCE), block, begin, count)
        block += 8 * BLOCK_WORDS


@kernel
def exchange(args, tid, nt):
    """Run the plan at ``args``; the state's STATUS says how it ended."""
    state, doing = load(args), load(args + 24)
    segment, rank = load(state + 8 * SEGMENT), load(state + 8 * RANK)
    world, slot_bytes = load(state + 8 * WORLD), load(state + 8 * SLOT_BYTES)
    line = segment + RANKS + LINE * rank
    data = segment + -(-(RANKS + LINE * world) // _PAGE) * _PAGE
    for turn in range(load(args + 32)):
        number = load(state + 8 * ROUND) + 1
        store(state + 8 * ROUND, number)
        slots = data + (number & 1) * world * slot_bytes
        _give(args, slots + rank * slot_bytes, turn)
        store(line + DOING + 8 * (number & 1), doing)
        atomic_store(line + POSTED, number)
        if atomic_load(line + SLEEPERS) != 0:
            wake_shared(line + POSTED)
        if not _meet(state, number, doing):
            return
        _take(args, state, slots, turn)


@kernel
def abort(args, tid, nt):
    """Tell everybody on the segment of the state at ``args`` that this rank has given up."""
    atomic_cas(load(args + 8 * SEGMENT) + ABORT, 0, 1 + load(args + 8 * RANK))


@inline_njit
def _sum(a, b):
    return a + b


# What is not a number wins, as in torch.
@inline_njit
def _max(a, b):
    return b if b > a or b != b else a


@inline_njit
def _min(a, b):
    return b if b < a or b != b else a


_JOINS: dict[str, Callable] = {"sum": _sum, "max": _max, "min": _min}
_ACCESS: dict[str, tuple[Callable, Callable]] = {
    "f32": (ldf, stf), "f64": (ldd, std), "i64": (ldi64, sti64), "i32": (ldi32, sti32),
    "i16": (ldi16, sti16), "i8": (ldi8, sti8), "u8": (ldu8, stu8),
}  # fmt: skip
ELEMENT = {"f32": 4, "f64": 8, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u8": 1}


@factory
def combining(op: str, dtype: str) -> Kernel:
    """Return the kernel that combines sources in the order of the ranks.

    Args:
        op: ``"sum"``, ``"max"`` or ``"min"``.
        dtype: a key of ``ELEMENT``.
    """
    join = _JOINS[op]
    read, write = _ACCESS[dtype]
    size = ELEMENT[dtype]

    def body(args, tid, nt):
        target, n, sources = load(args), load(args + 8) // size, load(args + 16)
        first, second = load(args + 24), load(args + 32)
        for i in range(n):
            write(target, i, join(read(first, i), read(second, i)))
        for s in range(2, sources):
            following = load(args + 24 + 8 * s)
            for i in range(n):
                write(target, i, join(read(target, i), read(following, i)))

    return make_kernel(body, "combine", (op, dtype))
