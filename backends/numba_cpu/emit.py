"""From a Schedule to the readable Python module that builds its Program. Needs no compiler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from leptonc.backends.numba_cpu.kernels.base import Native
from leptonc.backends.numba_cpu.schedule import Schedule, Scratch, Slot, Step, TorchStep, UnitInfo
from leptonc.backends.numba_cpu.views import Ref, View

_HEAD = '''"""Schedule of {name}: {steps} steps in {units} units, {threads} thread(s).

Arena {arena} bytes (largest live set {bound}, all of them {total}), constants {consts} bytes. ``p``
collects the program, ``k`` holds the kernels by name.
"""


def build(p, k, torch_step):
    a, c, i, o = p.arena, p.const, p.input, p.output
'''


@dataclass(frozen=True)
class Source:
    """An emitted module: its text, and the Python steps its ``torch_step(n)`` calls refer to."""

    text: str
    torch_steps: tuple[TorchStep, ...]


def emit(schedule: Schedule) -> Source:
    """Return the module of ``schedule``; equal schedules give equal text."""
    parked: list[TorchStep] = []
    lines = list(_lines(schedule, parked))
    return Source("\n".join(lines) + "\n", tuple(parked))


def _lines(schedule: Schedule, parked: list[TorchStep]) -> Iterator[str]:
    yield _HEAD.format(
        name=schedule.name,
        steps=len(schedule.steps),
        units=len(schedule.units),
        threads=schedule.threads,
        arena=schedule.arena_bytes,
        bound=schedule.lower_bound,
        total=schedule.sum_bytes,
        consts=sum(c.nbytes for c in schedule.consts),
    ).rstrip("\n")
    last = -1
    for step in schedule.steps:
        if step.unit != last and step.unit < len(schedule.units):
            last = step.unit
            yield f"    # unit {last}: {_title(schedule.units[last])}"
        if isinstance(step, TorchStep):
            yield f"    # {step.reason}"
            yield _torch_line(schedule, step, len(parked))
            parked.append(step)
        else:
            yield _step_line(schedule, step)


def _title(unit: UnitInfo) -> str:
    where = str(unit.op.origin)
    return f"{unit.name}{f' -- {where}' if where and where != unit.name else ''}".replace("\n", " ")


def _step_line(schedule: Schedule, step: Step) -> str:
    slots = ", ".join(_slot(schedule, s) for s in step.slots)
    flags = (", serial=True" if step.serial else "") + ("" if step.barrier else ", barrier=False")
    return f'    p.step(k["{step.kernel.name}"], {slots}{flags})'


def _torch_line(schedule: Schedule, step: TorchStep, index: int) -> str:
    def refs(views: tuple[View, ...]) -> str:
        return "[" + ", ".join(_ref(schedule, v.ref) for v in views) + "]"

    return f"    p.torch_step(torch_step({index}), {refs(step.inputs)}, {refs(step.outputs)})"


def _slot(schedule: Schedule, slot: Slot) -> str:
    if isinstance(slot, Ref):
        return _ref(schedule, slot)
    if isinstance(slot, Native):
        return f'k["{slot.name}"].address'
    if isinstance(slot, float):
        return f'float("{slot!r}")' if slot != slot or abs(slot) == float("inf") else repr(slot)
    assert not isinstance(slot, Scratch)  # it has its place by now
    return repr(int(slot))


def _ref(schedule: Schedule, ref: Ref) -> str:
    b, at = ref.buffer, ref.byte_offset
    if b.space == "arena":
        return f"a({schedule.offsets[b] + at})"
    if b.space == "const":
        return f'c("{b.index}", {at})' if at else f'c("{b.index}")'
    index = len(schedule.outputs) if b.space == "status" else b.index
    letter = "i" if b.space == "input" else "o"
    return f"{letter}({index}, {at})" if at else f"{letter}({index})"
