"""Kinds of quantized programs: to integers and back, and products of integers, exact.

A scale is ``f32[]`` (one for all), ``f32[n]`` (one for each place along ``axis``) or ``f32[n,g]``
(groups of the last axis of a matrix ``[n,k]``, each of ``k / g`` elements). A zero point, where
there is one, is ``i32`` of the same shape.
"""

from __future__ import annotations

from typing import ClassVar

from leptonc.ir.core import Kind, Types, kind
from leptonc.ir.dims import same_dim
from leptonc.ir.kinds.base import accept, arity, check_axis, need
from leptonc.ir.kinds.contract import Attention, Conv, Linear
from leptonc.ir.kinds.reduce import AvgPool
from leptonc.ir.types import DType, TensorType

BYTES = frozenset({DType.I8, DType.U8})
_CODES = frozenset({DType.I8, DType.U8, DType.I16, DType.I32})
RANGES = {DType.I8: (-128, 127), DType.U8: (0, 255), DType.I16: (-(1 << 15), (1 << 15) - 1)}


def _check_scale(kind: Kind, x: TensorType, axis: int, scale: TensorType, zero: Types) -> None:
    need(scale.dtype is DType.F32 and scale.rank <= 2, kind, f"a scale of type {scale}")
    if scale.rank == 1:
        check_axis(kind, axis, x.rank)
        need(x.rank > 0 and same_dim(scale.shape[0], x.shape[axis]), kind, f"{scale} for {x}")
    if scale.rank == 2:
        need(x.rank == 2 and same_dim(scale.shape[0], x.shape[0]), kind, f"{scale} for {x}")
        k, groups = x.shape[1], scale.shape[1]
        whole = isinstance(k, int) and isinstance(groups, int) and groups > 0 and k % groups == 0
        need(whole, kind, f"{groups} groups do not divide the columns of {x}")
    for z in zero:
        fits = z.dtype is DType.I32 and z.shape == scale.shape
        need(fits, kind, f"a zero point of type {z} beside a scale {scale}")


@kind
class Quantize(Kind):
    """``clamp(round(x * (1 / scale)) + zero, low, high)`` as ``dtype``; halves to even, NaN to 0.

    ``x: f32[...], scale, zero`` (optional).
    """

    low: int
    high: int
    dtype: DType = DType.I8
    axis: int = 0
    NAME: ClassVar[str] = "quantize"

    def infer(self, args: Types) -> Types:
        """Return ``dtype[...]``. Raises InferError."""
        x, scale, *zero = arity(self, args, 2, 3)
        accept(self, x, frozenset({DType.F32}))
        least, most = RANGES.get(self.dtype, (0, -1))
        need(least <= self.low <= self.high <= most, self, f"{self.low}..{self.high} as "
             f"{self.dtype.value}")  # fmt: skip
        _check_scale(self, x, self.axis, scale, tuple(zero))
        return (x.with_dtype(self.dtype),)


@kind
class Dequantize(Kind):
    """``(q - zero) * scale``. ``q: i8|u8|i16|i32[...], scale, zero`` (optional) -> ``f32[...]``."""

    axis: int = 0
    NAME: ClassVar[str] = "dequantize"

    def infer(self, args: Types) -> Types:
        """Return ``f32[...]``. Raises InferError."""
        q, scale, *zero = arity(self, args, 2, 3)
        accept(self, q, _CODES)
        _check_scale(self, q, self.axis, scale, tuple(zero))
        return (q.with_dtype(DType.F32),)


@kind
class FakeQuantize(Kind):
    """``dequantize(quantize(x))`` in floats, with a gradient: 1 inside the range, 0 outside."""

    low: int
    high: int
    axis: int = 0
    NAME: ClassVar[str] = "fake_quantize"

    def infer(self, args: Types) -> Types:
        """Return the type of ``x``. Raises InferError."""
        x, scale, *zero = arity(self, args, 2, 3)
        accept(self, x, frozenset({DType.F32}))
        need(self.low <= self.high, self, f"{self.low}..{self.high} is empty")
        _check_scale(self, x, self.axis, scale, tuple(zero))
        return (x,)


@kind
class QuantizeRows(Kind):
    """Symmetric int8 codes of each row (last axis) of ``x`` by its own scale ``max |row| / 127``.

    ``x: f32[...,k]`` -> ``i8[...,k], f32[...,1]``; a row of zeros has scale 0 and codes 0.
    """

    NAME: ClassVar[str] = "quantize_rows"

    def infer(self, args: Types) -> Types:
        """Return codes and scales. Raises InferError."""
        (x,) = arity(self, args, 1)
        accept(self, x, frozenset({DType.F32}))
        need(x.rank >= 1, self, f"needs rows, got {x}")
        return x.with_dtype(DType.I8), x.with_shape((*x.shape[:-1], 1))


@kind
class UnpackInt4(Kind):
    """Codes of 4 bits: ``u8[n,k]`` -> ``i8[n,2k]``, each nibble less 8, the low one first."""

    NAME: ClassVar[str] = "unpack_int4"

    def infer(self, args: Types) -> Types:
        """Return ``i8[n,2k]``. Raises InferError."""
        (x,) = arity(self, args, 1)
        need(x.dtype is DType.U8 and x.rank == 2, self, f"takes u8[n,k], got {x}")
        return (TensorType(DType.I8, (x.shape[0], 2 * x.shape[1])),)


@kind
class IntLinear(Kind):
    """``f32(sum_k (x - x_zero) * w) * scale + b``: the sum in int32, exact; two roundings after.

    ``x: u8|i8[...,k], w: i8[n,k], scale: f32[n], b: f32[n]`` (optional) -> ``f32[...,n]``. With
    ``scale: f32[n,g]`` each group of ``k / g`` is summed exactly, scaled and added in order (fused
    multiply-adds are not used).
    """

    x_zero: int = 0
    NAME: ClassVar[str] = "int_linear"

    def infer(self, args: Types) -> Types:
        """Return ``f32[...,n]``. Raises InferError."""
        x, w, scale, *b = arity(self, args, 3, 4)
        accept(self, x, BYTES)
        need(w.dtype is DType.I8, self, f"weights must be i8, got {w}")
        (out,) = Linear().infer((x.with_dtype(DType.F32), w.with_dtype(DType.F32), *b))
        if scale.rank == 1:
            need(scale == TensorType(DType.F32, (w.shape[0],)), self, f"{scale} for {w}")
        else:
            _check_scale(self, w, 0, scale, ())
            need(scale.rank == 2, self, f"{scale} for {w}")
        return (out,)


@kind
class IntConv(Kind):
    """``f32(sum (x - x_zero) * w) * scale + b`` as a convolution; what lies outside is ``x_zero``.

    ``x: u8|i8[b,c,*in], w: i8[n,c/groups,*kernel], scale: f32[n], b: f32[n]`` (optional)
    -> ``f32[b,n,*out]``. The other attributes are those of ``Conv``.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    padding_after: tuple[int, ...] = ()
    x_zero: int = 0
    NAME: ClassVar[str] = "int_conv"

    @property
    def plain(self) -> Conv:
        """The convolution of real numbers with the same attributes."""
        return Conv(self.stride, self.padding, self.dilation, self.groups, self.padding_after)

    def infer(self, args: Types) -> Types:
        """Return ``f32[b,n,*out]``. Raises InferError."""
        x, w, scale, *b = arity(self, args, 3, 4)
        accept(self, x, BYTES)
        need(w.dtype is DType.I8, self, f"weights must be i8, got {w}")
        need(scale == TensorType(DType.F32, (w.shape[0],)), self, f"{scale} for {w}")
        return self.plain.infer((x.with_dtype(DType.F32), w.with_dtype(DType.F32), *b))


@kind
class IntAvgPool(AvgPool):
    """``f32(sum (x - x_zero)) * f32(scale / count)`` of each window; what lies outside is 0.

    The sum in int32, exact; ``scale / count`` in float64. ``x: u8|i8[...,*in], scale: f32[]`` ->
    ``f32[...,*out]``. The other attributes, and what counts, are those of ``AvgPool``.
    """

    x_zero: int = 0
    NAME: ClassVar[str] = "int_avg_pool"
    ACCEPTS: ClassVar[frozenset[DType]] = BYTES

    @property
    def plain(self) -> AvgPool:
        """The mean of real numbers with the same windows."""
        return AvgPool(
            self.kernel, self.stride, self.padding, self.ceil, self.include_pad, self.divisor
        )

    def infer(self, args: Types) -> Types:
        """Return ``f32[...,*out]``. Raises InferError."""
        x, scale = arity(self, args, 2)
        accept(self, x, BYTES)
        need(scale == TensorType(DType.F32, ()), self, f"a scale of type {scale}")
        return self.plain.infer((x.with_dtype(DType.F32),))


@kind
class IntAttention(Kind):
    """Attention of codes, both products exact in int32, the softmax between them in floats.

    ``q: i8[...,h,s,d], k: i8[...,g,t,d], v: i8[...,g,t,e], slope: f32[], v_scale: f32[], mask``
    (optional, as in ``Attention``, without NaN and inf) -> ``f32[...,h,s,e]``. The scores are
    ``f32(sum q k) * slope + mask``; a weight is ``exp(score - largest)`` of its row, its code ``p``
    the nearest whole number to 255 times that (NaN: 0); the result is
    ``f32(sum p v) * (v_scale / f32(sum p))``, 0 where all ``p`` are. The other attributes are those
    of ``Attention``.
    """

    causal: bool = False
    gqa: bool = False
    nan_rows: bool = False
    NAME: ClassVar[str] = "int_attention"

    def infer(self, args: Types) -> Types:
        """Return ``f32[...,h,s,e]``. Raises InferError."""
        *codes, slope, v_scale = arity(self, args, 5, 6)[:5]
        for t in codes:
            accept(self, t, frozenset({DType.I8}))
        one = TensorType(DType.F32, ())
        need(slope == v_scale == one, self, f"scales of type {slope} and {v_scale}")
        plain = Attention(1.0, self.causal, self.gqa, self.nan_rows)
        return plain.infer((*(t.with_dtype(DType.F32) for t in codes), *args[5:]))


KINDS: tuple[type[Kind], ...] = (
    Quantize, Dequantize, FakeQuantize, QuantizeRows, UnpackInt4, IntLinear, IntConv, IntAvgPool,
    IntAttention,
)  # fmt: skip
