"""Operand types that some attributes of a kind accept, for every kind that takes tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from leptonc.ir.core import Kind
from leptonc.ir.kinds import base, binary, contract, data, norm, pointwise, quantize, reduce, shape
from leptonc.ir.types import DType, TensorType

Types = tuple[TensorType, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]

DTYPES = (DType.F32, DType.F32, DType.F32, DType.F64, DType.I64, DType.I32, DType.BOOL)
ALL_DTYPES = tuple(d for d in DType if d not in (DType.OTHER, DType.C64, DType.C128))
_FLOAT = frozenset({DType.F32, DType.F64})
SIZES = st.integers(1, 4)


@st.composite
def tensor_types(
    draw: st.DrawFn,
    dtypes: tuple[DType, ...] = DTYPES,
    min_rank: int = 0,
    max_rank: int = 4,
) -> TensorType:
    """Draw a static type with sizes 1 to 4."""
    dims = draw(st.lists(SIZES, min_size=min_rank, max_size=max_rank))
    return TensorType(draw(st.sampled_from(dtypes)), tuple(dims))


# --- which first operands a kind takes -------------------------------------------------------

_RANKS: dict[type[Kind], tuple[int, int]] = {
    contract.Linear: (1, 4),
    contract.Matmul: (2, 4),
    contract.Conv: (3, 5),
    contract.ConvTranspose: (3, 5),
    contract.Attention: (2, 4),
    norm.BatchNorm: (2, 4),
    norm.LayerNorm: (1, 4),
    norm.RmsNorm: (1, 4),
    norm.GroupNorm: (2, 4),
    reduce.MaxPool: (2, 5),
    reduce.AvgPool: (2, 5),
    reduce.AdaptiveAvgPool: (2, 5),
    reduce.AdaptiveMaxPool: (2, 5),
    shape.Slice: (1, 4),
    shape.Concat: (1, 4),
    data.Embedding: (2, 2),
    data.IndexSelect: (1, 4),
    data.Gather: (1, 4),
    data.Triangle: (2, 4),
    data.Interpolate: (3, 5),
    data.Recurrent: (3, 3),
    quantize.QuantizeRows: (1, 4),
    quantize.UnpackInt4: (2, 2),
    quantize.IntLinear: (1, 4),
    quantize.IntConv: (3, 5),
    quantize.IntAvgPool: (2, 5),
    quantize.IntAttention: (2, 4),
}
_QUANTIZED: dict[type[Kind], frozenset[DType]] = {
    quantize.Dequantize: frozenset({DType.I8, DType.U8, DType.I16, DType.I32}),
    quantize.UnpackInt4: frozenset({DType.U8}),
    quantize.IntAttention: frozenset({DType.I8}),
    **dict.fromkeys((quantize.IntLinear, quantize.IntConv, quantize.IntAvgPool), quantize.BYTES),
    **dict.fromkeys(
        (quantize.Quantize, quantize.FakeQuantize, quantize.QuantizeRows), frozenset({DType.F32})
    ),
}
_NO_OPERANDS = (data.Constant, data.Full, data.Iota)


def accepts(cls: type[Kind]) -> frozenset[DType]:
    """Return the dtypes that ``cls`` takes as its first operand."""
    if cls is pointwise.Where:
        return frozenset({DType.BOOL})
    if cls in _QUANTIZED:
        return _QUANTIZED[cls]
    if (found := getattr(cls, "ACCEPTS", None)) is not None:
        return found
    if cls in norm.KINDS or cls in contract.KINDS or issubclass(cls, reduce.Pool):
        return base.FLOATS
    if cls in (reduce.AdaptiveAvgPool, reduce.AdaptiveMaxPool, data.Interpolate, data.Recurrent):
        return base.FLOATS
    if cls in (reduce.ArgMax, reduce.ArgMin):
        return base.ORDERED
    return base.REALS if cls is reduce.CumSum else base.ANY - {DType.OTHER}


def takes(cls: type[Kind], first: TensorType) -> bool:
    """Return whether a value of type ``first`` can be the first operand of a ``cls``."""
    low, high = _RANKS.get(cls, (0, 99))
    return low <= first.rank <= high and first.dtype in accepts(cls)


# --- the other operands, given the first -----------------------------------------------------


def _broadcastable(draw: Draw, t: TensorType, dtype: DType | None = None) -> TensorType:
    """Draw a type that broadcasts with ``t``: some axes 1, some leading axes absent."""
    dims = [d if draw(st.integers(0, 3)) else 1 for d in t.shape]
    drop = draw(st.integers(0, len(dims))) if not draw(st.integers(0, 2)) else 0
    return TensorType(dtype or t.dtype, tuple(dims[drop:]))


def _vector(t: TensorType, n: int) -> TensorType:
    return TensorType(t.dtype, (n,))


def _maybe(draw: Draw, *types: TensorType) -> Types:
    return types if draw(st.booleans()) else ()


def _linear(draw: Draw, x: TensorType) -> Types:
    n = draw(SIZES)
    return (TensorType(x.dtype, (n, x.shape[-1])), *_maybe(draw, _vector(x, n)))


def _matmul(draw: Draw, x: TensorType) -> Types:
    batch = _broadcastable(draw, TensorType(x.dtype, x.shape[:-2])).shape
    return (TensorType(x.dtype, (*batch, x.shape[-1], draw(SIZES))),)


def _conv(draw: Draw, x: TensorType) -> Types:
    groups = draw(st.sampled_from([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0]))
    n = groups * draw(st.integers(1, 2))
    kernel = tuple(draw(st.integers(1, min(d, 3))) for d in x.shape[2:])
    w = TensorType(x.dtype, (n, x.shape[1] // groups, *kernel))
    return (w, *_maybe(draw, _vector(x, n)))


def _conv_transpose(draw: Draw, x: TensorType) -> Types:
    n, c = draw(st.integers(1, 3)), x.shape[1]
    groups = draw(st.sampled_from([g for g in range(1, c + 1) if c % g == 0]))
    w = TensorType(x.dtype, (c, n, *(draw(st.integers(1, 3)) for _ in x.shape[2:])))
    return (w, *_maybe(draw, _vector(x, n * groups)))


def _attention(draw: Draw, q: TensorType) -> Types:
    t, e, lead = draw(SIZES), draw(SIZES), q.shape[:-2]
    if lead and draw(st.booleans()):  # fewer heads for keys and values
        fewer = draw(st.sampled_from([g for g in range(1, lead[-1] + 1) if lead[-1] % g == 0]))
        lead = (*lead[:-1], fewer)
    k, v = (TensorType(q.dtype, (*lead, t, d)) for d in (q.shape[-1], e))
    dtype = draw(st.sampled_from([q.dtype, DType.BOOL]))
    return (k, v, *_maybe(draw, TensorType(dtype, (q.shape[-2], t))))


def _per_channel(draw: Draw, x: TensorType, base_: int) -> Types:
    return (_vector(x, x.shape[1]),) * (base_ + draw(st.integers(0, 2)))


def _trailing(draw: Draw, x: TensorType, most: int) -> Types:
    axes = draw(st.integers(1, x.rank))
    return (x.with_shape(x.shape[-axes:]),) * draw(st.integers(0, most))


def _index(draw: Draw, max_rank: int = 2) -> TensorType:
    return draw(tensor_types((DType.I64, DType.I32), 0, max_rank))


def _concat(draw: Draw, x: TensorType) -> Types:
    if not draw(st.integers(0, 3)):
        return ()
    axis = draw(st.integers(0, x.rank - 1))
    return tuple(
        x.with_shape((*x.shape[:axis], draw(SIZES), *x.shape[axis + 1 :]))
        for _ in range(draw(st.integers(1, 2)))
    )


def _where(draw: Draw, c: TensorType) -> Types:
    x = _broadcastable(draw, c, draw(st.sampled_from(DTYPES)))
    return (x, _broadcastable(draw, c, x.dtype))


def _gather(draw: Draw, x: TensorType) -> Types:
    dims = tuple(draw(st.integers(1, d)) for d in x.shape)
    return (TensorType(DType.I64, dims),)


def _recurrent(draw: Draw, x: TensorType) -> Types:
    """Draw one or two layers or directions, or two of both; ``attrs`` reads them off the types."""
    hidden, gates = draw(SIZES), draw(st.sampled_from([1, 3, 4]))
    layers, directions = draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2)]))
    if layers == 2 and directions == 1 and hidden == x.shape[2]:
        hidden += 1  # else two layers look like two directions
    state = x.with_shape((layers * directions, x.shape[1], hidden))
    bias = (x.with_shape((gates * hidden,)),) * (2 * draw(st.booleans()))
    weights: list[TensorType] = []
    for layer in range(layers):
        wide = x.shape[2] if layer == 0 else hidden * directions
        w = (x.with_shape((gates * hidden, k)) for k in (wide, hidden))
        weights += [*w, *bias] * directions
    return (*((state,) * (2 if gates == 4 else 1)), *weights)


def _scale(draw: Draw, x: TensorType) -> Types:
    """Draw one scale, one for each place along an axis, or groups of a matrix; a zero point."""
    shapes: list[tuple[int, ...]] = [(), *((d,) for d in x.shape)]
    if x.rank == 2:
        shapes += [(x.shape[0], g) for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0]
    dims = draw(st.sampled_from(shapes))
    return (TensorType(DType.F32, dims), *_maybe(draw, TensorType(DType.I32, dims)))


def _int_product(weight: Types) -> Types:
    """Return operands beside the codes ``x``, from those of the product of real numbers."""
    w, *bias = weight
    n = TensorType(DType.F32, (w.shape[0],))
    return (w.with_dtype(DType.I8), n, *(n for _ in bias))


def _int_linear(draw: Draw, x: TensorType) -> Types:
    w, scale, *bias = _int_product(_linear(draw, x))
    even = [g for g in range(1, w.shape[1] + 1) if w.shape[1] % g == 0]
    if draw(st.booleans()):
        scale = scale.with_shape((w.shape[0], draw(st.sampled_from(even))))
    return (w, scale, *bias)


def _int_attention(draw: Draw, q: TensorType) -> Types:
    k, v, *mask = _attention(draw, q.with_dtype(DType.F32))
    one = TensorType(DType.F32, ())
    return (k.with_dtype(DType.I8), v.with_dtype(DType.I8), one, one, *mask)


_OTHERS: dict[type[Kind], Callable[[Draw, TensorType], Types]] = {
    **dict.fromkeys((quantize.Quantize, quantize.Dequantize, quantize.FakeQuantize), _scale),
    quantize.IntLinear: _int_linear,
    quantize.IntAttention: _int_attention,
    quantize.IntAvgPool: lambda draw, x: (TensorType(DType.F32, ()),),
    quantize.IntConv: lambda draw, x: _int_product(_conv(draw, x)),
    pointwise.Where: _where,
    contract.Linear: _linear,
    contract.Matmul: _matmul,
    contract.Conv: _conv,
    contract.ConvTranspose: _conv_transpose,
    contract.Attention: _attention,
    norm.BatchNorm: lambda draw, x: _per_channel(draw, x, 2),
    norm.GroupNorm: lambda draw, x: _per_channel(draw, x, 0),
    norm.LayerNorm: lambda draw, x: _trailing(draw, x, 2),
    norm.RmsNorm: lambda draw, x: _trailing(draw, x, 1),
    shape.Concat: _concat,
    data.Embedding: lambda draw, w: (_index(draw),),
    data.IndexSelect: lambda draw, x: (_index(draw),),
    data.Gather: _gather,
    data.Recurrent: _recurrent,
    **{k: lambda draw, x: (_broadcastable(draw, x),) for k in binary.KINDS},
}


@st.composite
def operand_types(draw: st.DrawFn, cls: type[Kind], first: TensorType | None = None) -> Types:
    """Draw operand types for which some attributes make a well-typed ``cls``.

    Args:
        draw: supplied by Hypothesis.
        cls: a kind.
        first: the type of the first operand, where it is given (``takes(cls, first)`` must hold).
    """
    if cls in _NO_OPERANDS:
        return ()
    if first is None:
        low, high = _RANKS.get(cls, (0, 4))
        usual = ALL_DTYPES if cls in _QUANTIZED else DTYPES
        dtypes = tuple(d for d in ALL_DTYPES if d in accepts(cls) and d in usual)
        first = draw(tensor_types(dtypes, low, high))
    return (first, *_OTHERS.get(cls, lambda draw, x: ())(draw, first))
