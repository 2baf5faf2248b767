"""A simulated scheduler: runs a program's native tasks one share at a time, in any legal order.

It reads the very tables that the native loops run (segments, phases, tasks, records), patches the
addresses of a call into them, and calls the kernels through their ABI. Within a phase every task
may run at any time and by any thread, a task being one share of a step or a row of serial steps;
so a *legal order* is any merge of a phase's tasks, phase after phase.

Two things go beyond running. Memory that nothing living lies in is poisoned before each phase, so
that a stale or early read shows in the results. And every task first runs alone on the memory as
it was when the phase began: what it wrote must lie in what its step declares, no two tasks may
write one byte, and all of them together must give what they give one after another. Then no order,
however fine its interleaving, gives other bits.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from leptonc.backends.numba_cpu import native
from leptonc.backends.numba_cpu.arena import SCRATCH
from leptonc.backends.numba_cpu.context import array_at
from leptonc.backends.numba_cpu.executor import Program
from leptonc.backends.numba_cpu.lower.core import STATUS_WORDS
from leptonc.backends.numba_cpu.runtime import ARENA_SLACK
from leptonc.backends.numba_cpu.schedule import Schedule
from leptonc.backends.numba_cpu.views import Buffer
from tests.backends.numba_cpu.harness import some_cuts

POISON = 0xFF  # as floats of any width these bytes are NaN, as integers -1
_CALL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)
Order = Callable[[int], int]  # picks one of n


@dataclass(frozen=True)
class Call:
    """One kernel call of a task: step ``step`` of the program as share ``share`` of ``shares``."""

    step: int
    kernel: int
    record: int
    share: int
    shares: int
    cuts: int

    def __call__(self) -> None:
        """Run it."""
        _CALL(self.kernel)(self.record, self.share, self.shares, self.cuts)


Phase = list[list[Call]]  # its tasks, each a row of calls


def _words(address: int, count: int) -> list[int]:
    return array_at(address, (count,), "int64").tolist()


def _phases(segment: int, first: int) -> Iterator[Phase]:
    """Yield the phases of a native segment whose first step is the program's ``first``-th."""
    head = _words(segment, native.SEGMENT_WORDS)
    at, count, table = head[:3]
    for p in range(count):
        tasks, n, _ = _words(at + 8 * native.PHASE_WORDS * p, native.PHASE_WORDS)
        phase: Phase = []
        for t in range(n):
            where = tasks + 8 * native.TASK_WORDS * t
            step, steps, share, shares, at_cuts = _words(where, native.TASK_WORDS)
            rows = range(step, step + 8 * native.STEP_WORDS * steps, 8 * native.STEP_WORDS)
            phase.append(
                [
                    Call(
                        first + (r - table) // (8 * native.STEP_WORDS),
                        *_words(r, native.STEP_WORDS),
                        share,
                        shares,
                        *_words(at_cuts, 1),
                    )
                    for r in rows
                ]
            )
        yield phase


def _shared(phase: Phase, cuts: np.ndarray | int) -> Phase:
    """Return the phase with other cuts between its shares."""
    at = 0 if isinstance(cuts, int) else cuts.ctypes.data
    return [[replace(c, cuts=at if c.shares > 1 else 0) for c in task] for task in phase]


def _patch(segment: int) -> None:
    """Write the call's addresses into the records, as the native loop does first."""
    patches, count, io = _words(segment, 6)[3:]
    for i in range(count):
        slot, index, offset = _words(patches + 8 * native.PATCH_WORDS * i, native.PATCH_WORDS)
        array_at(slot, (1,), "int64")[0] = _words(io + 8 * index, 1)[0] + offset


class Region:
    """Memory that a task may write: its bytes, and the changes that a task made to them."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.bytes = array_at(address, (nbytes,), "uint8")
        self.kept = self.bytes.copy()

    def keep(self) -> None:
        self.kept = self.bytes.copy()

    def restore(self) -> None:
        self.bytes[:] = self.kept

    def changed(self) -> np.ndarray:
        """Return the indices of bytes that differ from those kept."""
        return np.flatnonzero(self.bytes != self.kept)


class Simulation:
    """One call of a scheduled program, its phases under the reader's control.

    Args:
        schedule: what the program was made from.
        program: the loaded program.
        args: contiguous inputs.
        results: tensors for the outputs.

    Attributes:
        shared: how many phases several tasks wrote something in.
    """

    def __init__(
        self,
        schedule: Schedule,
        program: Program,
        args: Sequence[Tensor],
        results: Sequence[Tensor],
    ) -> None:
        self.schedule, self.context = schedule, program._context()
        self.threads, self.shared = program.threads, 0
        ctx = self.context
        self._status = np.zeros(STATUS_WORDS, np.int64)
        more = [self._status.ctypes.data] * bool(schedule.errors)
        addresses = [*(t.data_ptr() for t in (*args, *results)), *more]
        ctx._pack(ctx._io_bytes, 0, *addresses)
        self.arena = Region(ctx._arena.ctypes.data, schedule.arena_bytes + ARENA_SLACK)
        self.outputs = [Region(t.data_ptr(), t.nbytes) for t in results]
        self.first, self.last = lifetimes(schedule)

    # -- memory -----------------------------------------------------------------------------------

    def poison(self, phase: Phase) -> None:
        """Overwrite every byte of the arena that holds nothing when ``phase`` begins."""
        begin = min(call.step for task in phase for call in task)
        held = np.zeros(len(self.arena.bytes), bool)
        for b, at in self.schedule.offsets.items():
            if self.first[b] < begin <= self.last[b]:
                held[at : at + b.nbytes] = True
        self.arena.bytes[~held] = POISON

    def allowed(self, step: int) -> list[np.ndarray]:
        """Return which bytes of the arena and of each output a step declares to write."""
        masks = [np.zeros(len(r.bytes), bool) for r in (self.arena, *self.outputs)]
        for b in self.schedule.steps[step].writes:
            if b.space == "arena":
                at = self.schedule.offsets[b]
                masks[0][at : at + b.nbytes] = True
            elif b.space == "output":
                masks[1 + b.index][:] = True
        return masks

    # -- running ----------------------------------------------------------------------------------

    def run(self, order: Order, *, alone: bool = True) -> None:
        """Run the program; ``order`` decides which task goes on. Raises AssertionError."""
        step = 0
        for part in self.context._parts:
            if not isinstance(part, int):
                self.arena.keep()
                part.call(self.context._now(part.inputs), self.context._now(part.outputs))
                step += 1
                continue
            _patch(part)
            for phase in _phases(part, step):
                self.poison(phase)
                if alone:
                    self._any_order(phase, order)
                else:
                    self._ordered(phase, order)
            step += _words(part, native.SEGMENT_WORDS)[8]

    def _any_order(self, phase: Phase, order: Order) -> None:
        """Run a phase three times: each task alone, in the tables' order, and as drawn.

        The last time it is shared as drawn, too.
        """
        regions = (self.arena, *self.outputs)
        merged = self.alone(phase)
        cuts = some_cuts(self.threads, order(1 << 30))
        for o, tasks in ((orders(0), phase), (order, _shared(phase, cuts))):
            for r in regions:
                r.restore()
            self._ordered(tasks, o)
            for call in (c for task in phase for c in task):  # other cuts use it otherwise
                merged[0][self._scratch(call)] = self.arena.bytes[self._scratch(call)]
            for r, want in zip(regions, merged, strict=True):
                assert np.array_equal(r.bytes, want), f"{self._name(phase)}: order matters"

    def _ordered(self, phase: Phase, order: Order) -> None:
        """Run a phase's tasks merged as ``order`` says, call by call."""
        left = [list(task) for task in phase if task]
        while left:
            at = order(len(left))
            call = left[at].pop(0)
            self.arena.bytes[self._scratch(call)] = POISON
            call()
            if not left[at]:
                del left[at]

    def alone(self, phase: Phase) -> list[np.ndarray]:
        """Run each task alone on memory as it is; return the memory that all make together."""
        regions = (self.arena, *self.outputs)
        for r in regions:
            r.keep()
        merged = [r.bytes.copy() for r in regions]
        written = [np.zeros(len(r.bytes), bool) for r in regions]
        writers = 0
        for task in phase:
            for call in task:
                call()
            self._declared(task)
            writers += any(r.changed().size for r in regions)
            for r, m, w in zip(regions, merged, written, strict=True):
                at = r.changed()
                assert not w[at].any(), f"{self._name(phase)}: two tasks write one byte"
                w[at], m[at] = True, r.bytes[at]
                r.restore()
        self.shared += writers > 1
        return merged

    def _scratch(self, call: Call) -> slice:
        """Return which bytes of the arena are the scratch of a call's share."""
        areas = [b for b in self.schedule.steps[call.step].writes if b.note == SCRATCH]
        if len(areas) > 1:  # one for each thread
            at = self.schedule.offsets[areas[call.share]]
            return slice(at, at + areas[call.share].nbytes)
        for b in areas:
            at, size = self.schedule.offsets[b], b.nbytes // call.shares
            return slice(at + call.share * size, at + (call.share + 1) * size)
        return slice(0)

    def _declared(self, task: list[Call]) -> None:
        masks = [self.allowed(call.step) for call in task]
        for i, r in enumerate((self.arena, *self.outputs)):
            may = np.any([m[i] for m in masks], axis=0)
            beyond = ~may[r.changed()]
            assert not beyond.any(), f"{self._step(task[0].step)}: writes what it does not declare"

    def _step(self, step: int) -> str:
        return f"step {step} ({self.schedule.steps[step].note})"

    def _name(self, phase: Phase) -> str:
        return ", ".join(dict.fromkeys(self._step(c.step) for task in phase for c in task))


def lifetimes(schedule: Schedule) -> tuple[dict[Buffer, int], dict[Buffer, int]]:
    """Return the first and the last step that mentions each arena buffer, records included."""
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for i, step in enumerate(schedule.steps):
        for b in mentioned(step):
            if b.space == "arena":
                first.setdefault(b, i)
                last[b] = i
    return first, last


def mentioned(step) -> set[Buffer]:
    """Return every buffer that a step declares or holds an address of."""
    found = {*step.reads, *step.writes}
    found |= {s.buffer for s in getattr(step, "slots", ()) if hasattr(s, "buffer")}
    return found


def orders(seed: int) -> Order:
    """Return an order by number: 0 the tables' own, 1 the reverse, others drawn."""
    if seed == 0:
        return lambda n: 0
    if seed == 1:
        return lambda n: n - 1
    return random.Random(seed).randrange
