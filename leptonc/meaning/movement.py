"""Shape, lookup, generation and resampling kinds, and recurrent nets, as torch expressions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # the field's name for it
from torch import Tensor

from leptonc.ir.core import Kind
from leptonc.ir.kinds import data, shape
from leptonc.meaning.constants import TORCH_DTYPES, tensor_of
from leptonc.meaning.elementwise import Expression

_ATEN = torch.ops.aten


def _slice(k: shape.Slice, x: Tensor) -> Tensor:
    return x[(*(slice(None),) * k.axis, slice(k.start, k.stop, k.step))]


def _source(at: Tensor, size: int, mode: str) -> Tensor:
    """Return which element of an axis of ``size`` stands at positions ``at`` outside it."""
    if mode == "reflect":
        period = max(2 * (size - 1), 1)
        at = at.remainder(period)
        return torch.minimum(at, period - at)
    if mode == "circular":
        return at.remainder(size)
    return at.clamp(0, size - 1)


def _pad(k: shape.Pad, x: Tensor) -> Tensor:
    if k.mode == "constant":
        pads = [p for pair in zip(k.low[::-1], k.high[::-1], strict=True) for p in pair]
        return F.pad(x, pads, "constant", k.value)
    for axis, (lo, hi) in enumerate(zip(k.low, k.high, strict=True)):
        if lo or hi:
            at = torch.arange(-lo, x.shape[axis] + hi)
            x = x.index_select(axis, _source(at, x.shape[axis], k.mode))
    return x


def _relayout(k: shape.Relayout, x: Tensor) -> Tensor:
    back = [k.order.index(i) for i in range(len(k.order))]
    return x.permute(k.order).contiguous().permute(back)


def _full(k: data.Full) -> Tensor:
    return torch.full(k.shape, k.value, dtype=TORCH_DTYPES[k.dtype])  # type: ignore[arg-type]


def _iota(k: data.Iota) -> Tensor:
    start: Any = k.start
    step: Any = k.step
    whole = isinstance(start, int) and isinstance(step, int) and not k.dtype.is_float
    length: Any = k.length  # an int: symbolic sizes are bound before
    index = torch.arange(length, dtype=torch.int64 if whole else torch.float64)
    return (index * step + start).to(TORCH_DTYPES[k.dtype])


def _index_select(k: data.IndexSelect, x: Tensor, i: Tensor) -> Tensor:
    i = i.to(torch.int64)
    if k.wrap:
        i = torch.where(i < 0, i + x.shape[k.axis], i)
    if i.numel() and not 0 <= int(i.min()) <= int(i.max()) < x.shape[k.axis]:
        raise IndexError(f"index_select: an index is outside axis {k.axis} of {list(x.shape)}")
    out = x.index_select(k.axis, i.reshape(-1))
    return out.reshape((*x.shape[: k.axis], *i.shape, *x.shape[k.axis + 1 :]))


_RESAMPLE: Mapping[tuple[str, int], Any] = {
    ("nearest", 1): _ATEN.upsample_nearest1d.default,
    ("nearest", 2): _ATEN.upsample_nearest2d.default,
    ("nearest", 3): _ATEN.upsample_nearest3d.default,
    ("nearest-exact", 1): _ATEN._upsample_nearest_exact1d.default,
    ("nearest-exact", 2): _ATEN._upsample_nearest_exact2d.default,
    ("nearest-exact", 3): _ATEN._upsample_nearest_exact3d.default,
    ("linear", 1): _ATEN.upsample_linear1d.default,
    ("linear", 2): _ATEN.upsample_bilinear2d.default,
    ("linear", 3): _ATEN.upsample_trilinear3d.default,
    ("bicubic", 2): _ATEN.upsample_bicubic2d.default,
}


def _interpolate(k: data.Interpolate, x: Tensor) -> Tensor:
    scales = k.scales or (None,) * len(k.size)
    corners = () if k.mode.startswith("nearest") else (k.align_corners,)
    return _RESAMPLE[k.mode, len(k.size)](x, list(k.size), *corners, *scales)


_CELL: Mapping[str, Any] = {
    "lstm": _ATEN.lstm.input,
    "gru": _ATEN.gru.input,
    "tanh": _ATEN.rnn_tanh.input,
    "relu": _ATEN.rnn_relu.input,
}


def _recurrent(k: data.Recurrent, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    states, weights = (rest[:2], rest[2:]) if k.cell == "lstm" else (rest[0], rest[1:])
    return tuple(
        _CELL[k.cell](
            x, states, list(weights), k.bias, k.layers, 0.0, False, k.bidirectional, False
        )
    )


MOVEMENT: Mapping[type[Kind], Expression] = {
    shape.Reshape: lambda k, x: x.reshape(k.shape),
    shape.Transpose: lambda k, x: x.permute(k.perm),
    shape.Expand: lambda k, x: x.expand(k.shape),
    shape.Slice: _slice,
    shape.Flip: lambda k, x: torch.flip(x, k.axes),
    shape.Roll: lambda k, x: torch.roll(x, k.shifts, k.axes) if k.axes else x,
    shape.Concat: lambda k, *xs: torch.cat(xs, k.axis),
    shape.Pad: _pad,
    shape.Relayout: _relayout,
    data.Constant: lambda k: tensor_of(k.const),
    data.Full: _full,
    data.Iota: _iota,
    data.Embedding: lambda k, w, i: F.embedding(i.to(torch.int64), w),
    data.IndexSelect: _index_select,
    data.Gather: lambda k, x, i: torch.gather(x, k.axis, i.to(torch.int64)),
    data.Triangle: lambda k, x: (torch.tril if k.lower else torch.triu)(x, k.diagonal),
    data.Interpolate: _interpolate,
    data.Recurrent: _recurrent,
}
