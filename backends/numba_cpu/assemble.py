"""From a Schedule straight to a Program: what the emitted text builds, without the text.

A new set of sizes is bound between two calls of a user; writing and compiling a module would take
as long as everything else. A test holds both roads to the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from leptonc.backends.numba_cpu import native
from leptonc.backends.numba_cpu.context import ARENA, CONST, IO, Slot, Step, TorchStep
from leptonc.backends.numba_cpu.executor import Program
from leptonc.backends.numba_cpu.kernels.base import Native
from leptonc.backends.numba_cpu.schedule import Schedule
from leptonc.backends.numba_cpu.schedule import TorchStep as PlannedTorchStep
from leptonc.backends.numba_cpu.views import Buffer, Ref

TorchCall = Callable[[PlannedTorchStep], Callable[..., None]]


def assemble(schedule: Schedule, program: Program, torch_call: TorchCall) -> None:
    """Add every step of ``schedule`` to ``program``."""
    place = _Placer(schedule, program)
    for step in schedule.steps:
        if isinstance(step, PlannedTorchStep):
            inputs = tuple([place.ref(v.ref) for v in step.inputs])
            outputs = tuple([place.ref(v.ref) for v in step.outputs])
            program.steps.append(TorchStep(torch_call(step), inputs, outputs))
        else:
            flags = native.SERIAL * step.serial | native.NO_BARRIER * (not step.barrier)
            slots = tuple([s if type(s) is int else place.slot(s) for s in step.slots])
            program.steps.append(Step(step.kernel, slots, flags))


class _Placer:
    """Turns slots of a schedule into slots of a program."""

    def __init__(self, schedule: Schedule, program: Program) -> None:
        self.offsets: Mapping[Buffer, int] = schedule.offsets
        self.first_output, self.status = program.inputs, program.inputs + len(schedule.outputs)

    def slot(self, s: Any) -> int | float | Slot:
        """Return one word of a record."""
        if isinstance(s, Ref):
            return self.ref(s)
        if isinstance(s, Native):
            return s.address
        return s if isinstance(s, float) else int(s)

    def ref(self, r: Ref) -> Slot:
        """Return an address."""
        buffer, at = r.buffer, r.byte_offset
        if buffer.space == "arena":
            return Slot(ARENA, 0, self.offsets[buffer] + at)
        if buffer.space == "const":
            return Slot(CONST, str(buffer.index), at)
        if buffer.space == "input":
            return Slot(IO, buffer.index, at)
        index = self.status if buffer.space == "status" else self.first_output + buffer.index
        return Slot(IO, index, at)
