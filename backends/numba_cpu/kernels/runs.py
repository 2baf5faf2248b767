"""numba_cpu > kernels > runs: device functions over contiguous runs of floats."""

from __future__ import annotations

import numpy as np

from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    vadd,
    vany,
    vatleast,
    vatmost,
    vfirst,
    vfma,
    vhmax,
    vhmin,
    visnan,
    vload,
    vload_n,
    vor,
    vselect,
    vsplat,
    vsub,
    vsum,
    vunordered,
    vzero,
)

RUN = 2048  # elements added in 32 bits before they join the total
INF, NAN = float("inf"), np.float32("nan")


@inline_njit
def outer_offset(args, head, n_outer, index, table):
    """Return the byte offset of outer ``index`` by stride table ``table`` (0, 1, ...)."""
    offset = 0
    for d in range(n_outer - 1, -1, -1):
        n = arg(args, head + d)
        offset += index % n * arg(args, head + (1 + table) * n_outer + d)
        index //= n
    return offset


# --- one contiguous run ---------------------------------------------------------------------------
@inline_njit
def run_sum(x, n):
    """Return the sum of ``n`` floats as float64."""
    total = 0.0
    for start in range(0, n, RUN):
        end = min(start + RUN, n)
        a, b, c, d = vzero(), vzero(), vzero(), vzero()
        i = start
        while i + 4 * LANES <= end:
            a = vadd(a, vload(x, i))
            b = vadd(b, vload(x, i + LANES))
            c = vadd(c, vload(x, i + 2 * LANES))
            d = vadd(d, vload(x, i + 3 * LANES))
            i += 4 * LANES
        while i < end:
            a = vadd(a, vload_n(x, i, end - i))
            i += LANES
        total += vsum(vadd(vadd(a, b), vadd(c, d)))
    return total


@inline_njit
def run_squares(x, n, center):
    """Return the sum of ``(x - center)**2`` over ``n`` floats as float64."""
    total = 0.0
    mean = vsplat(center)
    for start in range(0, n, RUN):
        end = min(start + RUN, n)
        a, b = vzero(), vzero()
        i = start
        while i + 2 * LANES <= end:
            u, v = vsub(vload(x, i), mean), vsub(vload(x, i + LANES), mean)
            a, b = vfma(u, u, a), vfma(v, v, b)
            i += 2 * LANES
        while i < end:
            u = vselect(vfirst(end - i), vsub(vload_n(x, i, end - i), mean), vzero())
            a = vfma(u, u, a)
            i += LANES
        total += vsum(vadd(a, b))
    return total


def _make_extreme(keep, fold, worst: float):
    """Return ``f(x, n)``: the extreme of ``n`` floats, NaN if there is one.

    ``keep(v, acc)`` is one instruction that may forget a NaN, so NaNs are noted on the side.
    """

    @inline_njit
    def f(x, n):
        a = b = c = d = vsplat(worst)
        odd = visnan(a)
        i = 0
        while i + 4 * LANES <= n:
            p, q = vload(x, i), vload(x, i + LANES)
            r, s = vload(x, i + 2 * LANES), vload(x, i + 3 * LANES)
            odd = vor(vor(odd, vunordered(p, q)), vunordered(r, s))
            a, b, c, d = keep(p, a), keep(q, b), keep(r, c), keep(s, d)
            i += 4 * LANES
        while i < n:
            p = vselect(vfirst(n - i), vload_n(x, i, n - i), a)
            odd = vor(odd, visnan(p))
            a = keep(p, a)
            i += LANES
        if vany(odd):
            return NAN
        return fold(keep(keep(a, b), keep(c, d)))

    return f


run_max = _make_extreme(vatleast, vhmax, -INF)
run_min = _make_extreme(vatmost, vhmin, INF)
