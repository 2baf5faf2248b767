"""numba_cpu > kernels > fixed_rows: few rows times a large matrix that is kept in 24 or 20 bits.

A product of few rows reads all of the matrix once, so its bytes are what counts. Here a weight is a
whole number of 24 bits, or of 20 where sums are long, in units that ``BLOCK`` weights of a column
(an output) share: the last place of the largest of them. The unit is a power of two, so weights at
least half as large as that lose nothing but their last bits, and whole numbers nothing at all, nor
weights that were bfloat16 if they are no less than 2**-15, or 2**-11, of that one.

Error: a weight is off by at most half a unit, ``2**(1 - bits) (1 + 2**(1 - bits)) max``, where
``max`` is the largest absolute weight of its block; a result by that times the sum of ``|x|``, in
addition to what a sum of ``depth`` float32, block by block, is off by. Measured for normal weights
and x behind a ReLU, largest and root mean square as parts of the largest result: in 24 bits 1.6e-7
to 2.4e-7 and 5e-8 (sums of 64 to 2048; by torch up to 4.9e-7 and 8e-8), in 20 bits 2.0e-6 and 6e-7
for sums of 4096 (torch 2e-7 to 6e-7, 5e-8 to 1.1e-7), 2.7e-6 and 8e-7 for sums of 25088 (torch
1.4e-6, 3e-7); F(4x4, 3x3) errs by 4e-6 and more. Columns whose largest weight exceeds their others
by far are for :mod:`igemm`, see ``MOST_PEAK``. No unit is smaller than 2**-126. Sums of a block are
made in units: they overflow where those of ``|x|`` exceed 2**104. An infinity times a weight that
is less than half a unit is NaN, and times one of a row that the last two blocks share.

The matrix lies in panels of PANEL columns, each ``[blocks]``: the columns' units, then for each
``QUAD`` rows the upper 16 bits of their weights, row by row, and the lower 8 or 4. The last block
ends with the last row, those that it shares with the one before are zero in it. Each sum is the
same for any number of threads.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.activation import vact
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.igemm_record import Res
from leptonc.backends.numba_cpu.kernels.ir_loops import counted
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
    "rows", "columns", "depth", "x", "x_row", "weights", "panel_bytes", "bias", "res", "res_row",
    "res_mode", "out", "out_row", "act", "act_p0", "act_p1",
)  # fmt: skip
"""Slots of the record, in order. ``x``: address of ``f32[rows][depth]``; ``weights``: of what
:func:`pack` returns, ``panel_bytes``: see there; ``bias``: of ``f32[columns]`` or 0; ``res``: of
``f32[rows][columns]`` or 0, ``res_mode``: a ``Res``; ``out``: of ``f32[rows][columns]``; ``x_row``,
``res_row``, ``out_row``: elements from row to row; ``act``: an ``Act``."""
(
    N_ROWS, COLUMNS, DEPTH, X, X_ROW, WEIGHTS, PANEL_BYTES, BIAS, RES, RES_ROW, RES_MODE, OUT,
    OUT_ROW, ACT, ACT_P0, ACT_P1,
) = range(len(NAMES))  # fmt: skip

HEIGHTS = (4, 2, 1)  # rows that share what was read of the matrix: for eight, floats are as fast
ROWS = HEIGHTS[0]
BLOCK, QUAD = 64, 4  # rows of the matrix that share a unit; that lie side by side
LONG = 4096  # rows from which on 20 bits do: longer sums of float32 are off by more themselves
#: The bits of a weight below the upper 16, in a long matrix and in others.
LOW_LONG, LOW = 4, 8
#: How many times their mean the largest weight of a column may be. It spoils the units of its block
#: alone: results are off by a third more than without it.
MOST_PEAK = 16.0
_SUMS = 4 * VECTORS  # chains of fma
_AHEAD = 8192  # bytes of the matrix asked for ahead, two pages: the processor's own ends with one
_HIGH, _LOW = (ir.VectorType(ir.IntType(n), LANES) for n in (16, 8))
_BEFORE, _TIMES = int(Res.BEFORE), int(Res.TIMES)


def low_bits(depth: int) -> int:
    """Return how many bits a weight of a matrix of so many rows has below the upper 16."""
    return LOW_LONG if depth >= LONG else LOW


def block_bytes(low: int) -> int:
    """Return the bytes of a block of a panel: of its units and its weights."""
    return 4 * PANEL + BLOCK * PANEL * (16 + low) // 8


def panel_bytes(depth: int) -> int:
    """Return the bytes of a panel of a matrix of so many rows."""
    return -(-depth // BLOCK) * block_bytes(low_bits(depth))


def packed_bytes(columns: int, depth: int) -> int:
    """Return the bytes of a packed matrix."""
    return -(-columns // PANEL) * panel_bytes(depth)


def pack(weight: np.ndarray, fetch: Fetch = at_hand) -> np.ndarray:
    """Return the panels of finite ``weight: f32[out, in]``, of at least BLOCK inputs, as bytes.

    ``u8[panels, panel_bytes]``, zeros beyond the columns; ``fetch``: see :mod:`pack`.
    """
    n, depth = weight.shape
    low, blocks = low_bits(depth), -(-depth // BLOCK)
    packed = aligned_empty((-(-n // PANEL), blocks, block_bytes(low)), np.uint8)
    rows = np.zeros((PANEL, blocks, BLOCK), np.float32)
    rest = depth % BLOCK
    for p, panel in enumerate(packed):
        some = weight[p * PANEL : (p + 1) * PANEL]
        rows[len(some) :] = 0.0
        copy_by_pieces(rows.reshape(PANEL, -1)[: len(some), :depth], some, fetch)
        if rest:  # to the end of the last block
            rows[:, -1, BLOCK - rest :] = rows[:, -1, :rest].copy()
            rows[:, -1, : BLOCK - rest] = 0.0
        _pack_panel(rows, panel, low)
    return packed.reshape(-1)


def _pack_panel(rows: np.ndarray, panel: np.ndarray, low: int) -> None:
    """Write ``rows: f32[PANEL, blocks, BLOCK]``, which are spoilt, to a panel of the matrix."""
    powers = unit_powers(np.maximum(rows.max(2), -rows.min(2)), 16 + low)
    panel[:, : 4 * PANEL].view(np.float32)[...] = np.ldexp(np.float32(1.0), powers).T
    np.multiply(rows, np.ldexp(np.float32(1.0), -powers)[:, :, None], out=rows)
    codes = np.rint(rows, out=rows).astype(np.int32).transpose(1, 2, 0)
    quads = panel[:, 4 * PANEL :].reshape(len(panel), BLOCK // QUAD, -1)
    high, lower = quads[..., : 2 * QUAD * PANEL], quads[..., 2 * QUAD * PANEL :]
    high.view(np.int16)[...] = (codes >> low).reshape(*high.shape[:2], -1)
    if low == LOW_LONG:  # two vectors in the bytes of one
        codes = codes[..., :LANES] & 15 | codes[..., LANES:] << 4
    lower[...] = (codes & 255).reshape(lower.shape)


def unit_powers(largest: np.ndarray, bits: int) -> np.ndarray:
    """Return the exponents of the units of blocks whose largest weights are given.

    Rounded to a whole number of them, a weight takes ``bits`` with its sign.
    """
    _, powers = np.frexp(largest)  # largest < 2**powers
    powers = powers + (np.ldexp(largest, bits - 1 - powers) > 2 ** (bits - 1) - 1)
    return np.maximum(powers - (bits - 1), -126)


# ----- the tile -----------------------------------------------------------------------------------


def _weights(b: ir.IRBuilder, quad: ir.Value, low: int, u: int) -> list[ir.Value]:
    """Return the vectors of row ``u`` of the rows that lie side by side at a pointer."""
    made = []
    beside = None
    for j in range(VECTORS):
        high = b.gep(quad, [i64(2 * (u * PANEL + j * LANES))], source_etype=I8)
        upper = b.shl(b.sext(b.load(high, align=1, typ=_HIGH), VI), iconst(low))
        if j == 0 or low == LOW:
            at = (u * PANEL + j * LANES) * low // 8
            place = b.gep(quad, [i64(2 * QUAD * PANEL + at)], source_etype=I8)
            beside = b.zext(b.load(place, align=1, typ=_LOW), VI)
        if low == LOW:
            lower = beside
        else:
            lower = b.and_(beside, iconst(15)) if j == 0 else b.lshr(beside, iconst(low))
        made.append(b.sitofp(b.or_(upper, lower), VF))
    return made


def _block(b: ir.IRBuilder, low: int, starts, k0, quads, count: int) -> list[ir.Value]:
    """Write the sums of one block, in units, of some rows of x from ``k0`` on.

    ``starts``: the addresses of the rows; ``quads``: pointer to the block's weights; ``count``:
    chains of each sum.
    """
    size, rows = 2 * QUAD * PANEL + QUAD * PANEL * low // 8, len(starts)

    def four(i: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        quad, *sums = carried
        for line in range(0, size, 64):
            prefetch(b, b.gep(quad, [i64(_AHEAD + line)], source_etype=I8))
        k = b.add(k0, b.mul(i, i64(QUAD)))
        for u in range(QUAD):
            columns = _weights(b, quad, low, u)
            for r, row in enumerate(starts):
                x = splat(b, b.load(pointer(b, row, b.add(k, i64(u))), align=4, typ=F32))
                for j, column in enumerate(columns):
                    at = (u % count * rows + r) * VECTORS + j
                    sums[at] = fma(b, x, column, sums[at])
        return [b.gep(quad, [i64(size)], source_etype=I8), *sums]

    zeros = [fconst(0.0)] * (count * rows * VECTORS)
    _, *sums = counted(b, i64(BLOCK // QUAD), [quads, *zeros], four)
    while len(sums) > rows * VECTORS:  # in pairs: they differ least in size
        half = len(sums) // 2
        sums = [b.fadd(p, q) for p, q in zip(sums[:half], sums[half:], strict=True)]
    return sums


def _panel(low: int, rows: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    """Write the sums of one panel, block by block: ``rows`` of x, in :data:`_SUMS` chains."""
    x, x_row, depth, cells, out, out_row, left = args
    starts = [b.add(x, b.mul(x_row, i64(4 * i))) for i in range(rows)]
    last = b.sub(depth, i64(BLOCK))

    def block(i: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        units, *totals = carried
        k0 = b.mul(i, i64(BLOCK))
        k0 = b.select(b.icmp_signed("<", k0, last), k0, last)
        quads = b.gep(units, [i64(4 * PANEL)], source_etype=I8)
        sums = _block(b, low, starts, k0, quads, _SUMS // (VECTORS * rows))
        unit = [load_vec(b, b.gep(units, [i64(4 * j * LANES)], source_etype=I8))
                for j in range(VECTORS)]  # fmt: skip
        totals = [fma(b, s, unit[n % VECTORS], totals[n]) for n, s in enumerate(sums)]
        return [b.gep(units, [i64(block_bytes(low))], source_etype=I8), *totals]

    blocks = b.sdiv(b.add(depth, i64(BLOCK - 1)), i64(BLOCK))
    zeros = [fconst(0.0)] * (rows * VECTORS)
    _, *totals = counted(b, blocks, [pointer(b, cells), *zeros], block)
    for n, total in enumerate(totals):
        i, j = divmod(n, VECTORS)
        mask = first_lanes(b, b.sub(left, i64(j * LANES)))
        place = b.add(out, b.mul(out_row, i64(4 * i)))
        masked_store(b, total, pointer(b, place, i64(j * LANES)), mask)


@part("fixed_panel", [I64] * 8)
def FIXED_PANEL(b: ir.IRBuilder, count: ir.Value, *args: ir.Value) -> None:
    """Call the function of exactly ``count`` rows, one of HEIGHTS, and of as long a matrix."""
    end, long = b.append_basic_block("end"), b.icmp_signed(">=", args[2], i64(LONG))
    for height, low in itertools.product(HEIGHTS, (LOW_LONG, LOW)):
        here, other = (b.function.append_basic_block(n) for n in ("here", "other"))
        fits = long if low == LOW_LONG else b.not_(long)
        b.cbranch(b.and_(fits, b.icmp_signed("==", count, i64(height))), here, other)
        b.position_at_end(here)
        body, name = functools.partial(_panel, low, height), f"lep_fixed_{16 + low}_{height}"
        b.call(shared_function(b.module, name, ir.VoidType(), [I64] * 7, body), args)
        b.branch(end)
        b.position_at_end(other)
    b.branch(end)
    b.position_at_end(end)


@intrinsic
def _run(typingctx, count, x, x_row, depth, cells, out, out_row, left):
    """Compute up to PANEL columns of ``count`` rows, one of HEIGHTS, without their epilogue.

    ``cells``: of the panel; ``left``: columns from it on; all are int64.
    """
    return types.void(*(types.int64,) * 8), FIXED_PANEL.code


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
            cells = arg(args, WEIGHTS) + p * arg(args, PANEL_BYTES)
            _run(count, x, arg(args, X_ROW), depth, cells, out + 4 * c,
                 arg(args, OUT_ROW), columns - c)  # fmt: skip
            _finish(args, first, count, c, min(c + PANEL, columns))
        first += count
