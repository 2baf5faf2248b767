"""numba_cpu > kernels > winograd_tiles: one tile of :mod:`winograd`, into V and out of M.

A tile at a border reads zeros beyond it. The largest of two by two outputs are taken in registers:
adding a bias and clamping keep the order of numbers, so they come after.
"""

from __future__ import annotations

import numpy as np

from leptonc.backends.numba_cpu.kernels.activation import clamp_of
from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.igemm_record import Res
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    vload_n,
    vstore,
    vzero,
)
from leptonc.backends.numba_cpu.kernels.winograd_calls import (
    transform_border,
    transform_input,
    transform_output,
    transform_pooled,
)
from leptonc.backends.numba_cpu.kernels.winograd_finish import finish_pixels
from leptonc.backends.numba_cpu.kernels.winograd_slots import (
    ACT,
    ACT_P0,
    ACT_P1,
    BIAS,
    CHANNELS,
    EDGE,
    IN_H,
    IN_W,
    M_X,
    M_Y,
    OUT,
    OUT_B,
    OUT_H,
    OUT_W,
    OUT_X,
    OUT_Y,
    PAD_X,
    PAD_Y,
    POOL,
    POOLED,
    READ,
    RES,
    RES_B,
    RES_MODE,
    RES_X,
    RES_Y,
    SIDE_X,
    SIDE_Y,
    STRIDE,
    WRITE,
    X_B,
    X_X,
    X_Y,
    X,
)

_LATE, _TIMES = int(Res.AFTER), int(Res.TIMES)
_INF = np.float32(np.inf)
_BYTES = 4 * LANES


@inline_njit
def place(args, tile):
    """Return the image and the first output pixel ``(y, x)`` of a tile."""
    m_y, m_x = arg(args, M_Y), arg(args, M_X)
    down, across = (arg(args, OUT_H) + m_y - 1) // m_y, (arg(args, OUT_W) + m_x - 1) // m_x
    image, rest = tile // (down * across), tile % (down * across)
    return image, rest // across * m_y, rest % across * m_x


@inline_njit
def next_place(args, image, y, x):
    """Return the image and the first output pixel of the tile behind one, without a division."""
    x += arg(args, M_X)
    if x < arg(args, OUT_W):
        return image, y, x
    y += arg(args, M_Y)
    if y < arg(args, OUT_H):
        return image, y, 0
    return image + 1, 0, 0


@inline_njit
def read_tile(args, patch, image, y, x, dst, plane, step):
    """Transform all channels of the tile whose first output pixel is ``(y, x)`` into V at ``dst``.

    ``plane``: bytes from plane to plane, ``step``: from vector to vector of channels.

    Of a tile at a border, whole vectors of what the image lacks are read from zeros in ``patch``;
    a vector that is cut off is copied there.
    """
    read, stride, channels = arg(args, READ), arg(args, STRIDE), arg(args, CHANNELS)
    h, w = arg(args, SIDE_Y), arg(args, SIDE_X)
    whole = channels // LANES
    phase = (channels + LANES - 1) // LANES * step
    y0, x0 = stride * y - arg(args, PAD_Y), stride * x - arg(args, PAD_X)
    i0, i1 = max(0, -y0), min(h, arg(args, IN_H) - y0)
    j0, j1 = max(0, -x0), min(w, arg(args, IN_W) - x0)
    line, pixel = 4 * arg(args, X_Y), 4 * arg(args, X_X)
    src = arg(args, X) + 4 * image * arg(args, X_B) + y0 * line + x0 * pixel
    if whole > 0 and i0 == 0 and i1 == h and j0 == 0 and j1 == w:
        transform_input(read, src, line, pixel, dst, plane, whole, step, phase)
    elif whole > 0:
        zeros = min(whole, h * w)  # vectors that the patch holds
        for k in range(zeros):
            vstore(patch, k * LANES, vzero())
        for v in range(0, whole, zeros):
            transform_border(
                arg(args, EDGE), src + v * _BYTES, line, pixel, dst + v * step, plane,
                min(zeros, whole - v), step, phase, i0, i1, j0, j1, patch,
            )  # fmt: skip
    if whole * LANES == channels:
        return
    for k in range(h * w):
        vstore(patch, k * LANES, vzero())
    at = src + whole * _BYTES
    for i in range(i0, i1):
        for j in range(j0, j1):
            pixel_at = at + i * line + j * pixel
            vstore(patch, (i * w + j) * LANES, vload_n(pixel_at, 0, channels - whole * LANES))
    to = dst + whole * step
    transform_input(read, patch, w * _BYTES, _BYTES, to, plane, 1, step, phase)


@inline_njit
def _bounds(args):
    """Return the clamp that is the activation, and whether the transform can end with it."""
    if arg(args, RES) != 0 and (arg(args, RES_MODE) == _LATE or arg(args, RES_MODE) == _TIMES):
        return -_INF, _INF, False
    return clamp_of(arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1))


@inline_njit
def write_tile(args, patch, image, y, x, src, step, n0, n1):
    """Transform columns ``n0 .. n1`` of one tile of M back to ``(y, x)`` and finish them."""
    write, m_y, m_x, pool = arg(args, WRITE), arg(args, M_Y), arg(args, M_X), arg(args, POOL)
    low, high, simple = _bounds(args)
    bias, res = arg(args, BIAS), arg(args, RES)
    out_y, out_x = 4 * arg(args, OUT_Y), 4 * arg(args, OUT_X)
    res_y, res_x = 4 * arg(args, RES_Y), 4 * arg(args, RES_X)
    out = arg(args, OUT) + 4 * image * arg(args, OUT_B) + y // pool * out_y + x // pool * out_x
    out += 4 * n0
    if res != 0:
        res += 4 * image * arg(args, RES_B) + y * res_y + x * res_x + 4 * n0
    if bias != 0:
        bias += 4 * n0
    rows, columns = min(m_y, arg(args, OUT_H) - y), min(m_x, arg(args, OUT_W) - x)
    whole = 0
    if simple and rows == m_y and columns == m_x:
        whole = (n1 - n0) // LANES
    if whole > 0 and pool == 2:
        transform_pooled(arg(args, POOLED), src, step, out, out_y, out_x, bias, low, high, whole)
    elif whole > 0:
        transform_output(write, src, step, out, out_y, out_x, bias, res, res_y, res_x, low, high,
                         whole)  # fmt: skip
    for k in range(whole, (n1 - n0 + LANES - 1) // LANES):
        at = k * _BYTES
        transform_output(write, src + k * step, step, patch, m_x * _BYTES, _BYTES, 0, 0, 0, 0,
                         -_INF, _INF, 1)  # fmt: skip
        finish_pixels(
            patch, m_x, rows, columns, pool, bias + at if bias != 0 else 0,
            res + at if res != 0 else 0, res_y, res_x, arg(args, RES_MODE), arg(args, ACT),
            argf(args, ACT_P0), argf(args, ACT_P1), out + at, out_y, out_x, n1 - n0 - k * LANES,
        )  # fmt: skip


@inline_njit
def write_line(args, patch, tile, count, src, step, n0, n1):
    """Transform columns ``n0 .. n1`` of ``count`` tiles of one line back, as :func:`write_tile`.

    The tiles' rows of M follow each other. Where they only have to be clamped and are pooled, what
    is the same for all of them stands outside of the loop: it took a fifth of a tile's time.
    """
    m, pool, pixel = arg(args, M_X), arg(args, POOL), 4 * arg(args, OUT_X)
    image, y, x = place(args, tile)
    low, high, simple = _bounds(args)
    inside = y + arg(args, M_Y) <= arg(args, OUT_H) and x + m * count <= arg(args, OUT_W)
    if pool == 2 and simple and inside and (n1 - n0) % LANES == 0:
        line, bias = 4 * arg(args, OUT_Y), arg(args, BIAS)
        out = arg(args, OUT) + 4 * image * arg(args, OUT_B) + y // 2 * line + x // 2 * pixel
        bias = bias + 4 * n0 if bias != 0 else 0
        for t in range(count):
            to = out + 4 * n0 + m // 2 * t * pixel
            transform_pooled(arg(args, POOLED), src + t * _BYTES, step, to, line, pixel, bias,
                             low, high, (n1 - n0) // LANES)  # fmt: skip
    else:
        for t in range(count):
            write_tile(args, patch, image, y, x + m * t, src + t * _BYTES, step, n0, n1)
