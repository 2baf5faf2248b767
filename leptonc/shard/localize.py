"""The op that a rank runs on its parts, by kind and by form of the strategy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from leptonc.ir.core import Builder, Kind, Op, Value
from leptonc.ir.dims import Dim, as_dim, product
from leptonc.ir.kinds import binary, contract, data, norm, pointwise, quantize, reduce, shape
from leptonc.ir.kinds.data import scalar
from leptonc.ir.types import DType
from leptonc.shard.halo import HALO, with_halo
from leptonc.shard.moments import MOMENTS, moments
from leptonc.shard.parts import Parts
from leptonc.shard.placement import Shard
from leptonc.shard.strategy import Strategy

Adapt: TypeAlias = "Callable[[Op, Strategy, Parts], Kind]"
Form: TypeAlias = "Callable[[Builder, Op, Strategy, Parts, Sequence[Value]], tuple[Value, ...]]"


def emit_local(
    b: Builder, op: Op, s: Strategy, parts: Parts, operands: Sequence[Value]
) -> tuple[Value, ...]:
    """Emit what a rank does for ``op`` under ``s`` on its parts of the operands."""
    form = FORMS.get(s.form)
    if form is not None:
        return form(b, op, s, parts, operands)
    adapt = ADAPTED.get(type(op.kind))
    kind = op.kind if adapt is None else adapt(op, s, parts)
    hint = op.results[0].hint if len(op.results) == 1 else ""
    return b.emit(kind, *operands, hint=hint)


# ----- kinds whose attributes name a size ---------------------------------------------------------


def _own_shape(op: Op, s: Strategy, parts: Parts) -> Kind:
    kind: Any = op.kind
    return dataclasses.replace(kind, shape=parts.shape(op.result, s.outs[0]))


def _own_groups(op: Op, s: Strategy, parts: Parts) -> Kind:
    """Return the kind with the rank's own number of groups where channels of ``x`` are cut."""
    kind: Any = op.kind
    x = s.ins[0]
    if not isinstance(x, Shard) or x.axis != 1 or kind.groups == 1:
        return kind
    cut = parts.cut(op.operands[0], x)
    channels = op.operands[0].type.shape[1]
    assert isinstance(channels, int)
    each = channels // kind.groups  # channels of a group; a unit is a whole number of groups
    size: Any = cut.size
    return dataclasses.replace(
        kind, groups=as_dim(size / each if not isinstance(size, int) else size // each)
    )


def _own_start(op: Op, s: Strategy, parts: Parts) -> Kind:
    """Return an iota of the rank's part."""
    kind = cast(data.Iota, op.kind)
    if not isinstance(s.outs[0], Shard):
        return kind
    cut = parts.cut(op.result, s.outs[0])
    step: Any = kind.step
    return dataclasses.replace(kind, length=cut.size, start=kind.start + cut.start * step)


ADAPTED: Mapping[type[Kind], Adapt] = {
    shape.Reshape: _own_shape,
    shape.Expand: _own_shape,
    data.Full: _own_shape,
    data.Iota: _own_start,
    contract.Conv: _own_groups,
    contract.ConvTranspose: _own_groups,
    quantize.IntConv: _own_groups,
    norm.GroupNorm: _own_groups,
}


# ----- forms --------------------------------------------------------------------------------------


def _blocks(
    b: Builder, op: Op, s: Strategy, parts: Parts, operands: Sequence[Value]
) -> tuple[Value, ...]:
    """Select whole outer blocks: the rank's parts of them lie together."""
    kind = cast(shape.Slice, op.kind)
    whole = op.result.type.shape[kind.axis]
    own = parts.shape(op.result, s.outs[0])[kind.axis]
    assert isinstance(whole, int) and isinstance(kind.start, int)
    length: Any = own
    first = as_dim(kind.start // whole * length)
    stop: Any = first
    return b.emit(shape.Slice(kind.axis, first, as_dim(stop + length)), *operands)


def _vocabulary(
    b: Builder, op: Op, s: Strategy, parts: Parts, operands: Sequence[Value]
) -> tuple[Value, ...]:
    """Look up what the rank has, zeros else; an index that no rank has stays out of range."""
    table, index = operands
    cut = parts.cut(op.operands[0], cast(Shard, s.ins[0]))
    dtype = index.type.dtype

    def number(value: Dim) -> Value:
        return scalar(b, value, dtype)

    own = b(binary.Sub(), index, number(cut.start))
    inside = _between(b, own, number(0), number(cut.size))
    known = _between(b, index, number(0), number(cut.block))
    elsewhere = b(pointwise.Where(), known, number(0), number(-1))
    rows = b(data.Embedding(), table, b(pointwise.Where(), inside, own, elsewhere))
    column = b(shape.Reshape((*inside.type.shape, 1)), inside)
    return (b(pointwise.Where(), column, rows, scalar(b, 0.0, table.type.dtype)),)


def _between(b: Builder, x: Value, low: Value, high: Value) -> Value:
    return b(binary.LogicalAnd(), b(binary.Ge(), x, low), b(binary.Lt(), x, high))


def _repeat_keys(
    b: Builder, op: Op, s: Strategy, parts: Parts, operands: Sequence[Value]
) -> tuple[Value, ...]:
    """Repeat keys and values, which are whole, to the rank's own heads of queries."""
    kind = cast(contract.Attention, op.kind)
    q, k, v, *mask = operands
    cut = parts.cut(op.operands[0], cast(Shard, s.ins[0]))
    heads, groups = (op.operands[i].type.shape[-3] for i in (0, 1))
    assert isinstance(heads, int) and isinstance(groups, int)
    own = b(data.Iota(cut.size, cut.start, 1, DType.I64))
    which = b(binary.FloorDiv(), own, scalar(b, heads // groups, DType.I64))
    k, v = (b(data.IndexSelect(x.type.rank - 3), x, which) for x in (k, v))
    return b.emit(dataclasses.replace(kind, gqa=False), q, k, v, *mask)


def _mean(
    b: Builder, op: Op, s: Strategy, parts: Parts, operands: Sequence[Value]
) -> tuple[Value, ...]:
    """Divide the sum over the rank's part by the whole count."""
    kind, x = cast(reduce.Mean, op.kind), op.operands[0].type
    count = product([x.shape[a] for a in kind.axes])
    total = b(reduce.Sum(kind.axes, kind.keepdim), *operands)
    assert isinstance(count, int)
    return (b(binary.Div(), total, scalar(b, float(count), x.dtype)),)


FORMS: Mapping[str, Form] = {
    HALO: with_halo,
    MOMENTS: moments,
    "mean": _mean,
    "blocks": _blocks,
    "vocabulary": _vocabulary,
    "repeat-keys": _repeat_keys,
}
