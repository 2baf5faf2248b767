"""numba_cpu > kernels > norm: layer and rms norm of contiguous rows, with a residual sum in front.

Record, 64-bit words (strides in bytes)::

    0 x  1 residual or 0  2 sum out or 0  3 out  4 weight or 0  5 bias or 0  6 eps (float64)
    7 rms (0 or 1)
    8 n  9 n_outer  10 outer count
    11.. outer sizes, strides of x, residual, sum, out [n_outer each]

``sum = x + residual`` is written where it is wanted; ``out`` is its norm (of ``x`` without a
residual).

``group_scale`` turns moments of channels into one scale and shift per channel of a group norm::

    0 mean  1 var  2 weight or 0  3 bias or 0  4 scale  5 shift  6 eps (float64)  7 batch
    8 channels  9 groups
"""

from __future__ import annotations

import math

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.runs import outer_offset, run_squares, run_sum
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    ldf,
    stf,
    vadd,
    vfma,
    vload,
    vload_n,
    vmul,
    vsplat,
    vstore,
    vstore_n,
    vsub,
)

HEAD = 11


@inline_njit
def _add_rows(x, y, out, n):
    i = 0
    while i + LANES <= n:
        vstore(out, i, vadd(vload(x, i), vload(y, i)))
        i += LANES
    if i < n:
        vstore_n(out, i, vadd(vload_n(x, i, n - i), vload_n(y, i, n - i)), n - i)


@inline_njit
def _affine(v, i, n, weight, bias):
    """Return ``v * weight + bias`` for elements ``i..`` of a row; an address 0 is absent."""
    if weight != 0:
        v = vmul(v, vload_n(weight, i, n - i))
    if bias != 0:
        v = vadd(v, vload_n(bias, i, n - i))
    return v


@inline_njit
def _normalise(s, out, n, center, scale, weight, bias):
    """Write ``(s - center) * scale * weight + bias``."""
    middle, factor = vsplat(center), vsplat(scale)
    i = 0
    if weight != 0 and bias != 0:
        while i + LANES <= n:
            v = vmul(vsub(vload(s, i), middle), factor)
            vstore(out, i, vfma(v, vload(weight, i), vload(bias, i)))
            i += LANES
    while i < n:
        v = vmul(vsub(vload_n(s, i, n - i), middle), factor)
        if weight != 0 and bias != 0:
            vstore_n(out, i, vfma(v, vload_n(weight, i, n - i), vload_n(bias, i, n - i)), n - i)
        else:
            vstore_n(out, i, _affine(v, i, n, weight, bias), n - i)
        i += LANES


@kernel(vectors=True)
def norm_rows(args, tid, nt, cuts):
    """Rows shared out among threads."""
    n, n_outer, count = arg(args, 8), arg(args, 9), arg(args, 10)
    eps, rms = argf(args, 6), arg(args, 7)
    for o in range(*share(count, tid, nt, cuts)):
        s = arg(args, 0) + outer_offset(args, HEAD, n_outer, o, 0)
        out = arg(args, 3) + outer_offset(args, HEAD, n_outer, o, 3)
        if arg(args, 1) != 0:
            other = arg(args, 1) + outer_offset(args, HEAD, n_outer, o, 1)
            # Without a place for the sum the result's row holds it until it is overwritten.
            to = (
                arg(args, 2) + outer_offset(args, HEAD, n_outer, o, 2) if arg(args, 2) != 0 else out
            )
            _add_rows(s, other, to, n)
            s = to
        center = 0.0 if rms != 0 else run_sum(s, n) / n
        scale = 1.0 / math.sqrt(run_squares(s, n, center) / n + eps)
        _normalise(s, out, n, center, scale, arg(args, 4), arg(args, 5))


@kernel(vectors=True)
def group_scale(args, tid, nt, cuts):
    """Compute a group's variance from those of its channels; threads share the groups."""
    batch, channels, groups = arg(args, 7), arg(args, 8), arg(args, 9)
    per = channels // groups
    total = batch * groups
    for g in range(*share(total, tid, nt, cuts)):
        first = g // groups * channels + g % groups * per
        mean, var = 0.0, 0.0
        for c in range(first, first + per):
            mean += ldf(arg(args, 0), c)
        mean /= per
        for c in range(first, first + per):
            d = ldf(arg(args, 0), c) - mean
            var += ldf(arg(args, 1), c) + d * d
        inverse = 1.0 / math.sqrt(var / per + argf(args, 6))
        for c in range(first, first + per):
            scale = inverse
            if arg(args, 2) != 0:
                scale *= ldf(arg(args, 2), c % channels)
            shift = -mean * scale
            if arg(args, 3) != 0:
                shift += ldf(arg(args, 3), c % channels)
            stf(arg(args, 4), c, scale)
            stf(arg(args, 5), c, shift)
