"""numba_cpu > lower > product_cost: estimated cycles of products, of vectors and of tile registers.

In cycles of one core with two multipliers: a multiply-add of a row with a panel is one.
"""

from __future__ import annotations

import math
import operator

from leptonc.backends.numba_cpu.kernels import bf16x3_plan
from leptonc.backends.numba_cpu.kernels.amx import AMX
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.strassen_plan import Sizes
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.meaning import PAIRED

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


# Of Strassen's algorithm: for a multiply-add of a row with a panel; for a vector of a left operand,
# of B in each part of the rows and of the result. Fitted to 13 products of 49 to 3136 rows, 128 to
# 2048 numbers and 64 to 2048 columns on a core with 16 lanes, within 4 %. More left operands of a
# part than its core's caches hold come from far for each pair of panels.
STRASSEN_PRODUCT, OPERAND, OF_B, OF_RESULT, FROM_FAR = 0.93, 5.0, 2.1, 4.8, 1.8
NEAR_OPERANDS = 2 << 20  # bytes of left operands
NEAR_OF_MANY = 5 << 18  # with a pair of panels and sums, where other cores read from far, too
MOST_OPERANDS = 16 << 20  # bytes of all left operands: more lose up to a third
#: Rows, depth and columns: in a network smaller products gain nothing, those of fewer rows lose, as
#: weights come from memory and are read for more than one product.
LEAST_SIDES = (96, 256, 256)


def strassen_columns(columns: int) -> int:
    """Return how many columns of a product run by :mod:`strassen`: whole pairs of panels."""
    return columns // PAIRED * PAIRED


def strassen_sizes(rows: int, depth: int, columns: int, threads: int) -> Sizes | None:
    """Return how :mod:`strassen` computes whole pairs of panels; None where it cannot.

    Each thread has a part of the rows, or with others a larger one if its own would be too small.
    """
    for parts in range(threads, 0, -1):
        sizes = Sizes(rows, depth, columns, parts)
        if threads % parts == 0 and sizes.fit:
            return sizes
    return None


def strassen_cycles(rows: int, depth: int, columns: int, threads: int) -> float:
    """Return what :mod:`strassen` takes; infinity where it cannot run or does not pay.

    Cycles are those of as many cores, divided by them. What is behind :func:`strassen_columns`
    counts as the plain product that it is.
    """
    whole, sides = strassen_columns(columns), (rows, depth, columns)
    sizes = strassen_sizes(rows, depth, whole, threads)
    if sizes is None or any(map(operator.lt, sides, LEAST_SIDES)):
        return math.inf
    if 4 * sizes.sums_floats * sizes.parts > MOST_OPERANDS:
        return math.inf
    operand = OPERAND if _is_near(sizes, threads) else OPERAND + FROM_FAR * sizes.pairs
    vectors = operand * sizes.sums_floats * threads
    vectors += OF_B * depth * whole * sizes.parts + OF_RESULT * rows * whole
    cycles = STRASSEN_PRODUCT * rows * (whole // PANEL) * depth + vectors / LANES
    each = sizes.pairs * sizes.parts / threads
    cycles *= math.ceil(each) / each
    if whole < columns:
        cycles += igemm_cycles(rows, depth, columns - whole)
    return cycles if cycles < igemm_cycles(*sides) else math.inf


def strassen_is_near(rows: int, depth: int, columns: int, threads: int) -> bool:
    """Return whether estimates of :mod:`strassen` are as good as measurements."""
    sizes = strassen_sizes(rows, depth, columns, threads)
    return sizes is not None and _is_near(sizes, threads)


def _is_near(sizes: Sizes, threads: int) -> bool:
    """Return whether the left operands of a part stay near."""
    operands, panels = 4 * sizes.sums_floats, 6 * sizes.panel_bytes
    return operands <= NEAR_OPERANDS if threads == 1 else operands + panels <= NEAR_OF_MANY


def bf16x3_cycles(rows: int, taps: int, depth: int, columns: int, precision: str) -> float:
    """Return what :mod:`bf16x3` takes; infinity where it cannot run, must not or does not pay.

    An infinity makes NaN of what it meets, so ``precision="strict"`` forbids it.
    """
    if not AMX or precision == "strict":
        return math.inf
    cycles = bf16x3_plan.cycles(rows, taps, depth, columns)
    pays = LEAST_GAIN * cycles <= igemm_cycles(rows, taps * depth, columns)
    return cycles if pays else math.inf
