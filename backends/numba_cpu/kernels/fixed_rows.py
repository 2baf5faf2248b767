"""numba_cpu > kernels > fixed_rows: few rows times a large matrix that is kept in 24 bits.

A product of few rows reads all of the matrix once, so its bytes are what counts. Here a weight
takes three bytes for four: a whole number of 24 bits, in units that all weights of its column (an
output) share: the last place of the largest one. The unit is a power of two, so weights at least
half as large as that lose nothing but their last bit, and whole numbers nothing at all.

Error: a weight ``w`` of column ``j`` is off by at most ``unit_j / 2 <= 2**-23 (1 + 2**-23) max_j``,
where ``max_j`` is the column's largest absolute weight; a result by that times the sum of ``|x|``,
in addition to what a sum of ``depth`` float32 is off by. Columns whose largest weight exceeds their
others by far are for :mod:`igemm`, see ``MOST_PEAK``. No unit is smaller than 2**-126. Sums are
made in units: they overflow where those of ``|x|`` exceed 2**104. An infinity times a weight that
is less than half a unit is NaN.

The matrix lies in panels of PANEL columns, ``[panels][depth]`` cells of ``CELL`` bytes: the upper
16 bits of each column, then the lower 8. Each sum is the same for any number of threads.
"""

from __future__ import annotations

import functools

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.activation import vact
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.igemm_record import Res
from leptonc.backends.numba_cpu.kernels.ir_loops import Loop, when
from leptonc.backends.numba_cpu.kernels.pack import Fetch, aligned_empty, at_hand, copy_by_pieces
from leptonc.backends.numba_cpu.kernels.part import part
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.tile_writer import PANEL, VECTORS
from leptonc.backends.numba_cpu.kernels.vec import LANES, arg, argf, vload_n, vstore_n
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I8,
    I64,
    VF,
    VI,
    fconst,
    first_lanes,
    fma,
    i64,
    iconst,
    load_vec,
    masked_store,
    pointer,
    prefetch,
    shared_function,
    splat,
)

NAMES = (
    "rows", "columns", "depth", "x", "x_row", "weights", "units", "bias", "res", "res_row",
    "res_mode", "out", "out_row", "act", "act_p0", "act_p1",
)  # fmt: skip
"""Slots of the record, in order. ``x``: address of ``f32[rows][depth]``; ``weights``, ``units``: of
the two parts of what :func:`pack` returns; ``bias``: of ``f32[columns]`` or 0; ``res``: of
``f32[rows][columns]`` or 0, ``res_mode``: a ``Res``; ``out``: of ``f32[rows][columns]``; ``x_row``,
``res_row``, ``out_row``: elements from row to row; ``act``: an ``Act``."""
(
    N_ROWS, COLUMNS, DEPTH, X, X_ROW, WEIGHTS, UNITS, BIAS, RES, RES_ROW, RES_MODE, OUT, OUT_ROW,
    ACT, ACT_P0, ACT_P1,
) = range(len(NAMES))  # fmt: skip

HEIGHTS = (4, 2, 1)  # rows that share what was read of the matrix: for eight, floats are as fast
ROWS = HEIGHTS[0]
BITS = 24
CELL = 3 * PANEL  # bytes of a row of a panel
#: How many times their mean the largest weight of a column may be: results are off by up to twice
#: as much as those of plain sums then, by as much where it is 5 times, as of normal numbers.
MOST_PEAK = 16.0
_SUMS = 4 * VECTORS  # chains of fma
_AHEAD = 8192  # bytes of the matrix asked for ahead, two pages: the processor's own ends with one
_HIGH, _LOW = (ir.VectorType(ir.IntType(n), LANES) for n in (16, 8))
_BEFORE, _TIMES = int(Res.BEFORE), int(Res.TIMES)


def pack(weight: np.ndarray, fetch: Fetch = at_hand) -> np.ndarray:
    """Return the panels of finite ``weight: f32[out, in]`` and then the columns' units, as bytes.

    ``u8[panels, in, CELL]`` and ``f32[panels * PANEL]``, zeros beyond the columns; ``fetch``: see
    :mod:`pack`.
    """
    n, depth = weight.shape
    panels, at = -(-n // PANEL), units_at(n, depth)
    packed = aligned_empty((at + 4 * panels * PANEL,), np.uint8)
    cells, units = packed[:at].reshape(panels, depth, CELL), packed[at:].view(np.float32)
    rows, codes = np.zeros((PANEL, depth), np.float32), np.empty((PANEL, depth), np.int32)
    for p in range(panels):
        some = weight[p * PANEL : (p + 1) * PANEL]
        rows[len(some) :] = 0.0
        copy_by_pieces(rows[: len(some)], some, fetch)
        powers = unit_powers(np.maximum(rows.max(1, initial=0.0), -rows.min(1, initial=0.0)))
        units[p * PANEL : (p + 1) * PANEL] = np.ldexp(np.float32(1.0), powers)
        np.multiply(rows, np.ldexp(np.float32(1.0), -powers)[:, None], out=rows)
        codes[...] = np.rint(rows, out=rows)
        cells[p, :, 2 * PANEL :] = codes.T  # the lowest byte
        codes >>= 8
        cells[p, :, : 2 * PANEL].view(np.int16)[...] = codes.T
    return packed


def units_at(columns: int, depth: int) -> int:
    """Return the byte of a packed matrix at which its columns' units begin."""
    return -(-columns // PANEL) * depth * CELL


def unit_powers(largest: np.ndarray) -> np.ndarray:
    """Return the exponents of the units of columns whose largest weights are given.

    Rounded to a whole number of them, a weight takes ``BITS`` with its sign.
    """
    _, powers = np.frexp(largest)  # largest < 2**powers
    powers = powers + (np.ldexp(largest, BITS - 1 - powers) > 2 ** (BITS - 1) - 1)
    return np.maximum(powers - (BITS - 1), -126)


# ----- the tile -----------------------------------------------------------------------------------


def _weights(b: ir.IRBuilder, cell: ir.Value, k: int) -> list[ir.Value]:
    """Return the vectors of row ``k`` of the panel whose cells begin at a pointer."""
    made = []
    for j in range(VECTORS):
        high = b.gep(cell, [i64(k * CELL + 2 * j * LANES)], source_etype=I8)
        low = b.gep(cell, [i64(k * CELL + 2 * PANEL + j * LANES)], source_etype=I8)
        upper = b.shl(b.sext(b.load(high, align=1, typ=_HIGH), VI), iconst(8))
        code = b.or_(upper, b.zext(b.load(low, align=1, typ=_LOW), VI))
        made.append(b.sitofp(code, VF))
    return made


def _steps(b: ir.IRBuilder, rows, k0, cell0, sums, depth, count: int):
    """Write the loop over ``count`` rows of the panel at a time; return k, cell, sums after it.

    ``sums``: of the rows of x for the first row of the panel, then for the second, and so on.
    """
    loop = Loop(b, "depth", [k0, cell0, *sums])
    k, cell, *held = loop.values
    new = []
    for line in range(0, count * CELL, 64):
        prefetch(b, b.gep(cell, [i64(_AHEAD + line)], source_etype=I8))
    for u in range(count):
        columns = _weights(b, cell, u)
        for i, row in enumerate(rows):
            x = splat(b, b.load(pointer(b, row, b.add(k, i64(u))), align=4, typ=F32))
            for j, column in enumerate(columns):
                new.append(fma(b, x, column, held[(u * len(rows) + i) * VECTORS + j]))
    later = [b.add(k, i64(count)), b.gep(cell, [i64(count * CELL)], source_etype=I8), *new]
    loop.close(b.icmp_signed("<=", b.add(later[0], i64(count)), depth), later)
    return later


def _panel(rows: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    """Write the sums of one panel: ``rows`` of x, in :data:`_SUMS` chains."""
    x, x_row, depth, cells, units, out, out_row, left = args
    count = _SUMS // (VECTORS * rows)
    starts = [b.add(x, b.mul(x_row, i64(4 * i))) for i in range(rows)]
    zeros = [fconst(0.0)] * (rows * VECTORS)
    state = [i64(0), pointer(b, cells), *zeros * count]
    state = _if_left(b, starts, state, depth, count)
    sums = state[2:]
    while len(sums) > len(zeros):  # in pairs: they differ least in size
        half = len(sums) // 2
        sums = [b.fadd(p, q) for p, q in zip(sums[:half], sums[half:], strict=True)]
    _, _, *sums = _if_left(b, starts, [*state[:2], *sums], depth, 1)
    for i in range(rows):
        for j in range(VECTORS):
            unit = load_vec(b, pointer(b, units, i64(j * LANES)))
            mask = first_lanes(b, b.sub(left, i64(j * LANES)))
            place = b.add(out, b.mul(out_row, i64(4 * i)))
            result = b.fmul(sums[i * VECTORS + j], unit)
            masked_store(b, result, pointer(b, place, i64(j * LANES)), mask)


def _if_left(b: ir.IRBuilder, rows, state, depth, count: int):
    """Write :func:`_steps`, passed by if fewer than ``count`` rows of the panel are left."""

    def steps(values: list[ir.Value]) -> list[ir.Value]:
        k, cell, *sums = values
        return _steps(b, rows, k, cell, sums, depth, count)

    return when(b, b.icmp_signed(">=", b.sub(depth, state[0]), i64(count)), state, steps)


@part("fixed_panel", [I64] * 9)
def FIXED_PANEL(b: ir.IRBuilder, count: ir.Value, *args: ir.Value) -> None:
    """Call the function of exactly ``count`` rows, one of HEIGHTS."""
    end = b.append_basic_block("end")
    for height in HEIGHTS:
        here, other = (b.function.append_basic_block(n) for n in ("here", "other"))
        b.cbranch(b.icmp_signed("==", count, i64(height)), here, other)
        b.position_at_end(here)
        body, name = functools.partial(_panel, height), f"lep_fixed_{height}"
        b.call(shared_function(b.module, name, ir.VoidType(), [I64] * 8, body), args)
        b.branch(end)
        b.position_at_end(other)
    b.branch(end)
    b.position_at_end(end)


@intrinsic
def _run(typingctx, count, x, x_row, depth, cells, units, out, out_row, left):
    """Compute up to PANEL columns of ``count`` rows, one of HEIGHTS, without their epilogue.

    ``cells``, ``units``: of the panel; ``left``: columns from it on; all are int64.
    """
    return types.void(*(types.int64,) * 9), FIXED_PANEL.code


# ----- the kernel ---------------------------------------------------------------------------------


@inline_njit
def _finish(args, first, count, column, end):
    """Apply bias, residual and activation to columns ``column .. end``."""
    bias, res, mode, act = arg(args, BIAS), arg(args, RES), arg(args, RES_MODE), arg(args, ACT)
    if bias == 0 and res == 0 and act == 0:
        return
    p0, p1 = argf(args, ACT_P0), argf(args, ACT_P1)
    for i in range(first, first + count):
        out = arg(args, OUT) + 4 * i * arg(args, OUT_ROW)
        late = res + 4 * i * arg(args, RES_ROW)
        for c in range(column, end, LANES):
            v = vload_n(out, c, end - c)
            if bias != 0:
                v = v + vload_n(bias, c, end - c)
            if res != 0 and mode == _BEFORE:
                v = v + vload_n(late, c, end - c)
            v = vact(act, v, p0, p1)
            if res != 0 and mode != _BEFORE:
                r = vload_n(late, c, end - c)
                v = v * r if mode == _TIMES else v + r
            vstore_n(out, c, v, end - c)


@inline_njit
def _height(left):
    """Return the rows of the next block."""
    height = 1
    for h in HEIGHTS:
        if h <= left:
            height = max(height, h)
    return height


@kernel(parts=(FIXED_PANEL,))
def fixed_rows(args, tid, nt, cuts):
    """Compute this thread's columns of the product that the record describes."""
    columns, depth = arg(args, COLUMNS), arg(args, DEPTH)
    begin, end = share((columns + PANEL - 1) // PANEL, tid, nt, cuts)
    first, rows = 0, arg(args, N_ROWS)
    while first < rows:
        count = _height(rows - first)
        x = arg(args, X) + 4 * first * arg(args, X_ROW)
        out = arg(args, OUT) + 4 * first * arg(args, OUT_ROW)
        for p in range(begin, end):
            c = p * PANEL
            _run(count, x, arg(args, X_ROW), depth, arg(args, WEIGHTS) + p * depth * CELL,
                 arg(args, UNITS) + 4 * c, out + 4 * c, arg(args, OUT_ROW),
                 columns - c)  # fmt: skip
            _finish(args, first, count, c, min(c + PANEL, columns))
        first += count
