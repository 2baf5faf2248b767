"""Scaling and shifting channels through a contraction's weights, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

from leptonc import meaning
from leptonc.ir.constants import Const
from leptonc.ir.core import Kind, Value
from leptonc.ir.kinds.binary import Add, Div, Eq, Mul, Sub
from leptonc.ir.kinds.contract import ConvTranspose
from leptonc.ir.kinds.data import Full
from leptonc.ir.kinds.norm import BatchNorm
from leptonc.ir.kinds.reduce import All, Sum
from leptonc.ir.kinds.shape import Reshape
from leptonc.ir.kinds.unary import Sqrt
from leptonc.ir.types import DType
from leptonc.passes.fusing.rebuild import Arithmetic, sizes


@dataclass(frozen=True)
class Affine:
    """``x * scale + shift`` per channel; both ``f64[c]``."""

    scale: Const
    shift: Const

    @property
    def channels(self) -> int:
        """Number of channels."""
        return sizes(self.scale)[0]

    def columns(self, rank: int, dtype: DType) -> tuple[Const, Const]:
        """Return scale and shift as ``dtype[c,1,...]``: along axis 1 of a tensor of ``rank``."""
        b = Arithmetic("columns")
        shape = (self.channels, *(1,) * (rank - 2))
        scale, shift = b.rounded(dtype, b.load(self.scale, *shape), b.load(self.shift, *shape))
        return scale, shift


def affine_of(kind: BatchNorm, stats: list[Const]) -> Affine:
    """Return the affine map of a batch norm with statistics ``mean, var[, weight[, bias]]``.

    ``scale = weight / sqrt(var + eps)``, ``shift = bias - mean * scale`` (Ioffe & Szegedy, 2015).
    """
    b = Arithmetic("affine")
    mean, var, *wb = (b.load(c) for c in stats)
    eps = b(Full((), float(kind.eps), DType.F64))
    one = b(Full((), 1.0, DType.F64))
    scale = b(Div(), wb[0] if wb else one, b(Sqrt(), b(Add(), var, eps)))
    shift = b(Mul(), mean, scale)
    zero = b(Full((), 0.0, DType.F64))
    shift = b(Sub(), wb[1] if len(wb) > 1 else zero, shift)
    return Affine(*b.rounded(DType.F64, scale, shift))


def scale_only(factor: Const) -> Affine:
    """Return the map ``x * factor``, of a vector of any rank with one axis longer than 1."""
    b = Arithmetic("scale")
    n = _count(factor)
    zero = b(Full((n,), 0.0, DType.F64))
    return Affine(*b.rounded(DType.F64, b.load(factor, n), zero))


def scaled_outputs(
    kind: Kind, w: Const, bias: Const | None, affine: Affine, dtype: DType
) -> tuple[Const, Const]:
    """Return weight and bias of a contraction followed by ``affine`` on its output channels."""
    b = Arithmetic("scaled")
    shift = b.load(affine.shift)
    if bias is not None:
        shift = b(Add(), b(Mul(), b.load(bias), b.load(affine.scale)), shift)
    if not isinstance(kind, ConvTranspose):
        (moved,) = b.rounded(dtype, shift)
        return meaning.scaled_rows(w, affine.scale, dtype), moved
    shape = sizes(w)  # [c, n/groups, *kernel]: groups lie along axis 0
    g = kind.groups
    scale = b.load(affine.scale, g, 1, shape[1], *(1,) * (len(shape) - 2))
    weight = b(Reshape(shape), b(Mul(), b.load(w, g, shape[0] // g, *shape[1:]), scale))
    made = b.rounded(dtype, weight, shift)
    return made[0], made[1]


def scaled_inputs(
    kind: Kind, w: Const, bias: Const | None, affine: Affine, dtype: DType
) -> tuple[Const, Const]:
    """Return weight and bias of a contraction that reads ``affine`` of its input channels.

    A transposed convolution must have a zero shift: its border does not see every tap.
    """
    b = Arithmetic("scaled")
    shape = sizes(w)
    if isinstance(kind, ConvTranspose):
        n = shape[1] * kind.groups
        scale = b.load(affine.scale, shape[0], *(1,) * (len(shape) - 1))
        weight = b(Mul(), b.load(w), scale)
        extra: Value = b(Full((n,), 0.0, DType.F64))
    else:
        groups = int(getattr(kind, "groups", 1))  # weight [n, c/groups, *kernel]
        split = (groups, shape[0] // groups, *shape[1:])
        along = (groups, 1, shape[1], *(1,) * (len(shape) - 2))
        taps = b.load(w, *split)
        weight = b(Reshape(shape), b(Mul(), taps, b.load(affine.scale, *along)))
        moved = b(Mul(), taps, b.load(affine.shift, *along))
        axes = tuple(range(2, len(split)))
        extra = b(Reshape((shape[0],)), b(Sum(axes), moved))
    if bias is not None:
        extra = b(Add(), b.load(bias), extra)
    made = b.rounded(dtype, weight, extra)
    return made[0], made[1]


def all_finite(*consts: Const) -> bool:
    """Return whether no element is infinite or NaN."""
    return all(map(meaning.all_finite, consts))


def is_zero(const: Const) -> bool:
    """Return whether every element is 0."""
    b = Arithmetic("zero")
    v = b.load(const)
    same = b(Eq(), v, b(Full((), 0.0, DType.F64)))
    (answer,) = meaning.fold(b.finish(b(All(_axes(const)), same)))
    return _truth(answer)


def _axes(const: Const) -> tuple[int, ...]:
    return tuple(range(const.type.rank))


def _count(const: Const) -> int:
    return math.prod(sizes(const))


def _truth(const: Const) -> bool:
    assert _count(const) == 1
    return bool(meaning.tensor_of(const))
