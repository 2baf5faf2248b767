"""numba_cpu > batch: which stretches of a program run part by part of the batch, to stay in cache.

A batch of eight images makes intermediate values that no cache holds; one image after another, each
through many units, makes values that it does. ``plan`` finds stretches of units whose results
depend, slice by slice of the leading axis, on the same slices of their operands, and chooses into
how many parts each stretch is cut. Pure analysis: :mod:`scheduler` lowers the parts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from leptonc.backends.numba_cpu.sliceable import Part, part_of
from leptonc.cost.flops import known, nbytes, unit_cost
from leptonc.ir.core import Op, Value
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.region import Unit
from leptonc.runtime.caches import Caches

MAX_PARTS = 16  # every part is a copy of the stretch's steps
L3_GBS, MEMORY_GBS = 80.0, 25.0  # what a core moves, reads and writes mixed
STEP_US = 1.0  # a step's barrier, tables and record
FLOP_PER_US = 150_000.0
ROWS = 4  # that a register tile holds at least


@dataclass(frozen=True)
class Stretch:
    """Units ``first:stop`` that run in ``parts`` equal parts of the leading axis, one by one."""

    first: int
    stop: int
    parts: int
    units: tuple[Part, ...] = ()

    def part_ops(self) -> tuple[list[Op], dict[Value, Value]]:
        """Return the ops that compute one part, and the part of each value that they cut."""
        small: dict[Value, Value] = {}
        ops: list[Op] = []
        for unit in self.units:
            reads = zip(unit.whole.operands, unit.op.operands, unit.sliced, strict=True)
            operands = tuple(small.setdefault(v, p) if cut else v for v, p, cut in reads)
            small.update(zip(unit.whole.results, unit.op.results, strict=True))
            ops.append(replace(unit.op, operands=operands))
        return ops, small


def plan(
    ops: Sequence[Op], returns: Collection[Value], caches: Caches, fixed: Collection[str] = ()
) -> list[Stretch]:
    """Return the stretches that ``ops`` fall into, in order; those of one part run as they are.

    Args:
        ops: the units of a static program.
        returns: what the program returns.
        caches: sizes of the machine's caches.
        fixed: names of units that must run as they are.
    """
    whole = [Stretch(0, len(ops), 1)] if ops else []
    batch = _batch(ops)
    counts = [t for t in range(2, min(batch, MAX_PARTS) + 1) if batch % t == 0]
    if not counts or sum(_moved(op) for op in ops) < caches.l2:
        return whole
    parts: dict[int, list[Part | None]] = {}
    for t in counts:
        parts[t] = [None if _name(op) in fixed else part_of(op, t) for op in ops]
    chosen = _choose(ops, parts, caches)
    return _stretches(ops, returns, chosen, parts)


def _batch(ops: Sequence[Op]) -> int:
    """Return the leading size that most contractions share, 1 if there is none."""
    sizes = [
        int(op.operands[0].type.shape[0])
        for op in ops
        if op.operands and _weights(op) and op.operands[0].type.rank > 1
    ]
    return max(set(sizes), key=sizes.count) if sizes else 1


def _name(op: Op) -> str:
    return op.kind.name if isinstance(op.kind, Unit) else ""


def _moved(op: Op) -> int:
    return known(nbytes((*op.operands, *op.results)))


def _weights(op: Op) -> int:
    assert isinstance(op.kind, Unit)
    made = (r for o in op.kind.body.ops if isinstance(o.kind, Constant) for r in o.results)
    return known(nbytes(made))


def _us(nbytes_: float, resident: float, caches: Caches) -> float:
    """Return the microseconds to move bytes of a set of ``resident`` bytes."""
    if resident <= caches.l2 / 2:
        return 0.0
    return nbytes_ / (1e3 * (L3_GBS if resident <= caches.l3 / 2 else MEMORY_GBS))


def _choose(
    ops: Sequence[Op], parts: Mapping[int, Sequence[Part | None]], caches: Caches
) -> list[int]:
    """Return the number of parts of each unit: the cheapest sequence (dynamic programming)."""
    weights, live = sum(map(_weights, ops)), _live_bytes(ops)
    best: dict[int, tuple[float, list[int]]] = {1: (0.0, [])}
    for i, op in enumerate(ops):
        # What lives across a change of parts is stored and read whole.
        change = 2 * _us(live[i], live[i], caches)
        now: dict[int, tuple[float, list[int]]] = {}
        for t in [1, *(t for t, found in parts.items() if found[i] is not None)]:
            reached = ((spent + change * (last != t), last) for last, (spent, _) in best.items())
            cost, before = min(reached)
            now[t] = (cost + _cost(op, t, weights, caches), [*best[before][1], t])
        best = now
    return min(best.values())[1]


def _live_bytes(ops: Sequence[Op]) -> list[int]:
    """Return, before each unit, the bytes of the values made before it and read from it on."""
    last = {v: i for i, op in enumerate(ops) for v in op.operands}
    live = [0] * (len(ops) + 1)
    for i, op in enumerate(ops):
        for v in op.results:
            for j in range(i + 1, last.get(v, i) + 1):
                live[j] += known(nbytes((v,)))
    return live


def _cost(op: Op, parts: int, weights: int, caches: Caches) -> float:
    """Return the estimated microseconds of a unit beyond its arithmetic at full speed."""
    own, moved = _weights(op), _moved(op)
    loads = parts * _us(own, weights, caches)
    idle = known(unit_cost(op).flops) / FLOP_PER_US
    rows = max(1, _rows(op) // parts)
    waste = idle * (-(-rows // ROWS) * ROWS / rows - 1) if own else 0.0
    return _us(moved, moved / parts, caches) + max(loads - idle / 2, 0.0) + waste + parts * STEP_US


def _rows(op: Op) -> int:
    """Return the rows of the product that a unit's result is, channels counted as columns."""
    shape = [int(d) for d in op.results[0].type.shape]
    return max(1, math.prod(shape) // max(1, shape[1] if len(shape) == 4 else shape[-1]))


def _stretches(
    ops: Sequence[Op],
    returns: Collection[Value],
    chosen: Sequence[int],
    parts: Mapping[int, Sequence[Part | None]],
) -> list[Stretch]:
    """Return runs of units of equal parts whose inner values are only read in parts."""
    found: list[Stretch] = []
    for i, t in enumerate(chosen):
        part = parts[t][i] if t > 1 else None
        last = found[-1] if found else None
        if part is None:
            joins = last is not None and last.parts == 1
            found = _grown(found, i, None) if joins else [*found, Stretch(i, i + 1, 1)]
            continue
        joins = last is not None and last.parts == t and _reads_parts(ops, last, part)
        found = _grown(found, i, part) if joins else [*found, Stretch(i, i + 1, t, (part,))]
    # One unit alone gains nothing: what it reads and writes is whole anyway.
    return [s if len(s.units) > 1 else replace(s, parts=1, units=()) for s in found]


def _grown(found: list[Stretch], i: int, part: Part | None) -> list[Stretch]:
    last = found[-1]
    more = (*last.units, part) if part is not None else ()
    return [*found[:-1], replace(last, stop=i + 1, units=more)]


def _reads_parts(ops: Sequence[Op], stretch: Stretch, part: Part) -> bool:
    """Return whether ``part`` reads the stretch's own results slice by slice only."""
    made = {r for op in ops[stretch.first : stretch.stop] for r in op.results}
    reads = zip(part.whole.operands, part.sliced, strict=True)
    return all(sliced for v, sliced in reads if v in made)
