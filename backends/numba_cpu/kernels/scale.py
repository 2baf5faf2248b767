"""numba_cpu > kernels > scale: the rows of a packed weight times factors known at run time."""

from __future__ import annotations

from leptonc.backends.numba_cpu.kernels.base import kernel
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import LANES, arg, ldf, vload, vsplat, vstore

NAMES = ("batch", "panels", "depth", "factors", "factors_b", "weight", "out")
BATCH, PANELS, DEPTH, FACTORS, FACTORS_B, WEIGHT, OUT = range(len(NAMES))


@kernel
def scale_panels(args, tid, nt, cuts):
    """Store ``out[b][p][k][j] = weight[p][k][j] * factors[b][k]``, a stretch of rows per thread.

    Slots: batch, panels, depth, address of ``f32[batch, depth]``, floats from batch to batch of it,
        addresses of ``f32[panels, depth, PANEL]`` (see :mod:`pack`) and of one such per batch.
    """
    depth, panels = arg(args, DEPTH), arg(args, PANELS)
    rows = arg(args, BATCH) * panels * depth
    row, stop = share(rows, tid, nt, cuts)
    while row < stop:
        job, k = row // depth, row % depth
        b, p = job // panels, job % panels
        count = min(depth - k, stop - row)
        factors = arg(args, FACTORS) + 4 * (b * arg(args, FACTORS_B) + k)
        weight = arg(args, WEIGHT) + 4 * PANEL * (p * depth + k)
        out = arg(args, OUT) + 4 * PANEL * row
        for i in range(count):
            factor = vsplat(ldf(factors, i))
            for j in range(0, PANEL, LANES):
                vstore(out, i * PANEL + j, vload(weight, i * PANEL + j) * factor)
        row += count
