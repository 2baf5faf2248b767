"""torch_spmd > schedule: the function of one rank as units between collectives.

A unit is all that can run before the ranks meet next: its ops need nothing of a collective that has
not happened. Collectives keep their order, which is that of every rank.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leptonc.ir.core import Builder, Function, Op, Value
from leptonc.ir.kinds.collective import Collective
from leptonc.ir.kinds.data import Constant


@dataclass(frozen=True, eq=False)
class UnitStep:
    """Ops that a rank runs on its own; ``body`` takes ``inputs`` and returns ``outputs``."""

    name: str
    body: Function
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class MeetStep:
    """One collective."""

    op: Op

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The value that the ranks bring."""
        return self.op.operands

    @property
    def outputs(self) -> tuple[Value, ...]:
        """What they take away."""
        return self.op.results


Step = UnitStep | MeetStep


@dataclass(frozen=True, eq=False)
class Schedule:
    """What one rank does.

    Attributes:
        name: of the model.
        rank: this rank.
        world: how many there are.
        function: the rank's function.
        steps: in order.
        last: for each step the values that nobody reads after it.
    """

    name: str
    rank: int
    world: int
    function: Function
    steps: tuple[Step, ...]
    last: tuple[tuple[Value, ...], ...]

    @property
    def units(self) -> tuple[UnitStep, ...]:
        """The steps that a rank runs on its own."""
        return tuple(s for s in self.steps if isinstance(s, UnitStep))


def schedule(fn: Function, rank: int, world: int) -> Schedule:
    """Return the steps of ``fn``, the function of ``rank``."""
    groups = _grouped(fn)
    count = itertools.count()
    steps = tuple(
        MeetStep(group[0])
        if isinstance(group[0].kind, Collective)
        else _unit(fn, f"unit_{next(count)}", group)
        for group in groups
    )
    return Schedule(fn.name, rank, world, fn, steps, _last_reads(fn, steps))


def _grouped(fn: Function) -> list[list[Op]]:
    """Return the ops in groups: of a unit, or a single collective."""
    level: dict[Value, int] = dict.fromkeys(fn.params, 0)
    meets = [op for op in fn.ops if isinstance(op.kind, Collective)]
    number = {op: i for i, op in enumerate(meets)}
    units: list[list[Op]] = [[] for _ in range(len(meets) + 1)]
    for op in fn.ops:
        ready = max((level[v] for v in op.operands), default=0)
        if op in number:
            level[op.result] = number[op] + 1
        else:
            units[ready].append(op)
            level.update(dict.fromkeys(op.results, ready))
    groups = list[list[Op]]()
    for i, unit in enumerate(_late_constants(units, fn)):
        if unit:
            groups.append(unit)
        if i < len(meets):
            groups.append([meets[i]])
    return groups


def _late_constants(units: Sequence[list[Op]], fn: Function) -> list[list[Op]]:
    """Return the groups with every constant, and what is made of constants, at its readers.

    A group of nothing but constants would be a unit that hands weights to another.
    """
    home = {op: i for i, group in enumerate(units) for op in group}
    made: list[list[Op]] = [[] for _ in units]
    for group in reversed(units):
        for op in reversed(group):
            if not op.operands and not isinstance(op.kind, Collective):
                readers = [home[u] for r in op.results for u in fn.users[r] if u in home]
                if readers and not any(r in fn.returns for r in op.results):
                    home[op] = min(readers)
            made[home[op]].append(op)
    return [list(reversed(group)) for group in made]


def _unit(fn: Function, name: str, ops: Sequence[Op]) -> UnitStep:
    """Return the step of ``ops``; constants that several units read are in each of them."""
    own = {r for op in ops for r in op.results}
    inside = set(ops)
    inputs = dict.fromkeys(v for op in ops for v in op.operands if v not in own)
    constants = [fn.producer[v] for v in inputs if _is_constant(fn, v)]
    inputs = tuple(v for v in inputs if not _is_constant(fn, v))
    outputs = tuple(
        r for op in ops for r in op.results
        if not isinstance(op.kind, Constant)
        and (r in fn.returns or any(u not in inside for u in fn.users[r]))
    )  # fmt: skip
    outputs += tuple(
        r for op in ops for r in op.results if isinstance(op.kind, Constant) and r in fn.returns
    )
    b = Builder(name, params=list(inputs), dims=fn.dims)
    for op in (*constants, *ops):
        b.append(op)
    return UnitStep(name, b.finish(*outputs), inputs, outputs)


def _is_constant(fn: Function, v: Value) -> bool:
    producer = fn.producer.get(v)
    return producer is not None and isinstance(producer.kind, Constant)


def _last_reads(fn: Function, steps: Sequence[Step]) -> tuple[tuple[Value, ...], ...]:
    """Return for each step the values that are read there for the last time."""
    later = set[Value](fn.returns)
    found = list[tuple[Value, ...]]()
    for step in reversed(steps):
        found.append(tuple(v for v in _named(step) if v not in later))
        later.update(step.inputs)
    return tuple(reversed(found))


def _named(step: Step) -> Iterable[Value]:
    return dict.fromkeys((*step.inputs, *step.outputs))
