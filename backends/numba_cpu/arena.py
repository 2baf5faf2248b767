"""numba_cpu > arena: where the buffers of a schedule lie, the scratch of its threads among them.

Scratch of a step may lie wherever no activation does at that step. But a line that one core wrote
as scratch and another as a result travels between them, which takes long where they share no cache:
what a thread keeps all the time is always its own. So as many steps as possible have the scratch of
each thread in the same place: of two threads one end of the arena each, which leaves all between
them to activations; of more, one behind the other from the beginning. Those steps at which the
arena is fullest have it elsewhere if it would be larger else. What is left free lets activations
move to where their writers wrote last (:mod:`owners`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from leptonc.backends.numba_cpu import memory
from leptonc.backends.numba_cpu.owners import Claim, settled
from leptonc.backends.numba_cpu.schedule import Scratch, Slot, Step, TorchStep
from leptonc.backends.numba_cpu.views import Buffer, Ref

SCRATCH = "scratch"  # note of its buffers
SCRATCH_ALIGN = 128  # bytes: strides are whole pairs of cache lines, which are fetched together
ROOM = 1.05  # times the smallest arena: what it may take for the sake of scratch in one place
LEFT_OUT = (0, 2, 8, 24)  # steps more than must be: buffers do not fill an arena without gaps
VARIANTS = 4  # of each order of buffers: such plans are made for every network

Steps = Sequence[Step | TorchStep]
Placed = tuple[Steps, memory.Plan, dict[Buffer, int]]


@dataclass(frozen=True)
class Arena:
    """Steps whose threads' scratch is placed, how long buffers live, whose kept scratch is."""

    steps: Steps
    lives: dict[Buffer, memory.Lifetime]
    owners: dict[Buffer, int]

    @property
    def least(self) -> int:
        """The bytes that no plan can do without."""
        return memory.largest_live_set([*self.lives.values()])

    def planned(self, enough: int = 0, variants: int = memory.VARIANTS) -> memory.Plan:
        """Return where the buffers lie, in their order; see :func:`memory.plan`."""
        return memory.plan([*self.lives.values()], enough=enough, variants=variants)

    def settled(self, plan: memory.Plan, threads: int) -> memory.Plan:
        """Return the plan with buffers moved to where their writers wrote last."""
        claims = [
            Claim(life.bytes, life.first, life.last, self.owners.get(b), b in self.owners)
            for b, life in self.lives.items()
        ]
        return replace(plan, offsets=settled(claims, plan.offsets, plan.total, threads))


def laid_out(steps: Steps, threads: int, near: int, keep: bool = True) -> Placed:
    """Return the steps, their threads' scratch placed, with the plan and where buffers lie.

    The arena takes no more than ``ROOM`` times the bytes that it needs, or ``near`` bytes. Without
    ``keep`` it is of no matter who wrote where: no scratch keeps its place.
    """
    loose = _arena(steps, threads, (), 0)
    if not keep or threads == 1:
        arena, plan = loose, loose.planned()
    else:
        arena, plan = _kept(loose, steps, threads, near)
        plan = arena.settled(plan, threads)
    return arena.steps, plan, dict(zip(arena.lives, plan.offsets, strict=True))


def _kept(loose: Arena, steps: Steps, threads: int, near: int) -> tuple[Arena, memory.Plan]:
    """Return an arena in which as many steps as possible have scratch in one place, and its plan.

    ``loose``: the arena in which none has.
    """
    found, order = loose.planned(), _fullest_first(loose)
    least = -(-found.total // SCRATCH_ALIGN) * SCRATCH_ALIGN
    limit = max(int(ROOM * least), near) // SCRATCH_ALIGN * SCRATCH_ALIGN
    # At both ends of the arena scratch needs no more room than anywhere, of more threads it does.
    first = 0 if threads == 2 else _too_many(steps, threads, order, limit)
    for total, left_out in ((least, first), *((limit, first + n) for n in LEFT_OUT)):
        if left_out < len(order):
            kept = _arena(steps, threads, order[left_out:], total)
            plan = kept.planned(total, VARIANTS)
            if plan.total <= total:
                return kept, plan
    return loose, found


def _fullest_first(arena: Arena) -> list[int]:
    """Return the steps with scratch, those first during which most bytes live."""
    live = [0] * len(arena.steps)
    for life in arena.lives.values():
        for i in range(life.first, life.last + 1):
            live[i] += life.bytes
    own = {i for i, s in enumerate(arena.steps) if any(b.note == SCRATCH for b in s.writes)}
    return sorted(own, key=lambda i: (-live[i], i))


def _too_many(steps: Steps, threads: int, order: Sequence[int], total: int) -> int:
    """Return how many of the steps have to be left out for the others to have room."""
    first, end = 0, len(order)
    while first < end:
        middle = (first + end) // 2
        fits = _arena(steps, threads, order[middle:], total).least <= total
        first, end = (first, middle) if fits else (middle + 1, end)
    return first


def _arena(steps: Steps, threads: int, kept: Collection[int], total: int) -> Arena:
    """Return the steps with scratch, that of the steps ``kept`` in the same place of ``total``."""
    sizes = [_scratch_bytes(s) for s in steps]
    most = max((sizes[i] for i in kept), default=0)
    made: list[Step | TorchStep] = []
    fixed: dict[Buffer, int] = {}
    owners: dict[Buffer, int] = {}
    for i, (step, size) in enumerate(zip(steps, sizes, strict=True)):
        stride, areas = size, (Buffer("arena", size * threads, note=SCRATCH),)
        if i in kept:
            stride = total - size if threads == 2 else most
            areas = tuple(Buffer("arena", size, note=SCRATCH) for _ in range(threads))
            fixed.update({area: t * stride for t, area in enumerate(areas)})
            owners.update({area: t for t, area in enumerate(areas)})
        made.append(_with_scratch(step, areas, stride) if size else step)
    return Arena(made, _lifetimes(made, fixed), owners)


def _scratch_bytes(step: Step | TorchStep) -> int:
    """Return how many bytes of scratch each thread needs in a step."""
    slots = step.slots if isinstance(step, Step) else ()
    most = max((s.byte_offset + s.nbytes for s in slots if isinstance(s, Scratch)), default=0)
    return -(-most // SCRATCH_ALIGN) * SCRATCH_ALIGN


def _with_scratch(step: Step | TorchStep, areas: tuple[Buffer, ...], stride: int) -> Step:
    """Return ``step`` with its threads' scratch in ``areas``, the first thread's in the first."""
    assert isinstance(step, Step)

    def placed(s: Slot) -> Slot:
        if not isinstance(s, Scratch):
            return s
        return stride if s.stride else Ref(areas[0], s.byte_offset)

    return replace(step, slots=tuple(map(placed, step.slots)), writes=(*step.writes, *areas))


def _lifetimes(steps: Steps, fixed: Mapping[Buffer, int]) -> dict[Buffer, memory.Lifetime]:
    """Return from which to which step each buffer lives, and where those lie that are ``fixed``."""
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for i, step in enumerate(steps):
        for b in (*step.reads, *step.writes):
            if b.space == "arena":
                first.setdefault(b, i)
                last[b] = i
    return {b: memory.Lifetime(b.nbytes, first[b], last[b], at=fixed.get(b)) for b in first}
