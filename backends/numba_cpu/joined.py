"""Where the parts of a concatenation lie: in its result, written there by whoever makes them.

A concatenation then moves nothing. Networks whose layers append to what came before (DenseNet) join
ever longer lists; a list that begins a longer one takes the first part of the longer one's memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.views import View, ordered, static_shape
from leptonc.ir.core import Kind, Op, Value
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.reduce import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool
from leptonc.ir.kinds.region import Unit
from leptonc.ir.kinds.shape import Concat, Relayout
from leptonc.passes.fusing.units import VIEWS

_POOLS: tuple[type[Kind], ...] = (MaxPool, AvgPool, AdaptiveAvgPool, AdaptiveMaxPool)


@dataclass(frozen=True)
class _Join:
    """A unit that only concatenates: its parts (None: a constant), its result, the axis."""

    parts: tuple[Value | None, ...]
    sizes: tuple[int, ...]
    result: Value
    axis: int

    def begins(self, other: _Join) -> bool:
        """Return whether ``other`` joins the same parts and then some."""
        count = len(self.parts)
        same = self.axis == other.axis and self.parts == other.parts[:count]
        layouts = self.result.type.layout == other.result.type.layout
        return same and layouts and count < len(other.parts) and None not in self.parts


def joined(
    ctx: Lowering,
    ops: Sequence[Op],
    producer: Mapping[Value, Op],
    fixed: Mapping[Value, View],
) -> dict[Value, View]:
    """Return where to write the results of concatenations and of units that make their parts.

    Args:
        ctx: the lowering, which gives memory.
        ops: the units that may join, all sizes ints.
        producer: what makes each value.
        fixed: values whose place is given; a concatenation among them stays there.
    """
    joins = [j for op in ops if (j := _join(op)) is not None]
    places: dict[Value, View] = {}
    chosen: list[tuple[_Join, View]] = []
    for join in reversed(joins):
        view = fixed.get(join.result) or places.get(join.result)
        view = view or _beginning(join, chosen) or _fresh(ctx, join.result)
        places[join.result] = view
        chosen.append((join, view))
        at = 0
        for part, size in zip(join.parts, join.sizes, strict=True):
            free = part is not None and part not in places and part not in fixed
            maker = producer.get(part) if part is not None else None
            if part is not None and free and _writes_anywhere(maker, part, join.result):
                places[part] = view.slice(join.axis, at, at + size)
            at += size
    return places


def _join(op: Op) -> _Join | None:
    """Return what a unit joins, if it does nothing else."""
    body = op.kind.body if isinstance(op.kind, Unit) else None
    if body is None or len(op.results) != 1:
        return None
    work = [o for o in body.ops if not isinstance(o.kind, (Constant, Full))]
    if len(work) != 1 or not isinstance(work[0].kind, Concat):
        return None
    (only,) = work
    outer = dict(zip(body.params, op.operands, strict=True))
    axis = work[0].kind.axis
    sizes = tuple(static_shape(v.type)[axis] for v in only.operands)
    return _Join(tuple(outer.get(v) for v in only.operands), sizes, op.result, axis)


def _beginning(join: _Join, chosen: Sequence[tuple[_Join, View]]) -> View | None:
    """Return the first part of a longer list's memory, if there is such a list."""
    for other, view in chosen:
        if join.begins(other):
            return view.slice(join.axis, 0, sum(join.sizes))
    return None


def _fresh(ctx: Lowering, value: Value) -> View:
    shape = static_shape(value.type)
    order = value.type.layout or tuple(range(len(shape)))
    return ctx.temp(value.type.dtype, shape, ordered(shape, order), value.hint)


def _writes_anywhere(op: Op | None, value: Value, result: Value) -> bool:
    """Return whether ``op``, which makes ``value``, can write it with the strides of ``result``."""
    if op is None or not isinstance(op.kind, Unit) or len(op.results) != 1:
        return False
    same = value.type.dtype is result.type.dtype and value.type.layout == result.type.layout
    body = op.kind.body
    last = body.producer.get(body.returns[0])
    if not same or last is None or isinstance(last.kind, (*VIEWS, Relayout)):
        return False
    if op.kind.pattern == "contract":
        return any(isinstance(o.kind, Conv) for o in body.ops)
    return op.kind.pattern == "chain" or isinstance(last.kind, (Concat, *_POOLS))
