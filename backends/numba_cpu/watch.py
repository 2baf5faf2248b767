"""numba_cpu > watch: run a schedule as it lies in memory, and see what every unit reads and writes.

The program is the schedule's own, arena and all, with a call into Python before and behind the
steps of each unit, and a barrier behind every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from leptonc.backends.numba_cpu.assemble import assemble
from leptonc.backends.numba_cpu.executor import Program
from leptonc.backends.numba_cpu.runtime import ARENA_SLACK, Executable, tensor_of, torch_call
from leptonc.backends.numba_cpu.schedule import Schedule, Step, TorchStep
from leptonc.backends.numba_cpu.views import View
from leptonc.ir.core import Function

See = Callable[[int, str, list[Any]], None]
BEFORE, BEHIND = "before", "behind"
_WATCH = Function("watch", (), (), ())


def watchable(plan: Schedule) -> bool:
    """Return whether every unit runs once and what it reads and writes are tensors of torch."""
    views = [v for u in plan.units for v in (*u.operands, *u.results)]
    placed = all(v.buffer.space != "arena" or v.buffer in plan.offsets for v in views)
    return placed and all(
        u.parts == 1 and all(min(v.strides, default=0) >= 0 for v in (*u.operands, *u.results))
        for u in plan.units
    )


def watched(plan: Schedule, see: See) -> Executable:
    """Return the program of a watchable ``plan``, to be called as the plan's own.

    ``see(unit, BEFORE, copies of its operands)`` and ``see(unit, BEHIND, copies of its results)``
    are called for each unit.
    """

    def call(step: TorchStep) -> Callable[..., None]:
        if step.body is not _WATCH:
            return torch_call(step)

        def look(addresses: Sequence[int], _: Sequence[int]) -> None:
            pairs = zip(addresses, step.inputs, strict=True)
            see(step.unit, step.note, [tensor_of(a, v).clone() for a, v in pairs])

        return look

    steps: list[Step | TorchStep] = []
    for i, unit in enumerate(plan.units):
        steps.append(_look(i, BEFORE, unit.operands))
        steps += [_waiting(s) for s in plan.steps if s.unit == i]
        steps.append(_look(i, BEHIND, unit.results))
    steps += [_waiting(s) for s in plan.steps if s.unit >= len(plan.units)]
    made = replace(plan, steps=tuple(steps))
    program = Program(
        threads=plan.threads,
        arena_bytes=plan.arena_bytes + ARENA_SLACK,
        constants={str(i): a for i, a in enumerate(plan.consts)},
        inputs=len(plan.inputs),
        outputs=len(plan.outputs) + bool(plan.errors),
    )
    assemble(made, program, call)
    return Executable(made, program)


def _look(unit: int, when: str, views: tuple[View, ...]) -> TorchStep:
    return TorchStep(_WATCH, views, (), unit, "", when)


def _waiting(step: Step | TorchStep) -> Step | TorchStep:
    return replace(step, barrier=True) if isinstance(step, Step) else step
