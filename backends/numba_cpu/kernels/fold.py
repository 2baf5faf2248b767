"""numba_cpu > kernels > fold: images and weights whose stride is folded into their channels.

A convolution with stride ``s`` reads, of an image whose pixels are taken in squares of ``s`` by
``s``, every square once for each of ``ceil(taps / s)`` taps: it is a convolution with stride 1 of
an image with ``s**2`` times the channels ("space to depth"). A 7x7 kernel with stride 2 is one of
4x4, which :mod:`winograd` can compute.

Channels are in the order ``[s][channel][s]`` (lines of a square, channels, pixels of its lines): of
an image whose pixels lie side by side, so do the pixels of a line of a square.
"""

from __future__ import annotations

import numpy as np

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    ldf,
    ldi64,
    stf,
    sti64,
    vstore_n,
    vzero,
)
from leptonc.backends.numba_cpu.kernels.winograd_product import UNROLL

NAMES = (
    "lines", "down", "width", "pitch", "stride", "channels", "x", "x_b", "x_y", "x_x", "x_c",
    "in_h", "in_w", "pad_y", "pad_x", "out",
)  # fmt: skip
"""Slots of the record: lines of squares of the whole batch, of one image; squares of a line and
floats of a square; side of a square; channels; image (address), its strides (floats, of image,
line, pixel, channel) and size; zeros above and to the left; result ``f32[lines][width][pitch]``,
zeros outside the image and behind the channels."""
(
    LINES, DOWN, WIDTH, PITCH, STEP, CHANNELS, X, X_B, X_Y, X_X, X_C, IN_H, IN_W, PAD_Y, PAD_X, OUT,
) = range(len(NAMES))  # fmt: skip


def fold_weight(weight: np.ndarray, stride: int) -> np.ndarray:
    """Return ``weight: [out, in, *kernel]`` as ``[out, stride * in * stride, *taps]``."""
    out, inner, *kernel = weight.shape
    down, across = (-(-taps // stride) for taps in kernel)
    wide = np.zeros((out, inner, down * stride, across * stride), weight.dtype)
    wide[:, :, : kernel[0], : kernel[1]] = weight
    squares = wide.reshape(out, inner, down, stride, across, stride).transpose(0, 3, 1, 5, 2, 4)
    return squares.reshape(out, -1, down, across)


def pitch(channels: int, stride: int) -> int:
    """Return the floats of a square: of channels that are multiplied, zeros behind them included.

    A vector of channels reads beyond them, into the next square.
    """
    return -(-channels * stride**2 // UNROLL) * UNROLL


@inline_njit
def _squares(args, j):
    """Return the first square whose pixel ``j`` of a line lies in the image, the first behind."""
    step, at = arg(args, STEP), j - arg(args, PAD_X)
    low = max(0, -(at // step))
    return low, max(low, min(arg(args, WIDTH), (arg(args, IN_W) - 1 - at) // step + 1))


@inline_njit
def _copy_pixels(args, src, dst, j):
    """Copy pixel ``j`` of all squares from a line of one channel."""
    low, high = _squares(args, j)
    first = (j - arg(args, PAD_X)) * arg(args, X_X)
    for q in range(low, high):
        value = ldf(src, first + q * arg(args, STEP) * arg(args, X_X))
        stf(dst, q * arg(args, PITCH) + j, value)


@inline_njit
def _copy_pairs(args, src, dst, j):
    """Copy pixels ``j`` and ``j + 1``, which lie side by side, as words where squares have both."""
    step, row = 4 * arg(args, STEP), 4 * arg(args, PITCH)
    begin, last = _squares(args, j)
    first, end = _squares(args, j + 1)
    source, to = src + 4 * (j - arg(args, PAD_X)), dst + 4 * j
    if first < min(begin, end):  # the image begins within a square
        stf(to + first * row, 1, ldf(source + first * step, 1))
    source, to = source + begin * step, to + begin * row
    for _ in range(begin, end):
        sti64(to, 0, ldi64(source, 0))
        source += step
        to += row
    if max(begin, end) < last:  # and ends there
        stf(to, 0, ldf(source, 0))


@kernel(vectors=True)
def fold(args, tid, nt, cuts):
    """Write this thread's lines of the image that :data:`NAMES` describes."""
    step, channels, row = arg(args, STEP), arg(args, CHANNELS), arg(args, WIDTH) * arg(args, PITCH)
    for line in range(*share(arg(args, LINES), tid, nt, cuts)):
        image, y = line // arg(args, DOWN), line % arg(args, DOWN) * step - arg(args, PAD_Y)
        to = arg(args, OUT) + 4 * line * row
        for k in range(0, row, LANES):
            vstore_n(to, k, vzero(), row - k)
        for i in range(max(0, -y), min(step, arg(args, IN_H) - y)):
            src = arg(args, X) + 4 * (image * arg(args, X_B) + (y + i) * arg(args, X_Y))
            for c in range(channels):
                dst = to + 4 * step * (i * channels + c)
                at = src + 4 * c * arg(args, X_C)
                j = 0
                while j < step:
                    if arg(args, X_X) == 1 and j + 1 < step:
                        _copy_pairs(args, at, dst, j)
                        j += 2
                    else:
                        _copy_pixels(args, at, dst, j)
                        j += 1
