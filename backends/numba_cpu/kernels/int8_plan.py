"""numba_cpu > kernels > int8_plan: weights of 8 bits as panels, and records for ``int8_gemm``.

Pure Python, no addresses. Packed B of one group is ``i8[ceil(N / PANEL)][taps][depth][PANEL][4]``:
four values of depth side by side in each lane, zeros behind the depth and the columns.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from leptonc.backends.numba_cpu.kernels.igemm_plan import ConvPlan, even_block
from leptonc.backends.numba_cpu.kernels.igemm_record import IGemm
from leptonc.backends.numba_cpu.kernels.int8_dot import MOST_DEPTH
from leptonc.backends.numba_cpu.kernels.int8_gather import pitch_of
from leptonc.backends.numba_cpu.kernels.int8_gemm import Int8Gemm, scratch_bytes
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS
from leptonc.backends.numba_cpu.kernels.pack import aligned_empty

FOUR = 4  # bytes of a step of depth
A_BLOCK = 384 * 1024  # bytes of A that a block of rows reads
TABLE_BYTES = 96 * 1024  # of a thread's row tables


def steps(depth: int) -> int:
    """Return how many steps of four bytes ``depth`` takes."""
    return -(-depth // FOUR)


def pack_bytes(weight: np.ndarray, groups: int = 1) -> np.ndarray:
    """Return the panels ``i8[groups, panels, taps, steps, PANEL, 4]`` of a weight.

    ``weight: i8[out, taps, k]``; ``out`` counts all groups.
    """
    out, taps, k = weight.shape
    columns = out // groups
    panels = -(-columns // PANEL)
    padded = np.zeros((groups, panels * PANEL, taps, steps(k) * FOUR), np.int8)
    padded[:, :columns, :, :k] = weight.reshape(groups, columns, taps, k)
    cut = padded.reshape(groups, panels, PANEL, taps, steps(k), FOUR)
    made = aligned_empty((groups, panels, taps, steps(k), PANEL, FOUR), np.int8)
    made[...] = cut.transpose(0, 1, 3, 4, 2, 5)
    return made


def per_panel(values: np.ndarray, groups: int = 1) -> np.ndarray:
    """Return a value a column as ``[groups, whole panels]``, zeros behind a group's columns."""
    columns = len(values) // groups
    made = aligned_empty((groups, -(-columns // PANEL) * PANEL), values.dtype.type)
    made[...] = 0
    made[:, :columns] = values.reshape(groups, columns)
    return made


def corrections(weight: np.ndarray, zero: int) -> np.ndarray:
    """Return ``i32[out]``: what the zero point of A contributes to each sum, negated."""
    total = weight.reshape(len(weight), -1).astype(np.int64).sum(1) * -zero
    return total.astype(np.int32)


def fits(depth: int) -> bool:
    """Return whether int32 holds every sum of ``depth`` products."""
    return depth <= MOST_DEPTH


def as_bytes(call: IGemm, depth: int) -> Int8Gemm:
    """Return ``call``, whose strides of A count bytes, as a record of ``depth`` bytes a tap."""
    rows = call.rows_z * call.rows_y * call.rows_x
    size = call.taps * depth
    by_tables = TABLE_BYTES // (8 * ROWS * (call.taps + 2))
    most = max(1, min(A_BLOCK // (ROWS * max(size, 1)), by_tables))
    row_block = even_block(rows, most, size * call.columns // FOUR)
    panels = -(-call.columns // PANEL)
    values = {f.name: getattr(call, f.name) for f in dataclasses.fields(IGemm)}
    values |= {
        "depth": steps(depth), "b_o1": panels * PANEL * call.taps * steps(depth),
        "bias_o1": panels * PANEL, "row_block": row_block, "tap_block": call.taps,
        "depth_block": steps(depth), "pitch": 0,
        "scratch_bytes": scratch_bytes(row_block, call.taps),
    }  # fmt: skip
    return Int8Gemm(
        **values, sums=0, scale=0, res_kind=0, res_zero=0, res_scale=1.0, out_kind=0, zero=0,
        inverse=1.0, code_low=0.0, code_high=0.0, extra=0, strip=0,
        lines=0, line_bytes=0,
    )  # fmt: skip


def as_byte_plan(plan: ConvPlan) -> ConvPlan:
    """Return the plan of a convolution of bytes: the record is an :class:`Int8Gemm`."""
    call = as_bytes(plan.call, plan.call.depth)
    return dataclasses.replace(plan, call=call)


def gathered(plan: ConvPlan) -> ConvPlan:
    """Return the plan of a convolution of bytes whose taps are gathered to one."""
    lines, size = plan.call.taps, plan.call.depth
    call = as_bytes(dataclasses.replace(plan.call, taps=1), lines * size)
    pitch = pitch_of(lines, size)
    room = call.scratch_bytes + call.row_block * pitch
    call = dataclasses.replace(
        call, lines=lines, line_bytes=size, pitch=pitch, scratch_bytes=room
    )  # fmt: skip
    return dataclasses.replace(plan, call=call)
