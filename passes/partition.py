"""``partition``: put every op into exactly one compute unit.

Units that ``fuse`` made stay. Ops that only rename elements (reshape, transpose, expand, slice)
join the unit that reads them when there is just one; a reshape that must copy is a unit of its own.
Constants are copied into every body that reads them, so a unit is self-contained: its operands are
what other units, or the caller, compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import ClassVar

from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.data import Iota
from leptonc.ir.kinds.region import Unit
from leptonc.ir.kinds.shape import Reshape
from leptonc.passes.fusing.axes import Strided
from leptonc.passes.fusing.units import SOURCES, VIEWS, make_unit, outputs_of, pattern_of
from leptonc.pipeline import Pass
from leptonc.rewrite.trace import Trace, named


@dataclass(frozen=True)
class Partition(Pass):
    """Wrap what is in no unit yet; no unit grows beyond ``max_ops`` ops (constants not counted)."""

    max_ops: int = 64
    NAME: ClassVar[str] = "partition"
    ESTABLISHES: ClassVar[frozenset[str]] = frozenset({"partitioned"})

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return ``fn`` as units of different names only; ``fn`` itself if it is that."""
        if all(_is_whole(op, fn) for op in fn.ops):
            apart = _named_apart(fn.ops)
            same = all(a is b for a, b in zip(apart, fn.ops, strict=True))
            return fn if same else Function(fn.name, fn.params, apart, fn.returns, fn.dims)
        copies = _copying_reshapes(fn)
        for op in fn.ops:
            if id(op) in copies:
                trace.missed(op, "its elements are copied: what it reads lies in another order")
        members = _assign(fn, copies, self.max_ops, trace)
        returned = set(fn.returns)
        ops: list[Op] = []
        for op in fn.ops:
            inside = members.get(id(op))
            if inside is None:
                continue
            if len(inside) == 1 and _is_whole(op, fn):
                ops.append(op)
                continue
            outputs = outputs_of(inside, fn, returned)
            pattern = _pattern(op, id(op) in copies)
            name = op.kind.name if isinstance(op.kind, Unit) else ""
            ops.append(make_unit(inside, outputs, fn.producer, fn.dims, pattern, name))
        trace.note(fn.name, f"{len(fn.ops)} ops in {len(ops)} units")
        return Function(fn.name, fn.params, _named_apart(ops), fn.returns, fn.dims)


def _named_apart(ops: Sequence[Op]) -> tuple[Op, ...]:
    """Return ``ops`` with units that share a name numbered from the second on: ``add``, ``add#2``.

    Remarks, errors and retreats go by the name of a unit.
    """
    taken = {op.kind.name for op in ops if isinstance(op.kind, Unit)}
    seen: set[str] = set()
    made: list[Op] = []
    for op in ops:
        if isinstance(op.kind, Unit) and op.kind.name in seen:
            numbered = (f"{op.kind.name}#{n}" for n in count(2))
            name = next(n for n in numbered if n not in taken)
            taken.add(name)
            op = replace(op, kind=replace(op.kind, name=name))
        if isinstance(op.kind, Unit):
            seen.add(op.kind.name)
        made.append(op)
    return tuple(made)


def _is_whole(op: Op, fn: Function) -> bool:
    """Return whether ``op`` is a unit that reads no constant from outside."""
    return isinstance(op.kind, Unit) and not any(
        isinstance(maker.kind, SOURCES)
        for v in op.operands
        if (maker := fn.producer.get(v)) is not None
    )


def _pattern(root: Op, copies: bool) -> str:
    if copies:
        return "copy"
    return "view" if isinstance(root.kind, VIEWS) else pattern_of(root)


def _joins(op: Op, copies: set[int]) -> bool:
    return isinstance(op.kind, (*VIEWS, Iota)) and id(op) not in copies


def _assign(fn: Function, copies: set[int], max_ops: int, trace: Trace) -> dict[int, list[Op]]:
    """Return, by the id of each unit's last op, the ops of the unit in order."""
    returned = set(fn.returns)
    root: dict[int, Op] = {}
    members: dict[int, list[Op]] = {}
    size: dict[int, int] = {}
    for op in reversed(fn.ops):
        if isinstance(op.kind, SOURCES) and not any(r in returned for r in op.results):
            continue  # copied into its readers
        home = op
        if _joins(op, copies) and not any(r in returned for r in op.results):
            homes = {id(root[id(u)]): root[id(u)] for r in op.results for u in fn.users[r]}
            if len(homes) == 1:
                (only,) = homes.values()
                home = only if size[id(only)] < max_ops else op
                if home is op and max_ops > 1:
                    reason = f"the unit of {named(only)} has {max_ops} ops already"
                    trace.missed(op, f"a unit of its own: {reason}")
        root[id(op)] = home
        members.setdefault(id(home), []).append(op)
        size[id(home)] = size.get(id(home), 0) + _count(op)
    return {key: ops[::-1] for key, ops in members.items()}


def _count(op: Op) -> int:
    if not isinstance(op.kind, Unit):
        return 1
    return sum(not isinstance(o.kind, SOURCES) for o in op.kind.body.ops)


def _copying_reshapes(fn: Function) -> set[int]:
    """Return the ids of the reshapes that no strides can express on what they read."""
    strided: dict[Value, Strided] = {}
    found: set[int] = set()
    for op in fn.ops:
        if not isinstance(op.kind, VIEWS):
            continue
        (x,) = op.operands
        if not isinstance(op.kind, Reshape) and not _reshaped_later(op, fn):
            continue
        before = strided.get(x) or Strided.dense(x.type)
        after = before.view(op.kind, op.result.type)
        if after is None:
            found.add(id(op))
            after = Strided.dense(op.result.type)
        strided[op.result] = after
    return found


def _reshaped_later(op: Op, fn: Function) -> bool:
    """Return whether a view's strides matter: some view reads it."""
    return any(isinstance(u.kind, VIEWS) for u in fn.users[op.result])
