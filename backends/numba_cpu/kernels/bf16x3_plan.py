"""numba_cpu > kernels > bf16x3_plan: blocks, cost and error bound of :mod:`bf16x3`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from leptonc.backends.numba_cpu.kernels import amx
from leptonc.backends.numba_cpu.kernels.bf16x3_tile import (
    BLOCK_ROWS,
    CELLS_BYTES,
    NOTES_BYTES,
    STEP,
    STEP_BYTES,
)
from leptonc.backends.numba_cpu.kernels.igemm_record import LINE, IGemm
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS

#: Steps of depth that are split at a time, blocks of rows times steps, and blocks: the parts of all
#: rows and of two panels are in the second-level cache.
MOST_STEPS = 32
MOST_PARTS = 136
MOST_BLOCKS = 16
ENOUGH_BLOCKS, MOST_CELLS = 8, 128  # of rows to split a panel beside; of blocks whose sums go on


def blocked(call: IGemm) -> IGemm:
    """Return ``call`` in the blocks that :mod:`bf16x3` takes, with the scratch that it needs.

    ``taps * depth`` and the columns are at least 1.
    """
    blocks = max(1, -(-call.rows_z * call.rows_y * call.rows_x // BLOCK_ROWS))
    steps, panels = -(-call.depth // STEP), -(-call.columns // PANEL)
    if _rows_in_turn(blocks, call.taps, steps, panels):
        call = replace(call, row_block=BLOCK_ROWS, tap_block=1, depth_block=call.depth, pitch=0)
        return replace(call, scratch_bytes=_scratch_bytes(call, panels, steps))
    at_once = _steps_at_once(blocks, panels)
    if steps > at_once:
        taps, parts = 1, -(-steps // at_once)
        depth = STEP * -(-steps // parts)
    else:
        parts = -(-call.taps // (at_once // steps))
        taps, depth = -(-call.taps // parts), call.depth
    steps = taps * -(-depth // STEP)
    # One block would mean rows in turn: two, one of them empty, do not.
    most = min(MOST_BLOCKS, MOST_PARTS // steps)
    even = max(2, -(-blocks // -(-blocks // most)))
    call = replace(call, row_block=BLOCK_ROWS * even, tap_block=taps, depth_block=depth, pitch=0)
    return replace(call, scratch_bytes=_scratch_bytes(call, even, steps))


def _steps_at_once(blocks: int, panels: int) -> int:
    """Return the most steps of depth for which parts are made at a time.

    Fewer than MOST_STEPS leave room for more blocks of rows, beside which a panel is split once, as
    long as the cells of all panels, which go on from one part of the depth to the next, are few.
    """
    together = min(blocks, ENOUGH_BLOCKS)
    few = together * panels <= MOST_CELLS
    return min(MOST_STEPS, MOST_PARTS // together) if few else MOST_STEPS


def _rows_in_turn(blocks: int, taps: int, steps: int, panels: int) -> bool:
    """Return whether parts of all panels are made first, and rows are taken block by block.

    Then a block of rows is split while the one before is multiplied.
    """
    return taps == 1 and blocks >= ENOUGH_BLOCKS and (panels + 2) * steps <= MOST_PARTS


def _scratch_bytes(call: IGemm, many: int, steps: int) -> int:
    """Return the bytes of a thread's scratch, in the order of :func:`bf16x3._places`.

    Parts of ``many`` blocks of rows and of two panels, or of so many panels and two blocks; cells
    of two blocks, or of all where sums go on in the next block of the depth; notes; five tables of
    addresses: of a tap's rows, twice of the result and the residual.
    """
    goes_on = call.tap_block < call.taps or call.depth_block < call.depth
    cells = many * -(-call.columns // PANEL) if goes_on else 2
    tables = 5 * 8 * (call.row_block + ROWS)
    total = (many + 2) * steps * STEP_BYTES + cells * CELLS_BYTES + NOTES_BYTES + tables
    return -(-total // LINE) * LINE


# Cycles, fitted to products of 32 to 3136 rows on an Intel Xeon (Emerald Rapids): of a step of
# depth of a block of rows and a panel; to split a step of a panel, of a block of rows; to split one
# of a panel beside a single block, one of a block beside a single panel; to store a block; of a
# call.
_PRODUCT, _PANEL, _ROWS, _BESIDE, _ROWS_BESIDE = 530.0, 260.0, 400.0, 560.0, 860.0
_STORE, _CALL = 660.0, 1000.0
_RATE = 16.0  # bytes of weights per cycle, in addition: in networks they come from far caches


def cycles(rows: int, taps: int, depth: int, columns: int) -> float:
    """Return the estimated cycles of one core for a product of ``rows`` of ``taps * depth``.

    What is split goes on beside products: the fewer these are, the less.
    """
    steps = taps * max(1, -(-depth // STEP))
    blocks, panels = max(1, -(-rows // BLOCK_ROWS)), -(-columns // PANEL)
    if _rows_in_turn(blocks, taps, steps, panels):
        split = panels * _PANEL + blocks * _ROWS_BESIDE / panels
    else:
        together = min(blocks, MOST_BLOCKS, MOST_PARTS // min(steps, MOST_STEPS))
        split = blocks * _ROWS + panels * _BESIDE * blocks / together**2
    halves = -(-rows // amx.ROWS)  # one tile of rows takes half of a block's products
    multiply = steps * (panels * halves / 2 * _PRODUCT + split)
    reading = 4.0 * taps * depth * panels * PANEL / _RATE
    return multiply + blocks * panels * _STORE + reading + _CALL


def error_bound(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a bound of ``|computed - exact|`` of every element of ``a @ b``, without a bias.

    Args:
        a: f32[m, k].
        b: f32[k, n].

    Returns:
        f64[m, n]. Of ``x = h + m + l``, ``|m| < 2**-7 |x|`` and ``|l| < 2**-15 |x|``: what is left
        out, ``m l' + l m' + l l'``, is below ``(2**-21 + 2**-30) |x y|``. What remains is a sum of
        ``6 k`` exact products (:mod:`amx`), each added with at most two roundings: ``gamma_r |A|
        |B|``, ``gamma_r = r u / (1 - r u)``, ``u = 2**-24``, ``r = 12 k`` (N. Higham, "Accuracy and
        Stability of Numerical Algorithms", 2002, section 3.1); products of parts are no larger,
        taken together, than ``(1 + 2**-6) |x y|``. Denormal parts and sums count as 0, which takes
        less than ``2**-126`` of each.
    """
    a, b = (np.abs(x.astype(np.float64)) for x in (a, b))
    k, tiny = a.shape[1], 2.0**-126
    r = 12 * k * 2.0**-24
    relative = 2.0**-21 + 2.0**-30 + r / (1 - r) * (1 + 2.0**-6)
    parts = 3 * tiny * (a.sum(1, keepdims=True) + b.sum(0, keepdims=True))
    return relative * (a @ b) + parts + 12 * k * tiny
