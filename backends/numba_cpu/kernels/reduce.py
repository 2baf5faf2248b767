"""numba_cpu > kernels > reduce: sums, products, extremes and variances over any axes of a strided tensor.

Record, 64-bit words (strides in bytes)::

    0 x  1 out  2 n_outer  3 outer count  4 r0  5 r1  6 n  7 r0 stride  8 r1 stride  9 n stride
    10 columns  11 columns of a unit  12 out column stride  13 p (float64)
    14.. outer sizes, x strides, out strides [n_outer each]

``r0, r1, n`` are the reduced axes. ``reduce_rows`` reduces the axis that is contiguous (``n``); one result
for each outer index. ``reduce_cols`` keeps the contiguous axis: a vector of columns at once, columns in units
that threads share. ``p``: what a sum (of squares, for a variance) is multiplied with.

Sums add 32 bits within short runs and 64 bits (rows) or a second level of 32 (columns) above them.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.kernels.base import Kernel, inline_njit, make_kernel
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    ldf,
    ldi64,
    stf,
    sti64,
    vadd,
    vextract,
    vfma,
    vhmax,
    vhmin,
    vload,
    vload_n,
    vmax,
    vmin,
    vmul,
    vselect,
    vfirst,
    vsplat,
    vstore_n,
    vsub,
    vsum,
    vzero,
)

HEAD = 14
RUN = 2048  # elements added in 32 bits before they join the total
STACK = 64  # rows added before they join the second level
F32_OPS = ("sum", "prod", "amax", "amin", "var")
INF = float("inf")


@inline_njit
def outer_offset(args, head, n_outer, index, table):
    """Return the byte offset of outer ``index`` by stride table ``table`` (0, 1, ...)."""
    offset = 0
    for d in range(n_outer - 1, -1, -1):
        n = arg(args, head + d)
        offset += index % n * arg(args, head + (1 + table) * n_outer + d)
        index //= n
    return offset


# --- one contiguous run -----------------------------------------------------------------------------------------
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


@inline_njit
def run_max(x, n):
    """Return the largest of ``n`` floats, NaN if there is one."""
    a = vsplat(-INF)
    i = 0
    while i + LANES <= n:
        a = vmax(a, vload(x, i))
        i += LANES
    if i < n:
        a = vmax(a, vselect(vfirst(n - i), vload_n(x, i, n - i), a))
    return vhmax(a)


@inline_njit
def _run_min(x, n):
    a = vsplat(INF)
    i = 0
    while i + LANES <= n:
        a = vmin(a, vload(x, i))
        i += LANES
    if i < n:
        a = vmin(a, vselect(vfirst(n - i), vload_n(x, i, n - i), a))
    return vhmin(a)


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
def _sum_two(x, y):
    return x + y


@inline_njit
def _mul_two(x, y):
    return x * y


@inline_njit
def _max_two(x, y):
    return y if y > x or y != y else x


@inline_njit
def _min_two(x, y):
    return y if y < x or y != y else x


_ROW = {
    "sum": (run_sum, _sum_two, 0.0),
    "prod": (_run_prod, _mul_two, 1.0),
    "amax": (run_max, _max_two, -INF),
    "amin": (_run_min, _min_two, INF),
}


def _make_rows(op: str) -> Kernel:
    run, join, start = _ROW[op]
    scaled = op == "sum"

    def body(args, tid, nt):
        n_outer, count = arg(args, 2), arg(args, 3)
        r0, r1, n = arg(args, 4), arg(args, 5), arg(args, 6)
        s0, s1 = arg(args, 7), arg(args, 8)
        for o in range(count * tid // nt, count * (tid + 1) // nt):
            x = arg(args, 0) + outer_offset(args, HEAD, n_outer, o, 0)
            total = start
            for i in range(r0):
                for j in range(r1):
                    total = join(total, run(x + i * s0 + j * s1, n))
            if scaled:
                total *= argf(args, 13)
            stf(arg(args, 1) + outer_offset(args, HEAD, n_outer, o, 1), 0, total)

    return make_kernel(body, "reduce_rows", (op,))


def _var_rows(args, tid, nt):
    """Two passes: the mean, then the squares around it."""
    n_outer, count = arg(args, 2), arg(args, 3)
    r0, r1, n = arg(args, 4), arg(args, 5), arg(args, 6)
    s0, s1 = arg(args, 7), arg(args, 8)
    for o in range(count * tid // nt, count * (tid + 1) // nt):
        x = arg(args, 0) + outer_offset(args, HEAD, n_outer, o, 0)
        total, squares = 0.0, 0.0
        for i in range(r0):
            for j in range(r1):
                total += run_sum(x + i * s0 + j * s1, n)
        mean = total / (r0 * r1 * n)
        for i in range(r0):
            for j in range(r1):
                squares += run_squares(x + i * s0 + j * s1, n, mean)
        stf(arg(args, 1) + outer_offset(args, HEAD, n_outer, o, 1), 0, squares * argf(args, 13))


# --- columns ----------------------------------------------------------------------------------------------------
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
    """Return ``f(args, x, out)``: four whole vectors of columns, without masks; sums go to ``out``."""

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


@inline_njit
def _put(out, step, v, left):
    """Store the first ``left`` lanes, ``step`` bytes apart."""
    if step == 4:
        vstore_n(out, 0, v, left)
    else:
        for lane in range(min(left, LANES)):
            stf(out + lane * step, 0, vextract(v, lane))


_COLUMN = {
    "sum": (_add_step, 0.0, True),
    "prod": (_mul_step, 1.0, False),
    "amax": (_max_step, -INF, False),
    "amin": (_min_step, INF, False),
}


def _make_cols(op: str) -> Kernel:
    """Return the kernel that reduces columns: of ``sum`` times p, or of the other ops."""
    one = _column_pass(*_COLUMN["sum" if op == "var" else op])
    quad = _column_quad(*_COLUMN["sum" if op == "var" else op])
    squares = _column_pass(_var_step, 0.0, True)
    quad_squares = _column_quad(_var_step, 0.0, True)
    variance, scaled = op == "var", op in ("sum", "var")

    @inline_njit
    def single(args, x, out, left):
        t = one(args, x, left, vzero())
        if variance:
            mean = vmul(t, vsplat(1.0 / (arg(args, 4) * arg(args, 5) * arg(args, 6))))
            t = squares(args, x, left, mean)
        if scaled:
            t = vmul(t, vsplat(argf(args, 13)))
        _put(out, arg(args, 12), t, left)

    @inline_njit
    def four(args, x, out):
        z = vzero()
        t0, t1, t2, t3 = quad(args, x, z, z, z, z)
        if variance:
            m = vsplat(1.0 / (arg(args, 4) * arg(args, 5) * arg(args, 6)))
            t0, t1, t2, t3 = quad_squares(args, x, vmul(t0, m), vmul(t1, m), vmul(t2, m), vmul(t3, m))
        if scaled:
            p = vsplat(argf(args, 13))
            t0, t1, t2, t3 = vmul(t0, p), vmul(t1, p), vmul(t2, p), vmul(t3, p)
        step = LANES * arg(args, 12)
        _put(out, arg(args, 12), t0, LANES)
        _put(out + step, arg(args, 12), t1, LANES)
        _put(out + 2 * step, arg(args, 12), t2, LANES)
        _put(out + 3 * step, arg(args, 12), t3, LANES)

    def body(args, tid, nt):
        n_outer, cols, width = arg(args, 2), arg(args, 10), arg(args, 11)
        per = (cols + width - 1) // width
        units = arg(args, 3) * per
        for unit in range(units * tid // nt, units * (tid + 1) // nt):
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

    return make_kernel(body, "reduce_cols", (op,))


# --- integers ---------------------------------------------------------------------------------------------------
_INT_JOIN = {"sum": (_sum_two, 0), "prod": (_mul_two, 1), "amax": (_max_two, -(2**63)), "amin": (_min_two, 2**63 - 1)}


def _make_int_rows(op: str) -> Kernel:
    join, start = _INT_JOIN[op]

    def body(args, tid, nt):
        n_outer, count, n = arg(args, 2), arg(args, 3), arg(args, 6)
        for o in range(count * tid // nt, count * (tid + 1) // nt):
            x = arg(args, 0) + outer_offset(args, HEAD, n_outer, o, 0)
            total = start
            for i in range(arg(args, 4)):
                for j in range(arg(args, 5)):
                    row = x + i * arg(args, 7) + j * arg(args, 8)
                    for k in range(n):
                        total = join(total, ldi64(row, k))
            sti64(arg(args, 1) + outer_offset(args, HEAD, n_outer, o, 1), 0, total)

    return make_kernel(body, "reduce_int", (op,))


# --- scans and positions ----------------------------------------------------------------------------------------
def _make_cumsum(size: int) -> Kernel:
    """Return the running sum of lines: x stride ``n stride``, out stride ``out column stride``."""
    floats = size == 4

    def body(args, tid, nt):
        n_outer, count, n = arg(args, 2), arg(args, 3), arg(args, 6)
        x_step, out_step = arg(args, 9), arg(args, 12)
        for o in range(count * tid // nt, count * (tid + 1) // nt):
            x = arg(args, 0) + outer_offset(args, HEAD, n_outer, o, 0)
            out = arg(args, 1) + outer_offset(args, HEAD, n_outer, o, 1)
            if floats:
                total = 0.0
                for i in range(n):
                    total += ldf(x + i * x_step, 0)
                    stf(out + i * out_step, 0, total)
            else:
                whole = 0
                for i in range(n):
                    whole += ldi64(x + i * x_step, 0)
                    sti64(out + i * out_step, 0, whole)

    return make_kernel(body, "cumsum", (size,))


def _make_arg(op: str, size: int) -> Kernel:
    """Return the position of the first extreme of each contiguous row; the first NaN wins."""
    sign = 1 if op == "argmax" else -1
    run = run_max if op == "argmax" else _run_min
    floats = size == 4

    def body(args, tid, nt):
        n_outer, count, n = arg(args, 2), arg(args, 3), arg(args, 6)
        for o in range(count * tid // nt, count * (tid + 1) // nt):
            x = arg(args, 0) + outer_offset(args, HEAD, n_outer, o, 0)
            at = 0
            if floats:
                best = run(x, n)
                if best == best:
                    while ldf(x, at) != best:
                        at += 1
                else:
                    while ldf(x, at) == ldf(x, at):
                        at += 1
            else:
                top = ldi64(x, 0)
                for i in range(1, n):
                    y = ldi64(x, i)
                    if (y > top) if sign > 0 else (y < top):
                        top, at = y, i
            sti64(arg(args, 1) + outer_offset(args, HEAD, n_outer, o, 1), 0, at)

    return make_kernel(body, op, (size,))


ROWS = {op: _make_rows(op) for op in _ROW} | {"var": make_kernel(_var_rows, "reduce_rows", ("var",))}
COLS = {op: _make_cols(op) for op in F32_OPS}
INT_ROWS = {op: _make_int_rows(op) for op in _INT_JOIN}
CUMSUM = {size: _make_cumsum(size) for size in (4, 8)}
ARG = {(op, size): _make_arg(op, size) for op in ("argmax", "argmin") for size in (4, 8)}
__all__ = ["ARG", "COLS", "CUMSUM", "F32_OPS", "INT_ROWS", "ROWS", "outer_offset", "run_max", "run_sum"]
