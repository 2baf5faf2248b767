"""numba_cpu > kernels > gather: rows and elements picked by index, ranges, triangles.

An index out of range sets the status word and its element is left out. Records, 64-bit words,
strides in bytes:

``gather_rows``: ``out[o, i] = x[o, index[i]]``, runs of ``inner`` bytes::

    0 x  1 index (int64)  2 out  3 status  4 outer  5 indices  6 axis size  7 inner
    8 x outer stride
    9 x axis stride  10 out outer stride  11 out index stride  12 wrap (0 or 1)

``gather_elements``: ``out[p] = x[p with index[p] on the axis]``::

    0 x  1 index (int64)  2 out  3 status  4 n_outer  5 outer count  6 n  7 axis size
    8 x axis stride
    9 x, 10 index, 11 out stride along n  12.. outer sizes, x, index, out strides [n_outer each]

``triangle``: lower or upper part of the last two axes::

    0 x  1 out  2 n_outer  3 outer count  4 rows  5 cols  6 x row  7 x column  8 out row
    9 out column stride
    10 diagonal  11 lower (0 or 1)  12.. outer sizes, x, out strides [n_outer each]

``iota``: 0 out  1 length  2 start  3 step (int64, or float64 for floats).
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.kernels.base import Kernel, kernel, make_kernel
from leptonc.backends.numba_cpu.kernels.ew_loop import copy_bytes
from leptonc.backends.numba_cpu.kernels.runs import outer_offset
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    arg,
    argf,
    ldi8,
    ldi16,
    ldi32,
    ldi64,
    stf,
    sti8,
    sti16,
    sti32,
    sti64,
)

HEAD = 12
_ACCESS = {1: (ldi8, sti8), 2: (ldi16, sti16), 4: (ldi32, sti32), 8: (ldi64, sti64)}


@kernel
def gather_rows(args, tid, nt, cuts):
    """Rows shared out among threads."""
    outer, count, size, inner = arg(args, 4), arg(args, 5), arg(args, 6), arg(args, 7)
    total = outer * count
    for k in range(*share(total, tid, nt, cuts)):
        o, i = k // count, k % count
        at = ldi64(arg(args, 1), i)
        if at < 0 and arg(args, 12) != 0:
            at += size
        if at < 0 or at >= size:
            sti64(arg(args, 3), 0, 1)
            continue
        x = arg(args, 0) + o * arg(args, 8) + at * arg(args, 9)
        out = arg(args, 2) + o * arg(args, 10) + i * arg(args, 11)
        if inner == 4:
            sti32(out, 0, ldi32(x, 0))
        else:
            copy_bytes(out, x, inner)


def _make_elements(size: int) -> Kernel:
    load, store = _ACCESS[size]

    def body(args, tid, nt, cuts):
        n_outer, count, n, limit = arg(args, 4), arg(args, 5), arg(args, 6), arg(args, 7)
        for o in range(*share(count, tid, nt, cuts)):
            x = arg(args, 0) + outer_offset(args, HEAD, n_outer, o, 0)
            index = arg(args, 1) + outer_offset(args, HEAD, n_outer, o, 1)
            out = arg(args, 2) + outer_offset(args, HEAD, n_outer, o, 2)
            for i in range(n):
                at = ldi64(index + i * arg(args, 10), 0)
                if at < 0 or at >= limit:
                    sti64(arg(args, 3), 0, 1)
                else:
                    store(
                        out + i * arg(args, 11),
                        0,
                        load(x + i * arg(args, 9) + at * arg(args, 8), 0),
                    )

    return make_kernel(body, "gather_elements", (size,))


def _make_triangle(size: int) -> Kernel:
    load, store = _ACCESS[size]

    def body(args, tid, nt, cuts):
        n_outer, rows, cols, lower = arg(args, 2), arg(args, 4), arg(args, 5), arg(args, 11)
        total = arg(args, 3) * rows
        for k in range(*share(total, tid, nt, cuts)):
            o, r = k // rows, k % rows
            x = arg(args, 0) + outer_offset(args, HEAD, n_outer, o, 0) + r * arg(args, 6)
            out = arg(args, 1) + outer_offset(args, HEAD, n_outer, o, 1) + r * arg(args, 8)
            edge = min(max(r + arg(args, 10) + lower, 0), cols)
            first, last = (0, edge) if lower != 0 else (edge, cols)
            for c in range(cols):
                if first <= c < last:
                    store(out + c * arg(args, 9), 0, load(x + c * arg(args, 7), 0))
                else:
                    store(out + c * arg(args, 9), 0, 0)

    return make_kernel(body, "triangle", (size,))


@kernel
def iota_int(args, tid, nt, cuts):
    """Integers from ``start`` by ``step``."""
    n = arg(args, 1)
    for i in range(*share(n, tid, nt, cuts)):
        sti64(arg(args, 0), i, arg(args, 2) + i * arg(args, 3))


@kernel
def iota_float(args, tid, nt, cuts):
    """Floats from ``start`` by ``step``, computed in 64 bits."""
    n = arg(args, 1)
    for i in range(*share(n, tid, nt, cuts)):
        stf(arg(args, 0), i, i * argf(args, 3) + argf(args, 2))


ELEMENTS = {size: _make_elements(size) for size in _ACCESS}
TRIANGLE = {size: _make_triangle(size) for size in _ACCESS}
