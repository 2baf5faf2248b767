"""numba_cpu > kernels > softmax: softmax and log-softmax along one axis.

Record, 64-bit words (strides in bytes)::

    0 x  1 out  2 n_outer  3 outer count  4 n  5 x step along n  6 out step along n  7 log (0 or 1)
    8 columns  9 columns of a unit  10.. outer sizes, x strides, out strides [n_outer each]

``softmax_rows``: the axis is contiguous. ``softmax_cols``: another axis (``columns``) is.
"""

from __future__ import annotations

import math

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.runs import outer_offset
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    vadd,
    vatleast,
    vdiv,
    vexp_down,
    vfirst,
    vhmax,
    vload,
    vload_n,
    vlog,
    vmul,
    vselect,
    vsplat,
    vstore,
    vstore_n,
    vsub,
    vsum,
    vzero,
)

HEAD = 10
INF = float("inf")


@inline_njit
def _top(x, n):
    """Return the largest of a row; a NaN may be forgotten: the row's sum will find it again."""
    a = b = vsplat(-INF)
    i = 0
    while i + 2 * LANES <= n:
        a, b = vatleast(vload(x, i), a), vatleast(vload(x, i + LANES), b)
        i += 2 * LANES
    while i < n:
        a = vatleast(vselect(vfirst(n - i), vload_n(x, i, n - i), a), a)
        i += LANES
    return vhmax(vatleast(a, b))


@inline_njit
def _row(x, out, n):
    """Softmax of a contiguous row."""
    top = vsplat(_top(x, n))
    a = vzero()
    i = 0
    while i + LANES <= n:
        e = vexp_down(vsub(vload(x, i), top))
        vstore(out, i, e)
        a = vadd(a, e)
        i += LANES
    if i < n:
        e = vselect(vfirst(n - i), vexp_down(vsub(vload_n(x, i, n - i), top)), vzero())
        vstore_n(out, i, e, n - i)
        a = vadd(a, e)
    scale = vsplat(1.0 / vsum(a))
    i = 0
    while i + LANES <= n:
        vstore(out, i, vmul(vload(out, i), scale))
        i += LANES
    if i < n:
        vstore_n(out, i, vmul(vload_n(out, i, n - i), scale), n - i)


@inline_njit
def _log_row(x, out, n):
    """Log-softmax of a contiguous row."""
    top = _top(x, n)
    high, a = vsplat(top), vzero()
    for i in range(0, n, LANES):
        e = vexp_down(vsub(vload_n(x, i, n - i), high))
        a = vadd(a, vselect(vfirst(n - i), e, vzero()))
    shift = vsplat(math.log(vsum(a)))
    for i in range(0, n, LANES):
        vstore_n(out, i, vsub(vsub(vload_n(x, i, n - i), high), shift), n - i)


@kernel(vectors=True)
def softmax_rows(args, tid, nt, cuts):
    """Rows shared out among threads."""
    n_outer, count, n = arg(args, 2), arg(args, 3), arg(args, 4)
    for o in range(*share(count, tid, nt, cuts)):
        x = arg(args, 0) + outer_offset(args, HEAD, n_outer, o, 0)
        out = arg(args, 1) + outer_offset(args, HEAD, n_outer, o, 1)
        if arg(args, 7) == 0:
            _row(x, out, n)
        else:
            _log_row(x, out, n)


@inline_njit
def _column(x, out, n, x_step, out_step, log, left):
    """Softmax down a vector of columns."""
    top = vsplat(-INF)
    for i in range(n):
        top = vatleast(vload_n(x + i * x_step, 0, left), top)
    a = vzero()
    for i in range(n):
        v = vsub(vload_n(x + i * x_step, 0, left), top)
        e = vexp_down(v)
        a = vadd(a, e)
        vstore_n(out + i * out_step, 0, v if log else e, left)
    scale = vlog(a) if log else vdiv(vsplat(1.0), a)
    for i in range(n):
        v = vload_n(out + i * out_step, 0, left)
        vstore_n(out + i * out_step, 0, vsub(v, scale) if log else vmul(v, scale), left)


@kernel(vectors=True)
def softmax_cols(args, tid, nt, cuts):
    """Units of columns shared out among threads."""
    n_outer, cols, width = arg(args, 2), arg(args, 8), arg(args, 9)
    per = (cols + width - 1) // width
    units = arg(args, 3) * per
    for unit in range(*share(units, tid, nt, cuts)):
        o, start = unit // per, unit % per * width
        x = arg(args, 0) + outer_offset(args, HEAD, n_outer, o, 0)
        out = arg(args, 1) + outer_offset(args, HEAD, n_outer, o, 1)
        end = min(start + width, cols)
        for c in range(start, end, LANES):
            _column(
                x + 4 * c,
                out + 4 * c,
                arg(args, 4),
                arg(args, 5),
                arg(args, 6),
                arg(args, 7) != 0,
                end - c,
            )
