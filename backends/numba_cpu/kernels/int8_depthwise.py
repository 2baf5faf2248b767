"""numba_cpu > kernels > int8_depthwise: convolution of codes with one filter a channel.

The sums are those of ``depthwise`` on whole numbers in float32: codes less their zero point, times
codes of the weights. They are exact while they stay below ``2**24`` (``fits``). A thread converts
each line of the image once, into a ring of the lines that a window reaches, and ends each line of
sums as ``int8_tile`` does, in the same order of roundings.
"""

from __future__ import annotations

import numpy as np

from leptonc.backends.numba_cpu.kernels import depthwise as dw
from leptonc.backends.numba_cpu.kernels.activation import Act, vact
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.igemm import Res
from leptonc.backends.numba_cpu.kernels.int8_finish import decode_i8, decode_u8, encode, end_pixels
from leptonc.backends.numba_cpu.kernels.int8_tile import CODES, FLOAT_RES, I8_RES, NO_RES
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    sti64,
    vload,
    vload_n,
    vmax,
    vmin,
    vsplat,
    vstore,
    vstore_n,
)

NAMES = (
    *dw.NAMES, "from_b", "from_y", "from_x", "from_zero", "block", "ring", "to", "to_b", "to_y",
    "to_x", "scale", "column_bias", "res_kind", "res_zero", "res_scale", "out_kind", "zero",
    "inverse", "code_low", "code_high",
)  # fmt: skip
"""Slots of the record: those of ``depthwise``, with ``block`` as ``x_x`` and ``out_x``, then: byte
strides of the codes read and their zero point; channels of a block, whole vectors; lines of
the ring; where results go, with strides in elements; addresses of float32 a channel; residual and
codes as of ``Int8Gemm``."""
REALS = ("act_p0", "act_p1", "res_scale", "inverse", "code_low", "code_high")
(
    FROM_B, FROM_Y, FROM_X, FROM_ZERO, BLOCK, RING, TO, TO_B, TO_Y, TO_X, SCALE, COLUMN_BIAS,
    RES_KIND, RES_ZERO, RES_SCALE, OUT_KIND, ZERO, INVERSE, CODE_LOW, CODE_HIGH,
) = range(len(dw.NAMES), len(NAMES))  # fmt: skip

_NONE, _RELU, _RELU6, _CLAMP = int(Act.NONE), int(Act.RELU), int(Act.RELU6), int(Act.CLAMP)
_BEFORE, _TIMES = int(Res.BEFORE), int(Res.TIMES)
_INF = float("inf")
L1_BYTES = 32 * 1024  # what the ring and a line of sums may take of the first-level cache


def fits(taps: int) -> bool:
    """Return whether float32 holds every sum of ``taps`` products exactly."""
    return taps * 255 * 128 < 1 << 24


def ring_lines(kernel_y: int, dilation_y: int) -> int:
    """Return the lines that a window reaches."""
    return (kernel_y - 1) * dilation_y + 1


def block_channels(channels: int, in_w: int, out_w: int, ring: int) -> int:
    """Return the channels of a block, whole vectors: what the ring holds stays near."""
    vectors = -(-channels // LANES)
    most = max(2, L1_BYTES // (4 * LANES * (ring * in_w + out_w)))
    return LANES * -(-vectors // -(-vectors // most))


def scratch_bytes(block: int, in_w: int, out_w: int, ring: int, kernel_y: int) -> int:
    """Return the bytes of scratch one thread needs."""
    return dw.scratch_bytes(1, kernel_y) + 4 * block * (ring * in_w + out_w)


def pack_weights(weight: np.ndarray) -> np.ndarray:
    """Return codes ``[c, 1, *kernel]`` as ``depthwise`` reads weights."""
    return dw.pack_weights(weight.astype(np.float32))


@inline_njit
def _convert(args, source, target, channels):
    """Write a line of codes less their zero point as floats."""
    step, block, zero = arg(args, FROM_X), arg(args, BLOCK), arg(args, FROM_ZERO)
    for x in range(arg(args, dw.IN_W)):
        for c in range(0, channels, LANES):
            v = decode_u8(source + x * step + c, channels - c, zero, np.float32(1.0))
            vstore(target, x * block + c, v)


@inline_njit
def _window(args, table, ring, y, c0):
    """Write ``(ring line, weights)`` for the window's lines that exist; return their number."""
    y0 = y * arg(args, dw.STRIDE_Y) - arg(args, dw.PAD_Y)
    step, width = arg(args, dw.DILATION_Y), arg(args, dw.KERNEL_X)
    size = 4 * arg(args, BLOCK) * arg(args, dw.IN_W)
    first, last = dw.existing_taps(y0, arg(args, dw.IN_H), arg(args, dw.KERNEL_Y), step)
    n = 0
    for j in range(first, last):
        line = (y0 + j * step) % arg(args, RING)
        sti64(table, n, ring + line * size - 4 * c0)
        sti64(table, n + 1, arg(args, dw.WEIGHTS) + 4 * LANES * j * width)
        n += 2
    if n == 0:
        sti64(table, 0, ring - 4 * c0)
        sti64(table, 1, arg(args, dw.WEIGHTS))
    return n // 2


@inline_njit
def _bounds(args):
    """Return the clamp, and the activation that is left."""
    act = arg(args, dw.ACT)
    if act == _RELU:
        return np.float32(0.0), np.float32(_INF), _NONE
    if act == _RELU6:
        return np.float32(0.0), np.float32(6.0), _NONE
    if act == _CLAMP:
        return np.float32(argf(args, dw.ACT_P0)), np.float32(argf(args, dw.ACT_P1)), _NONE
    return np.float32(-_INF), np.float32(_INF), act


@inline_njit
def _residual(args, res, at, left):
    """Return a vector of the residual; ``at``: elements from the line's start."""
    kind = arg(args, RES_KIND)
    if kind == FLOAT_RES:
        return vload_n(res, at, left)
    zero, scale = arg(args, RES_ZERO), np.float32(argf(args, RES_SCALE))
    if kind == I8_RES:
        return decode_i8(res + at, left, zero, scale)
    return decode_u8(res + at, left, zero, scale)


@inline_njit
def _finish(args, sums, c0, channels, out, res):
    """End a line of sums; ``out``, ``res``: addresses of its first pixel and channel."""
    block, kind, mode = arg(args, BLOCK), arg(args, OUT_KIND), arg(args, dw.RES_MODE)
    low, high, act = _bounds(args)
    p0, p1 = np.float32(argf(args, dw.ACT_P0)), np.float32(argf(args, dw.ACT_P1))
    zero, inverse = arg(args, ZERO), np.float32(argf(args, INVERSE))
    code_low = np.float32(argf(args, CODE_LOW))
    code_high = np.float32(argf(args, CODE_HIGH))
    res_kind = arg(args, RES_KIND)
    scales, biases = arg(args, SCALE), arg(args, COLUMN_BIAS)
    if kind == CODES and res_kind == NO_RES and act == _NONE:
        least = min(max(low * inverse, code_low), code_high)
        most = max(min(high * inverse, code_high), least)
        for c in range(0, channels, LANES):
            end_pixels(sums + 4 * c, 4 * block, out + c, arg(args, TO_X), arg(args, dw.OUT_W),
                       channels - c, scales + 4 * (c0 + c), biases + 4 * (c0 + c), zero, inverse,
                       least, most)  # fmt: skip
        return
    for c in range(0, channels, LANES):
        left = channels - c
        scale, bias = vload_n(scales, c0 + c, left), vload_n(biases, c0 + c, left)
        for x in range(arg(args, dw.OUT_W)):
            at = x * block + c
            v = vload(sums, at) * scale + bias
            if res_kind != NO_RES and mode == _BEFORE:
                v = v + _residual(args, res, x * arg(args, dw.RES_X) + c, left)
            v = vmin(vmax(v, vsplat(low)), vsplat(high))
            if act != _NONE:
                v = vact(act, v, p0, p1)
            if res_kind != NO_RES and mode != _BEFORE:
                r = _residual(args, res, x * arg(args, dw.RES_X) + c, left)
                v = v * r if mode == _TIMES else v + r
            to = x * arg(args, TO_X) + c
            if kind == CODES:
                vstore(sums, at, v)
                encode(sums + 4 * at, out + to, left, zero, inverse, code_low, code_high)
            else:
                vstore_n(out, to, v, left)


@inline_njit
def _lines(args, frame, image, begin, end, c0, channels, code, way):
    """Compute lines ``begin .. end`` of an image for ``channels`` channels from ``c0``."""
    block, in_w, rows = arg(args, BLOCK), arg(args, dw.IN_W), arg(args, RING)
    ring = frame + dw.TABLE + 8 * (2 + dw.PLACES) * arg(args, dw.KERNEL_Y)
    ring = (ring + 63) // 64 * 64
    sums = ring + 4 * block * in_w * rows
    source = arg(args, dw.X) + image * arg(args, FROM_B) + c0
    out_size = 1 if arg(args, OUT_KIND) == CODES else 4
    res_size = 4 if arg(args, RES_KIND) == FLOAT_RES else 1
    converted = 0
    for y in range(begin, end):
        y0 = y * arg(args, dw.STRIDE_Y) - arg(args, dw.PAD_Y)
        first, last = max(y0, converted), min(y0 + rows, arg(args, dw.IN_H))
        for line in range(first, last):
            target = ring + 4 * block * in_w * (line % rows)
            _convert(args, source + line * arg(args, FROM_Y), target, channels)
        converted = max(converted, last)
        lines = _window(args, frame + dw.TABLE, ring, y, c0)
        dw.tiles_of_line(args, frame, code, lines, way, c0, channels, sums)
        out = image * arg(args, TO_B) + y * arg(args, TO_Y) + c0
        res = arg(args, dw.RES)
        if res != 0:
            res += res_size * (image * arg(args, dw.RES_B) + y * arg(args, dw.RES_Y) + c0)
        _finish(args, sums, c0, channels, arg(args, TO) + out_size * out, res)


@kernel
def int8_depthwise(args, tid, nt):
    """Compute this thread's lines and channels of the convolution that the record describes."""
    channels, height, block = arg(args, dw.CHANNELS), arg(args, dw.OUT_H), arg(args, BLOCK)
    lines = arg(args, dw.BATCH) * height
    blocks = (channels + block - 1) // block
    by_lines, by_blocks = dw.line_shares(nt, lines, blocks)
    if tid >= by_lines * by_blocks or arg(args, dw.OUT_W) <= 0:
        return
    i, j = tid % by_lines, tid // by_lines
    begin, end = lines * i // by_lines, lines * (i + 1) // by_lines
    frame = arg(args, dw.SCRATCH) + tid * arg(args, dw.SCRATCH_BYTES)
    dw.write_frame(args, frame, -_INF, _INF)
    code = dw.tile_code(args)
    way = dw.line_way(args, code)
    for b in range(blocks * j // by_blocks, blocks * (j + 1) // by_blocks):
        some = min(block, channels - b * block)
        line = begin
        while line < end:
            image, y = line // height, line % height
            upto = min(height, y + end - line)
            _lines(args, frame, image, y, upto, b * block, some, code, way)
            line += upto - y
