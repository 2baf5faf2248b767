"""numba_cpu > kernels > bf16x3: the product of :mod:`igemm` on tile registers of bfloat16 (AMX).

Each float32 is three bfloat16 (:mod:`bf16x3_tile`), a product of two the sum of the six products of
parts that are not below its last bits (G. Henry, P. Tang, A. Heinecke, "Leveraging the bfloat16
Artificial Intelligence Datatype For Higher-Precision Computations", 2019, arXiv:1904.06376). Tile
registers do 16 times the multiply-adds of vectors a cycle, so 2.7 times those of float32, with the
errors of float32 (:func:`bf16x3_plan.error_bound`). What differs: an infinity makes NaN of what it
meets, and numbers below 2**-102 lose bits.

The record is that of :mod:`igemm`; weights stay float32 in memory and are split in every call, each
for all rows of a block. Sums run over k in one order, whatever the number of threads.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.kernels.amx import PAIRS, TILE_BYTES, configure_tiles, release_tiles
from leptonc.backends.numba_cpu.kernels.amx import ROWS as TILE_ROWS
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.bf16x3_tile import (
    BLOCK_ROWS,
    CELLS_BYTES,
    MULTIPLY_PARTS,
    NOTES_BYTES,
    PROGRESS,
    SLOTS,
    SPLIT_PANEL,
    SPLIT_ROWS,
    STEP,
    STEP_BYTES,
    STORE_CELLS,
    multiply_parts,
    split_panel,
    split_rows,
    store_cells,
)
from leptonc.backends.numba_cpu.kernels.igemm import bounds, input_rows, late_residual
from leptonc.backends.numba_cpu.kernels.igemm_record import (
    A_O0,
    A_O1,
    ACT,
    ACT_P0,
    ACT_P1,
    B_O0,
    B_O1,
    BIAS,
    BIAS_O1,
    COLUMNS,
    DEPTH,
    DEPTH_BLOCK,
    OUT,
    OUT_O0,
    OUT_O1,
    OUT_X,
    OUT_Y,
    OUT_Z,
    OUTER0,
    OUTER1,
    RES,
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
    TAP_BLOCK,
    TAPS,
    A,
    B,
)
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS
from leptonc.backends.numba_cpu.kernels.row_tables import affine_rows
from leptonc.backends.numba_cpu.kernels.tile_finish import FINISH_TILE, NO_RES, finish_tile
from leptonc.backends.numba_cpu.kernels.vec import arg, argf, ldi64, sti64

_STORE = len(PROGRESS)  # the first of the notes about the block that is stored
# Cycles of a step of depth: of a block of rows and a panel, to split a panel or a block.
_PRODUCT, _SPLIT = 384, 224


@inline_njit
def _grid(nt, outer, m, panels):
    """Return how many parts to make of outer index, rows and columns: at most ``nt`` together."""
    blocks = (m + BLOCK_ROWS - 1) // BLOCK_ROWS
    best, parts = -1, (1, 1, 1)
    for by_outer in range(min(nt, outer), 0, -1):
        for by_rows in range(min(nt // by_outer, blocks), 0, -1):
            by_columns = min(nt // (by_outer * by_rows), panels)
            rows, columns = -(-blocks // by_rows), -(-panels // by_columns)
            cycles = rows * columns * _PRODUCT + (rows + columns) * _SPLIT
            cycles *= -(-outer // by_outer)
            if best < 0 or cycles < best:
                best, parts = cycles, (by_outer, by_rows, by_columns)
    return parts


@inline_njit
def _split_rows(table, count, offset, depth, steps, all_steps, to):
    """Split the rows of a table, ``depth`` floats from byte ``offset``, for ``steps``."""
    for i in range(0, count, TILE_ROWS):
        place = to + i // BLOCK_ROWS * all_steps * STEP_BYTES
        place += i % BLOCK_ROWS // TILE_ROWS * TILE_BYTES
        split_rows(table + 8 * i, min(TILE_ROWS, count - i), offset, depth, steps, place)


@inline_njit
def _plan_panel(notes, panel, depth, steps, to):
    """Write down what is to be split next: all ``steps`` of a panel, ``depth`` rows of each tap."""
    sti64(notes, 0, panel)
    sti64(notes, 1, 0)
    sti64(notes, 2, to)
    sti64(notes, 3, to + steps * STEP_BYTES)
    sti64(notes, 4, depth)
    sti64(notes, 5, depth)


@inline_njit
def _plan_store(notes, row, count, column, cells):
    """Write down which block is to be stored next."""
    sti64(notes, _STORE, row)
    sti64(notes, _STORE + 1, count)
    sti64(notes, _STORE + 2, column)
    sti64(notes, _STORE + 3, cells)


@inline_njit
def _places(args, scratch):
    """Return where parts of panels, cells, notes and tables begin; the parts of rows come first."""
    taps, depth_block = arg(args, TAP_BLOCK), arg(args, DEPTH_BLOCK)
    blocks, steps = arg(args, ROW_BLOCK) // BLOCK_ROWS, taps * ((depth_block + STEP - 1) // STEP)
    columns = scratch + blocks * steps * STEP_BYTES
    cells = columns + 2 * steps * STEP_BYTES
    kept = 2
    if taps < arg(args, TAPS) or depth_block < arg(args, DEPTH):
        kept = (arg(args, COLUMNS) + PANEL - 1) // PANEL * blocks
    notes = cells + kept * CELLS_BYTES
    return columns, cells, notes, notes + NOTES_BYTES


@inline_njit
def _activate(args, table, notes):
    """Apply to the block that was stored what bounds are not enough for."""
    count, column = ldi64(notes, _STORE + 1), ldi64(notes, _STORE + 2)
    if count > 0 and bounds(args, True)[2]:
        out_rows = table + 8 * ldi64(notes, _STORE)
        finish_tile(
            arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1), late_residual(args), out_rows,
            out_rows + 8 * (arg(args, ROW_BLOCK) + ROWS), count, 4 * column,
            arg(args, COLUMNS) - column,
        )  # fmt: skip


@inline_njit
def _multiply(args, tiles, rows, columns, cells, steps, onto, notes, blocks, table, bias):
    """Multiply a block of rows by a panel; meanwhile split and store what the notes say."""
    # Two rows of each of a step of the next panel, spread over the steps of all blocks.
    turns = 3 if blocks == 1 else 2 if blocks == 2 else 1
    slots = (PAIRS + blocks * turns - 1) // (blocks * turns)
    stores = (BLOCK_ROWS + SLOTS * steps - 1) // (SLOTS * steps)
    low, high, _ = bounds(args, True)
    out_rows, column = table + 8 * ldi64(notes, _STORE), ldi64(notes, _STORE + 2)
    plus = late_residual(args) == NO_RES and arg(args, RES) != 0
    multiply_parts(
        tiles, rows, columns, cells, steps, onto, notes, slots, turns, stores,
        ldi64(notes, _STORE + 3), out_rows,
        out_rows + 8 * (arg(args, ROW_BLOCK) + ROWS) if plus else 0, ldi64(notes, _STORE + 1),
        4 * column, arg(args, COLUMNS) - column, bias, low, high,
    )  # fmt: skip
    _activate(args, table, notes)


@inline_njit
def _panels(args, scratch, count, panel0, panel1, part, depth, steps, bias, onto, last):
    """Multiply all blocks of rows by some panels, for ``steps`` of depth."""
    columns, cells, notes, tables = _places(args, scratch)
    table = tables + 8 * (arg(args, ROW_BLOCK) + ROWS)
    blocks = (count + BLOCK_ROWS - 1) // BLOCK_ROWS
    size = 4 * PANEL * arg(args, TAPS) * arg(args, DEPTH)
    # Parts of a panel and, unless sums go on, cells of a block have two places each.
    there, spare, goes_on = columns + steps * STEP_BYTES, cells + CELLS_BYTES, onto or not last
    _plan_panel(notes, part + panel0 * size, depth, steps, columns)
    for p in range(panel0, panel1):
        split_panel(notes)
        if p + 1 < panel1:
            _plan_panel(notes, part + (p + 1) * size, depth, steps, there)
        for i in range(blocks):
            row = i * BLOCK_ROWS
            some = min(BLOCK_ROWS, count - row)
            _multiply(args, 1 if some <= TILE_ROWS else 2, scratch + i * steps * STEP_BYTES,
                      columns, cells, steps, onto, notes, blocks, table, bias)  # fmt: skip
            _plan_store(notes, row, some if last else 0, p * PANEL, cells)
            if goes_on:
                cells += CELLS_BYTES
            else:
                cells, spare = spare, cells
        columns, there = there, columns


@inline_njit
def _block(args, scratch, m0, count, panel0, panel1, a, b, bias, out, res):
    """Compute the rows ``m0 .. m0 + count`` of panels ``panel0 .. panel1`` of one outer index."""
    taps, depth = arg(args, TAPS), arg(args, DEPTH)
    tap_block, depth_block = arg(args, TAP_BLOCK), arg(args, DEPTH_BLOCK)
    _, cells, notes, tables = _places(args, scratch)
    rows_y, rows_x, step = arg(args, ROWS_Y), arg(args, ROWS_X), 8 * (arg(args, ROW_BLOCK) + ROWS)
    affine_rows(tables + step, m0, count, rows_y, rows_x, out,
                arg(args, OUT_Z), arg(args, OUT_Y), arg(args, OUT_X), 4)  # fmt: skip
    if res != 0:
        affine_rows(tables + 2 * step, m0, count, rows_y, rows_x, res,
                    arg(args, RES_Z), arg(args, RES_Y), arg(args, RES_X), 4)  # fmt: skip
    _plan_store(notes, 0, 0, 0, cells)
    for tap0 in range(0, taps, tap_block):
        some_taps = min(tap_block, taps - tap0)
        for k0 in range(0, depth, depth_block):
            some_depth = min(depth_block, depth - k0)
            some_steps = (some_depth + STEP - 1) // STEP
            for t in range(some_taps):
                input_rows(args, tables, m0, count, a, tap0 + t, 4)
                _split_rows(tables, count, 4 * k0, some_depth, some_steps, some_taps * some_steps,
                            scratch + t * some_steps * STEP_BYTES)  # fmt: skip
            last = tap0 + some_taps >= taps and k0 + some_depth >= depth
            _panels(args, scratch, count, panel0, panel1, b + 4 * PANEL * (tap0 * depth + k0),
                    some_depth, some_taps * some_steps, bias, tap0 + k0 > 0, last)  # fmt: skip
    # The last block waits for no other.
    low, high, _ = bounds(args, True)
    out_rows, column = tables + step + 8 * ldi64(notes, _STORE), ldi64(notes, _STORE + 2)
    plus = late_residual(args) == NO_RES and res != 0
    store_cells(ldi64(notes, _STORE + 3), out_rows, out_rows + step if plus else 0,
                ldi64(notes, _STORE + 1), 4 * column, arg(args, COLUMNS) - column, bias, low,
                high)  # fmt: skip
    _activate(args, tables + step, notes)


@kernel(parts=(FINISH_TILE, SPLIT_ROWS, SPLIT_PANEL, MULTIPLY_PARTS, STORE_CELLS))
def bf16x3(args, tid, nt):
    """Compute this thread's share of the product that an :class:`IGemm` record describes."""
    outer1 = arg(args, OUTER1)
    outer = arg(args, OUTER0) * outer1
    m = arg(args, ROWS_Z) * arg(args, ROWS_Y) * arg(args, ROWS_X)
    panels = (arg(args, COLUMNS) + PANEL - 1) // PANEL
    by_outer, by_rows, by_columns = _grid(nt, outer, m, panels)
    if tid >= by_outer * by_rows * by_columns:
        return
    i_column, rest = tid % by_columns, tid // by_columns
    i_row, i_outer = rest % by_rows, rest // by_rows
    panel0, panel1 = panels * i_column // by_columns, panels * (i_column + 1) // by_columns
    blocks = (m + BLOCK_ROWS - 1) // BLOCK_ROWS
    begin = BLOCK_ROWS * (blocks * i_row // by_rows)
    end = min(BLOCK_ROWS * (blocks * (i_row + 1) // by_rows), m)
    row_block = arg(args, ROW_BLOCK)
    scratch = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    bias, res = arg(args, BIAS), arg(args, RES)
    configure_tiles()
    for o in range(outer * i_outer // by_outer, outer * (i_outer + 1) // by_outer):
        o0, o1 = o // outer1, o % outer1
        a = arg(args, A) + 4 * (o0 * arg(args, A_O0) + o1 * arg(args, A_O1))
        b = arg(args, B) + 4 * (o0 * arg(args, B_O0) + o1 * arg(args, B_O1))
        out = arg(args, OUT) + 4 * (o0 * arg(args, OUT_O0) + o1 * arg(args, OUT_O1))
        here_bias = bias + 4 * o1 * arg(args, BIAS_O1) if bias != 0 else 0
        here_res = res + 4 * (o0 * arg(args, RES_O0) + o1 * arg(args, RES_O1)) if res != 0 else 0
        for m0 in range(begin, end, row_block):
            _block(args, scratch, m0, min(row_block, end - m0), panel0, panel1, a, b, here_bias,
                   out, here_res)  # fmt: skip
    release_tiles()
