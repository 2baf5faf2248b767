"""Means and variances over an axis that is cut: norms whose rows lie on several ranks.

A rank makes the count, the mean and the sum of squares about its own mean of each row; one
all-gather of the three brings them together (T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating
Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979). Sums of ``x`` and of
``x**2`` would lose a small variance beside a large mean. Halves are reckoned in f32, as norms do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from leptonc.cost.flops import known
from leptonc.ir.core import Builder, Op, Value
from leptonc.ir.dims import Dim, as_dim, product
from leptonc.ir.kinds.binary import Add, Div, Mul, Sub
from leptonc.ir.kinds.collective import AllGather, AllReduce
from leptonc.ir.kinds.data import Full, scalar
from leptonc.ir.kinds.norm import GroupNorm, LayerNorm, RmsNorm
from leptonc.ir.kinds.pointwise import Cast
from leptonc.ir.kinds.reduce import Mean, Sum, Var
from leptonc.ir.kinds.shape import Concat, Reshape, Slice
from leptonc.ir.kinds.unary import Rsqrt
from leptonc.ir.types import DType
from leptonc.shard.parts import Parts
from leptonc.shard.strategy import Strategy

MOMENTS = "moments"  # the name of the form
_WIDE = {DType.F16: DType.F32, DType.BF16: DType.F32}
_NUMBERS = 3  # that a rank tells of a row: mean, squares about it, count


@dataclass
class _Rows:
    """The rank's part of rows of ``total`` elements, of which it has ``own``."""

    b: Builder
    x: Value
    axes: tuple[int, ...]
    total: int
    ranks: int

    def scalar(self, value: float) -> Value:
        return scalar(self.b, value, self.x.type.dtype)

    def moments(self) -> tuple[Value, Value]:
        """Return mean and sum of squares about it, of whole rows, axes kept."""
        b, x = self.b, self.x
        mean = b(Mean(self.axes, True), x)
        away = b(Sub(), x, mean)
        squares = b(Sum(self.axes, True), b(Mul(), away, away))
        shape = mean.type.shape
        own = as_dim(product([x.type.shape[a] for a in self.axes]))
        count = b(Full((1, 1, *shape), own, x.type.dtype))
        told = [b(Reshape((1, 1, *shape)), v) for v in (mean, squares)]
        all_ = b(AllGather(0, tuple(range(self.ranks + 1))), b(Concat(1), *told, count))
        return self._joined(*(self._told(all_, i) for i in range(_NUMBERS)))

    def _told(self, all_: Value, i: int) -> Value:
        part = self.b(Slice(1, i, i + 1), all_)
        return self.b(Reshape((self.ranks, *all_.type.shape[2:])), part)

    def _joined(self, means: Value, squares: Value, counts: Value) -> tuple[Value, Value]:
        b = self.b
        mean = b(Div(), b(Sum((0,)), b(Mul(), counts, means)), self.scalar(float(self.total)))
        away = b(Sub(), means, mean)
        between = b(Mul(), counts, b(Mul(), away, away))
        return mean, b(Sum((0,)), b(Add(), squares, between))

    def over(self, total: Value, count: float) -> Value:
        return self.b(Div(), total, self.scalar(count))

    def rsqrt(self, var: Value, eps: float) -> Value:
        return self.b(Rsqrt(), self.b(Add(), var, self.scalar(eps)))


def moments(
    b: Builder, op: Op, s: Strategy, parts: Parts, operands: Sequence[Value]
) -> tuple[Value, ...]:
    """Emit a variance or a norm whose axis is cut."""
    out = op.result.type.dtype
    wide = _WIDE.get(out, out)
    own = [v if out is wide else b(Cast(wide), v) for v in operands]
    y = _EMIT[type(op.kind)](b, op, s, parts, own)
    return (y if out is wide else b(Cast(out), y),)


def _var(b: Builder, op: Op, s: Strategy, parts: Parts, own: Sequence[Value]) -> Value:
    kind = cast(Var, op.kind)
    rows = _Rows(b, own[0], kind.axes, _total(op, kind.axes), len(parts.speeds))
    _, squares = rows.moments()
    var = rows.over(squares, rows.total - kind.correction)
    return b(Reshape(op.result.type.shape), var)


def _layer_norm(b: Builder, op: Op, s: Strategy, parts: Parts, own: Sequence[Value]) -> Value:
    kind = cast(LayerNorm, op.kind)
    axes = _last(op, kind.axes)
    rows = _Rows(b, own[0], axes, _total(op, axes), len(parts.speeds))
    mean, squares = rows.moments()
    scale = rows.rsqrt(rows.over(squares, rows.total), kind.eps)
    return _affine(b, b(Mul(), b(Sub(), own[0], mean), scale), own[1:])


def _rms_norm(b: Builder, op: Op, s: Strategy, parts: Parts, own: Sequence[Value]) -> Value:
    """Combine sums of squares as they are: nothing is taken from them."""
    kind = cast(RmsNorm, op.kind)
    axes = _last(op, kind.axes)
    rows = _Rows(b, own[0], axes, _total(op, axes), len(parts.speeds))
    squares = b(AllReduce(), b(Sum(axes, True), b(Mul(), own[0], own[0])))
    scale = rows.rsqrt(rows.over(squares, rows.total), kind.eps)
    return _affine(b, b(Mul(), own[0], scale), own[1:])


def _group_norm(b: Builder, op: Op, s: Strategy, parts: Parts, own: Sequence[Value]) -> Value:
    """Give groups an axis of their own: where channels are cut, each group is."""
    kind, x = cast(GroupNorm, op.kind), own[0]
    batch, channels, *space = x.type.shape
    each: Any = channels
    each = each // kind.groups if isinstance(each, int) else as_dim(each / kind.groups)
    grouped = b(Reshape((batch, kind.groups, each, *space)), x)
    axes = tuple(range(2, grouped.type.rank))
    rows = _Rows(b, grouped, axes, _total(op, range(1, x.type.rank)) // kind.groups,
                 len(parts.speeds))  # fmt: skip
    mean, squares = rows.moments()
    scale = rows.rsqrt(rows.over(squares, rows.total), kind.eps)
    y = b(Reshape(x.type.shape), b(Mul(), b(Sub(), grouped, mean), scale))
    column: tuple[Dim, ...] = (channels, *[1] * len(space))
    return _affine(b, y, [b(Reshape(column), v) for v in own[1:]])


def rows(op: Op) -> float:
    """Return how many rows a variance or a norm has, by the sizes that are known."""
    kind, x = op.kind, op.operands[0].type
    if isinstance(kind, GroupNorm):
        return float(known(x.shape[0])) * int(kind.groups)
    axes = kind.axes if isinstance(kind, Var) else _last(op, cast(LayerNorm, kind).axes)
    return float(known(product([n for a, n in enumerate(x.shape) if a not in axes])))


def _affine(b: Builder, y: Value, weights: Sequence[Value]) -> Value:
    for kind, w in zip((Mul(), Add()), weights):
        y = b(kind, y, w)
    return y


def _last(op: Op, count: int) -> tuple[int, ...]:
    rank = op.operands[0].type.rank
    return tuple(range(rank - count, rank))


def _total(op: Op, axes: Sequence[int]) -> int:
    sizes = [op.operands[0].type.shape[a] for a in axes]
    return math.prod(n for n in sizes if isinstance(n, int))


_EMIT: Mapping[type, Callable[..., Value]] = {
    Var: _var,
    LayerNorm: _layer_norm,
    RmsNorm: _rms_norm,
    GroupNorm: _group_norm,
}
