"""Quantized programs as torch expressions: operators of a library of their own, ``leptonc::*``.

They are registered with torch so that a module that runs them is traced back into the same kinds,
and so that a fake quantization has a gradient (straight through inside the range).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from leptonc.ir.core import Kind
from leptonc.ir.kinds import quantize as q
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.reduce import AvgPool
from leptonc.meaning.constants import TORCH_DTYPES
from leptonc.meaning.contraction import convolution
from leptonc.meaning.elementwise import Expression
from leptonc.meaning.reduction import average

_LIBRARY = torch.library.Library("leptonc", "DEF")
_SCALE = "Tensor scale, Tensor? zero=None"
_CONV = "int[] stride, int[] padding, int[] after, int[] dilation, int groups, int x_zero"
_POOL = (
    "int[] kernel, int[] stride, int[] padding, bool ceil, bool include_pad, int? divisor, "
    "int x_zero"
)


def _spread(t: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return a scale or zero point so that it broadcasts to ``x``."""
    if t.dim() == 0:
        return t
    if t.dim() == 2:
        return t.repeat_interleave(x.shape[1] // t.shape[1], 1)
    return t.reshape([-1 if i == axis else 1 for i in range(x.dim())])


def _codes(x: Tensor, scale: Tensor, zero: Tensor | None, low: int, high: int, axis: int) -> Tensor:
    """Return the codes of ``x`` as floats."""
    codes = torch.round(x * _spread(1.0 / scale, x, axis)).nan_to_num(0.0)
    if zero is not None:
        codes = codes + _spread(zero, x, axis)
    return codes.clamp(low, high)


def _quantize(
    x: Tensor, scale: Tensor, zero: Tensor | None = None, *, low: int, high: int,
    dtype: torch.dtype, axis: int = 0,
) -> Tensor:  # fmt: skip
    return _codes(x, scale, zero, low, high, axis).to(dtype)


def _dequantize(
    codes: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 0
) -> Tensor:
    if zero is not None:
        codes = codes.to(torch.int32) - _spread(zero, codes, axis)
    return codes.to(scale.dtype) * _spread(scale, codes, axis)


def _fake_quantize(
    x: Tensor, scale: Tensor, zero: Tensor | None = None, *, low: int, high: int, axis: int = 0
) -> Tensor:
    return _dequantize(_codes(x, scale, zero, low, high, axis).int(), scale, zero, axis=axis)


def _quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    scale = x.abs().amax(-1, keepdim=True) / 127.0
    inverse = torch.where(scale > 0, 1.0 / scale, torch.zeros_like(scale))
    codes = torch.round(x * inverse).nan_to_num(0.0).clamp(-127, 127)
    return codes.to(torch.int8), scale


def _unpack_int4(x: Tensor) -> Tensor:
    both = torch.stack([x & 15, x >> 4], -1).reshape(x.shape[0], -1)
    return (both.to(torch.int16) - 8).to(torch.int8)


def _scaled(total: Tensor, scale: Tensor, bias: Tensor | None, axis: int) -> Tensor:
    """Return ``f32(total) * scale + bias``; ``total`` holds whole numbers below 2**53."""
    y = total.to(scale.dtype) * _spread(scale, total, axis)
    return y if bias is None else y + _spread(bias, y, axis)


def _int_linear(
    x: Tensor, w: Tensor, scale: Tensor, bias: Tensor | None = None, *, x_zero: int = 0
) -> Tensor:
    wide = x.double() - x_zero
    if scale.dim() == 1:
        return _scaled(wide @ w.double().T, scale, bias, x.dim() - 1)
    size = w.shape[1] // scale.shape[1]
    parts = [slice(g * size, (g + 1) * size) for g in range(scale.shape[1])]
    products = (wide[..., at] @ w[:, at].double().T for at in parts)
    scaled = [p.to(scale.dtype) * scale[:, g] for g, p in enumerate(products)]
    y = functools.reduce(torch.add, scaled)
    return y if bias is None else y + bias


def _int_conv(
    x: Tensor, w: Tensor, scale: Tensor, bias: Tensor | None = None, *, stride: list[int],
    padding: list[int], after: list[int], dilation: list[int], groups: int, x_zero: int,
) -> Tensor:  # fmt: skip
    plain = Conv(tuple(stride), tuple(padding), tuple(dilation), groups, tuple(after))
    return _scaled(convolution(plain, x.double() - x_zero, w.double()), scale, bias, 1)


def _int_avg_pool(
    x: Tensor, scale: Tensor, *, kernel: list[int], stride: list[int], padding: list[int],
    ceil: bool, include_pad: bool, divisor: int | None, x_zero: int,
) -> Tensor:  # fmt: skip
    sums = AvgPool(tuple(kernel), tuple(stride), tuple(padding), ceil, True, 1)
    total = average(sums, x.double() - x_zero)
    ones = torch.ones((1, *x.shape[-len(kernel) :]), dtype=torch.float64, device=x.device)
    if divisor is not None:
        count = torch.full_like(total, divisor)
    elif include_pad:  # padding counts; a window may reach beyond it
        pads = [n for p in reversed(padding) for n in (p, p)]
        wide = functional.pad(ones[None], pads, value=1.0)[0]
        unpadded = AvgPool(tuple(kernel), tuple(stride), (0,) * len(kernel), ceil, True, 1)
        count = average(unpadded, wide)[(..., *(slice(n) for n in total.shape[-len(kernel) :]))]
    else:
        count = average(sums, ones)
    factor = (scale.double() / count).to(scale.dtype)
    return total.to(scale.dtype) * factor


def _int_attention(
    q: Tensor, k: Tensor, v: Tensor, slope: Tensor, v_scale: Tensor, mask: Tensor | None = None, *,
    causal: bool, gqa: bool, nan_rows: bool,
) -> Tensor:  # fmt: skip
    if gqa and k.dim() > 2:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scores = (q.double() @ k.double().transpose(-1, -2)).to(slope.dtype) * slope
    lost = float("-inf")
    if causal:
        keep = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~keep, lost)
    if mask is not None:
        scores = scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, lost)
    largest = functional.pad(scores, (0, 1), value=lost).amax(-1, keepdim=True)
    codes = torch.round(255.0 * torch.exp(scores - largest)).nan_to_num(0.0)
    sums = codes.sum(-1, keepdim=True)
    none = torch.full_like(sums, float("nan") if nan_rows and mask is not None else 0.0)
    factor = torch.where(sums > 0, v_scale / sums, none)
    return (codes.double() @ v.double()).to(slope.dtype) * factor


_OPS: Mapping[str, tuple[str, Callable[..., Any]]] = {
    "quantize": (
        f"(Tensor x, {_SCALE}, *, int low, int high, ScalarType dtype, int axis=0) -> Tensor",
        _quantize,
    ),
    "dequantize": (f"(Tensor codes, {_SCALE}, *, int axis=0) -> Tensor", _dequantize),
    "fake_quantize": (
        f"(Tensor x, {_SCALE}, *, int low, int high, int axis=0) -> Tensor", _fake_quantize,
    ),
    "quantize_rows": ("(Tensor x) -> (Tensor, Tensor)", _quantize_rows),
    "unpack_int4": ("(Tensor x) -> Tensor", _unpack_int4),
    "int_linear": (
        "(Tensor x, Tensor w, Tensor scale, Tensor? bias=None, *, int x_zero=0) -> Tensor",
        _int_linear,
    ),
    "int_conv": (
        f"(Tensor x, Tensor w, Tensor scale, Tensor? bias=None, *, {_CONV}) -> Tensor", _int_conv,
    ),
    "int_attention": (
        "(Tensor q, Tensor k, Tensor v, Tensor slope, Tensor v_scale, Tensor? mask=None, *, "
        "bool causal, bool gqa, bool nan_rows) -> Tensor", _int_attention,
    ),
    "int_avg_pool": (f"(Tensor x, Tensor scale, *, {_POOL}) -> Tensor", _int_avg_pool),
}  # fmt: skip
for _name, (_schema, _body) in _OPS.items():
    _LIBRARY.define(_name + _schema)
    _LIBRARY.impl(_name, _body, "CompositeExplicitAutograd")
    torch.library.register_fake(f"leptonc::{_name}", _body, lib=_LIBRARY)


def _keep_range(ctx: Any, inputs: Any, keyword_only_inputs: Any, output: Any) -> None:
    x, scale, zero = inputs
    low, high, axis = (keyword_only_inputs[k] for k in ("low", "high", "axis"))
    shift = 0 if zero is None else _spread(zero, x, axis)
    codes = torch.round(x * _spread(1.0 / scale, x, axis)) + shift
    ctx.save_for_backward((codes >= low) & (codes <= high))


def _straight_through(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (inside,) = ctx.saved_tensors
    return grad * inside, None, None


torch.library.register_autograd(
    "leptonc::fake_quantize", _straight_through, setup_context=_keep_range, lib=_LIBRARY
)
_ops: Any = torch.ops.leptonc


def _int_conv_of(k: q.IntConv, x, w, scale, bias=None) -> Tensor:
    return _ops.int_conv(
        x, w, scale, bias, stride=k.stride, padding=k.padding, after=k.plain.after,
        dilation=k.dilation, groups=k.groups, x_zero=k.x_zero,
    )  # fmt: skip


def _quantize_of(k: q.Quantize, x, scale, zero=None) -> Tensor:
    return _ops.quantize(
        x, scale, zero, low=k.low, high=k.high, dtype=TORCH_DTYPES[k.dtype], axis=k.axis
    )


QUANTIZED: Mapping[type[Kind], Expression] = {
    q.Quantize: _quantize_of,
    q.Dequantize: lambda k, x, scale, zero=None: _ops.dequantize(x, scale, zero, axis=k.axis),
    q.FakeQuantize: lambda k, x, scale, zero=None: _ops.fake_quantize(
        x, scale, zero, low=k.low, high=k.high, axis=k.axis
    ),
    q.QuantizeRows: lambda k, x: _ops.quantize_rows(x),
    q.UnpackInt4: lambda k, x: _ops.unpack_int4(x),
    q.IntLinear: lambda k, x, w, scale, b=None: _ops.int_linear(x, w, scale, b, x_zero=k.x_zero),
    q.IntConv: _int_conv_of,
    q.IntAttention: lambda k, *operands: _ops.int_attention(*operands, **k.attributes),
    q.IntAvgPool: lambda k, x, scale: _ops.int_avg_pool(x, scale, **k.attributes),
}
