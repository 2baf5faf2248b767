"""One captured program, optimized, with a native program for each set of input sizes in use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from leptonc import meaning
from leptonc.backends.numba_cpu.emit import emit
from leptonc.backends.numba_cpu.lower.choices import Answer
from leptonc.backends.numba_cpu.lower.code_ranges import ranges_of
from leptonc.backends.numba_cpu.lower.core import ConstPool
from leptonc.backends.numba_cpu.runtime import Executable, load
from leptonc.backends.numba_cpu.scheduler import Options, schedule
from leptonc.bisect import Replay
from leptonc.capture import Captured, CaptureRemark
from leptonc.check import UnitError
from leptonc.cost.flops import function_cost, known
from leptonc.ir.core import Function, Op
from leptonc.ir.kinds.region import TorchOp
from leptonc.ir.specialize import specialize
from leptonc.pipeline import Step
from leptonc.rewrite.trace import Remark
from leptonc.road import Road, make_road

MAX_BINDINGS = 16  # programs kept for different sizes of one specialization
MAX_ARENAS = 256 * 2**20  # bytes of arena that they may hold together (the latest may be larger)
# Below this many operations and bytes (about 25 us on one core) meeting in every phase costs more
# than a second thread saves.
TEAM_WORK = 6_000_000
Sizes = Mapping[str, int]


@dataclass
class Specialization:
    """One captured program, optimized, with a native program for each set of sizes in use.

    Sizes inside the declared ranges share kernels and packed constants: a new set of sizes only
    lays out the arena and fills in records, which takes milliseconds.
    """

    captured: Captured
    function: Function
    stages: Callable[[], tuple[Step, ...]]
    remarks: list[Remark | CaptureRemark]
    threads: int
    precision: str
    pool: ConstPool = field(default_factory=ConstPool)
    retreat: dict[str, str] = field(default_factory=dict[str, str])
    answers: dict[str, Answer] = field(default_factory=dict[str, Answer])
    errors: dict[str, UnitError] = field(default_factory=dict[str, UnitError])
    bindings: OrderedDict[tuple[int, ...], Executable] = field(
        default_factory=OrderedDict[tuple[int, ...], Executable]
    )
    roads: dict[tuple[int, ...], Road] = field(default_factory=dict[tuple[int, ...], Road])
    lock: threading.Lock = field(default_factory=threading.Lock)
    replay: Replay | None = None
    example: tuple[Tensor, ...] | None = None  # operands that it was checked on
    bound: int = 0  # how many programs were laid out so far

    def bind(self, sizes: Sizes) -> Executable:
        """Return the program for ``sizes``; the least recently used ones are dropped."""
        key = self._key(sizes)
        with self.lock:
            found = self.bindings.get(key)
            if found is None:
                found = self.bindings[key] = self.build(specialize(self.function, sizes))
                self.bound += 1
                self._drop_oldest()
            self.bindings.move_to_end(key)
            return found

    def road(self, sizes: Sizes, program: Executable, args: tuple[Any, ...]) -> Road | None:
        """Return the straight road of calls like this one if there is one."""
        key = self._key(sizes)
        with self.lock:
            if key not in self.roads and key in self.bindings:
                made = make_road(self.captured, args, output_types(program), program)
                if made is not None:
                    self.roads[key] = made
            return self.roads.get(key)

    def _key(self, sizes: Sizes) -> tuple[int, ...]:
        return tuple(sizes[d.name] for d in self.function.dims)

    def _drop_oldest(self) -> None:
        """Drop the programs used longest ago while there are too many or they are too large."""
        held = sum(b.schedule.arena_bytes for b in self.bindings.values())
        while len(self.bindings) > 1 and (len(self.bindings) > MAX_BINDINGS or held > MAX_ARENAS):
            key, oldest = self.bindings.popitem(last=False)
            self.roads.pop(key, None)
            held -= oldest.schedule.arena_bytes

    def build(self, fn: Function) -> Executable:
        """Return a native program of ``fn``, which is static and partitioned."""
        plan = schedule(fn, self.pool, self.options(fn))
        # The first program is built from its emitted text; later sizes need not wait for one.
        return load(plan, None if self.bound else emit(plan))

    def options(self, fn: Function) -> Options:
        """Return what steers the lowering of ``fn``, which is static."""
        team = _team(fn, self.threads)
        ranges = ranges_of(fn.ops, {})
        retreat = dict(self.retreat)
        return Options(team, self.precision, retreat, answers=self.answers, ranges=ranges)

    def forget(self) -> None:
        """Drop every laid-out program (after a unit retreated).

        Packed constants go, too: a stored program asks for them in the order of its lowering.
        """
        with self.lock:
            self.pool = ConstPool()
            self.bindings.clear()
            self.roads.clear()


def _team(fn: Function, threads: int) -> int:
    """Return how many threads a static program is worth."""
    if threads == 1:
        return 1
    cost = function_cost(fn)
    return threads if known(cost.flops) + known(cost.bytes) >= TEAM_WORK else 1


def random_op(fn: Function) -> Op | None:
    """Return an op whose result differs from call to call, if there is one: nothing to compare."""
    return next((o for o in fn.ops if isinstance(o.kind, TorchOp) and not o.kind.pure), None)


def run_program(
    program: Executable, inputs: Sequence[Tensor], outputs: Sequence[tuple[tuple[int, ...], Any]]
) -> list[Tensor]:
    """Run on contiguous CPU tensors; ``outputs`` are (shape, torch dtype). Returns new tensors."""
    results = [torch.empty(shape, dtype=dtype) for shape, dtype in outputs]
    program(*[t.data_ptr() for t in inputs], *[t.data_ptr() for t in results])
    return results


def run_marked(
    program: Executable, inputs: Sequence[Tensor], outputs: Sequence[tuple[tuple[int, ...], Any]]
) -> list[Tensor]:
    """Run as :func:`run_program` does; what the program does not write is told by odd values.

    New memory may hold the very numbers that the reference left there.
    """
    results = [torch.full(shape, _odd(dtype), dtype=dtype) for shape, dtype in outputs]
    program(*[t.data_ptr() for t in inputs], *[t.data_ptr() for t in results])
    return results


def _odd(dtype: Any) -> Any:
    """Return a value of ``dtype`` that results rarely have."""
    if dtype is torch.bool:
        return True
    return torch.nan if dtype.is_floating_point or dtype.is_complex else torch.iinfo(dtype).max


def output_types(program: Executable) -> tuple[tuple[tuple[int, ...], Any], ...]:
    """Return shape and torch dtype of every result of a program."""
    return tuple((v.shape, meaning.TORCH_DTYPES[v.dtype]) for v in program.schedule.outputs)
