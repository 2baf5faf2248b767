"""Elementwise chains: connected elementwise ops over one shape become one loop."""

from __future__ import annotations

from collections.abc import Mapping

from leptonc.cost.flops import elementwise_flops
from leptonc.errors import InferError
from leptonc.ir.core import Function, Op, Trait, Value
from leptonc.ir.dims import Shape
from leptonc.ir.kinds.base import broadcast
from leptonc.passes.fusing.axes import order_of, same_order
from leptonc.passes.fusing.quotient import Quotient
from leptonc.rewrite.trace import Trace, value_text

_CHEAP = 2  # operations an element: recomputing that much per element beats a pass over memory


def is_elementwise(op: Op) -> bool:
    """Return whether ``op`` can be part of a chain."""
    want = Trait.PURE | Trait.ELEMENTWISE
    return op.kind.traits & want == want and len(op.results) == 1 and bool(op.operands)


def grow_chains(
    fn: Function, quotient: Quotient, taken: Mapping[int, str], max_ops: int, trace: Trace
) -> list[int]:
    """Merge elementwise ops along their edges; return the groups of two ops and more.

    A group has one full shape and order; an op of a smaller shape joins when it is cheap and its
    one reader is in the group, since it is then computed once per element.
    """
    size: dict[int, int] = {}
    chained: dict[int, Op] = {}
    for op in fn.ops:
        if id(op) in taken or not is_elementwise(op):
            continue
        chained[id(op)] = op
        size[quotient.group(op)] = 1
        for v in dict.fromkeys(op.operands):
            maker = fn.producer.get(v)
            if maker is not None and id(maker) in chained:
                _try(op, maker, v, fn, quotient, size, max_ops, trace)
    groups = dict.fromkeys(quotient.group(op) for op in chained.values())
    return [g for g in groups if size[g] > 1]


def _try(
    op: Op,
    maker: Op,
    v: Value,
    fn: Function,
    quotient: Quotient,
    size: dict[int, int],
    max_ops: int,
    trace: Trace,
) -> None:
    mine, its = quotient.group(op), quotient.group(maker)
    if mine == its:
        return
    total = size[mine] + size[its]
    reason = _misfit(op, maker, size[its], fn)
    if reason is None and total > max_ops:
        reason = f"the chain would have more than {max_ops} ops"
    if reason is None and not quotient.merge(maker, op):
        reason = "what lies between would have to run before and after it, or is too long"
    if reason is not None:
        trace.missed(op, f"not in one loop with {value_text(v)}: {reason}")
        return
    del size[mine], size[its]
    size[quotient.group(op)] = total


def _misfit(op: Op, maker: Op, size: int, fn: Function) -> str | None:
    """Return why ``maker``'s group cannot join ``op``'s, or None."""
    x, out = maker.result.type, op.result.type
    if x.shape == out.shape:
        alike = same_order(x.shape, order_of(x), order_of(out))
        return None if alike else "it is laid out otherwise"
    if not _broadcasts(x.shape, out.shape, op):
        return f"{x} does not broadcast into {out}"
    if size > 1 or fn.use_count[maker.result] > 1:
        return "it is smaller, and more than one op"
    if elementwise_flops(maker.kind) > _CHEAP:
        return "it is smaller, and too dear to compute again for each element"
    return None


def _broadcasts(small: Shape, large: Shape, op: Op) -> bool:
    try:
        return broadcast(op.kind, small, large) == large
    except InferError:
        return False
