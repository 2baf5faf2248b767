"""numba_cpu > watch: run a schedule as it lies in memory, and look at what lies there meanwhile.

The program is the schedule's own, arena and all, with calls into Python between its steps and a
barrier behind every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leptonc.backends.numba_cpu.assemble import assemble
from leptonc.backends.numba_cpu.executor import Program
from leptonc.backends.numba_cpu.runtime import ARENA_SLACK, Executable, tensor_of, torch_call
from leptonc.backends.numba_cpu.schedule import Schedule, Step, TorchStep
from leptonc.backends.numba_cpu.views import View
from leptonc.ir.core import Function

_WATCH = Function("watch", (), (), ())


@dataclass(frozen=True)
class Look:
    """Before step ``at``, ``see`` is called with copies of what lies at ``views``."""

    at: int
    views: tuple[View, ...]
    see: Callable[[list[Any]], None]


def watchable(plan: Schedule) -> bool:
    """Return whether what every unit reads and writes are tensors of torch that have a place."""
    views = [v for u in plan.units for r in u.runs for v in (*r.operands, *r.results)]
    return all(
        (v.buffer.space != "arena" or v.buffer in plan.offsets) and min(v.strides, default=0) >= 0
        for v in views
    )


def watched(plan: Schedule, looks: Sequence[Look]) -> Executable:
    """Return the program of a watchable ``plan`` with ``looks``, to be called as the plan's own."""

    def call(step: TorchStep) -> Callable[..., None]:
        if step.body is not _WATCH:
            return torch_call(step)
        see = looks[int(step.note)].see
        return lambda addresses, _: see(
            [tensor_of(a, v).clone() for a, v in zip(addresses, step.inputs, strict=True)]
        )

    due: dict[int, list[TorchStep]] = {}
    for i, look in enumerate(looks):
        due.setdefault(look.at, []).append(TorchStep(_WATCH, look.views, (), 0, "", str(i)))
    steps: list[Step | TorchStep] = []
    for i, step in enumerate(plan.steps):
        steps += [*due.get(i, ()), _waiting(step)]
    steps += due.get(len(plan.steps), ())
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


def _waiting(step: Step | TorchStep) -> Step | TorchStep:
    return replace(step, barrier=True) if isinstance(step, Step) else step
