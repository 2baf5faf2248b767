"""numba_cpu > kernels > igemm_plan: linear, matmul, conv and transposed conv as ``IGemm`` records.

Pure Python, no addresses: every function returns an ``IGemm`` whose address fields are 0 and whose
outer and residual strides are set where they follow from the shape. The caller fills in ``a``,
``b``, ``bias``, ``out``, ``res``, ``zero_row``, ``tap_table``, ``scratch`` with
``dataclasses.replace``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from leptonc.backends.numba_cpu.kernels.activation import Act
from leptonc.backends.numba_cpu.kernels.igemm_record import (
    IGemm,
    Res,
    copy_pitch,
    scratch_bytes,
)
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS

#: floats of A (row block x sum block) and depth of a panel that the blocking aims at.
A_BLOCK = 96 * 1024
DEPTH_BLOCK = 1024
#: the same for a plain product of dense rows: its panel and its A come from the second-level cache
#: or the third as fast as they are used, but each block of the depth reads and writes the result.
WHOLE_DEPTH = 4096
FEWEST_TILES = 16
MOST_TILES = 32
#: floats of B that the second-level cache holds beside the rest, and the tiles of a block then: no
#: panel is worth many rows, and rows of the result are finished while they are near.
B_BLOCK = 128 * 1024
TILES_BESIDE_B = 4
#: More of them where tiles times the length of a sum are less than this: the tables of a block took
#: a fifth of the time of the first convolution of MobileNetV2, whose sums have 27 products.
BLOCK_PRODUCTS = 512


def blocking(rows: int, taps: int, depth: int, columns: int) -> tuple[int, int, int]:
    """Return ``(row_block, tap_block, depth_block)`` for a product of this size."""
    if depth > DEPTH_BLOCK:
        parts = -(-depth // DEPTH_BLOCK)
        tap_block, depth_block = 1, -(-depth // parts)
    else:
        most = max(1, DEPTH_BLOCK // max(depth, 1))
        parts = -(-taps // most)
        tap_block, depth_block = max(1, -(-taps // parts)), max(depth, 1)
    most_tiles = max(1, A_BLOCK // (ROWS * tap_block * depth_block))
    length = taps * depth
    row_block = even_block(rows, most_tiles, length * columns, tiles_beside_b(length))
    return row_block, tap_block, depth_block


def tiles_beside_b(length: int) -> int:
    """Return the most tiles of a block whose B is in the cache, for sums of ``length`` products."""
    return min(MOST_TILES, max(TILES_BESIDE_B, BLOCK_PRODUCTS // max(length, 1)))


def even_block(rows: int, most_tiles: int, b_floats: int, beside_b: int = TILES_BESIDE_B) -> int:
    """Return the rows of a block of at most ``most_tiles`` tiles, all blocks about as high."""
    most_tiles = min(most_tiles, beside_b if b_floats <= B_BLOCK else MOST_TILES)
    all_tiles = max(1, -(-rows // ROWS))
    blocks = -(-all_tiles // most_tiles)
    return ROWS * -(-all_tiles // blocks)


def _record(rows: tuple[int, int, int], columns: int, taps: int, depth: int, **rest) -> IGemm:
    """Return the record with default strides and blocking; ``rest`` overrides fields."""
    z, y, x = rows
    row_block, tap_block, depth_block = blocking(z * y * x, taps, depth, columns)
    names = (name for name in IGemm.__dataclass_fields__ if name not in ("act_p0", "act_p1"))
    values: dict = dict.fromkeys(names, 0)
    values |= {"outer0": 1, "outer1": 1, "rows_z": z, "rows_y": y, "rows_x": x, "columns": columns}
    values |= {"taps": taps, "depth": depth, "step_z": 1, "step_y": 1, "step_x": 1}
    values |= {"in_d": z, "in_h": y, "in_w": x, "res_mode": Res.BEFORE, "act": Act.NONE}
    values |= {"act_p0": 0.0, "act_p1": 0.0, "row_block": row_block, "tap_block": tap_block}
    values |= {"depth_block": depth_block, "scratch_bytes": scratch_bytes(row_block, tap_block)}
    return IGemm(**(values | rest))


def linear(rows: int, depth: int, columns: int, *, a_row: int | None = None,
           out_row: int | None = None, res_row: int | None = None) -> IGemm:  # fmt: skip
    """Return ``out[rows, columns] = A[rows, depth] @ B``; ``*_row``: strides (default: dense)."""
    return _record(
        (1, 1, rows), columns, 1, depth,
        a_x=depth if a_row is None else a_row,
        out_x=columns if out_row is None else out_row,
        res_x=columns if res_row is None else res_row,
    )  # fmt: skip


def large_blocks(call: IGemm) -> IGemm:
    """Return ``call``, a product of one tap, in blocks of more rows and of the whole depth.

    Rows that are copied first keep their blocks, which hold what the second-level cache does.
    """
    if call.depth > WHOLE_DEPTH or copy_pitch(call.step_x * call.a_x, call.depth):
        return call
    most_tiles = max(FEWEST_TILES, A_BLOCK // (ROWS * max(call.depth, 1)))
    rows = call.rows_z * call.rows_y * call.rows_x
    beside_b = tiles_beside_b(call.depth)
    row_block = even_block(rows, most_tiles, call.depth * call.columns, beside_b)
    return replace(call, row_block=row_block, depth_block=max(call.depth, 1))


def spread_rows(call: IGemm) -> IGemm:
    """Return ``call`` with a copied A if its row strides need that; the last change to a record."""
    pitch = copy_pitch(call.step_x * call.a_x, call.depth_block)
    size = scratch_bytes(call.row_block, call.tap_block, pitch)
    return replace(call, pitch=pitch, scratch_bytes=size)


def packed_matmul_b(columns: int, depth: int) -> int:
    """Return the floats of one packed B of a matmul: an outer stride for ``pack_b``."""
    return -(-columns // PANEL) * PANEL * depth


@dataclass(frozen=True)
class ConvPlan:
    """A conv (or one phase of a transposed conv) as a record plus its constants.

    Attributes:
        call: the record, addresses 0.
        tap_table: int64[taps, 3], what ``call.tap_table`` must point to.
        zero_floats: floats that ``call.zero_row`` must point to; 0 if nothing is padded.
        kernel_taps: for a phase: the kernel positions to pack, else empty.
        out_offset: floats from the output's address to the first pixel of this phase.
    """

    call: IGemm
    tap_table: np.ndarray
    zero_floats: int
    kernel_taps: tuple[tuple[int, ...], ...] = ()
    out_offset: int = 0


def _three(values: Sequence[int], fill: int) -> tuple[int, ...]:
    """Return ``values`` with ``fill`` in front, three in all."""
    return (fill,) * (3 - len(values)) + tuple(values)


def _dense_strides(size: Sequence[int], inner: int) -> tuple[int, ...]:
    """Return the strides (z, y, x) of dense channels-last pixels of ``inner`` channels."""
    return (size[1] * size[2] * inner, size[2] * inner, inner)


def conv(batch: int, channels: int, size: Sequence[int], out_channels: int,
         kernel: Sequence[int], *, stride: Sequence[int], padding: Sequence[tuple[int, int]],
         dilation: Sequence[int], groups: int = 1) -> ConvPlan:  # fmt: skip
    """Return a dense 1-3 d conv on channels-last memory ``[batch, *size, channels]``.

    ``padding`` holds the zeros before and after, per axis; the rest is as in ``torch.nn.Conv*``.
    """
    pads = [*padding]
    axes = zip(size, kernel, stride, pads, dilation, strict=True)
    out = [(n + p0 + p1 - d * (k - 1) - 1) // s + 1 for n, k, s, (p0, p1), d in axes]
    grid = itertools.product(*(
        [k * d - p0 for k in range(ks)]
        for ks, (p0, _), d in zip(kernel, pads, dilation, strict=True)
    ))  # fmt: skip
    table = [_three(t, 0) for t in grid]
    padded = any(p0 or p1 for p0, p1 in pads)
    return _conv_plan(
        batch, channels, size, out_channels, out, table, _three(stride, 1), groups, padded
    )


def _conv_plan(batch, channels, size, out_channels, out, table, stride, groups, padded) -> ConvPlan:
    """Return the plan of a conv with the given taps; a free depth axis carries the batch."""
    depth, columns = channels // groups, out_channels // groups
    in_size, out_size = _three(size, 1), _three(out, 1)
    in_strides, out_strides = (
        _dense_strides(in_size, channels),
        _dense_strides(out_size, out_channels),
    )
    outer0 = batch
    if len(size) < 3:
        in_size, out_size, outer0 = (batch, *in_size[1:]), (batch, *out_size[1:]), 1
    taps = max(len(table), 1)
    call = _record(
        out_size, columns, taps, depth if table else 0,
        outer0=outer0, outer1=groups,
        a_o0=int(np.prod(in_size)) * channels, a_o1=depth,
        a_z=in_strides[0], a_y=in_strides[1], a_x=in_strides[2],
        step_z=stride[0], step_y=stride[1], step_x=stride[2],
        in_d=in_size[0], in_h=in_size[1], in_w=in_size[2],
        b_o1=-(-columns // PANEL) * PANEL * len(table) * depth, bias_o1=columns,
        out_o0=int(np.prod(out_size)) * out_channels, out_o1=columns,
        out_z=out_strides[0], out_y=out_strides[1], out_x=out_strides[2],
        res_o0=int(np.prod(out_size)) * out_channels, res_o1=columns,
        res_z=out_strides[0], res_y=out_strides[1], res_x=out_strides[2],
    )  # fmt: skip
    rows = np.array(table or [(0, 0, 0)], np.int64)
    return ConvPlan(call, rows, depth if padded else 0)


def merged_conv(plan: ConvPlan, kernel_width: int, width: int, left: int) -> ConvPlan:
    """Return ``plan`` with the taps of one kernel line merged into one long row, for few channels.

    Args:
        plan: an ungrouped conv with dilation 1 along the last axis.
        kernel_width: taps along the last axis.
        width: columns of the padded input ``[..., width, channels]`` (see ``pack.pad_image``).
        left: its zero columns on the left.
    """
    call, channels = plan.call, plan.call.a_x
    depth = kernel_width * channels
    table = plan.tap_table[::kernel_width].copy()
    table[:, 2] += left
    lines = call.in_h * width * channels
    row_block, tap_block, depth_block = blocking(
        call.rows_z * call.rows_y * call.rows_x, len(table), depth, call.columns
    )
    merged = replace(
        call, taps=len(table), depth=depth, in_w=width, a_z=lines, a_y=width * channels,
        a_o0=call.in_d * lines, row_block=row_block, tap_block=tap_block, depth_block=depth_block,
        scratch_bytes=scratch_bytes(row_block, tap_block),
    )  # fmt: skip
    return replace(plan, call=merged, tap_table=table, zero_floats=depth)


def _phases(size: int, kernel: int, stride: int, padding: int, dilation: int, extra: int):
    """Return one axis of a transposed conv: its output size and per phase ``[(tap, shift), ...]``.

    Output ``o = q * stride + r`` sums input ``q + (r + padding - k * dilation) / stride`` over the
    ``k`` that divide.
    """
    out = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
    shifts = ([(k, r + padding - k * dilation) for k in range(kernel)] for r in range(stride))
    return out, [[(k, d // stride) for k, d in one if d % stride == 0] for one in shifts]


def transposed_conv(batch: int, channels: int, size: Sequence[int], out_channels: int,
                    kernel: Sequence[int], *, stride: Sequence[int], padding: Sequence[int],
                    dilation: Sequence[int],
                    output_padding: Sequence[int], groups: int = 1) -> list[ConvPlan]:  # fmt: skip
    """Return a plan per output phase of a channels-last ``torch.nn.ConvTranspose*``."""
    axes = [
        _phases(*axis)
        for axis in zip(size, kernel, stride, padding, dilation, output_padding, strict=True)
    ]
    out = [o for o, _ in axes]
    full = _dense_strides(_three(out, 1), out_channels)
    image = int(np.prod(out)) * out_channels
    plans = []
    for phase in itertools.product(*(range(s) for s in stride)):
        part = [-(-(o - r) // s) for o, r, s in zip(out, phase, stride, strict=True)]
        if min(part) <= 0:
            continue
        taps = [*itertools.product(*(axis[1][r] for axis, r in zip(axes, phase, strict=True)))]
        table = [_three([shift for _, shift in t], 0) for t in taps]
        plan = _conv_plan(batch, channels, size, out_channels, part, table, (1, 1, 1), groups, True)
        step = [f * s for f, s in zip(full, _three(stride, 1), strict=True)]
        if len(size) < 3:
            step[0] = image
        call = replace(
            plan.call, out_o0=image, out_z=step[0], out_y=step[1], out_x=step[2],
            res_o0=image, res_z=step[0], res_y=step[1], res_x=step[2],
        )  # fmt: skip
        offset = sum(r * f for r, f in zip(_three(phase, 0), full, strict=True))
        chosen = tuple(tuple(k for k, _ in t) for t in taps)
        plans.append(replace(plan, call=call, kernel_taps=chosen, out_offset=offset))
    return plans
