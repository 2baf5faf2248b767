"""numba_cpu > kernels > resample: nearest, linear, cubic resampling, channels last.

``resample_table`` computes the taps of one axis, ``resample`` sums ``taps_z * taps_y * taps_x``
weighted pixels,
a vector of channels at once. Coordinates follow torch's ``area_pixel_compute_source_index`` in 32
bits.

Records, 64-bit words (strides in bytes)::

    resample_table: 0 positions (int64[out][taps])  1 weights (float32[out][taps])  2 mode  3 in
    4 out
                    5 scale (float64 of a float32)  6 align corners (0 or 1)
    resample: 0 x  1 out  2 batch  3 channels  4 out_z  5 out_y  6 out_x
              7 x batch  8 x z  9 x y  10 x x  11 out batch  12 out z  13 out y  14 out x stride
              15 taps_z  16 taps_y  17 taps_x  18 positions z  19 y  20 x  21 weights z  22 y  23 x
"""

from __future__ import annotations

import enum
import math

import numpy as np

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.ew_loop import copy_bytes
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    ldf,
    ldi64,
    stf,
    sti64,
    vfma,
    vload_n,
    vmul,
    vsplat,
    vstore_n,
    vzero,
)


class Mode(enum.IntEnum):
    """How a resampled axis reads its input; ``TAPS`` says from how many positions."""

    NEAREST = 0
    NEAREST_EXACT = 1
    LINEAR = 2
    CUBIC = 3


TAPS = {Mode.NEAREST: 1, Mode.NEAREST_EXACT: 1, Mode.LINEAR: 2, Mode.CUBIC: 4}
_NEAREST, _EXACT, _LINEAR = (int(m) for m in (Mode.NEAREST, Mode.NEAREST_EXACT, Mode.LINEAR))
_A = np.float32(-0.75)  # of the cubic kernel, as in torch
f32 = np.float32


@inline_njit
def _near(x):
    """Cubic convolution for a distance of at most 1."""
    return ((_A + f32(2)) * x - (_A + f32(3))) * x * x + f32(1)


@inline_njit
def _far(x):
    """Cubic convolution for a distance between 1 and 2."""
    return ((_A * x - f32(5) * _A) * x + f32(8) * _A) * x - f32(4) * _A


@inline_njit
def _nearest(args, i):
    """Return the nearest input position of output ``i``."""
    scale = f32(argf(args, 5))
    if arg(args, 2) == _NEAREST:
        return min(math.floor(f32(i) * scale), arg(args, 3) - 1)
    real = max(scale * (f32(i) + f32(0.5)) - f32(0.5), f32(0))
    return min(math.floor(real + f32(0.5)), arg(args, 3) - 1)


@kernel
def resample_table(args, tid, nt, cuts):
    """Positions and weights of one axis."""
    mode, size, scale = arg(args, 2), arg(args, 3), f32(argf(args, 5))
    positions, weights = arg(args, 0), arg(args, 1)
    for i in range(*share(arg(args, 4), tid, nt, cuts)):
        if mode <= _EXACT:
            sti64(positions, i, _nearest(args, i))
            stf(weights, i, f32(1))
            continue
        real = scale * f32(i) if arg(args, 6) != 0 else scale * (f32(i) + f32(0.5)) - f32(0.5)
        if mode == _LINEAR:
            real = max(real, f32(0))
        at = min(math.floor(real), size - 1)
        t = min(max(real - f32(at), f32(0)), f32(1))
        if mode == _LINEAR:
            sti64(positions, 2 * i, at)
            sti64(positions, 2 * i + 1, min(at + 1, size - 1))
            stf(weights, 2 * i, f32(1) - t)
            stf(weights, 2 * i + 1, t)
            continue
        for k in range(4):
            sti64(positions, 4 * i + k, min(max(at - 1 + k, 0), size - 1))
        stf(weights, 4 * i, _far(t + f32(1)))
        stf(weights, 4 * i + 1, _near(t))
        stf(weights, 4 * i + 2, _near(f32(1) - t))
        stf(weights, 4 * i + 3, _far(f32(2) - t))


@inline_njit
def _pixel(args, x, out, z, y, column):
    """Write all channels of one output pixel."""
    channels, tz, ty, tx = arg(args, 3), arg(args, 15), arg(args, 16), arg(args, 17)
    for c in range(0, channels, LANES):
        total = vzero()
        for i in range(tz):
            plane = x + ldi64(arg(args, 18), z * tz + i) * arg(args, 8)
            wz = ldf(arg(args, 21), z * tz + i)
            for j in range(ty):
                row = plane + ldi64(arg(args, 19), y * ty + j) * arg(args, 9)
                wy = wz * ldf(arg(args, 22), y * ty + j)
                for k in range(tx):
                    at = row + ldi64(arg(args, 20), column * tx + k) * arg(args, 10)
                    w = wy * ldf(arg(args, 23), column * tx + k)
                    total = vfma(vload_n(at, c, channels - c), vsplat(w), total)
        vstore_n(out, c, total, channels - c)


@inline_njit
def _bilinear(args, row0, row1, w0, w1, out, column):
    """Write all channels of one output pixel from two rows of two pixels."""
    channels = arg(args, 3)
    left = ldi64(arg(args, 20), 2 * column) * arg(args, 10)
    right = ldi64(arg(args, 20), 2 * column + 1) * arg(args, 10)
    u0, u1 = ldf(arg(args, 23), 2 * column), ldf(arg(args, 23), 2 * column + 1)
    a, b, c, d = vsplat(w0 * u0), vsplat(w0 * u1), vsplat(w1 * u0), vsplat(w1 * u1)
    for i in range(0, channels, LANES):
        n = channels - i
        total = vmul(vload_n(row0 + left, i, n), a)
        total = vfma(vload_n(row0 + right, i, n), b, total)
        total = vfma(vload_n(row1 + left, i, n), c, total)
        vstore_n(out, i, vfma(vload_n(row1 + right, i, n), d, total), n)


@inline_njit
def _row(args, x, out, z, y):
    """Write one row of output pixels."""
    ty, tx, out_x = arg(args, 16), arg(args, 17), arg(args, 6)
    if arg(args, 15) == 1 and ty == 2 and tx == 2:
        x += ldi64(arg(args, 18), z) * arg(args, 8)
        row0 = x + ldi64(arg(args, 19), 2 * y) * arg(args, 9)
        row1 = x + ldi64(arg(args, 19), 2 * y + 1) * arg(args, 9)
        w0, w1 = ldf(arg(args, 22), 2 * y), ldf(arg(args, 22), 2 * y + 1)
        for column in range(out_x):
            _bilinear(args, row0, row1, w0, w1, out + column * arg(args, 14), column)
    elif ty == 1 and tx == 1:
        x += ldi64(arg(args, 18), z) * arg(args, 8) + ldi64(arg(args, 19), y) * arg(args, 9)
        for column in range(out_x):
            source = x + ldi64(arg(args, 20), column) * arg(args, 10)
            copy_bytes(out + column * arg(args, 14), source, 4 * arg(args, 3))
    else:
        for column in range(out_x):
            _pixel(args, x, out + column * arg(args, 14), z, y, column)


@kernel
def resample(args, tid, nt, cuts):
    """Rows of the output shared out among threads."""
    out_z, out_y = arg(args, 4), arg(args, 5)
    rows = arg(args, 2) * out_z * out_y
    for r in range(*share(rows, tid, nt, cuts)):
        y, z, b = r % out_y, r // out_y % out_z, r // (out_y * out_z)
        x = arg(args, 0) + b * arg(args, 7)
        out = arg(args, 1) + b * arg(args, 11) + z * arg(args, 12) + y * arg(args, 13)
        _row(args, x, out, z, y)
