"""numba_cpu > kernels > igemm_record: the record of :mod:`igemm`, and the scratch that it needs."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

import numpy as np

from leptonc.backends.numba_cpu.kernels.base import record
from leptonc.backends.numba_cpu.kernels.microkernel import ROWS

LINE = 64  # bytes of a cache line
SET_BYTES = 4096  # addresses this far apart meet in one set of the first-level cache (64 sets)
FEWEST_WAYS = 8  # of a set: fewer are rare


class Res(enum.IntEnum):
    """What happens with the residual operand."""

    BEFORE = 0  # act(sum + bias + res)
    AFTER = 1  # act(sum + bias) + res
    TIMES = 2  # act(sum + bias) * res


@dataclass(frozen=True)
class IGemm:
    """One call of :data:`igemm.igemm`; the fields are the slots of its record, in this order.

    Attributes:
        outer0, outer1: outer index counts (batch and group, or batch and head; else 1).
        rows_z, rows_y, rows_x: output rows, ``M`` is their product.
        columns: N. taps, depth: the summed extents (``taps >= 1``; ``depth`` may be 0).
        a: address of input position (0, 0, 0). a_o0, a_o1: its outer strides.
        a_z, a_y, a_x: strides of one input position along each axis.
        step_z, step_y, step_x: input positions per output row (the conv's stride).
        in_d, in_h, in_w: input positions that exist.
        tap_table: address of int64[taps][3], ``(dz, dy, dx)``; 0 means all zero.
        zero_row: address of ``depth`` zeros (or 0 if no row is ever outside).
        b: address of packed B. b_o0, b_o1: its outer strides.
        bias: address of float32[N] or 0. bias_o1: its stride along outer1.
        out: address of the output. out_o0 ... out_x: its strides per outer index and per row index.
        res: address of the residual operand or 0. res_o0 ... res_x: its strides.
        res_mode: a ``Res``. act: an ``Act``. act_p0, act_p1: parameters of the activation.
        scratch: address of the threads' tables. scratch_bytes: per thread, see
            :func:`scratch_bytes`.
        row_block: rows handled together, a multiple of ROWS. tap_block, depth_block: blocks of the
            sum;
            ``depth_block`` may be less than ``depth`` only if ``tap_block`` is 1.
        pitch: 0, or the floats from row to row of a block of A that is copied before it is used
            (see :func:`copy_pitch`), at least ``depth_block``.
    """

    outer0: int
    outer1: int
    rows_z: int
    rows_y: int
    rows_x: int
    columns: int
    taps: int
    depth: int
    a: int
    a_o0: int
    a_o1: int
    a_z: int
    a_y: int
    a_x: int
    step_z: int
    step_y: int
    step_x: int
    in_d: int
    in_h: int
    in_w: int
    tap_table: int
    zero_row: int
    b: int
    b_o0: int
    b_o1: int
    bias: int
    bias_o1: int
    out: int
    out_o0: int
    out_o1: int
    out_z: int
    out_y: int
    out_x: int
    res: int
    res_o0: int
    res_o1: int
    res_z: int
    res_y: int
    res_x: int
    res_mode: int
    act: int
    act_p0: float
    act_p1: float
    scratch: int
    scratch_bytes: int
    row_block: int
    tap_block: int
    depth_block: int
    pitch: int

    def record(self) -> np.ndarray:
        """Return the int64 record."""
        floats = ("act_p0", "act_p1")
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return record(*(float(v) if name in floats else int(v) for name, v in values))


def table_bytes(row_block: int, tap_block: int) -> int:
    """Return the bytes of a thread's tables of row addresses (a multiple of 64)."""
    return -(-8 * (row_block + ROWS) * (tap_block + 2) // 64) * 64


def scratch_bytes(row_block: int, tap_block: int, pitch: int = 0) -> int:
    """Return the bytes of scratch one thread needs: tables, and the copied block of A."""
    return table_bytes(row_block, tap_block) + 4 * row_block * tap_block * pitch


def copy_pitch(row_step: int, depth_block: int) -> int:
    """Return the ``pitch`` that a block of A rows ``row_step`` floats apart needs, 0 for none.

    The lines of rows that lie a multiple of a page apart meet in one set of the first-level cache.
    If a tile has more rows than the set has ways, each of its loads misses: such rows are copied to
    places an odd number of cache lines apart.
    """
    if row_step == 0 or 4 * row_step % SET_BYTES or ROWS <= FEWEST_WAYS:
        return 0
    lines = -(-4 * depth_block // LINE)
    return (lines + 1 - lines % 2) * LINE // 4


(
    OUTER0, OUTER1, ROWS_Z, ROWS_Y, ROWS_X, COLUMNS, TAPS, DEPTH,
    A, A_O0, A_O1, A_Z, A_Y, A_X, STEP_Z, STEP_Y, STEP_X, IN_D, IN_H, IN_W, TAP_TABLE, ZERO_ROW,
    B, B_O0, B_O1, BIAS, BIAS_O1,
    OUT, OUT_O0, OUT_O1, OUT_Z, OUT_Y, OUT_X, RES, RES_O0, RES_O1, RES_Z, RES_Y, RES_X, RES_MODE,
    ACT, ACT_P0, ACT_P1, SCRATCH, SCRATCH_BYTES, ROW_BLOCK, TAP_BLOCK, DEPTH_BLOCK,
    PITCH,
) = range(len(fields(IGemm)))  # fmt: skip
