"""numba_cpu > kernels > pool: largest or mean of windows, on channels-last images of 1 to 3 axes.

Vectors of channels (channel stride 1) go over the window; images of fewer axes have depth and
height 1. An output pixel takes all its channels before the next one starts, so that memory is read
and written in order; windows of 2 x 2 and 3 x 3 positions, nearly all there are, have code of their
own. Fixed windows start every ``stride`` positions and skip what lies in the padding; adaptive
windows are ``floor(i * in / out) .. ceil((i + 1) * in / out)`` (torch). The mean sums each line of
the window by itself and then the lines, so that a global mean over a large image loses little; four
vectors of channels at a time hide the latency of additions. NaN wins a maximum, as in torch; a
window without elements gives -inf.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    vadd,
    vload,
    vload_n,
    vmax,
    vmul,
    vsplat,
    vstore,
    vstore_n,
)

NAMES = (
    "x", "x_b", "x_z", "x_y", "x_x", "batch", "in_d", "in_h", "in_w", "channels",
    "out", "out_b", "out_z", "out_y", "out_x", "out_d", "out_h", "out_w",
    "kernel_z", "kernel_y", "kernel_x", "stride_z", "stride_y", "stride_x",
    "pad_z", "pad_y", "pad_x", "dilation_z", "dilation_y", "dilation_x",
    "mean", "include_pad", "divisor",
)  # fmt: skip
"""Slots of the record, in order: addresses, strides (elements) of image, plane, line and pixel,
sizes. A kernel size of 0 means adaptive windows along that axis. ``mean``: the mean, else the
largest; ``include_pad``: count the padding in a mean; ``divisor``: what a mean divides by instead,
or 0."""

(
    X, X_B, X_Z, X_Y, X_X, BATCH, IN_D, IN_H, IN_W, CHANNELS,
    OUT, OUT_B, OUT_Z, OUT_Y, OUT_X, OUT_D, OUT_H, OUT_W,
    KERNEL_Z, KERNEL_Y, KERNEL_X, STRIDE_Z, STRIDE_Y, STRIDE_X,
    PAD_Z, PAD_Y, PAD_X, DILATION_Z, DILATION_Y, DILATION_X,
    MEAN, INCLUDE_PAD, DIVISOR,
) = range(len(NAMES))  # fmt: skip

BLOCK = 4 * LANES  # channels that go over a window together


@inline_njit(forceinline=True)
def window(args, axis, i):
    """Return a window's first position, its number of positions and that with padding."""
    size, kernel = arg(args, IN_D + axis), arg(args, KERNEL_Z + axis)
    if kernel == 0:
        out = arg(args, OUT_D + axis)
        first = i * size // out
        count = ((i + 1) * size + out - 1) // out - first
        return first, count, count
    pad, dilation = arg(args, PAD_Z + axis), arg(args, DILATION_Z + axis)
    start = i * arg(args, STRIDE_Z + axis) - pad
    last = start + (kernel - 1) * dilation + 1
    covered = min(last, size + pad) - start
    if dilation == 1:
        first = max(start, 0)
        return first, max(min(last, size) - first, 0), covered
    first = start if start >= 0 else start + (-start + dilation - 1) // dilation * dilation
    return first, max((min(last, size) - first + dilation - 1) // dilation, 0), covered


def _reductions(merge, start):
    """Return ``(block, vector)``: a window of BLOCK channels, or of the first ``wide`` of a vector.

    They take the address of the first pixel, the steps in bytes and the numbers of pixels.
    """

    @inline_njit
    def block(x, step_z, step_y, step_x, n_z, n_y, n_x):
        a, b, c, d = vsplat(start), vsplat(start), vsplat(start), vsplat(start)
        for i in range(n_z):
            for j in range(n_y):
                line = x + i * step_z + j * step_y
                p, q, r, s = vsplat(start), vsplat(start), vsplat(start), vsplat(start)
                for _ in range(n_x):
                    p, q = merge(p, vload(line, 0)), merge(q, vload(line, LANES))
                    r, s = merge(r, vload(line, 2 * LANES)), merge(s, vload(line, 3 * LANES))
                    line += step_x
                a, b, c, d = merge(a, p), merge(b, q), merge(c, r), merge(d, s)
        return a, b, c, d

    @inline_njit
    def vector(x, step_z, step_y, step_x, n_z, n_y, n_x, wide):
        a = vsplat(start)
        for i in range(n_z):
            for j in range(n_y):
                line = x + i * step_z + j * step_y
                p = vsplat(start)
                for _ in range(n_x):
                    p = merge(p, vload_n(line, 0, wide))
                    line += step_x
                a = merge(a, p)
        return a

    return block, vector


_sum_block, _sum_vector = _reductions(vadd, -0.0)  # adding to -0.0 keeps every bit
_max_block, _max_vector = _reductions(vmax, float("-inf"))


# Whole windows of 2 x 2 and 3 x 3 positions: ``count`` pixels of ``n`` >= LANES channels, ``out_x``
# and ``next_x`` bytes apart. The last vector of a pixel overlaps the one before it: it writes the
# same values again. They merge in the order of ``_reductions``, for the same bits by either way.


@inline_njit
def _fours(mean, out, out_x, by, x, step_y, step_x, next_x, count, n):
    for _ in range(count):
        for start in range(0, n, LANES):
            i = min(start, n - LANES)
            at = x + 4 * i
            a, b = vload(at, 0), vload(at + step_x, 0)
            at += step_y
            c, d = vload(at, 0), vload(at + step_x, 0)
            v = vmul(vadd(vadd(a, b), vadd(c, d)), by) if mean else vmax(vmax(a, b), vmax(c, d))
            vstore(out, i, v)
        out += out_x
        x += next_x


@inline_njit
def _nines(mean, out, out_x, by, x, step_y, step_x, next_x, count, n):
    for _ in range(count):
        for start in range(0, n, LANES):
            i = min(start, n - LANES)
            at = x + 4 * i
            a, b, c = vload(at, 0), vload(at + step_x, 0), vload(at + 2 * step_x, 0)
            at += step_y
            d, e, f = vload(at, 0), vload(at + step_x, 0), vload(at + 2 * step_x, 0)
            at += step_y
            g, h, k = vload(at, 0), vload(at + step_x, 0), vload(at + 2 * step_x, 0)
            if mean:
                p, q, r = vadd(vadd(a, b), c), vadd(vadd(d, e), f), vadd(vadd(g, h), k)
                v = vmul(vadd(vadd(p, q), r), by)
            else:
                p, q, r = vmax(vmax(a, b), c), vmax(vmax(d, e), f), vmax(vmax(g, h), k)
                v = vmax(vmax(p, q), r)
            vstore(out, i, v)
        out += out_x
        x += next_x


@inline_njit
def _pixel(out, mean, wide, by, x, step_z, step_y, step_x, n_z, n_y, n_x):
    """Write ``wide`` channels of one output pixel; ``by``: what a sum is times for a mean."""
    for c in range(0, wide, BLOCK):
        some, to, at = min(BLOCK, wide - c), out + 4 * c, x + 4 * c
        if some == BLOCK:
            if mean:
                p, q, r, s = _sum_block(at, step_z, step_y, step_x, n_z, n_y, n_x)
                p, q, r, s = vmul(p, by), vmul(q, by), vmul(r, by), vmul(s, by)
            else:
                p, q, r, s = _max_block(at, step_z, step_y, step_x, n_z, n_y, n_x)
            vstore(to, 0, p)
            vstore(to, LANES, q)
            vstore(to, 2 * LANES, r)
            vstore(to, 3 * LANES, s)
        else:
            for i in range(0, some, LANES):
                one, left = at + 4 * i, some - i
                if mean:
                    v = vmul(_sum_vector(one, step_z, step_y, step_x, n_z, n_y, n_x, left), by)
                else:
                    v = _max_vector(one, step_z, step_y, step_x, n_z, n_y, n_x, left)
                vstore_n(to, i, v, left)


@inline_njit
def _line(args, image, z, y, c, wide):
    """Compute one line of output pixels for ``wide`` channels from ``c``."""
    z0, n_z, depth = window(args, 0, z)
    y0, n_y, height = window(args, 1, y)
    step_z = 4 * arg(args, X_Z) * arg(args, DILATION_Z)
    step_y = 4 * arg(args, X_Y) * arg(args, DILATION_Y)
    pixel, out_x = 4 * arg(args, X_X), 4 * arg(args, OUT_X)
    step_x = pixel * arg(args, DILATION_X)
    at = image * arg(args, X_B) + z0 * arg(args, X_Z) + y0 * arg(args, X_Y) + c
    base = arg(args, X) + 4 * at
    at = image * arg(args, OUT_B) + z * arg(args, OUT_Z) + y * arg(args, OUT_Y) + c
    out = arg(args, OUT) + 4 * at
    mean, include, divisor = arg(args, MEAN) != 0, arg(args, INCLUDE_PAD), arg(args, DIVISOR)
    end, square = arg(args, OUT_W), arg(args, KERNEL_X)
    first, last = end, end
    whole = n_z == 1 and n_y == square and wide >= LANES and arg(args, DILATION_X) == 1
    if whole and (square == 2 or square == 3):
        stride, pad = arg(args, STRIDE_X), arg(args, PAD_X)
        first = (pad + stride - 1) // stride
        last = min((arg(args, IN_W) + pad - square) // stride + 1, end)
    x = 0
    while x < end:
        x0, n_x, width = window(args, 2, x)
        count = divisor if divisor != 0 else n_z * n_y * n_x
        if divisor == 0 and include != 0:
            count = depth * height * width
        by, start = vsplat(1.0 / count), base + x0 * pixel
        if x == first and first < last:
            to, next_x = out + x * out_x, pixel * arg(args, STRIDE_X)
            if square == 2:
                _fours(mean, to, out_x, by, start, step_y, step_x, next_x, last - x, wide)
            else:
                _nines(mean, to, out_x, by, start, step_y, step_x, next_x, last - x, wide)
            x = last
        else:
            _pixel(out + x * out_x, mean, wide, by, start, step_z, step_y, step_x, n_z, n_y, n_x)
            x += 1


@kernel(vectors=True)
def pool(args, tid, nt, cuts):
    """Compute this thread's share of the pool that the record describes.

    Threads share lines; only where there are few of them, blocks of channels too.
    """
    channels, depth, height = arg(args, CHANNELS), arg(args, OUT_D), arg(args, OUT_H)
    lines = arg(args, BATCH) * depth * height
    wide = channels if nt == 1 or lines >= 4 * nt else BLOCK
    blocks = (channels + wide - 1) // wide
    jobs = lines * blocks
    for job in range(*share(jobs, tid, nt, cuts)):
        line, c = job // blocks, job % blocks * wide
        plane, y = line // height, line % height
        _line(args, plane // depth, plane % depth, y, c, min(wide, channels - c))
