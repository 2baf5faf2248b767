"""Importers of quantized programs: leptonc's own operators, torch's, and torchao's.

Torch's fake quantization adds the zero point before it rounds, leptonc's after: of a number that
lies exactly between two codes the other one may be taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from leptonc.capture.aten.base import Importer
from leptonc.capture.aten.contract import present
from leptonc.capture.context import Args, Context, Unclaimed, axis_of, want
from leptonc.ir.core import Value
from leptonc.ir.dims import same_dim
from leptonc.ir.kinds import quantize as q
from leptonc.ir.types import DType
from leptonc.meaning import IR_DTYPES


def _quantize(c: Context, a: Args) -> Value:
    kind = q.Quantize(a.low, a.high, c.dtype, a.axis)
    return c(kind, *present(a.x, a.scale, a.get("zero")))


def _dequantize(c: Context, a: Args) -> Value:
    return c(q.Dequantize(a.axis), *present(a.codes, a.scale, a.get("zero")))


def _fake_quantize(c: Context, a: Args) -> Value:
    kind = q.FakeQuantize(a.low, a.high, a.axis)
    return c(kind, *present(a.x, a.scale, a.get("zero")))


def _int_linear(c: Context, a: Args) -> Value:
    return c(q.IntLinear(a.x_zero), *present(a.x, a.w, a.scale, a.get("bias")))


def _int_conv(c: Context, a: Args) -> Value:
    padding, after = tuple(a.padding), tuple(a.after)
    kind = q.IntConv(
        tuple(a.stride), padding, tuple(a.dilation), a.groups,
        () if after == padding else after, a.x_zero,
    )  # fmt: skip
    return c(kind, *present(a.x, a.w, a.scale, a.get("bias")))


def _int_avg_pool(c: Context, a: Args) -> Value:
    kind = q.IntAvgPool(
        tuple(a.kernel), tuple(a.stride), tuple(a.padding), a.ceil, a.include_pad, a.divisor,
        a.x_zero,
    )  # fmt: skip
    return c(kind, a.x, a.scale)


def _int_attention(c: Context, a: Args) -> Value:
    kind = q.IntAttention(a.causal, a.gqa, a.nan_rows)
    return c(kind, *present(a.q, a.k, a.v, a.slope, a.v_scale, a.get("mask")))


def _quantize_rows(c: Context, a: Args) -> Any:
    return c.emit(q.QuantizeRows(), a.x)


# ----- torch and torchao --------------------------------------------------------------------------


def _qparams(c: Context, scale: Any, zero: Any, shape: tuple[int, ...] = ()) -> tuple[Value, Value]:
    """Return scale and zero point (numbers or tensors) as ``f32[shape]`` and ``i32[shape]``."""
    zero = 0 if zero is None else zero
    made = c.lift(scale, DType.F32), c.lift(zero, DType.I32)
    return c.reshape(made[0], shape), c.reshape(made[1], shape)


def _channel(c: Context, x: Value, a: Args, name: str) -> tuple[int, Value, Value]:
    axis = axis_of(a.axis, x.type.rank)
    n = x.type.shape[axis]
    if not isinstance(n, int):
        raise Unclaimed("it has scales along an axis of dynamic size")
    scale = a.get("scales", a.get("scale"))
    return axis, *_qparams(c, scale, a.get(name), (n,))


def _codes_of(dtype: Any, codes: Mapping[DType, Any]) -> DType:
    found = IR_DTYPES.get(dtype, DType.OTHER)
    want(found in codes, f"codes of {dtype} have no kind")
    return found


_RANGES = {DType.I8: (-128, 127), DType.U8: (0, 255), DType.I16: (-(1 << 15), (1 << 15) - 1)}
_WIDER = {**_RANGES, DType.I32: (-(1 << 31), (1 << 31) - 1)}


def _f32(c: Context, x: Value) -> Value:
    want(x.type.dtype is DType.F32, f"it quantizes {x.type.dtype.value}")
    return x


def _per_tensor(c: Context, a: Args) -> Value:
    dtype = _codes_of(a.dtype, _RANGES)
    kind = q.Quantize(int(a.quant_min), int(a.quant_max), dtype)
    return c(kind, _f32(c, a.input), *_qparams(c, a.scale, a.zero_point))


def _from_tensor(c: Context, a: Args) -> Value:
    _codes_of(a.dtype, _WIDER)
    want(a.get("out_dtype") in (None, torch.float32), "it dequantizes to another dtype")
    return c(q.Dequantize(), a.input, *_qparams(c, a.scale, a.zero_point))


def _per_channel(c: Context, a: Args) -> Value:
    dtype = _codes_of(a.dtype, _RANGES)
    axis, scale, zero = _channel(c, _f32(c, a.input), a, "zero_points")
    return c(q.Quantize(int(a.quant_min), int(a.quant_max), dtype, axis), a.input, scale, zero)


def _from_channel(c: Context, a: Args) -> Value:
    _codes_of(a.dtype, _WIDER)
    want(a.get("out_dtype") in (None, torch.float32), "it dequantizes to another dtype")
    axis, scale, zero = _channel(c, a.input, a, "zero_points")
    return c(q.Dequantize(axis), a.input, scale, zero)


def _fake_tensor(c: Context, a: Args) -> Value:
    kind = q.FakeQuantize(int(a.quant_min), int(a.quant_max))
    return c(kind, _f32(c, a.get("self")), *_qparams(c, a.scale, a.zero_point))


def _fake_channel(c: Context, a: Args) -> Value:
    axis, scale, zero = _channel(c, _f32(c, a.get("self")), a, "zero_point")
    return c(q.FakeQuantize(int(a.quant_min), int(a.quant_max), axis), a.get("self"), scale, zero)


def _blocks(c: Context, x: Value, sizes: Any) -> tuple[int, tuple[int, ...]]:
    """Return axis and shape of the scales of blocks: one, one for each place, or groups."""
    shape, blocks = x.type.shape, tuple(sizes)
    want(all(isinstance(d, int) for d in (*shape, *blocks)), "its blocks are of dynamic size")
    pairs = zip(shape, blocks, strict=True)
    counts = [d // n for d, n in pairs if isinstance(d, int) and isinstance(n, int)]
    many = [i for i, n in enumerate(counts) if n > 1]
    if not many:
        return 0, ()
    if len(many) == 1 and same_dim(blocks[many[0]], 1):
        return many[0], (counts[many[0]],)
    want(x.type.rank == 2 and same_dim(blocks[0], 1), "its blocks run along several axes")
    return 0, tuple(counts)


def _affine(c: Context, a: Args) -> Value:
    dtype = _codes_of(a.output_dtype, _RANGES)
    axis, shape = _blocks(c, _f32(c, a.input), a.block_size)
    low, high = (a.get(n) for n in ("quant_min", "quant_max"))
    least, most = _RANGES[dtype]
    kind = q.Quantize(least if low is None else int(low), most if high is None else int(high),
                      dtype, axis)  # fmt: skip
    return c(kind, a.input, *_qparams(c, a.scale, a.zero_point, shape))


def _from_affine(c: Context, a: Args) -> Value:
    _codes_of(a.input_dtype, _WIDER)
    want(c.dtype is DType.F32, "it dequantizes to another dtype")
    axis, shape = _blocks(c, a.input, a.block_size)
    return c(q.Dequantize(axis), a.input, *_qparams(c, a.scale, a.zero_point, shape))


_DECOMPOSED = "quantized_decomposed."
_TENSORS = ("default", "tensor")
IMPORTERS: Mapping[str, Importer] = {
    "leptonc.quantize.default": _quantize,
    "leptonc.dequantize.default": _dequantize,
    "leptonc.fake_quantize.default": _fake_quantize,
    "leptonc.quantize_rows.default": _quantize_rows,
    "leptonc.unpack_int4.default": lambda c, a: c(q.UnpackInt4(), a.x),
    "leptonc.int_linear.default": _int_linear,
    "leptonc.int_conv.default": _int_conv,
    "leptonc.int_avg_pool.default": _int_avg_pool,
    "leptonc.int_attention.default": _int_attention,
    **{f"{_DECOMPOSED}quantize_per_tensor.{o}": _per_tensor for o in _TENSORS},
    **{f"{_DECOMPOSED}dequantize_per_tensor.{o}": _from_tensor for o in _TENSORS},
    f"{_DECOMPOSED}quantize_per_channel.default": _per_channel,
    f"{_DECOMPOSED}dequantize_per_channel.default": _from_channel,
    "aten.fake_quantize_per_tensor_affine.default": _fake_tensor,
    "aten.fake_quantize_per_tensor_affine.tensor_qparams": _fake_tensor,
    "aten.fake_quantize_per_channel_affine.default": _fake_channel,
    "torchao.quantize_affine.default": _affine,
    "torchao.dequantize_affine.default": _from_affine,
}
