"""Where scratch lies: each thread has its own at every step, in the same place if there is room."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonc.backends.numba_cpu import memory
from leptonc.backends.numba_cpu.arena import ROOM, SCRATCH, SCRATCH_ALIGN, laid_out
from leptonc.backends.numba_cpu.peak import read_all
from leptonc.backends.numba_cpu.schedule import Scratch, Step
from leptonc.backends.numba_cpu.views import Buffer, Ref

KIB = 1 << 10


def chain(*sizes: tuple[int, int]) -> list[Step]:
    """Return steps that read what the one before wrote: bytes that each writes, of scratch."""
    before, made = Buffer("input", 0, 0), list[Step]()
    for out, scratch in sizes:
        result = Buffer("arena", out)
        slots = (Scratch(0, scratch), Scratch(0, scratch, stride=True)) if scratch else ()
        made.append(Step(read_all, (Ref(before), Ref(result), *slots), (before,), (result,), 0))
        before = result
    return made


def areas_of(step: Step, offsets: dict[Buffer, int], threads: int) -> list[range]:
    """Return the bytes of the arena that are each thread's scratch, as its record says."""
    found = [i for i, s in enumerate(step.slots) if isinstance(s, Ref) and s.buffer.note == SCRATCH]
    if not found:
        return []
    (i,) = found
    at, stride = step.slots[i], step.slots[i + 1]
    assert isinstance(at, Ref) and isinstance(stride, int)
    declared = [b for b in step.writes if b.note == SCRATCH]
    size = declared[0].nbytes // (1 if len(declared) > 1 else threads)
    begins = [offsets[at.buffer] + at.byte_offset + t * stride for t in range(threads)]
    held = {x for b in declared for x in range(offsets[b], offsets[b] + b.nbytes, SCRATCH_ALIGN)}
    assert held == {x for b in begins for x in range(b, b + size, SCRATCH_ALIGN)}
    return [range(b, b + size) for b in begins]


def kept(steps: Sequence[Step], offsets: dict[Buffer, int], threads: int, total: int) -> list[bool]:
    """Return which of the steps with scratch have it where thread 0's and 1's always is."""
    found = [areas_of(s, offsets, threads) for s in steps]
    if threads == 2:
        return [a[0].start == 0 and a[1].stop == total for a in found if a]
    strides = [a[1].start for a in found if a and a[0].start == 0]
    most = max(strides, default=-1)
    return [a[0].start == 0 and a[1].start == most for a in found if a]


@given(
    sizes=st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 2000)), max_size=12),
    threads=st.integers(1, 4), near=st.sampled_from([0, 0, 20000]), keep=st.booleans(),
)  # fmt: skip
def test_every_thread_has_scratch_of_its_own(sizes, threads, near, keep):
    """Beside all that lives at the step, aligned, as much as it asked for, within the arena."""
    tight = laid_out(chain(*sizes), threads, 0, keep=False)[1]
    steps, plan, offsets = laid_out(chain(*sizes), threads, near, keep=keep)
    assert plan.total <= max(ROOM * (tight.total + SCRATCH_ALIGN), near)
    for i, (step, (_, asked)) in enumerate(zip(steps, sizes, strict=True)):
        areas = areas_of(step, offsets, threads)
        assert bool(areas) == bool(asked)
        assert all(len(a) >= asked for a in areas)
        live = [b for s in steps[i : i + 2] for b in s.reads if b.space == "arena"]
        live += [b for b in step.writes if b.note != SCRATCH]
        taken = [range(offsets[b], offsets[b] + b.nbytes) for b in {*live}] + areas
        taken.sort(key=lambda r: r.start)
        for low, high in itertools.pairwise(taken):
            assert low.stop <= high.start
        assert not taken or taken[-1].stop <= plan.total


def test_of_two_threads_each_keeps_an_end_of_the_smallest_arena():
    sizes = [(512 * KIB, 8 * KIB), (256 * KIB, 64 * KIB), (64 * KIB, 48 * KIB), (16 * KIB, 1000)]
    tight = laid_out(chain(*sizes), 2, 0, keep=False)[1]
    steps, plan, offsets = laid_out(chain(*sizes), 2, 0)
    assert plan.total == tight.total == tight.lower_bound
    assert kept(steps, offsets, 2, plan.total) == [True] * 4


def test_of_more_threads_the_fullest_steps_have_it_elsewhere():
    """What the first step writes and the second reads has no room behind all that the third has."""
    sizes = [(512 * KIB, 8 * KIB), (256 * KIB, 8 * KIB), (64 * KIB, 64 * KIB), (16 * KIB, 1000)]
    tight = laid_out(chain(*sizes), 3, 0, keep=False)[1]
    steps, plan, offsets = laid_out(chain(*sizes), 3, 0)
    assert plan.total <= ROOM * tight.total
    assert kept(steps, offsets, 3, plan.total) == [False, False, True, True]
    near = int(1.5 * tight.total)
    steps, plan, offsets = laid_out(chain(*sizes), 3, near)
    assert tight.total < plan.total <= near
    assert kept(steps, offsets, 3, plan.total) == [True] * 4


@pytest.mark.parametrize(("threads", "keep"), [(1, True), (2, False)])
def test_scratch_that_nobody_keeps_lies_in_one_piece(threads, keep):
    steps, _, offsets = laid_out(chain((KIB, 64 * KIB), (KIB, 128)), threads, 1 << 30, keep=keep)
    for step, size in zip(steps, (64 * KIB, 128), strict=True):
        (area,) = (b for b in step.writes if b.note == SCRATCH)
        assert area.nbytes == threads * size
        assert step.slots[-1] == size
    assert len(offsets) == 4


def test_the_largest_live_set_of_a_chain():
    assert memory.largest_live_set([memory.Lifetime(100, i, i + 1) for i in range(3)]) == 256
