"""numba_cpu > kernels > scan: integer reductions, running sums, positions of extremes.

Records are those of :mod:`reduce`; ``cumsum`` walks lines by its ``n`` stride and the out column
stride,
``argmax`` and ``argmin`` want contiguous rows and write int64.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.kernels.base import Kernel, make_kernel
from leptonc.backends.numba_cpu.kernels.reduce import (
    HEAD,
    max_two,
    min_two,
    mul_two,
    sum_two,
)
from leptonc.backends.numba_cpu.kernels.runs import outer_offset, run_max, run_min
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import arg, ldf, ldi64, stf, sti64

# --- integers -------------------------------------------------------------------------------------
_INT_JOIN = {
    "sum": (sum_two, 0),
    "prod": (mul_two, 1),
    "amax": (max_two, -(2**63)),
    "amin": (min_two, 2**63 - 1),
}


def _make_int_rows(op: str) -> Kernel:
    join, start = _INT_JOIN[op]

    def body(args, tid, nt, cuts):
        n_outer, count, n = arg(args, 2), arg(args, 3), arg(args, 6)
        for o in range(*share(count, tid, nt, cuts)):
            x = arg(args, 0) + outer_offset(args, HEAD, n_outer, o, 0)
            total = start
            for i in range(arg(args, 4)):
                for j in range(arg(args, 5)):
                    row = x + i * arg(args, 7) + j * arg(args, 8)
                    for k in range(n):
                        total = join(total, ldi64(row, k))
            sti64(arg(args, 1) + outer_offset(args, HEAD, n_outer, o, 1), 0, total)

    return make_kernel(body, "reduce_int", (op,))


# --- scans and positions --------------------------------------------------------------------------
def _make_cumsum(size: int) -> Kernel:
    """Return the running sum of lines: x stride ``n stride``, out stride ``out column stride``."""
    floats = size == 4

    def body(args, tid, nt, cuts):
        n_outer, count, n = arg(args, 2), arg(args, 3), arg(args, 6)
        x_step, out_step = arg(args, 9), arg(args, 12)
        for o in range(*share(count, tid, nt, cuts)):
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
    run = run_max if op == "argmax" else run_min
    floats = size == 4

    def body(args, tid, nt, cuts):
        n_outer, count, n = arg(args, 2), arg(args, 3), arg(args, 6)
        for o in range(*share(count, tid, nt, cuts)):
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


INT_ROWS = {op: _make_int_rows(op) for op in _INT_JOIN}
CUMSUM = {size: _make_cumsum(size) for size in (4, 8)}
ARG = {(op, size): _make_arg(op, size) for op in ("argmax", "argmin") for size in (4, 8)}
