"""numba_cpu > kernels > reduce: sums, products, extremes, variances over any axes.

Record, 64-bit words (strides in bytes)::

    0 x  1 out  2 n_outer  3 outer count  4 r0  5 r1  6 n  7 r0 stride  8 r1 stride  9 n stride
    10 columns  11 columns of a unit  12 out column stride  13 p (float64)  14 mean out or 0
    15.. outer sizes, x strides, out strides [n_outer each]

``r0, r1, n`` are the reduced axes. ``reduce_rows`` reduces the axis that is contiguous (``n``);
one result
for each outer index. ``reduce_cols`` keeps the contiguous axis: a vector of columns at once,
columns in units
that threads share. ``p``: what a sum (of squares, for a variance) is multiplied with. A
variance also writes the mean, where it is wanted, with the strides of ``out``.

Sums add 32 bits within short runs and 64 bits (rows) or a second level of 32 (columns) above them.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.kernels.base import Kernel, inline_njit, make_kernel
from leptonc.backends.numba_cpu.kernels.runs import (
    outer_offset,
    run_max,
    run_min,
    run_squares,
    run_sum,
)
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    stf,
    vadd,
    vextract,
    vfirst,
    vfma,
    vload,
    vload_n,
    vmax,
    vmin,
    vmul,
    vselect,
    vsplat,
    vstore_n,
    vsub,
    vzero,
)

HEAD = 15
STACK = 64  # rows added before they join the second level
INF = float("inf")


@inline_njit
def _run_prod(x, n):
    one = vsplat(1.0)
    a = one
    i = 0
    while i < n:
        a = vmul(a, vselect(vfirst(n - i), vload_n(x, i, n - i), one))
        i += LANES
    total = 1.0
    for lane in range(LANES):
        total *= vextract(a, lane)
    return total


@inline_njit
def sum_two(x, y):
    """Return ``x + y``."""
    return x + y


@inline_njit
def mul_two(x, y):
    """Return ``x * y``."""
    return x * y


@inline_njit
def max_two(x, y):
    """Return the larger, NaN if there is one."""
    return y if y > x or y != y else x


@inline_njit
def min_two(x, y):
    """Return the smaller, NaN if there is one."""
    return y if y < x or y != y else x


_ROW = {
    "sum": (run_sum, sum_two, 0.0),
    "prod": (_run_prod, mul_two, 1.0),
    "amax": (run_max, max_two, -INF),
    "amin": (run_min, min_two, INF),
}


def _make_rows(op: str) -> Kernel:
    run, join, start = _ROW[op]
    scaled = op == "sum"

    def body(args, tid, nt, cuts):
        n_outer, count = arg(args, 2), arg(args, 3)
        r0, r1, n = arg(args, 4), arg(args, 5), arg(args, 6)
        s0, s1 = arg(args, 7), arg(args, 8)
        for o in range(*share(count, tid, nt, cuts)):
            x = arg(args, 0) + outer_offset(args, HEAD, n_outer, o, 0)
            total = start
            for i in range(r0):
                for j in range(r1):
                    total = join(total, run(x + i * s0 + j * s1, n))
            if scaled:
                total *= argf(args, 13)
            stf(arg(args, 1) + outer_offset(args, HEAD, n_outer, o, 1), 0, total)

    return make_kernel(body, "reduce_rows", (op,), vectors=True)


def _var_rows(args, tid, nt, cuts):
    """Two passes: the mean, then the squares around it."""
    n_outer, count = arg(args, 2), arg(args, 3)
    r0, r1, n = arg(args, 4), arg(args, 5), arg(args, 6)
    s0, s1 = arg(args, 7), arg(args, 8)
    for o in range(*share(count, tid, nt, cuts)):
        x = arg(args, 0) + outer_offset(args, HEAD, n_outer, o, 0)
        total, squares = 0.0, 0.0
        for i in range(r0):
            for j in range(r1):
                total += run_sum(x + i * s0 + j * s1, n)
        mean = total / (r0 * r1 * n)
        for i in range(r0):
            for j in range(r1):
                squares += run_squares(x + i * s0 + j * s1, n, mean)
        place = outer_offset(args, HEAD, n_outer, o, 1)
        stf(arg(args, 1) + place, 0, squares * argf(args, 13))
        if arg(args, 14) != 0:
            stf(arg(args, 14) + place, 0, mean)


# --- columns --------------------------------------------------------------------------------------
@inline_njit
def _var_step(a, v, mean):
    d = vsub(v, mean)
    return vfma(d, d, a)


@inline_njit
def _add_step(a, v, mean):
    return vadd(a, v)


@inline_njit
def _mul_step(a, v, mean):
    return vmul(a, v)


@inline_njit
def _max_step(a, v, mean):
    return vmax(a, v)


@inline_njit
def _min_step(a, v, mean):
    return vmin(a, v)


def _column_pass(step, start: float, stacked: bool):
    """Return ``f(args, x, left, mean)``: one vector of columns reduced over all rows."""

    @inline_njit
    def f(args, x, left, mean):
        r0, r1, n = arg(args, 4), arg(args, 5), arg(args, 6)
        total = vsplat(start)
        for i in range(r0):
            for j in range(r1):
                base = x + i * arg(args, 7) + j * arg(args, 8)
                for k0 in range(0, n, STACK):
                    acc = vsplat(start) if stacked else total
                    for k in range(k0, min(k0 + STACK, n)):
                        acc = step(acc, vload_n(base + k * arg(args, 9), 0, left), mean)
                    total = vadd(total, acc) if stacked else acc
        return total

    return f


def _column_quad(step, start: float, stacked: bool):
    """Return ``f(args, x, out)``: four whole vectors of columns, without masks."""

    @inline_njit
    def f(args, x, m0, m1, m2, m3):
        r0, r1, n = arg(args, 4), arg(args, 5), arg(args, 6)
        t0, t1, t2, t3 = vsplat(start), vsplat(start), vsplat(start), vsplat(start)
        for i in range(r0):
            for j in range(r1):
                base = x + i * arg(args, 7) + j * arg(args, 8)
                for k0 in range(0, n, STACK):
                    if stacked:
                        a0, a1, a2, a3 = vsplat(start), vsplat(start), vsplat(start), vsplat(start)
                    else:
                        a0, a1, a2, a3 = t0, t1, t2, t3
                    for k in range(k0, min(k0 + STACK, n)):
                        row = base + k * arg(args, 9)
                        a0 = step(a0, vload(row, 0), m0)
                        a1 = step(a1, vload(row, LANES), m1)
                        a2 = step(a2, vload(row, 2 * LANES), m2)
                        a3 = step(a3, vload(row, 3 * LANES), m3)
                    if stacked:
                        t0, t1, t2, t3 = vadd(t0, a0), vadd(t1, a1), vadd(t2, a2), vadd(t3, a3)
                    else:
                        t0, t1, t2, t3 = a0, a1, a2, a3
        return t0, t1, t2, t3

    return f


@inline_njit(forceinline=True)
def _put(out, step, v, left):
    """Store the first ``left`` lanes, ``step`` bytes apart."""
    if step == 4:
        vstore_n(out, 0, v, left)
    else:
        for lane in range(min(left, LANES)):
            stf(out + lane * step, 0, vextract(v, lane))


@inline_njit
def _put_four(out, step, t0, t1, t2, t3):
    """Store four whole vectors."""
    _put(out, step, t0, LANES)
    _put(out + LANES * step, step, t1, LANES)
    _put(out + 2 * LANES * step, step, t2, LANES)
    _put(out + 3 * LANES * step, step, t3, LANES)


_COLUMN = {
    "sum": (_add_step, 0.0, True),
    "prod": (_mul_step, 1.0, False),
    "amax": (_max_step, -INF, False),
    "amin": (_min_step, INF, False),
}


@inline_njit
def _walk(args, tid, nt, cuts, four, single):
    """Run ``four`` or ``single`` over this thread's units of columns."""
    n_outer, cols, width = arg(args, 2), arg(args, 10), arg(args, 11)
    per = (cols + width - 1) // width
    units = arg(args, 3) * per
    for unit in range(*share(units, tid, nt, cuts)):
        o, c = unit // per, unit % per * width
        end = min(c + width, cols)
        x = arg(args, 0) + outer_offset(args, HEAD, n_outer, o, 0)
        out = arg(args, 1) + outer_offset(args, HEAD, n_outer, o, 1)
        while c < end:
            if end - c >= 4 * LANES:
                four(args, x + 4 * c, out + c * arg(args, 12))
                c += 4 * LANES
            else:
                single(args, x + 4 * c, out + c * arg(args, 12), end - c)
                c += LANES


def _make_cols(op: str) -> Kernel:
    one, quad = _column_pass(*_COLUMN[op]), _column_quad(*_COLUMN[op])
    scaled = op == "sum"

    @inline_njit
    def single(args, x, out, left):
        t = one(args, x, left, vzero())
        if scaled:
            t = vmul(t, vsplat(argf(args, 13)))
        _put(out, arg(args, 12), t, left)

    @inline_njit
    def four(args, x, out):
        z = vzero()
        t0, t1, t2, t3 = quad(args, x, z, z, z, z)
        if scaled:
            p = vsplat(argf(args, 13))
            t0, t1, t2, t3 = vmul(t0, p), vmul(t1, p), vmul(t2, p), vmul(t3, p)
        _put_four(out, arg(args, 12), t0, t1, t2, t3)

    def body(args, tid, nt, cuts):
        _walk(args, tid, nt, cuts, four, single)

    return make_kernel(body, "reduce_cols", (op,), vectors=True)


def _make_var_cols() -> Kernel:
    """Return the kernel of variances: the means, then the squares around them."""
    one, quad = _column_pass(*_COLUMN["sum"]), _column_quad(*_COLUMN["sum"])
    squares, quad_squares = _column_pass(_var_step, 0.0, True), _column_quad(_var_step, 0.0, True)

    @inline_njit
    def single(args, x, out, left):
        share = vsplat(1.0 / (arg(args, 4) * arg(args, 5) * arg(args, 6)))
        mean = vmul(one(args, x, left, vzero()), share)
        if arg(args, 14) != 0:
            _put(out - arg(args, 1) + arg(args, 14), arg(args, 12), mean, left)
        t = vmul(squares(args, x, left, mean), vsplat(argf(args, 13)))
        _put(out, arg(args, 12), t, left)

    @inline_njit
    def four(args, x, out):
        z, m = vzero(), vsplat(1.0 / (arg(args, 4) * arg(args, 5) * arg(args, 6)))
        t0, t1, t2, t3 = quad(args, x, z, z, z, z)
        t0, t1, t2, t3 = vmul(t0, m), vmul(t1, m), vmul(t2, m), vmul(t3, m)
        if arg(args, 14) != 0:
            _put_four(out - arg(args, 1) + arg(args, 14), arg(args, 12), t0, t1, t2, t3)
        t0, t1, t2, t3 = quad_squares(args, x, t0, t1, t2, t3)
        p = vsplat(argf(args, 13))
        _put_four(out, arg(args, 12), vmul(t0, p), vmul(t1, p), vmul(t2, p), vmul(t3, p))

    def body(args, tid, nt, cuts):
        _walk(args, tid, nt, cuts, four, single)

    return make_kernel(body, "reduce_cols", ("var",), vectors=True)


ROWS = {op: _make_rows(op) for op in _ROW} | {
    "var": make_kernel(_var_rows, "reduce_rows", ("var",))
}
COLS = {op: _make_cols(op) for op in _COLUMN} | {"var": _make_var_cols()}
