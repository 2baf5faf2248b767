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

from leptonc.backends.numba_cpu.kernels.amx import PAIRS, configure_tiles, release_tiles
from leptonc.backends.numba_cpu.kernels.amx import ROWS as TILE_ROWS
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.bf16x3_tile import (
    BLOCK_ROWS,
    CELLS_BYTES,
    MULTIPLY_PARTS,
    NOTES_BYTES,
    ROW_NOTES_AT,
    SLOTS,
    SPLIT_PANEL,
    SPLIT_ROWS,
    STEP,
    STEP_BYTES,
    STORE_CELLS,
    STORE_NOTES_AT,
    multiply_parts,
    split_panel,
    split_rows,
    store_cells,
)
from leptonc.backends.numba_cpu.kernels.igemm import bounds, input_rows, late_residual, operands
from leptonc.backends.numba_cpu.kernels.igemm_record import (
    ACT,
    ACT_P0,
    ACT_P1,
    COLUMNS,
    DEPTH,
    DEPTH_BLOCK,
    OUT_X,
    OUT_Y,
    OUT_Z,
    OUTER0,
    OUTER1,
    RES,
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
)
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS
from leptonc.backends.numba_cpu.kernels.row_tables import affine_rows
from leptonc.backends.numba_cpu.kernels.shares import part
from leptonc.backends.numba_cpu.kernels.tile_finish import FINISH_TILE, NO_RES, finish_tile
from leptonc.backends.numba_cpu.kernels.vec import arg, argf, ldi64, sti64

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
def _note(at, values):
    """Write whole numbers one after the other."""
    for i, value in enumerate(values):
        sti64(at, i, value)


@inline_njit
def _plan_panels(notes, panel, depth, steps, to):
    """Write down what is to be split next: ``steps`` of panels, ``depth`` rows of each tap."""
    _note(notes, (panel, 0, to, to + steps * STEP_BYTES, depth, depth))


@inline_njit
def _plan_rows(notes, table, rows, offset, depth, steps, to):
    """Write down what is to be split next: ``steps`` of rows, from byte ``offset`` on."""
    end = to + steps * STEP_BYTES
    _note(notes + ROW_NOTES_AT, (0, offset, to, end, depth, table, rows))


@inline_njit
def _plan_store(notes, out_rows, count, column, cells):
    """Write down which block is to be stored next."""
    _note(notes + STORE_NOTES_AT, (out_rows, count, column, cells))


@inline_njit
def _rows_in_turn(args):
    """Return whether parts of all panels are made first, and rows are taken block by block."""
    return arg(args, ROW_BLOCK) == BLOCK_ROWS


@inline_njit
def _places(args, scratch):
    """Return where parts of rows and panels, cells, notes and tables begin, and a table's bytes."""
    taps, depth_block = arg(args, TAP_BLOCK), arg(args, DEPTH_BLOCK)
    blocks, steps = arg(args, ROW_BLOCK) // BLOCK_ROWS, taps * ((depth_block + STEP - 1) // STEP)
    panels, kept = (arg(args, COLUMNS) + PANEL - 1) // PANEL, 2
    if taps < arg(args, TAPS) or depth_block < arg(args, DEPTH):
        kept = panels * blocks
    many, few = blocks * steps * STEP_BYTES, 2 * steps * STEP_BYTES
    if _rows_in_turn(args):
        many, few = few, panels * steps * STEP_BYTES
    cells = scratch + many + few
    notes = cells + kept * CELLS_BYTES
    step = 8 * (arg(args, ROW_BLOCK) + ROWS)
    return scratch, scratch + many, cells, notes, notes + NOTES_BYTES, step


@inline_njit
def _results(args, table, step, m0, count, out, res):
    """Write the addresses of rows of the result and, behind them, of the residual."""
    rows_y, rows_x = arg(args, ROWS_Y), arg(args, ROWS_X)
    affine_rows(table, m0, count, rows_y, rows_x, out,
                arg(args, OUT_Z), arg(args, OUT_Y), arg(args, OUT_X), 4)  # fmt: skip
    if res != 0:
        affine_rows(table + step, m0, count, rows_y, rows_x, res,
                    arg(args, RES_Z), arg(args, RES_Y), arg(args, RES_X), 4)  # fmt: skip


@inline_njit
def _activate(args, notes, step):
    """Apply to the block that was stored what bounds are not enough for."""
    at = notes + STORE_NOTES_AT
    out_rows, count, column = ldi64(at, 0), ldi64(at, 1), ldi64(at, 2)
    if count > 0 and bounds(args, True)[2]:
        finish_tile(
            arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1), late_residual(args), out_rows,
            out_rows + step, count, 4 * column, arg(args, COLUMNS) - column,
        )  # fmt: skip


@inline_njit
def _multiply(args, count, rows, columns, cells, steps, onto, notes, blocks, panels, step, bias):
    """Multiply ``count`` rows by a panel; meanwhile split and store what the notes say.

    Two rows of each of a step of the next panel are spread over the steps of all ``blocks`` of
    rows, rows of a step of the next block over those of all ``panels``; 0: nothing is split.
    """
    turns = 3 if blocks == 1 else 2 if blocks == 2 else 1
    slots = (PAIRS + blocks * turns - 1) // (blocks * turns) if blocks > 0 else 0
    row_turns = (BLOCK_ROWS + SLOTS * panels - 1) // (SLOTS * panels) if panels > 0 else 1
    row_slots = (BLOCK_ROWS + panels * row_turns - 1) // (panels * row_turns) if panels > 0 else 0
    stores = (BLOCK_ROWS + SLOTS * steps - 1) // (SLOTS * steps)
    low, high, _ = bounds(args, True)
    at = notes + STORE_NOTES_AT
    out_rows, column = ldi64(at, 0), ldi64(at, 2)
    plus = late_residual(args) == NO_RES and arg(args, RES) != 0
    multiply_parts(
        1 if count <= TILE_ROWS else 2, rows, columns, cells, steps, onto, notes, slots, turns,
        row_slots, row_turns, stores, ldi64(at, 3), out_rows, out_rows + step if plus else 0,
        ldi64(at, 1), 4 * column, arg(args, COLUMNS) - column, bias, low, high,
    )  # fmt: skip
    _activate(args, notes, step)


@inline_njit
def _store_last(args, notes, step, bias):
    """Store the last block, which waits for no other."""
    low, high, _ = bounds(args, True)
    at = notes + STORE_NOTES_AT
    out_rows, column = ldi64(at, 0), ldi64(at, 2)
    plus = late_residual(args) == NO_RES and arg(args, RES) != 0
    store_cells(ldi64(at, 3), out_rows, out_rows + step if plus else 0, ldi64(at, 1), 4 * column,
                arg(args, COLUMNS) - column, bias, low, high)  # fmt: skip
    _activate(args, notes, step)


@inline_njit
def _panels(args, scratch, count, panel0, panel1, part, depth, steps, bias, onto, last):
    """Multiply all blocks of rows by some panels, for ``steps`` of depth."""
    rows, columns, cells, notes, tables, step = _places(args, scratch)
    blocks = (count + BLOCK_ROWS - 1) // BLOCK_ROWS
    size = 4 * PANEL * arg(args, TAPS) * arg(args, DEPTH)
    # Parts of a panel and, unless sums go on, cells of a block have two places each.
    there, spare, goes_on = columns + steps * STEP_BYTES, cells + CELLS_BYTES, onto or not last
    _plan_panels(notes, part + panel0 * size, depth, steps, columns)
    for p in range(panel0, panel1):
        split_panel(notes)
        if p + 1 < panel1:
            _plan_panels(notes, part + (p + 1) * size, depth, steps, there)
        for i in range(blocks):
            some = min(BLOCK_ROWS, count - i * BLOCK_ROWS)
            _multiply(args, some, rows + i * steps * STEP_BYTES, columns, cells, steps, onto,
                      notes, blocks, 0, step, bias)  # fmt: skip
            out_rows = tables + step + 8 * i * BLOCK_ROWS
            _plan_store(notes, out_rows, some if last else 0, p * PANEL, cells)
            if goes_on:
                cells += CELLS_BYTES
            else:
                cells, spare = spare, cells
        columns, there = there, columns


@inline_njit
def _block(args, scratch, m0, count, panel0, panel1, a, b, bias, out, res):
    """Compute the rows ``m0 .. m0 + count`` of some panels, of which one is split at a time."""
    taps, depth = arg(args, TAPS), arg(args, DEPTH)
    tap_block, depth_block = arg(args, TAP_BLOCK), arg(args, DEPTH_BLOCK)
    rows, _, cells, notes, tables, step = _places(args, scratch)
    _results(args, tables + step, step, m0, count, out, res)
    _plan_store(notes, 0, 0, 0, cells)
    for tap0 in range(0, taps, tap_block):
        some_taps = min(tap_block, taps - tap0)
        for k0 in range(0, depth, depth_block):
            some_depth = min(depth_block, depth - k0)
            some_steps = (some_depth + STEP - 1) // STEP
            for t in range(some_taps):
                input_rows(args, tables, m0, count, a, tap0 + t, 4)
                for i in range(0, count, BLOCK_ROWS):
                    to = i // BLOCK_ROWS * some_taps + t
                    _plan_rows(notes, tables + 8 * i, min(BLOCK_ROWS, count - i), 4 * k0,
                               some_depth, some_steps,
                               rows + to * some_steps * STEP_BYTES)  # fmt: skip
                    split_rows(notes)
            last = tap0 + some_taps >= taps and k0 + some_depth >= depth
            _panels(args, scratch, count, panel0, panel1, b + 4 * PANEL * (tap0 * depth + k0),
                    some_depth, some_taps * some_steps, bias, tap0 + k0 > 0, last)  # fmt: skip
    _store_last(args, notes, step, bias)


@inline_njit
def _by_rows(args, scratch, begin, end, panel0, panel1, a, b, bias, out, res):
    """Compute the rows ``begin .. end`` of some panels, all of which are split first."""
    rows, columns, cells, notes, tables, step = _places(args, scratch)
    depth, panels = arg(args, DEPTH), panel1 - panel0
    steps = (depth + STEP - 1) // STEP
    _plan_panels(notes, b + 4 * PANEL * depth * panel0, depth, steps * panels, columns)
    split_panel(notes)
    # Parts of a block of rows, cells of a block and tables of results have two places each.
    there, spare, now, later = rows + steps * STEP_BYTES, cells + CELLS_BYTES, step, 3 * step
    _plan_store(notes, 0, 0, 0, cells)
    input_rows(args, tables, begin, min(BLOCK_ROWS, end - begin), a, 0, 4)
    _plan_rows(notes, tables, min(BLOCK_ROWS, end - begin), 0, depth, steps, rows)
    for m0 in range(begin, end, BLOCK_ROWS):
        split_rows(notes)
        count, following = min(BLOCK_ROWS, end - m0), min(BLOCK_ROWS, end - m0 - BLOCK_ROWS)
        if following > 0:
            input_rows(args, tables, m0 + BLOCK_ROWS, following, a, 0, 4)
            _plan_rows(notes, tables, following, 0, depth, steps, there)
        _results(args, tables + now, step, m0, count, out, res)
        for p in range(panels):
            _multiply(args, count, rows, columns + p * steps * STEP_BYTES, cells, steps, False,
                      notes, 0, panels, step, bias)  # fmt: skip
            _plan_store(notes, tables + now, count, (panel0 + p) * PANEL, cells)
            cells, spare = spare, cells
        rows, there, now, later = there, rows, later, now
    _store_last(args, notes, step, bias)


@kernel(parts=(FINISH_TILE, SPLIT_ROWS, SPLIT_PANEL, MULTIPLY_PARTS, STORE_CELLS))
def bf16x3(args, tid, nt, cuts):
    """Compute this thread's share of the product that an :class:`IGemm` record describes."""
    outer = arg(args, OUTER0) * arg(args, OUTER1)
    m = arg(args, ROWS_Z) * arg(args, ROWS_Y) * arg(args, ROWS_X)
    panels = (arg(args, COLUMNS) + PANEL - 1) // PANEL
    by_outer, by_rows, by_columns = _grid(nt, outer, m, panels)
    used = by_outer * by_rows * by_columns
    if tid >= used:
        return
    cuts = cuts if used == nt else 0
    i_column, rest = tid % by_columns, tid // by_columns
    i_row, i_outer = rest % by_rows, rest // by_rows
    panel0, panel1 = part(panels, i_column, by_columns, tid - i_column, 1, cuts)
    blocks = (m + BLOCK_ROWS - 1) // BLOCK_ROWS
    begin, end = part(blocks, i_row, by_rows, i_outer * by_rows * by_columns, by_columns, cuts)
    begin, end = BLOCK_ROWS * begin, min(BLOCK_ROWS * end, m)
    row_block = arg(args, ROW_BLOCK)
    scratch = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    configure_tiles()
    for o in range(*part(outer, i_outer, by_outer, 0, by_rows * by_columns, cuts)):
        a, b, bias, out, res = operands(args, o)
        if _rows_in_turn(args):
            _by_rows(args, scratch, begin, end, panel0, panel1, a, b, bias, out, res)
            continue
        for m0 in range(begin, end, row_block):
            _block(args, scratch, m0, min(row_block, end - m0), panel0, panel1, a, b, bias, out,
                   res)  # fmt: skip
    release_tiles()
