"""Kinds whose attributes fit given operand types: ``attrs`` and ``applications``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from leptonc.errors import InferError
from leptonc.ir.core import Kind
from leptonc.ir.kinds import (
    binary,
    collective,
    contract,
    data,
    norm,
    pointwise,
    quantize,
    reduce,
    shape,
    unary,
)
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import const_of

from .arrays import arrays
from .operands import (
    ALL_DTYPES,
    DTYPES,
    SIZES,
    Draw,
    Types,
    operand_types,
    takes,
    tensor_types,
)

__all__ = [
    "ALL_DTYPES",
    "COVERED",
    "DTYPES",
    "Draw",
    "Types",
    "applications",
    "attrs",
    "operand_types",
    "scalar_of",
    "takes",
    "tensor_types",
]

_FLOATS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 0.01, 6.0, -3.5])
_EPS = st.sampled_from([1e-5, 1e-6, 1e-3])


def _axes(x: TensorType, most: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    if not x.rank:
        return st.just(())
    chosen = st.lists(st.integers(0, x.rank - 1), unique=True, max_size=most)
    return chosen.map(lambda a: tuple(sorted(a)))


def _axis(x: TensorType) -> st.SearchStrategy[int]:
    return st.integers(0, max(x.rank - 1, 0))


def _affine(count: int) -> str:
    return ("none", "weight", "both")[count]


def _reshape(draw: Draw, ts: Types) -> Kind:
    """Draw another factorisation of the element count."""
    left, dims = ts[0].numel, []
    while left > 1 and len(dims) < 4:
        d = draw(st.sampled_from([k for k in range(1, left + 1) if left % k == 0]))
        dims.append(d)
        left //= d
    dims += [left] if left > 1 else []
    ones = draw(st.lists(st.integers(0, len(dims)), max_size=1))
    for at in ones:
        dims.insert(at, 1)
    return shape.Reshape(tuple(dims))


def _expand(draw: Draw, ts: Types) -> Kind:
    dims = tuple(draw(SIZES) if d == 1 else d for d in ts[0].shape)
    return shape.Expand((*draw(st.lists(SIZES, max_size=1)), *dims))


def _slice(draw: Draw, ts: Types) -> Kind:
    axis = draw(_axis(ts[0]))
    start = draw(st.integers(0, ts[0].shape[axis] - 1))
    stop = draw(st.integers(start + 1, ts[0].shape[axis]))
    return shape.Slice(axis, start, stop, draw(st.integers(1, 3)))


def _pad(draw: Draw, ts: Types) -> Kind:
    mode = draw(st.sampled_from(["constant", "constant", "reflect", "replicate", "circular"]))
    value = draw(_FLOATS if ts[0].dtype.is_float else st.integers(0, 1))
    low, high = [], []
    for d in ts[0].shape:
        least, most = (-(d - 1) // 2, 2) if mode == "constant" else (0, min(d - 1, 2))
        low.append(draw(st.integers(least, most)))
        high.append(draw(st.integers(least, most)))
    return shape.Pad(tuple(low), tuple(high), mode, value)


def _concat_attrs(draw: Draw, ts: Types) -> Kind:
    x, *rest = ts
    fits = [
        a
        for a in range(x.rank)
        if all(r.shape[:a] == x.shape[:a] and r.shape[a + 1 :] == x.shape[a + 1 :] for r in rest)
    ]
    return shape.Concat(draw(st.sampled_from(fits)))


def _conv_attrs(draw: Draw, ts: Types) -> Kind:
    x, w = ts[:2]
    n = x.rank - 2
    stride, padding = (tuple(draw(st.integers(lo, 2)) for _ in range(n)) for lo in (1, 0))
    room = [
        (d + 2 * p - 1) // (k - 1) if k > 1 else 2
        for d, p, k in zip(x.shape[2:], padding, w.shape[2:], strict=True)
    ]
    dilation = tuple(draw(st.integers(1, max(1, min(r, 2)))) for r in room)
    after = () if draw(st.booleans()) else tuple(p + draw(st.integers(0, 1)) for p in padding)
    return contract.Conv(stride, padding, dilation, x.shape[1] // w.shape[1], after)


def _conv_transpose_attrs(draw: Draw, ts: Types) -> Kind:
    x, w, *bias = ts
    n = x.rank - 2
    stride, dilation = (tuple(draw(st.integers(1, hi)) for _ in range(n)) for hi in (3, 2))
    out_pad = tuple(draw(st.integers(0, s - 1)) for s in stride)
    reach = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=True)]
    padding = tuple(draw(st.integers(0, r // 2)) for r in reach)
    even = [g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0]
    fits = [g for g in even if not bias or bias[0].shape[0] == w.shape[1] * g]
    return contract.ConvTranspose(stride, padding, out_pad, dilation, draw(st.sampled_from(fits)))


def _attention_attrs(draw: Draw, ts: Types) -> Kind:
    q, k = ts[:2]
    shared = q.rank > 2 and (q.shape[-3] != k.shape[-3] or draw(st.booleans()))
    scale = draw(st.sampled_from([1.0, 0.5, 0.125]))
    return contract.Attention(scale, draw(st.booleans()), shared, draw(st.booleans()))


def _norm_axes(draw: Draw, ts: Types) -> int:
    return ts[1].rank if len(ts) > 1 else draw(st.integers(1, ts[0].rank))


def _group_attrs(draw: Draw, ts: Types) -> Kind:
    c = ts[0].shape[1]
    groups = draw(st.sampled_from([g for g in range(1, c + 1) if c % g == 0]))
    return norm.GroupNorm(groups, draw(_EPS), _affine(len(ts) - 1))


def _window(draw: Draw, x: TensorType) -> tuple[tuple[int, ...], ...]:
    n = draw(st.integers(1, min(3, x.rank - 1)))
    kernel = tuple(draw(st.integers(1, min(3, d))) for d in x.shape[-n:])
    stride = tuple(draw(st.integers(1, 3)) for _ in range(n))
    return kernel, stride, tuple(draw(st.integers(0, k // 2)) for k in kernel)


def _max_pool(draw: Draw, ts: Types) -> Kind:
    kernel, stride, padding = _window(draw, ts[0])
    sizes = zip(ts[0].shape[-len(kernel) :], kernel, strict=True)
    most = [(d - 1) // (k - 1) if k > 1 else 2 for d, k in sizes]
    spread = () if draw(st.booleans()) else tuple(draw(st.integers(1, min(2, m))) for m in most)
    return reduce.MaxPool(kernel, stride, padding, draw(st.booleans()), spread)


def _avg_pool(draw: Draw, ts: Types) -> Kind:
    divisor = draw(st.none() | st.integers(1, 5))
    return reduce.AvgPool(*_window(draw, ts[0]), draw(st.booleans()), draw(st.booleans()), divisor)


def _adaptive(cls: Any) -> Callable[[Draw, Types], Kind]:
    def make(draw: Draw, ts: Types) -> Kind:
        n = draw(st.integers(1, min(3, ts[0].rank - 1)))
        return cls(tuple(draw(st.integers(1, 3)) for _ in range(n)))

    return make


def _interpolate(draw: Draw, ts: Types) -> Kind:
    n = ts[0].rank - 2
    modes = ["nearest", "nearest-exact", "linear"] + (["bicubic"] if n == 2 else [])
    mode = draw(st.sampled_from(modes))
    corners = draw(st.booleans()) and not mode.startswith("nearest")
    size = tuple(draw(st.integers(1, 6)) for _ in range(n))
    scales = tuple(s / d for s, d in zip(size, ts[0].shape[2:], strict=True))
    return data.Interpolate(size, mode, corners, scales if draw(st.booleans()) else ())


def _clamp(draw: Draw, ts: Types) -> Kind:
    bound = st.none() | (_FLOATS if ts[0].dtype.is_float else st.integers(-2, 3))
    return pointwise.Clamp(draw(bound), draw(bound))


def _cast(draw: Draw, ts: Types) -> Kind:
    return pointwise.Cast(draw(st.sampled_from(ALL_DTYPES)))


def _roll(draw: Draw, ts: Types) -> Kind:
    axes = draw(_axes(ts[0]))
    return shape.Roll(tuple(draw(st.integers(-5, 5)) for _ in axes), axes)


def _full(draw: Draw, ts: Types) -> Kind:
    t = draw(tensor_types())
    return data.Full(t.shape, scalar_of(draw, t.dtype), t.dtype)


def scalar_of(draw: Draw, dtype: DType) -> bool | int | float:
    """Draw a Python scalar that a ``Full`` of ``dtype`` may hold."""
    if dtype is DType.BOOL:
        return draw(st.booleans())
    return draw(_FLOATS) if dtype.is_float else draw(st.integers(-3, 3))


def _iota(draw: Draw, ts: Types) -> Kind:
    dtype = draw(st.sampled_from([DType.I64, DType.I32, DType.F32]))
    number = st.sampled_from([0, 1, 2, -3]) if dtype.is_int else _FLOATS
    return data.Iota(draw(SIZES), draw(number), draw(number), dtype)


def _constant(draw: Draw, ts: Types) -> Kind:
    return data.Constant(const_of(draw(arrays(draw(tensor_types(ALL_DTYPES))))))


def _recurrent_attrs(draw: Draw, ts: Types) -> Kind:
    """Read cell, layers, directions and bias off the operands that ``operands`` made."""
    at = next(i for i, t in enumerate(ts) if i and t.rank == 2)
    runs, hidden = ts[1].shape[0], ts[1].shape[2]
    gates, per = ts[at + 1].shape[0] // hidden, (len(ts) - at) // runs
    cell = {4: "lstm", 3: "gru"}.get(gates) or draw(st.sampled_from(["tanh", "relu"]))
    second = ts[at + per] if runs > 1 else ts[at]
    both = runs > 1 and second.shape[1] == ts[at].shape[1]
    return data.Recurrent(cell, runs // 2 if both else runs, both, per == 4)


def _code_axis(draw: Draw, ts: Types) -> int:
    x, scale = ts[:2]
    if scale.rank != 1:
        return draw(_axis(x))
    return draw(st.sampled_from([a for a, d in enumerate(x.shape) if d == scale.shape[0]]))


_RANGES = {
    DType.I8: [(-128, 127), (-127, 127), (-8, 7)],
    DType.U8: [(0, 255), (0, 127)],
    DType.I16: [(-(1 << 15), (1 << 15) - 1), (-300, 1000)],
}


def _quantize(draw: Draw, ts: Types) -> Kind:
    dtype = draw(st.sampled_from(list(_RANGES)))
    low, high = draw(st.sampled_from(_RANGES[dtype]))
    return quantize.Quantize(low, high, dtype, _code_axis(draw, ts))


def _fake_quantize(draw: Draw, ts: Types) -> Kind:
    low, high = draw(st.sampled_from([r for rs in _RANGES.values() for r in rs]))
    return quantize.FakeQuantize(low, high, _code_axis(draw, ts))


def _x_zero(draw: Draw, x: TensorType) -> int:
    return draw(st.integers(*((0, 255) if x.dtype is DType.U8 else (-128, 127))))


def _int_conv(draw: Draw, ts: Types) -> Kind:
    k = _conv_attrs(draw, ts)
    assert isinstance(k, contract.Conv)
    return quantize.IntConv(
        k.stride, k.padding, k.dilation, k.groups, k.padding_after, _x_zero(draw, ts[0])
    )


def _int_avg_pool(draw: Draw, ts: Types) -> Kind:
    plain = _avg_pool(draw, ts[:1])
    return quantize.IntAvgPool(**plain.attributes, x_zero=_x_zero(draw, ts[0]))


def _int_attention(draw: Draw, ts: Types) -> Kind:
    plain = _attention_attrs(draw, ts)
    assert isinstance(plain, contract.Attention)
    return quantize.IntAttention(plain.causal, plain.gqa, plain.nan_rows)


def _reduction(cls: Any) -> Callable[[Draw, Types], Kind]:
    return lambda draw, ts: cls(draw(_axes(ts[0])), draw(st.booleans()))


def _two_parts(draw: Draw, whole: int) -> tuple[tuple[int, ...], int]:
    """Return the cuts of an axis for two ranks, and the part of one of them."""
    at = draw(st.integers(0, whole))
    return (0, at, whole), draw(st.sampled_from([at, whole - at]))


def _gather_parts(draw: Draw, own: int) -> tuple[int, ...]:
    """Return the cuts of an axis of which one of two ranks has ``own`` elements."""
    other = draw(st.integers(0, 3))
    return draw(st.sampled_from([(0, own, own + other), (0, other, other + own)]))


def _all_gather(draw: Draw, ts: Types) -> Kind:
    axis = draw(_axis(ts[0]))
    return collective.AllGather(axis, _gather_parts(draw, ts[0].shape[axis]))


def _reduce_scatter(draw: Draw, ts: Types) -> Kind:
    axis = draw(_axis(ts[0]))
    return collective.ReduceScatter(axis, *_two_parts(draw, ts[0].shape[axis]))


def _all_to_all(draw: Draw, ts: Types) -> Kind:
    split, join = draw(st.permutations(range(ts[0].rank)))[:2] if ts[0].rank > 1 else (0, 1)
    cuts, part = _two_parts(draw, ts[0].shape[split])
    return collective.AllToAll(split, cuts, part, join, _gather_parts(draw, ts[0].shape[join]))


_ATTRS: dict[type[Kind], Callable[[Draw, Types], Kind]] = {
    collective.AllReduce: lambda draw, ts: collective.AllReduce(
        draw(st.sampled_from(collective.REDUCTIONS))
    ),
    collective.AllGather: _all_gather,
    collective.ReduceScatter: _reduce_scatter,
    collective.AllToAll: _all_to_all,
    collective.Owned: lambda draw, ts: collective.Owned(draw(st.integers(0, 3))),
    pointwise.Gelu: lambda draw, ts: pointwise.Gelu(draw(st.booleans())),
    pointwise.LeakyRelu: lambda draw, ts: pointwise.LeakyRelu(draw(_FLOATS)),
    pointwise.Elu: lambda draw, ts: pointwise.Elu(*(draw(_FLOATS) for _ in range(3))),
    pointwise.Softplus: lambda draw, ts: pointwise.Softplus(
        draw(st.sampled_from([1.0, 0.5, 2.0])), draw(st.sampled_from([20.0, 3.0]))
    ),
    pointwise.Clamp: _clamp,
    pointwise.Cast: _cast,
    contract.Conv: _conv_attrs,
    contract.ConvTranspose: _conv_transpose_attrs,
    contract.Attention: _attention_attrs,
    norm.BatchNorm: lambda draw, ts: norm.BatchNorm(draw(_EPS), _affine(len(ts) - 3)),
    norm.LayerNorm: lambda draw, ts: norm.LayerNorm(
        _norm_axes(draw, ts), draw(_EPS), _affine(len(ts) - 1)
    ),
    norm.RmsNorm: lambda draw, ts: norm.RmsNorm(
        _norm_axes(draw, ts), draw(_EPS), _affine(len(ts) - 1)
    ),
    norm.GroupNorm: _group_attrs,
    norm.Softmax: lambda draw, ts: norm.Softmax(draw(_axis(ts[0]))),
    norm.LogSoftmax: lambda draw, ts: norm.LogSoftmax(draw(_axis(ts[0]))),
    **{
        k: _reduction(k)
        for k in (reduce.Sum, reduce.Mean, reduce.Prod, reduce.Amax, reduce.Amin, reduce.All)
    },
    reduce.Any: _reduction(reduce.Any),
    reduce.Var: lambda draw, ts: reduce.Var(
        draw(_axes(ts[0])), draw(st.booleans()), draw(st.sampled_from([0.0, 1.0]))
    ),
    reduce.ArgMax: lambda draw, ts: reduce.ArgMax(draw(_axis(ts[0])), draw(st.booleans())),
    reduce.ArgMin: lambda draw, ts: reduce.ArgMin(draw(_axis(ts[0])), draw(st.booleans())),
    reduce.CumSum: lambda draw, ts: reduce.CumSum(draw(_axis(ts[0]))),
    reduce.MaxPool: _max_pool,
    reduce.AvgPool: _avg_pool,
    reduce.AdaptiveAvgPool: _adaptive(reduce.AdaptiveAvgPool),
    reduce.AdaptiveMaxPool: _adaptive(reduce.AdaptiveMaxPool),
    shape.Reshape: _reshape,
    shape.Transpose: lambda draw, ts: shape.Transpose(
        tuple(draw(st.permutations(range(ts[0].rank))))
    ),
    shape.Expand: _expand,
    shape.Slice: _slice,
    shape.Flip: lambda draw, ts: shape.Flip(draw(_axes(ts[0]))),
    shape.Roll: _roll,
    shape.Concat: _concat_attrs,
    shape.Pad: _pad,
    shape.Relayout: lambda draw, ts: shape.Relayout(
        tuple(draw(st.permutations(range(ts[0].rank))))
    ),
    data.Constant: _constant,
    data.Full: _full,
    data.Iota: _iota,
    data.IndexSelect: lambda draw, ts: data.IndexSelect(draw(_axis(ts[0])), draw(st.booleans())),
    data.Gather: lambda draw, ts: data.Gather(draw(_axis(ts[0]))),
    data.Triangle: lambda draw, ts: data.Triangle(draw(st.booleans()), draw(st.integers(-2, 2))),
    data.Interpolate: _interpolate,
    data.Recurrent: _recurrent_attrs,
    quantize.Quantize: _quantize,
    quantize.FakeQuantize: _fake_quantize,
    quantize.Dequantize: lambda draw, ts: quantize.Dequantize(_code_axis(draw, ts)),
    quantize.IntLinear: lambda draw, ts: quantize.IntLinear(_x_zero(draw, ts[0])),
    quantize.IntConv: _int_conv,
    quantize.IntAvgPool: _int_avg_pool,
    quantize.IntAttention: _int_attention,
}


@st.composite
def attrs(draw: st.DrawFn, cls: type[Kind], types: Types) -> Kind:
    """Draw an instance of ``cls`` that accepts operands of ``types`` (static).

    Types that no instance accepts make Hypothesis reject the example.
    """
    make = _ATTRS.get(cls)
    try:
        kind = cls() if make is None else make(draw, types)
        kind.infer(types)
    except (InferError, IndexError):
        assume(False)
        raise
    return kind


@st.composite
def applications(draw: st.DrawFn, cls: type[Kind]) -> tuple[Kind, Types]:
    """Draw a kind of class ``cls`` and operand types that it accepts."""
    types = draw(operand_types(cls))
    return draw(attrs(cls, types)), types


COVERED: tuple[type[Kind], ...] = (
    *unary.KINDS,
    *binary.KINDS,
    *pointwise.KINDS,
    *contract.KINDS,
    *norm.KINDS,
    *reduce.KINDS,
    *shape.KINDS,
    *data.KINDS,
    *quantize.KINDS,
)
"""The kinds that ``applications`` draws: all but opaque calls and units."""
