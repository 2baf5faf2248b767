"""numba_cpu > kernels > int8_gemm: the indirect product of bytes, with its epilogue.

The walk over rows, panels and taps is that of ``igemm``; a step of depth is four bytes, cells are
int32, and the sum is never cut into blocks: partial sums would not fit the output. Activations
other than a clamp work on rows of float32 in the thread's scratch, which are then stored as codes.
The result does not depend on the number of threads: integer sums are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from leptonc.backends.numba_cpu.kernels.activation import clamp_of
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel, record
from leptonc.backends.numba_cpu.kernels.igemm import grid, input_rows
from leptonc.backends.numba_cpu.kernels.igemm_record import (
    A_O0,
    A_O1,
    A_X,
    A_Y,
    A_Z,
    ACT,
    ACT_P0,
    ACT_P1,
    B_O0,
    B_O1,
    BIAS,
    BIAS_O1,
    COLUMNS,
    DEPTH,
    IN_D,
    IN_H,
    OUT,
    OUT_O0,
    OUT_O1,
    OUT_X,
    OUT_Y,
    OUT_Z,
    OUTER0,
    OUTER1,
    PITCH,
    RES,
    RES_MODE,
    RES_O0,
    RES_O1,
    RES_X,
    RES_Y,
    RES_Z,
    ROW_BLOCK,
    ROWS_X,
    ROWS_Y,
    ROWS_Z,
    SCRATCH,
    SCRATCH_BYTES,
    STEP_X,
    STEP_Y,
    STEP_Z,
    TAP_TABLE,
    TAPS,
    ZERO_ROW,
    A,
    B,
    IGemm,
    Res,
)
from leptonc.backends.numba_cpu.kernels.int8_finish import store_codes
from leptonc.backends.numba_cpu.kernels.int8_gather import gather_line
from leptonc.backends.numba_cpu.kernels.int8_pair_steps import byte_rows
from leptonc.backends.numba_cpu.kernels.int8_pairs import HEADER
from leptonc.backends.numba_cpu.kernels.int8_strip import (
    NARROW,
    NEAR_WEIGHTS,
    WIDE,
    run_strip,
    tile_rows_of,
)
from leptonc.backends.numba_cpu.kernels.int8_tile import (
    CODES,
    FLOAT_RES,
    FLOATS,
    NO_RES,
    PACKED,
    run_byte_row,
    run_byte_tile,
)
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, PREFETCH, ROWS
from leptonc.backends.numba_cpu.kernels.row_tables import affine_rows, fill
from leptonc.backends.numba_cpu.kernels.shares import part
from leptonc.backends.numba_cpu.kernels.tile_finish import FINISH_ROWS, FINISH_TILE, finish_tile
from leptonc.backends.numba_cpu.kernels.vec import LANES, arg, argf, ldi64

LATE_NOTHING, LATE_ADD, LATE_TIMES = 0, 1, 2  # as of tile_finish


@dataclass(frozen=True)
class Int8Gemm(IGemm):
    """One call of :data:`int8_gemm`: the slots of ``IGemm``, then those of codes and scales.

    ``depth`` counts four bytes each, zeros behind the channels of B included; strides of A count
    bytes, those of the output and the residual elements of theirs. ``zero_row`` holds the zero
    point of A. ``bias`` (0.0 without one), ``scale`` and ``sums`` are there for whole panels;
    ``bias_o1`` is the stride of all three.

    Attributes:
        sums: address of int32[columns]: ``-zero point * sum of the weights``.
        scale: address of float32[columns].
        res_kind: how the residual is stored (``NO_RES`` ... ``I8_RES``), float32 unless it is
            added before a clamp. res_zero, res_scale: its quantization.
        out_kind: FLOATS or CODES. zero, inverse: zero point, and 1 / scale, of the result.
        code_low, code_high: bounds of the codes less ``zero``.
        extra: address of what was taken out of the panels (:mod:`int8_pairs`), for that form.
        strip: whether :mod:`int8_strip` serves this call, unless the epilogue needs floats.
        lines, line_bytes: taps of the table that are gathered to the one tap of the product
            (:mod:`int8_gather`), ``pitch`` bytes from row to row; 0 lines for none.
    """

    sums: int
    scale: int
    res_kind: int
    res_zero: int
    res_scale: float
    out_kind: int
    zero: int
    inverse: float
    code_low: float
    code_high: float
    extra: int
    strip: int
    lines: int
    line_bytes: int

    def record(self) -> np.ndarray:
        """Return the int64 record."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return record(*(float(v) if name in REALS else int(v) for name, v in values))


REALS = ("act_p0", "act_p1", "res_scale", "inverse", "code_low", "code_high")
(
    SUMS, SCALE, RES_KIND, RES_ZERO, RES_SCALE, OUT_KIND, ZERO, INVERSE, CODE_LOW, CODE_HIGH, EXTRA,
    STRIP, LINES, LINE_BYTES,
) = range(len(fields(IGemm)), len(fields(Int8Gemm)))  # fmt: skip

STRIP_ROWS, STRIP_ROWS_RES = tile_rows_of(NARROW, False), tile_rows_of(NARROW, True)
_STAGED = FINISH_ROWS + ROWS  # rows of float32 that wait to become codes, and room behind
_INF = float("inf")
_BEFORE, _TIMES = int(Res.BEFORE), int(Res.TIMES)


def scratch_bytes(row_block: int, taps: int) -> int:
    """Return the bytes of scratch a thread needs: row tables, and a panel of float rows."""
    tables = 8 * (row_block + ROWS) * (taps + 2)
    return -(-tables // 64) * 64 + (8 + 4 * PANEL) * _STAGED


@inline_njit
def bounds(args):
    """Return the clamp that the tile applies, and whether the rest of the epilogue is left."""
    if late_of(args) == LATE_NOTHING:
        low, high, whole = clamp_of(arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1))
        if whole and (low <= 0.0 <= high or arg(args, OUT_KIND) == FLOATS):
            return low, high, False  # else NaN, which is code 0, would be clamped
    return -_INF, _INF, True


@inline_njit
def code_bounds(args, low, high):
    """Return the bounds of codes less the zero point, with the clamp before them."""
    inverse = np.float32(argf(args, INVERSE))
    code_low, code_high = np.float32(argf(args, CODE_LOW)), np.float32(argf(args, CODE_HIGH))
    least = min(max(np.float32(low) * inverse, code_low), code_high)
    return least, max(min(np.float32(high) * inverse, code_high), least)


@inline_njit
def late_of(args):
    """Return what happens with the residual after the activation."""
    mode = arg(args, RES_MODE)
    if arg(args, RES) == 0 or mode == _BEFORE:
        return LATE_NOTHING
    return LATE_TIMES if mode == _TIMES else LATE_ADD


@inline_njit
def _panel(args, tables, step, begin, count, b, column, sums, scale, bias, extra, following):
    """Compute one panel of columns of the rows from ``begin`` on.

    ``tables``: those of output, residual, A rows of each tap.
    """
    width, late = arg(args, COLUMNS) - column, late_of(args)
    low, high, unfinished = bounds(args)
    taps, depth = arg(args, TAPS), arg(args, DEPTH)
    kind = arg(args, OUT_KIND)
    staged = unfinished and kind == CODES
    res_kind = NO_RES if late != LATE_NOTHING else arg(args, RES_KIND)
    alone = arg(args, ROWS_Z) * arg(args, ROWS_Y) * arg(args, ROWS_X) == 1
    tiles, size = (count - begin + ROWS - 1) // ROWS, 4 * PANEL * taps * depth
    ahead, advance = following, 4 * PANEL // tiles
    if tiles == 1:
        ahead = b + PREFETCH
    code_low, code_high = code_bounds(args, low, high)
    stored = FLOATS if staged else kind
    zero = arg(args, ZERO)
    if stored == CODES and code_low == -zero and code_high == 255 - zero:
        stored = PACKED
    stage = tables + ((2 + taps) * step + 63) // 64 * 64
    if staged:  # so that the column of the panel leads to the same place for all panels
        fill(stage, 0, _STAGED, stage + 8 * _STAGED - 4 * column, 4 * PANEL)
    i, finished = begin, begin
    while i < count:
        some = byte_rows(count - i, width)
        rows, res_rows = tables + 2 * step + 8 * i, tables + step + 8 * i
        out_rows = stage + 8 * (i - finished) if staged else tables + 8 * i
        if alone:
            run_byte_row(
                rows, step, taps, depth, 0, b, out_rows, column, width, ahead, advance, sums, scale,
                bias, res_rows, res_kind, arg(args, RES_ZERO), stored, arg(args, ZERO),
                extra, argf(args, RES_SCALE), low, high, argf(args, INVERSE), code_low, code_high,
            )  # fmt: skip
        else:
            run_byte_tile(
                some, rows, step, taps, depth, 0, b, out_rows, column, width, ahead, advance, sums,
                scale, bias, res_rows, res_kind, arg(args, RES_ZERO), stored, arg(args, ZERO),
                extra, argf(args, RES_SCALE), low, high, argf(args, INVERSE), code_low, code_high,
            )  # fmt: skip
        i += some
        ahead += size // tiles
        if unfinished and (i >= count or i - finished > FINISH_ROWS - ROWS):
            made = stage if staged else tables + 8 * finished
            finish_tile(
                arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1), late, made,
                tables + step + 8 * finished, i - finished, 4 * column, width,
            )  # fmt: skip
            if staged:
                store_codes(
                    made, tables + 8 * finished, i - finished, column, width, arg(args, ZERO),
                    argf(args, INVERSE), argf(args, CODE_LOW), argf(args, CODE_HIGH),
                )  # fmt: skip
            finished = i


@inline_njit
def _strips(args, tables, step, count, panel0, panel1, b, columns):
    """Compute rows of a block in strips; return how many from the first on, of all columns."""
    low, high, unfinished = bounds(args)
    if arg(args, STRIP) == 0 or unfinished or count < STRIP_ROWS:
        return 0
    if arg(args, RES) == arg(args, OUT):  # a row that is written may not be read again
        count -= count % STRIP_ROWS_RES
    code_low, code_high = code_bounds(args, low, high)
    taps, depth = arg(args, TAPS), arg(args, DEPTH)
    wide = WIDE * LANES
    most = max(1, NEAR_WEIGHTS // (4 * taps * depth * wide)) * wide
    first = panel0
    while first < panel1:
        column = first * PANEL
        width = min(arg(args, COLUMNS), panel1 * PANEL) - column
        vectors = WIDE if width >= wide else NARROW
        width = min(width // wide * wide, most) if width >= wide else min(width, PANEL)
        run_strip(
            vectors, arg(args, RES_KIND), count, tables + 2 * step, step, taps, depth,
            b + 4 * PANEL * first * taps * depth, tables, column, width,
            arg(args, SUMS) + 4 * columns, arg(args, SCALE) + 4 * columns,
            arg(args, BIAS) + 4 * columns, tables + step, arg(args, RES_ZERO), arg(args, ZERO),
            argf(args, RES_SCALE), argf(args, INVERSE), code_low, code_high,
        )  # fmt: skip
        first += (width + PANEL - 1) // PANEL
    return count


@inline_njit
def _gather(args, tables, table, m0, count, a):
    """Copy the lines of each row side by side, behind all else in the scratch; fill ``table``.

    Positions along the last axis are all there: its ends are padded.
    """
    pitch, size, rows_x = arg(args, PITCH), arg(args, LINE_BYTES), arg(args, ROWS_X)
    rows_y, steps = arg(args, ROWS_Y), arg(args, TAP_TABLE)
    copies = tables + arg(args, SCRATCH_BYTES) - arg(args, ROW_BLOCK) * pitch
    m, to, step = m0, copies, arg(args, STEP_X) * arg(args, A_X)
    while m < m0 + count:
        line, x = m // rows_x, m % rows_x
        run = min(rows_x - x, m0 + count - m)
        z, y = line // rows_y * arg(args, STEP_Z), line % rows_y * arg(args, STEP_Y)
        for t in range(arg(args, LINES)):
            at_z, at_y = z + ldi64(steps, 3 * t), y + ldi64(steps, 3 * t + 1)
            if 0 <= at_z < arg(args, IN_D) and 0 <= at_y < arg(args, IN_H):
                source = a + at_z * arg(args, A_Z) + at_y * arg(args, A_Y) + x * step
                gather_line(source, step, run, size, to + t * size, pitch)
            else:
                gather_line(arg(args, ZERO_ROW), 0, run, size, to + t * size, pitch)
        m += run
        to += run * pitch
    fill(table, 0, count, copies, pitch)
    fill(table, count, ROWS, copies + (count - 1) * pitch, 0)


@inline_njit
def _block(args, tables, m0, count, panel0, panel1, a, b, columns, out, res):
    """Compute rows ``m0 .. m0 + count`` of some panels; ``columns``: floats to sums and scales."""
    taps, depth, step = arg(args, TAPS), arg(args, DEPTH), 8 * (arg(args, ROW_BLOCK) + ROWS)
    rows_y, rows_x = arg(args, ROWS_Y), arg(args, ROWS_X)
    out_size = 4 if arg(args, OUT_KIND) == FLOATS else 1
    affine_rows(tables, m0, count, rows_y, rows_x, out, arg(args, OUT_Z), arg(args, OUT_Y),
                arg(args, OUT_X), out_size)  # fmt: skip
    if res != 0:
        res_size = 4 if arg(args, RES_KIND) == FLOAT_RES else 1
        affine_rows(tables + step, m0, count, rows_y, rows_x, res, arg(args, RES_Z),
                    arg(args, RES_Y), arg(args, RES_X), res_size)  # fmt: skip
    if arg(args, LINES) > 0:
        _gather(args, tables, tables + 2 * step, m0, count, a)
    else:
        for t in range(taps):
            input_rows(args, tables + (2 + t) * step, m0, count, a, t, 1)
    done = _strips(args, tables, step, count, panel0, panel1, b, columns)
    if done == count:
        return
    for p in range(panel0, panel1):
        panel = b + 4 * PANEL * p * taps * depth
        following = panel + 4 * PANEL * taps * depth
        if p + 1 == panel1:
            following = b + 4 * PANEL * panel0 * taps * depth
        _panel(args, tables, step, done, count, panel, p * PANEL, arg(args, SUMS) + 4 * columns,
               arg(args, SCALE) + 4 * columns, arg(args, BIAS) + 4 * columns,
               arg(args, EXTRA) + HEADER * (columns // PANEL + p), following)  # fmt: skip


@kernel(parts=(FINISH_TILE,))
def int8_gemm(args, tid, nt, cuts):
    """Compute this thread's share of the product that an :class:`Int8Gemm` record describes."""
    outer1 = arg(args, OUTER1)
    outer = arg(args, OUTER0) * outer1
    m = arg(args, ROWS_Z) * arg(args, ROWS_Y) * arg(args, ROWS_X)
    n = arg(args, COLUMNS)
    if outer <= 0 or m <= 0 or n <= 0:
        return
    panels = -(-n // PANEL)
    by_outer, by_rows, by_columns = grid(nt, outer, m, panels)
    used = by_outer * by_rows * by_columns
    if tid >= used:
        return
    cuts = cuts if used == nt else 0
    i_column, rest = tid % by_columns, tid // by_columns
    i_row, i_outer = rest % by_rows, rest // by_rows
    panel0, panel1 = part(panels, i_column, by_columns, tid - i_column, 1, cuts)
    begin, end = part(m, i_row, by_rows, i_outer * by_rows * by_columns, by_columns, cuts)
    row_block = arg(args, ROW_BLOCK)
    tables = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    out_size = 4 if arg(args, OUT_KIND) == FLOATS else 1
    res_size = 4 if arg(args, RES_KIND) == FLOAT_RES else 1
    res = arg(args, RES)
    for o in range(*part(outer, i_outer, by_outer, 0, by_rows * by_columns, cuts)):
        o0, o1 = o // outer1, o % outer1
        a = arg(args, A) + o0 * arg(args, A_O0) + o1 * arg(args, A_O1)
        b = arg(args, B) + 4 * (o0 * arg(args, B_O0) + o1 * arg(args, B_O1))
        out = arg(args, OUT) + out_size * (o0 * arg(args, OUT_O0) + o1 * arg(args, OUT_O1))
        here_res = 0
        if res != 0:
            here_res = res + res_size * (o0 * arg(args, RES_O0) + o1 * arg(args, RES_O1))
        for m0 in range(begin, end, row_block):
            _block(args, tables, m0, min(row_block, end - m0), panel0, panel1, a, b,
                   o1 * arg(args, BIAS_O1), out, here_res)  # fmt: skip
