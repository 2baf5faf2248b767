"""numba_cpu > lower > product_cost: estimated cycles of products, of vectors and of tile registers.

In cycles of one core with two multipliers: a multiply-add of a row with a panel is one.
"""

from __future__ import annotations

import math

from leptonc.backends.numba_cpu.kernels import bf16x3_plan
from leptonc.backends.numba_cpu.kernels.amx import AMX
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL

PRODUCT = 1.1
FEWEST_ROWS = 4  # a product of fewer rows takes as long
IGEMM_RATE = 24.0  # bytes of weights per cycle, in addition to the product
#: How many times as long vectors must take for tile registers to be worth it: beside another
#: process on the same core these lose more.
LEAST_GAIN = 1.3


def igemm_cycles(rows: int, depth: int, columns: int) -> float:
    """Return what :mod:`igemm` takes; ``depth``: of all taps."""
    panels = -(-columns // PANEL)
    product = PRODUCT * max(rows, FEWEST_ROWS) * panels * depth
    return product + 4 * depth * panels * PANEL / IGEMM_RATE


def bf16x3_cycles(rows: int, taps: int, depth: int, columns: int, precision: str) -> float:
    """Return what :mod:`bf16x3` takes; infinity where it cannot run, must not or does not pay.

    An infinity makes NaN of what it meets, so ``precision="strict"`` forbids it.
    """
    if not AMX or precision == "strict":
        return math.inf
    cycles = bf16x3_plan.cycles(rows, taps, depth, columns)
    pays = LEAST_GAIN * cycles <= igemm_cycles(rows, taps * depth, columns)
    return cycles if pays else math.inf
