"""Linear, matmul, convolution, attention, normalisation as torch expressions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # the field's name for it
from torch import Tensor

from leptonc.ir.core import Kind
from leptonc.ir.kinds import contract, norm
from leptonc.meaning.elementwise import Expression

_CONV = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_CONV_TRANSPOSE = {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d}


def convolution(k: contract.Conv, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Return the convolution; of whole numbers in float64 it is exact below 2**53."""
    convolve = _CONV[len(k.stride)]
    if x.dtype is torch.float64 and k.groups == w.shape[0] == x.shape[1] > 1:
        return _depthwise(k, x, w, b)
    if k.after != k.padding:
        x = F.pad(x, [n for p in zip(k.padding[::-1], k.after[::-1], strict=True) for n in p])
        return convolve(x, w, b, list(k.stride), 0, list(k.dilation), k.groups)
    return convolve(x, w, b, list(k.stride), list(k.padding), list(k.dilation), k.groups)


def _depthwise(k: contract.Conv, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """Return a depthwise convolution as a sum over taps: torch's own in float64 takes seconds."""
    x = F.pad(x, [n for p in zip(k.padding[::-1], k.after[::-1], strict=True) for n in p])
    rank, taps = len(k.stride), w.shape[2:]
    reach = [d * (t - 1) + 1 for d, t in zip(k.dilation, taps, strict=True)]
    sizes = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, k.stride, strict=True)]
    ones = (1,) * rank
    y = x.new_zeros(*x.shape[:2], *sizes) if b is None else b.reshape(1, -1, *ones)
    for tap in itertools.product(*map(range, taps)):
        rows = zip(tap, k.dilation, k.stride, sizes, strict=True)
        window = [slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, s, n in rows]
        y = torch.addcmul(y, x[:, :, *window], w[:, 0, *tap].reshape(1, -1, *ones))
    return y


def _conv_transpose(
    k: contract.ConvTranspose, x: Tensor, w: Tensor, b: Tensor | None = None
) -> Tensor:
    return _CONV_TRANSPOSE[len(k.stride)](
        x, w, b, k.stride, k.padding, k.output_padding, k.groups, k.dilation
    )


def _attention(
    k: contract.Attention, q: Tensor, keys: Tensor, v: Tensor, mask: Tensor | None = None
) -> Tensor:
    causal = k.causal
    if causal and mask is not None:  # torch takes either, not both
        keep = torch.ones(q.shape[-2], keys.shape[-2], dtype=torch.bool).tril()
        outside = mask.new_full((), False if mask.dtype is torch.bool else float("-inf"))
        mask, causal = torch.where(keep, mask, outside), False
    out = F.scaled_dot_product_attention(
        q, keys, v, attn_mask=mask, is_causal=causal, scale=k.scale, enable_gqa=k.gqa
    )
    if k.nan_rows and mask is not None:
        lost = mask.logical_not() if mask.dtype is torch.bool else mask == float("-inf")
        out = out.masked_fill(lost.all(-1, keepdim=True), float("nan"))
    return out


def _batch_norm(
    k: norm.BatchNorm,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    w: Tensor | None = None,
    b: Tensor | None = None,
) -> Tensor:
    return F.batch_norm(x, mean, var, w, b, training=False, eps=k.eps)


def _layer_norm(
    k: norm.LayerNorm, x: Tensor, w: Tensor | None = None, b: Tensor | None = None
) -> Tensor:
    return F.layer_norm(x, list(x.shape[-k.axes :]), w, b, k.eps)


def _rms_norm(k: norm.RmsNorm, x: Tensor, w: Tensor | None = None) -> Tensor:
    return F.rms_norm(x, list(x.shape[-k.axes :]), w, k.eps)


def _group_norm(
    k: norm.GroupNorm, x: Tensor, w: Tensor | None = None, b: Tensor | None = None
) -> Tensor:
    # not F.group_norm: that one refuses a single value per group, as in training
    return torch.group_norm(x, k.groups, w, b, k.eps)


CONTRACTION: Mapping[type[Kind], Expression] = {
    contract.Linear: lambda k, x, w, b=None: F.linear(x, w, b),
    contract.Matmul: lambda k, x, y: torch.matmul(x, y),
    contract.Conv: convolution,
    contract.ConvTranspose: _conv_transpose,
    contract.Attention: _attention,
    norm.BatchNorm: _batch_norm,
    norm.LayerNorm: _layer_norm,
    norm.RmsNorm: _rms_norm,
    norm.GroupNorm: _group_norm,
    norm.Softmax: lambda k, x: torch.softmax(x, k.axis),
    norm.LogSoftmax: lambda k, x: torch.log_softmax(x, k.axis),
}
