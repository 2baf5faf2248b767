"""numba_cpu > kernels > int8_depthwise: convolution of codes with one filter a channel.

A thread goes over lines of outputs, a window of them at a time (:mod:`int8_depthwise_plan`), in it
over blocks of channels, and in a block over strips of outputs. It lays the lines that the window
reads side by side: one multiplication then sums up to four taps of a column of the kernel for a
lane, and what was laid serves all columns of the kernel and all lines of the window. What lies
beside the image is the zero point there, so no output asks where it is. Columns are kept apart by
their remainder by the stride: neighbours in memory are those of neighbouring outputs.

Sums are int32, exact; ``ends`` corrects for the zero point as in :mod:`int8_gemm`. They end in
registers as codes; where a residual, another activation or floats follow, or a block is not whole,
they end as floats first, by the roundings of ``int8_tile`` in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from leptonc.backends.numba_cpu.kernels.activation import Act, clamp_of, vact
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.depthwise import line_shares
from leptonc.backends.numba_cpu.kernels.igemm_record import Res
from leptonc.backends.numba_cpu.kernels.int8_depthwise_groups import group_lines, lay_beside
from leptonc.backends.numba_cpu.kernels.int8_depthwise_plan import (
    DEEP,
    ENDS,
    PARTS,
    PIECE,
    VECTOR,
    plane_bytes,
    strip_outputs,
    table_bytes,
)
from leptonc.backends.numba_cpu.kernels.int8_depthwise_tile import sum_codes, sum_floats
from leptonc.backends.numba_cpu.kernels.int8_finish import decode_i8, decode_u8, encode
from leptonc.backends.numba_cpu.kernels.int8_tile import CODES, FLOAT_RES, I8_RES, NO_RES
from leptonc.backends.numba_cpu.kernels.shares import part
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    ldi64,
    sti64,
    vload,
    vload_n,
    vmax,
    vmin,
    vsplat,
    vstore,
    vstore_n,
)


@dataclass(frozen=True)
class Int8Depthwise:
    """One call of :data:`int8_depthwise`; the fields are the slots of its record, in this order.

    Attributes:
        x: address of unsigned codes, channel stride 1; x_b, x_y, x_x: bytes from image to image,
            line to line, pixel to pixel. batch, in_h, in_w, channels: its sizes.
        beside: the code beside the image; outside: address of a register of it.
        stride_y, stride_x, pad_y, pad_x, dilation_x, kernel_x: of the convolution.
        outputs, groups: of the window. lines: address of ``int64[groups * DEEP]``.
        blocks: address of ``int64[block_count, 2]``. weights, ends: addresses of what is packed.
        out: address, with strides in elements; out_h, out_w: its lines and their outputs.
        res, res_b, res_y, res_x: the residual's address or 0, and strides in elements.
        res_mode, act, act_p0, act_p1: a ``Res``, an ``Act`` and its parameters.
        res_kind, res_zero, res_scale, out_kind, zero, inverse, code_low, code_high: as of
            ``Int8Gemm``.
        direct: whether outputs end in registers; then low, high, flip: see ``sum_codes``.
        scratch: address, scratch_bytes: of one thread.
    """

    x: int
    x_b: int
    x_y: int
    x_x: int
    batch: int
    in_h: int
    in_w: int
    channels: int
    beside: int
    outside: int
    stride_y: int
    stride_x: int
    pad_y: int
    pad_x: int
    dilation_x: int
    kernel_x: int
    outputs: int
    groups: int
    lines: int
    blocks: int
    block_count: int
    weights: int
    ends: int
    out: int
    out_b: int
    out_y: int
    out_x: int
    out_h: int
    out_w: int
    res: int
    res_b: int
    res_y: int
    res_x: int
    res_mode: int
    act: int
    act_p0: float
    act_p1: float
    res_kind: int
    res_zero: int
    res_scale: float
    out_kind: int
    zero: int
    inverse: float
    code_low: float
    code_high: float
    direct: int
    low: int
    high: int
    flip: int
    scratch: int
    scratch_bytes: int


NAMES = tuple(f.name for f in fields(Int8Depthwise))
REALS = tuple(f.name for f in fields(Int8Depthwise) if f.type == "float")
(
    X, X_B, X_Y, X_X, BATCH, IN_H, IN_W, CHANNELS, BESIDE, OUTSIDE, STRIDE_Y, STRIDE_X, PAD_Y,
    PAD_X, DILATION_X, KERNEL_X, OUTPUTS, GROUPS, LINES, BLOCKS, BLOCK_COUNT, WEIGHTS, ENDS_AT,
    OUT, OUT_B, OUT_Y, OUT_X, OUT_H, OUT_W, RES, RES_B, RES_Y, RES_X, RES_MODE, ACT, ACT_P0,
    ACT_P1, RES_KIND, RES_ZERO, RES_SCALE, OUT_KIND, ZERO, INVERSE, CODE_LOW, CODE_HIGH, DIRECT,
    LOW, HIGH, FLIP, SCRATCH, SCRATCH_BYTES,
) = range(len(NAMES))  # fmt: skip

_NONE = int(Act.NONE)
_BEFORE, _TIMES = int(Res.BEFORE), int(Res.TIMES)
_PLACES = 16 * DEEP  # bytes into a frame: behind the lines of a group
_strip_outputs, _plane_bytes = inline_njit(strip_outputs), inline_njit(plane_bytes)
_table_bytes = inline_njit(table_bytes)

# ----- lines side by side -------------------------------------------------------------------------


@inline_njit
def _name_lines(args, frame, group, image, y, column, c0, step):
    """Write where the lines of a group begin, at a column and a channel, for steps of ``step``."""
    first = y * arg(args, STRIDE_Y) - arg(args, PAD_Y)
    start = arg(args, X) + image * arg(args, X_B) + column * arg(args, X_X) + c0
    for k in range(DEEP):
        line = first + ldi64(arg(args, LINES), group * DEEP + k)
        at, by = arg(args, OUTSIDE), 0
        if 0 <= line < arg(args, IN_H):
            at, by = start + line * arg(args, X_Y), step
        sti64(frame, 2 * k, at)
        sti64(frame, 2 * k + 1, by)


@inline_njit
def _read_columns(args, frame, group, image, y, column, c0, block, target, plane, count):
    """Lay ``count`` columns from ``column`` on side by side."""
    left, stride = min(block, arg(args, CHANNELS) - c0), arg(args, STRIDE_X)
    step, done, whole = stride * arg(args, X_X), 0, count
    if left < block:  # reading a whole piece is safe while it ends in the last column at most
        needed = (PIECE - left + step - 1) // step if step > 0 else count
        whole = max(0, count - needed)
    elif step == block:  # pixels without gaps: several to a register
        wide = VECTOR // block
        done = count // wide * wide
        if done > 0:
            _name_lines(args, frame, group, image, y, column, c0, VECTOR)
            group_lines(VECTOR, frame, target, plane, done // wide, 0)
    for size, end in ((block, whole), (0, count)):
        if end > done:
            _name_lines(args, frame, group, image, y, column + done * stride, c0, step)
            group_lines(size, frame, target + done * block, plane, end - done, left)
            done = end


@inline_njit
def _lay_lines(args, frame, data, plane, image, y, column, slots, c0, block):
    """Lay the window's lines side by side from ``column`` on, ``slots`` columns a remainder.

    What is beside the image is written first and last: it may reach over columns that follow it.
    """
    stride, width, zero = arg(args, STRIDE_X), arg(args, IN_W), arg(args, BESIDE)
    for group in range(arg(args, GROUPS)):
        for rest in range(stride):
            start = column + rest
            first = 0 if start >= 0 else min((stride - 1 - start) // stride, slots)
            last = slots
            if start + (slots - 1) * stride >= width:
                last = max(first, (width - start + stride - 1) // stride)
            target = data + (group * stride + rest) * PARTS * plane
            if first > 0:
                lay_beside(target, plane, first * block, zero)
            if last > first:
                _read_columns(args, frame, group, image, y, start + first * stride, c0, block,
                              target + first * block, plane, last - first)  # fmt: skip
            if slots > last:
                lay_beside(target + last * block, plane, (slots - last) * block, zero)


@inline_njit
def _write_places(args, frame, block, plane):
    """Write what steps multiply."""
    stride, width = arg(args, STRIDE_X), arg(args, KERNEL_X)
    for group in range(arg(args, GROUPS)):
        for k in range(width):
            column = k * arg(args, DILATION_X)
            at = (group * stride + column % stride) * PARTS * plane + column // stride * block
            sti64(frame + _PLACES, group * width + k, at)


# ----- what follows the sums ----------------------------------------------------------------------


@inline_njit
def _bounds(args):
    """Return the clamp, and the activation that is left."""
    act, p0, p1 = arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1)
    low, high, whole = clamp_of(act, np.float32(p0), np.float32(p1))
    return low, high, _NONE if whole else act


@inline_njit
def _residual(args, res, at, left):
    """Return a vector of the residual; ``at``: elements from the strip's start."""
    kind = arg(args, RES_KIND)
    if kind == FLOAT_RES:
        return vload_n(res, at, left)
    zero, scale = arg(args, RES_ZERO), np.float32(argf(args, RES_SCALE))
    if kind == I8_RES:
        return decode_i8(res + at, left, zero, scale)
    return decode_u8(res + at, left, zero, scale)


@inline_njit
def _finish(args, staged, block, count, channels, out, res):
    """End ``count`` staged outputs; ``out``, ``res``: addresses of the first one's results."""
    kind, mode, res_kind = arg(args, OUT_KIND), arg(args, RES_MODE), arg(args, RES_KIND)
    low, high, act = _bounds(args)
    p0, p1 = np.float32(argf(args, ACT_P0)), np.float32(argf(args, ACT_P1))
    zero, inverse = arg(args, ZERO), np.float32(argf(args, INVERSE))
    code_low, code_high = np.float32(argf(args, CODE_LOW)), np.float32(argf(args, CODE_HIGH))
    for x in range(count):
        for c in range(0, channels, LANES):
            at, left = x * block + c, channels - c
            v = vload(staged, at)
            if res_kind != NO_RES and mode == _BEFORE:
                v = v + _residual(args, res, x * arg(args, RES_X) + c, left)
            v = vmin(vmax(v, vsplat(low)), vsplat(high))
            if act != _NONE:
                v = vact(act, v, p0, p1)
            if res_kind != NO_RES and mode != _BEFORE:
                r = _residual(args, res, x * arg(args, RES_X) + c, left)
                v = v * r if mode == _TIMES else v + r
            to = x * arg(args, OUT_X) + c
            if kind == CODES:
                vstore(staged, at, v)
                encode(staged + 4 * at, out + to, left, zero, inverse, code_low, code_high)
            else:
                vstore_n(out, to, v, left)


@inline_njit
def _strip(args, frame, data, plane, image, y, lines, x, count, slots, b, c0, block):
    """Compute ``count`` outputs from ``x`` on of ``lines`` lines from ``y`` on, of one block."""
    stride, width = arg(args, STRIDE_X), arg(args, KERNEL_X)
    column = x * stride - arg(args, PAD_X)
    _lay_lines(args, frame, data, plane, image, y, column, slots, c0, block)
    steps, left = arg(args, GROUPS) * width, min(block, arg(args, CHANNELS) - c0)
    direct = arg(args, DIRECT) != 0 and left == block and count * block >= VECTOR
    staged = data + arg(args, GROUPS) * stride * PARTS * plane
    out_size = 1 if arg(args, OUT_KIND) == CODES else 4
    res_size = 4 if arg(args, RES_KIND) == FLOAT_RES else 1
    zero = arg(args, ZERO) + arg(args, FLIP)
    inverse = np.float32(argf(args, INVERSE))
    places, ends = frame + _PLACES, arg(args, ENDS_AT) + b * PARTS * ENDS * VECTOR
    for i in range(lines):
        weights = arg(args, WEIGHTS) + (b * arg(args, OUTPUTS) + i) * steps * PARTS * VECTOR
        out = image * arg(args, OUT_B) + (y + i) * arg(args, OUT_Y) + x * arg(args, OUT_X) + c0
        out = arg(args, OUT) + out_size * out
        if direct:
            sum_codes(data, places, steps, plane, weights, ends, count, block, out,
                      arg(args, OUT_X), zero, arg(args, LOW), arg(args, HIGH), arg(args, FLIP),
                      inverse)  # fmt: skip
            continue
        sum_floats(data, places, steps, plane, weights, ends, count, block, staged)
        res = image * arg(args, RES_B) + (y + i) * arg(args, RES_Y) + x * arg(args, RES_X) + c0
        _finish(args, staged, block, count, left, out, arg(args, RES) + res_size * res)


@kernel
def int8_depthwise(args, tid, nt, cuts):
    """Compute this thread's lines and channels of the convolution that the record describes."""
    height, width, blocks = arg(args, OUT_H), arg(args, OUT_W), arg(args, BLOCK_COUNT)
    lines, stride, groups = arg(args, BATCH) * height, arg(args, STRIDE_X), arg(args, GROUPS)
    by_lines, by_blocks = line_shares(nt, lines, blocks)
    if tid >= by_lines * by_blocks or width <= 0:
        return
    i, j = tid % by_lines, tid // by_lines
    cuts = cuts if by_lines * by_blocks == nt else 0
    line, end = part(lines, i, by_lines, tid - i, 1, cuts)
    first, last = part(blocks, j, by_blocks, 0, by_lines, cuts)
    frame = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    data = frame + _table_bytes(groups * arg(args, KERNEL_X))
    span = (arg(args, KERNEL_X) - 1) * arg(args, DILATION_X) + 1
    more = (span - 1) // stride  # columns of a remainder beyond those of outputs
    held, strip, plane = 0, 1, 0
    while line < end:
        image, y = line // height, line % height
        some = min(arg(args, OUTPUTS), height - y, end - line)
        for b in range(first, last):
            c0, block = ldi64(arg(args, BLOCKS), 2 * b), ldi64(arg(args, BLOCKS), 2 * b + 1)
            if block != held:
                held, strip = block, _strip_outputs(block, width, span, stride, groups)
                plane = _plane_bytes(block, strip, span, stride)
                _write_places(args, frame, block, plane)
            for x in range(0, width, strip):
                count = min(strip, width - x)
                _strip(args, frame, data, plane, image, y, some, x, count, count + more, b, c0,
                       block)  # fmt: skip
        line += some
