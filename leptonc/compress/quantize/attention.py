"""compress > quantize > attention: products of queries, keys, weights and values on codes.

Queries, keys and values have one scale each, from calibration data, around zero; where a quantized
linear layer makes them, its codes come out of it. The softmax stays in floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from leptonc.compress.choice import FLOAT
from leptonc.compress.quantize import ranges, units
from leptonc.compress.quantize.edits import constant
from leptonc.compress.quantize.measured import fastest
from leptonc.compress.quantize.places import Place, places
from leptonc.compress.recipe import CompressError, Context, Edit
from leptonc.compress.timing import alone
from leptonc.ir.core import Builder, Function, Op, Value
from leptonc.ir.kinds.contract import Attention
from leptonc.ir.kinds.quantize import IntAttention, Quantize
from leptonc.ir.types import DType

_CODES = ranges.CODES[8, True]
_NAMES = ("q", "k", "v")


@dataclass(frozen=True)
class Scales:
    """Scales of queries, keys and values."""

    q: float
    k: float
    v: float


def plan(fn: Function, context: Context, method: str, faster: bool) -> list[Edit]:
    """Return an edit for each attention; with ``faster`` for those that alone take less time.

    Raises:
        CompressError: the model has no attention, no calibration data, or operands on them that
            are not finite.
    """
    tell, found = context.tell("Quantize"), list[tuple[Place, Op]]()
    every = [(place, op) for place, op in places(fn, _is_attention)
             if isinstance(op.kind, Attention)]  # fmt: skip
    if not every:
        raise CompressError("Quantize: the model has no attention: leave out attention=True")
    for place, op in every:
        reason = _misfit(op)
        if reason:
            tell(op, f"stays float: {reason}")
        else:
            found.append((place, op))
    seen = _seen(fn, found, context)
    made: list[Edit] = []
    for place, op in found:
        q, k, v = (ranges.METHODS[method](seen[x], _CODES)[0] for x in op.operands[:3])
        make = partial(_made, place=place, scales=Scales(q, k, v))
        if faster:
            before = alone(fn, op)
            here = partial(_made, place=Place(place.path, 0), scales=Scales(q, k, v))
            forms = {FLOAT: before, "int8": here(before)}
            if fastest(op, place.where, forms, context) == FLOAT:
                continue
        made.append(Edit(place.where, "attention on i8", make))
    return made


def _seen(
    fn: Function, found: Sequence[tuple[Place, Op]], context: Context
) -> Mapping[Value, ranges.Seen]:
    seen = {x: ranges.Seen(context.seed) for _, op in found for x in op.operands[:3]}
    if not seen:
        return seen
    data = context.need_data("Quantize(attention=True)")
    for i, values in enumerate(data.observed(fn, seen)):
        for place, op in found:
            for x, name in zip(op.operands[:3], _NAMES, strict=True):
                if not torch.isfinite(values[x]).all():
                    raise CompressError(
                        f"{place.where}: its {name} holds NaN or infinities on calibration batch "
                        f"{i}; the model overflows there, or the data are wrong"
                    )
        for x, values_of in seen.items():
            values_of.add(values[x])
    return seen


def _is_attention(op: Op) -> bool:
    return isinstance(op.kind, (Attention, IntAttention))


def _misfit(op: Op) -> str | None:
    q, k, v, *mask = (x.type for x in op.operands)
    if any(t.dtype is not DType.F32 for t in (q, k, v)):
        return f"its operands are {q.dtype.value}, not f32"
    if mask and mask[0].dtype not in (DType.BOOL, DType.F32):
        return f"its mask is {mask[0].dtype.value}"
    depth = k.shape[-1]
    whole = isinstance(depth, int) and depth % 4 == 0
    return None if whole else f"codes are read four at a time, its heads have a depth of {depth}"


def _made(fn: Function, place: Place, scales: Scales) -> Function:
    """Return ``fn`` with the attention at ``place`` on codes; ``fn`` if it is so, or is gone."""
    ready = units.prepared(fn)
    op = dict(places(ready, _is_attention)).get(place)
    if op is None or not isinstance(op.kind, Attention):
        return fn
    kind, b = op.kind, Builder(ready.name, origin=op.origin)
    values = (scales.q, scales.k, scales.v)
    held = [constant(b, torch.tensor(s), place.owned("attention", f"{name}_scale"))
            for s, name in zip(values, _NAMES, strict=True)]  # fmt: skip
    to_codes = Quantize(_CODES.low, _CODES.high, _CODES.dtype)
    codes = [b(to_codes, x, s) for x, s in zip(op.operands, held, strict=False)]
    slope = torch.tensor(kind.scale * scales.q * scales.k)
    slope = constant(b, slope, place.owned("attention", "slope"))
    made = IntAttention(kind.causal, kind.gqa, kind.nan_rows)
    b.emit(made, *codes, slope, held[2], *op.operands[3:])
    *new, last = b.ops
    new.append(Op(last.kind, last.operands, op.results, op.origin))
    ops = tuple(o for at in ready.ops for o in (new if at is op else [at]))
    return Function(ready.name, ready.params, ops, ready.returns, ready.dims)
