"""numba_cpu > kernels > depthwise: convolution with one filter a channel, on channels-last images.

``out[b, z, y, x, c] = act(sum over taps of in[b, position(tap), c] * w[tap, c] + bias[c] + res)``,
channel stride 1. Images of 1 or 2 axes have depth (and height) 1. A vector of channels of 4
neighbouring outputs of one line is one register tile; only the taps of a window's lines that exist
are summed, no padding is read. Tiles for 3, 5 and 7 columns load every input of a line once; others
load one input a tap. Columns at a border, whose window leaves the line, go one by one. The sum
starts with the bias and runs over the taps in row-major order in every tile.
"""

from __future__ import annotations

import numba
import numpy as np

from leptonc.backends.numba_cpu.kernels.activation import Act, vact
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.depthwise_tile import COLUMNS, single, whole
from leptonc.backends.numba_cpu.kernels.igemm import Res
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    sti64,
    vadd,
    vload_n,
    vmul,
    vstore_n,
    vzero,
)

NAMES = (
    "x", "x_b", "x_z", "x_y", "x_x", "batch", "in_d", "in_h", "in_w", "channels",
    "kernel_z", "kernel_y", "kernel_x", "stride_z", "stride_y", "stride_x",
    "pad_z", "pad_y", "pad_x", "dilation_z", "dilation_y", "dilation_x",
    "out", "out_b", "out_z", "out_y", "out_x", "out_d", "out_h", "out_w", "weights", "bias",
    "res", "res_b", "res_z", "res_y", "res_x", "res_mode", "act", "act_p0", "act_p1",
    "scratch", "scratch_bytes",
)  # fmt: skip
"""Slots of the record, in order: addresses (bytes; ``res`` or 0), strides (elements) of
image, plane, line and pixel, sizes. ``weights`` come from :func:`pack_weights`, ``scratch_bytes``
from :func:`scratch_bytes`. ``res_mode`` is a ``Res``, ``act`` an ``Act``."""

(
    X, X_B, X_Z, X_Y, X_X, BATCH, IN_D, IN_H, IN_W, CHANNELS,
    KERNEL_Z, KERNEL_Y, KERNEL_X, STRIDE_Z, STRIDE_Y, STRIDE_X,
    PAD_Z, PAD_Y, PAD_X, DILATION_Z, DILATION_Y, DILATION_X,
    OUT, OUT_B, OUT_Z, OUT_Y, OUT_X, OUT_D, OUT_H, OUT_W, WEIGHTS, BIAS,
    RES, RES_B, RES_Z, RES_Y, RES_X, RES_MODE, ACT, ACT_P0, ACT_P1,
    SCRATCH, SCRATCH_BYTES,
) = range(len(NAMES))  # fmt: skip

CHANNEL_BLOCK = 4 * LANES  # channels that are finished before the next columns


def padded(channels: int) -> int:
    """Return ``channels`` rounded up to whole vectors."""
    return -(-channels // LANES) * LANES


def pack_weights(weight: np.ndarray) -> np.ndarray:
    """Return ``f32[taps + 1, padded(c)]`` of ``weight: [c, 1, *kernel]``; the last tap is zero."""
    channels = weight.shape[0]
    taps = weight.reshape(channels, -1)
    out = np.zeros((taps.shape[1] + 1, padded(channels)), np.float32)
    out[:-1, :channels] = taps.T
    return out


def scratch_bytes(kernel_z: int, kernel_y: int) -> int:
    """Return the bytes one thread needs for the table of a window's lines."""
    return -(-16 * (1 + kernel_z * kernel_y) // 64) * 64


# --- the kernel ---------------------------------------------------------------------------------

_inlined = numba.njit(inline="always")
_INF = float("inf")
_NONE, _RELU, _RELU6, _CLAMP = int(Act.NONE), int(Act.RELU), int(Act.RELU6), int(Act.CLAMP)
_BEFORE, _AFTER, _TIMES = int(Res.BEFORE), int(Res.AFTER), int(Res.TIMES)


@inline_njit
def _taps(start, size, kernel, dilation):
    """Return the taps ``first .. last`` whose position ``start + k * dilation`` exists."""
    first = 0 if start >= 0 else (-start + dilation - 1) // dilation
    last = min(kernel, (size - 1 - start) // dilation + 1) if start < size else 0
    return first, max(first, last)


@inline_njit
def _lines(args, table, image, z, y):
    """Write ``(input line, weights)`` for the window's lines that exist; return their number."""
    z0 = z * arg(args, STRIDE_Z) - arg(args, PAD_Z)
    y0 = y * arg(args, STRIDE_Y) - arg(args, PAD_Y)
    step_z, step_y = arg(args, DILATION_Z), arg(args, DILATION_Y)
    height, width = arg(args, KERNEL_Y), arg(args, KERNEL_X)
    size = 4 * width * ((arg(args, CHANNELS) + LANES - 1) // LANES * LANES)
    z_first, z_last = _taps(z0, arg(args, IN_D), arg(args, KERNEL_Z), step_z)
    y_first, y_last = _taps(y0, arg(args, IN_H), height, step_y)
    n = 0
    for i in range(z_first, z_last):
        plane = image * arg(args, X_B) + (z0 + i * step_z) * arg(args, X_Z)
        for j in range(y_first, y_last):
            line = plane + (y0 + j * step_y) * arg(args, X_Y)
            sti64(table, n, arg(args, X) + 4 * line)
            sti64(table, n + 1, arg(args, WEIGHTS) + (i * height + j) * size)
            n += 2
    return n // 2


@inline_njit
def _bounds(args):
    """Return the clamp that the tiles apply, and whether another pass must finish the outputs."""
    act = arg(args, ACT)
    if arg(args, RES) != 0:
        return -_INF, _INF, True
    if act == _RELU:
        return 0.0, _INF, False
    if act == _RELU6:
        return 0.0, 6.0, False
    if act == _CLAMP:
        return argf(args, ACT_P0), argf(args, ACT_P1), False
    return -_INF, _INF, act != _NONE


@inline_njit
def _finish(args, out, res, count, channels):
    """Apply residual and activation to ``count`` outputs, which are in the cache still."""
    mode, code = arg(args, RES_MODE), arg(args, ACT)
    p0, p1 = argf(args, ACT_P0), argf(args, ACT_P1)
    out_x, res_x = arg(args, OUT_X), arg(args, RES_X)
    for j in range(count):
        for c in range(0, channels, LANES):
            v = vload_n(out, j * out_x + c, channels - c)
            r = vzero()
            if res != 0:
                r = vload_n(res, j * res_x + c, channels - c)
                if mode == _BEFORE:
                    v = vadd(v, r)
            v = vact(code, v, p0, p1)
            if res != 0 and mode == _AFTER:
                v = vadd(v, r)
            if res != 0 and mode == _TIMES:
                v = vmul(v, r)
            vstore_n(out, j * out_x + c, v, channels - c)


@_inlined
def _outputs(args, table, lines, x, count, channels, c0, out, low, high):
    """Compute ``count`` (1 or COLUMNS) outputs from column ``x`` of channels from ``c0``."""
    out_x, bias, taps = 4 * arg(args, OUT_X), arg(args, BIAS) + 4 * c0, arg(args, KERNEL_X)
    pixel, tap = 4 * arg(args, X_X), 4 * ((arg(args, CHANNELS) + LANES - 1) // LANES * LANES)
    step, start = arg(args, STRIDE_X) * pixel, x * arg(args, STRIDE_X) - arg(args, PAD_X)
    first, last, across = 0, taps, arg(args, DILATION_X) * pixel
    if count == 1:
        first, last = _taps(start, arg(args, IN_W), taps, arg(args, DILATION_X))
    x_at, w_at, taps = start * pixel + first * across + 4 * c0, first * tap + 4 * c0, last - first
    if lines == 0 or taps <= 0:
        # A window wholly outside the image: one tap of zeros.
        table, lines, taps, x_at, w_at = table - 16, 1, 1, 4 * c0, 4 * c0
        across, tap, step = 0, 0, 0
    if count == 1:
        single(table, lines, x_at, w_at, across, tap, taps, 0, bias, out, out_x, channels, low,
                high)  # fmt: skip
    else:
        whole(table, lines, x_at, w_at, across, tap, taps, step, bias, out, out_x, channels, low,
               high)  # fmt: skip


@inline_njit
def _inner(args):
    """Return the output columns ``low .. high`` whose windows lie inside the line."""
    stride, pad = arg(args, STRIDE_X), arg(args, PAD_X)
    span = arg(args, DILATION_X) * (arg(args, KERNEL_X) - 1)
    low = min((pad + stride - 1) // stride, arg(args, OUT_W))
    last = arg(args, IN_W) - 1 - span + pad
    high = min(last // stride + 1, arg(args, OUT_W)) if last >= 0 else 0
    return low, max(low, high)


@kernel
def depthwise(args, tid, nt):
    """Compute this thread's lines and channel blocks of the conv that the record describes."""
    channels, width = arg(args, CHANNELS), arg(args, OUT_W)
    depth, height = arg(args, OUT_D), arg(args, OUT_H)
    table = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    zeros = arg(args, KERNEL_Z) * arg(args, KERNEL_Y) * arg(args, KERNEL_X)
    zeros = arg(args, WEIGHTS) + 4 * zeros * ((channels + LANES - 1) // LANES * LANES)
    sti64(table, 0, zeros)
    sti64(table, 1, zeros)
    table += 16
    blocks = (channels + CHANNEL_BLOCK - 1) // CHANNEL_BLOCK
    jobs = arg(args, BATCH) * depth * height * blocks
    first, last = _inner(args)
    low, high, unfinished = _bounds(args)
    for job in range(jobs * tid // nt, jobs * (tid + 1) // nt):
        line, c0 = job // blocks, job % blocks * CHANNEL_BLOCK
        some = min(CHANNEL_BLOCK, channels - c0)
        plane, y = line // height, line % height
        image, z = plane // depth, plane % depth
        lines = _lines(args, table, image, z, y)
        out_line = image * arg(args, OUT_B) + z * arg(args, OUT_Z) + y * arg(args, OUT_Y) + c0
        res_line = image * arg(args, RES_B) + z * arg(args, RES_Z) + y * arg(args, RES_Y) + c0
        x = 0
        while x < width:
            count, here, after = 1, x, x + 1
            if first <= x < last and last - first >= COLUMNS:
                # The last tile overlaps the one before it: the same outputs twice, no narrow tile.
                here, after, count = min(x, last - COLUMNS), min(x + COLUMNS, last), COLUMNS
            out = arg(args, OUT) + 4 * (out_line + here * arg(args, OUT_X))
            _outputs(args, table, lines, here, count, some, c0, out, low, high)
            if unfinished:
                res = arg(args, RES)
                res = res + 4 * (res_line + here * arg(args, RES_X)) if res != 0 else 0
                _finish(args, out, res, count, some)
            x = after
