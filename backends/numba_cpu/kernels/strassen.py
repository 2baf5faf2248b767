"""numba_cpu > kernels > strassen: a product with constant weights in seven eighths of the products.

``out[m, n] = act(A[m, k] @ B[k, n] + bias[n] + res[m, n])`` by one level of Strassen's algorithm
(:mod:`strassen_plan`). B is packed as for :mod:`igemm`: two halves of the depth of a panel are two
quadrants' panels, and so are two panels that lie half of the columns apart, so that no weights are
held twice. The rows are in parts, a thread's each: it writes the left operands of the part's seven
products into its scratch, then computes a pair of panels at a time, whose four quadrants of sums
stay in the caches. What a core reads, it wrote: what another did comes late where cores do not
share a cache. Rows that a part lacks are zeros.

Each product's sums run over k in ascending order, whatever the number of threads; which rows meet
is a matter of the parts. Rounding errors are larger than a plain sum's
(:func:`strassen_plan.error_bound`), and so is the reach of what is not finite: an infinity or NaN
in a row of A makes that row NaN and the one half of a part's rows away, one in a column of B that
column and the one half of the columns away, as Winograd's spreads over an output tile.
"""

from __future__ import annotations

import numpy as np

from leptonc.backends.numba_cpu.kernels.activation import clamp_of
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS
from leptonc.backends.numba_cpu.kernels.row_tables import fill
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.strassen_plan import ENTRIES, GAP, PRODUCTS, TILE_BYTES
from leptonc.backends.numba_cpu.kernels.strassen_tile import multiply_sums
from leptonc.backends.numba_cpu.kernels.tile_finish import (
    FINISH_ROWS,
    FINISH_TILE,
    NO_RES,
    finish_tile,
)
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    ldi64,
    vadd,
    vload,
    vload_n,
    vstore,
    vsub,
)

NAMES = (
    "rows", "parts", "half", "tiles", "vectors", "pairs", "panel_bytes", "turns", "share",
    "advance", "tall", "low", "cells", "tables", "spare", "sums", "table", "a", "width", "a_line",
    "a_row", "b", "bias", "out", "out_row", "res", "res_row", "late", "act", "act_p0", "act_p1",
    "scratch", "scratch_bytes",
)  # fmt: skip
"""Slots of the record, in order. Up to ``sums``: :meth:`strassen_plan.Sizes.slots` (``turns``: of
the loop over the depth; ``share``: the bytes of a sum that a tile makes; ``advance``: those that it
asks for in a turn). ``table``: address of :meth:`Sizes.table`; then addresses (bytes; ``res`` or 0)
and floats from row to row; those of A are ``width`` to a line. ``late``: as for
:func:`finish_tile`; ``act``: an ``Act``. ``scratch``: see :meth:`Sizes.scratch`."""

(
    M, PARTS, HALF, TILES, VECTORS, PAIRS, PANEL_BYTES, TURNS, SHARE, ADVANCE, TALL, LOW, CELLS,
    TABLES, SPARE, SUMS, TABLE, A, WIDTH, A_LINE, A_ROW, B, BIAS, OUT, OUT_ROW, RES, RES_ROW, LATE,
    ACT, ACT_P0, ACT_P1, SCRATCH, SCRATCH_BYTES,
) = range(len(NAMES))  # fmt: skip
READY, PANEL_AT, MADE, X, Y, HOW, C, C_HOW, D, D_HOW, ROW, COLUMN = range(len(ENTRIES))
_VECTOR, _ENTRIES = 4 * LANES, 8 * len(ENTRIES)  # bytes
_COUNT, _INF = len(PRODUCTS), np.float32(np.inf)


@inline_njit
def _row(args, i):
    """Return the address of a row of A."""
    line, x = i // arg(args, WIDTH), i % arg(args, WIDTH)
    return arg(args, A) + 4 * (line * arg(args, A_LINE) + x * arg(args, A_ROW))


@inline_njit
def _operand_bytes(args):
    """Return the bytes of a left operand."""
    return arg(args, TILES) * arg(args, VECTORS) * ROWS * _VECTOR + GAP


@inline_njit
def _operands(args, first, end, sums):
    """Write a part's left operands, in the order of :data:`strassen_plan.PRODUCTS`."""
    half, tiles = arg(args, HALF), arg(args, TILES)
    depth = arg(args, VECTORS) * LANES
    area, operand = arg(args, VECTORS) * ROWS * _VECTOR, _operand_bytes(args)
    for i in range(half):
        tile = ((i + 1) * tiles - 1) // half
        upper, lower = _row(args, first + i), _row(args, first + half + i)
        there = LANES if first + half + i < end else 0
        to = sums + tile * area + (i - half * tile // tiles) * _VECTOR
        for k in range(0, depth, LANES):
            a11, a12 = vload(upper, k), vload(upper, depth + k)
            a21, a22 = vload_n(lower, k, there), vload_n(lower, depth + k, there)
            vstore(to, 0, vadd(a21, a22))
            vstore(to + operand, 0, vadd(a11, a22))
            vstore(to + 2 * operand, 0, a11)
            vstore(to + 3 * operand, 0, a22)
            vstore(to + 4 * operand, 0, vadd(a11, a12))
            vstore(to + 5 * operand, 0, vsub(a21, a11))
            vstore(to + 6 * operand, 0, vsub(a12, a22))
            to += ROWS * _VECTOR


@inline_njit
def _tables(args, first, end, scratch):
    """Write the addresses of a part's rows of result and residual, then of the spare row."""
    rows, there, tables = 2 * arg(args, HALF), end - first, scratch + arg(args, TABLES)
    for at, base, step in ((0, OUT, OUT_ROW), (rows, RES, RES_ROW)):
        row = 4 * arg(args, step)
        fill(tables, at, there, arg(args, base) + first * row, row)
        fill(tables, at + there, rows - there, scratch + arg(args, SPARE), 0)


@inline_njit
def _bounds(args):
    """Return the bounds that are the activation, and whether tiles can end with them."""
    if arg(args, LATE) != NO_RES:
        return -_INF, _INF, False
    return clamp_of(arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1))


@inline_njit
def _product(args, row, pair, scratch, a, ahead):
    """Compute one of the products of a pair of panels, as ``row`` of the table says."""
    half, tiles, size = arg(args, HALF), arg(args, TILES), arg(args, PANEL_BYTES)
    b, cells = arg(args, B) + 2 * pair * size, scratch + arg(args, CELLS)
    panel = (b if ldi64(row, READY) != 0 else scratch) + ldi64(row, PANEL_AT)
    made, x, y = scratch + ldi64(row, MADE), b + ldi64(row, X), b + ldi64(row, Y)
    end = made + size if ldi64(row, MADE) >= 0 else 0
    c, d = cells + ldi64(row, C) if ldi64(row, C) >= 0 else 0, cells + ldi64(row, D)
    # What the last place holds is complete with this product, or nothing is.
    done, column = ldi64(row, ROW) >= 0, 4 * PANEL * pair + ldi64(row, COLUMN)
    rows, table = scratch + arg(args, TABLES) + 8 * ldi64(row, ROW), 16 * half
    plus = done and arg(args, RES) != 0 and arg(args, LATE) == NO_RES
    low, high, simple = _bounds(args)
    left = done and not simple
    finished = 0
    for t in range(tiles):
        first, following = half * t // tiles, half * (t + 1) // tiles
        multiply_sums(
            arg(args, TALL) if following - first > half // tiles else arg(args, LOW), a, panel,
            x if made < end else 0, y, made, ldi64(row, HOW), arg(args, VECTORS), c,
            ldi64(row, C_HOW), d, ldi64(row, D_HOW), rows + 8 * first if done else 0,
            rows + table + 8 * first if plus else 0, column, arg(args, BIAS) + column, ahead,
            2 * arg(args, PAIRS) * size, arg(args, ADVANCE), low, high,
        )  # fmt: skip
        if left and (t + 1 == tiles or following - finished > FINISH_ROWS - ROWS):
            there = rows + 8 * finished
            finish_tile(
                arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1), arg(args, LATE), there,
                there + table, following - finished, column, PANEL,
            )  # fmt: skip
            finished = following
        c, d = c + TILE_BYTES if c != 0 else 0, d + TILE_BYTES
        made, x, y = made + arg(args, SHARE), x + arg(args, SHARE), y + arg(args, SHARE)
        a += arg(args, VECTORS) * ROWS * _VECTOR
        ahead += arg(args, ADVANCE) * arg(args, TURNS)


@kernel(parts=(FINISH_TILE,))
def strassen(args, tid, nt, cuts):
    """Compute this thread's pairs of panels of one part of the rows, then of the next."""
    m, parts, pairs = arg(args, M), arg(args, PARTS), arg(args, PAIRS)
    operand, asked = _operand_bytes(args), arg(args, ADVANCE) * arg(args, TURNS) * arg(args, TILES)
    scratch = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    sums = scratch + arg(args, SUMS)
    begin, stop = share(parts * pairs, tid, nt, cuts)
    for n in range(begin, stop):
        part, pair = n // pairs, n % pairs
        if n == begin or pair == 0:
            first, end = m * part // parts, m * (part + 1) // parts
            _operands(args, first, end, sums)
            _tables(args, first, end, scratch)
        ahead = arg(args, B) + 2 * (pair + 1) * arg(args, PANEL_BYTES)
        for p in range(_COUNT):
            _product(args, arg(args, TABLE) + p * _ENTRIES, pair, scratch, sums + p * operand,
                     ahead + p * asked)  # fmt: skip
