"""Reductions, scans and pools as torch expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F  # the field's name for it
from torch import Tensor

from leptonc.ir.core import Kind
from leptonc.ir.kinds import reduce
from leptonc.meaning.elementwise import Expression

_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_ADAPTIVE_AVG = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_ADAPTIVE_MAX = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


def _sum(k: reduce.Sum, x: Tensor) -> Tensor:
    # torch reads no axes as all axes, and widens integers unless told the dtype
    return torch.sum(x, k.axes, keepdim=k.keepdim, dtype=x.dtype) if k.axes else x


def _mean(k: reduce.Mean, x: Tensor) -> Tensor:
    return torch.mean(x, k.axes, keepdim=k.keepdim) if k.axes else x


def _var(k: reduce.Var, x: Tensor) -> Tensor:
    if not k.axes:  # one value a group
        return torch.var(x.unsqueeze(-1), (-1,), correction=k.correction)
    return torch.var(x, k.axes, correction=k.correction, keepdim=k.keepdim)


def _prod(k: reduce.Prod, x: Tensor) -> Tensor:
    for axis in sorted(k.axes, reverse=True):  # torch takes one axis at a time
        x = torch.prod(x, axis, keepdim=k.keepdim, dtype=x.dtype)
    return x


def _extreme(function: Callable[..., Tensor], k: reduce.Reduction, x: Tensor) -> Tensor:
    return function(x, k.axes, k.keepdim) if k.axes else x


def _truth(function: Callable[..., Tensor], k: reduce.Reduction, x: Tensor) -> Tensor:
    x = x != 0
    return function(x, k.axes, k.keepdim) if k.axes else x


def _arg(function: Callable[..., Tensor], k: reduce.ArgReduction, x: Tensor) -> Tensor:
    x = x.to(torch.uint8) if x.dtype is torch.bool else x
    return function(x, k.axis, k.keepdim)


def _batched(function: Callable[[Tensor], Tensor], x: Tensor, axes: int) -> Tensor:
    """Apply a pool of ``axes`` trailing axes under any number of leading ones."""
    if x.dim() in (axes + 1, axes + 2):
        return function(x)
    lead = x.shape[:-axes]
    out = function(x.reshape(-1, *x.shape[-axes:]))
    return out.reshape(*lead, *out.shape[1:])


def _max_pool(k: reduce.MaxPool, x: Tensor) -> Tensor:
    if x.dtype in (torch.uint8, torch.int8):  # torch counts elements in the type of the codes
        return _max_pool(k, x.float()).to(x.dtype)
    n = len(k.kernel)

    def pool(t: Tensor) -> Tensor:
        return _MAX_POOL[n](t, k.kernel, k.stride, k.padding, k.dilation or 1, ceil_mode=k.ceil)

    return _batched(pool, x, n)


def average(k: reduce.AvgPool, x: Tensor) -> Tensor:
    """Return the means of windows of ``x: [...,*in]``."""
    n = len(k.kernel)
    if n == 1:  # torch's one-axis pool takes no divisor
        wide = reduce.AvgPool(
            (1, *k.kernel), (1, *k.stride), (0, *k.padding), k.ceil, k.include_pad, k.divisor
        )
        return average(wide, x.unsqueeze(-2)).squeeze(-2)
    pool_of = F.avg_pool2d if n == 2 else F.avg_pool3d

    def pool(t: Tensor) -> Tensor:
        return pool_of(t, k.kernel, k.stride, k.padding, k.ceil, k.include_pad, k.divisor)

    return _batched(pool, x, n)


def _adaptive(
    table: Mapping[int, Callable[..., Tensor]], k: reduce.AdaptiveAvgPool, x: Tensor
) -> Tensor:
    n = len(k.output)
    return _batched(lambda t: table[n](t, k.output), x, n)


REDUCTION: Mapping[type[Kind], Expression] = {
    reduce.Sum: _sum,
    reduce.Mean: _mean,
    reduce.Prod: _prod,
    reduce.Amax: partial(_extreme, torch.amax),
    reduce.Amin: partial(_extreme, torch.amin),
    reduce.All: partial(_truth, torch.all),
    reduce.Any: partial(_truth, torch.any),
    reduce.Var: _var,
    reduce.ArgMax: partial(_arg, torch.argmax),
    reduce.ArgMin: partial(_arg, torch.argmin),
    reduce.CumSum: lambda k, x: torch.cumsum(x, k.axis, dtype=x.dtype),
    reduce.MaxPool: _max_pool,
    reduce.AvgPool: average,
    reduce.AdaptiveAvgPool: partial(_adaptive, _ADAPTIVE_AVG),
    reduce.AdaptiveMaxPool: partial(_adaptive, _ADAPTIVE_MAX),
}
