"""numba_cpu > kernels > winograd_tiles: one tile of :mod:`winograd`, into V and out of M.

A tile at a border reads zeros beyond it. The largest of two by two outputs are taken in registers:
adding a bias and clamping keep the order of numbers, so they come after.
"""

from __future__ import annotations

import numpy as np

from leptonc.backends.numba_cpu.kernels.activation import Act, vact
from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.igemm import Res
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    vadd,
    vload,
    vload_n,
    vmax,
    vmul,
    vstore,
    vstore_n,
    vzero,
)
from leptonc.backends.numba_cpu.kernels.winograd_calls import (
    transform_border,
    transform_input,
    transform_output,
    transform_pooled,
)
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
_NONE, _RELU, _RELU6, _CLAMP = int(Act.NONE), int(Act.RELU), int(Act.RELU6), int(Act.CLAMP)
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
def read_tile(args, patch, tile, dst, plane, step):
    """Transform one tile of all channels into V at ``dst``.

    ``plane``: bytes from plane to plane, ``step``: from vector to vector of channels.

    Of a tile at a border, whole vectors of what the image lacks are read from zeros in ``patch``;
    a vector that is cut off is copied there.
    """
    read, stride, channels = arg(args, READ), arg(args, STRIDE), arg(args, CHANNELS)
    h, w = arg(args, SIDE_Y), arg(args, SIDE_X)
    whole = channels // LANES
    phase = (channels + LANES - 1) // LANES * step
    image, y0, x0 = place(args, tile)
    y0, x0 = stride * y0 - arg(args, PAD_Y), stride * x0 - arg(args, PAD_X)
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
def _finish(args, patch, image, y, x, n0, width):
    """Write one vector of channels of one tile: bias, residual, activation, what exists."""
    m = arg(args, M_X)
    rows, columns = min(arg(args, M_Y), arg(args, OUT_H) - y), min(m, arg(args, OUT_W) - x)
    bias, res, mode = arg(args, BIAS), arg(args, RES), arg(args, RES_MODE)
    code, p0, p1 = arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1)
    shift = vload_n(bias, n0, width) if bias != 0 else vzero()
    out = arg(args, OUT) + 4 * image * arg(args, OUT_B)
    res_at = res + 4 * image * arg(args, RES_B)
    for i in range(rows):
        for j in range(columns):
            v, r = vadd(vload(patch, (i * m + j) * LANES), shift), vzero()
            if res != 0:
                at = (y + i) * arg(args, RES_Y) + (x + j) * arg(args, RES_X) + n0
                r = vload_n(res_at, at, width)
                if mode != _LATE and mode != _TIMES:
                    v = vadd(v, r)
            if code != 0:
                v = vact(code, v, p0, p1)
            if res != 0 and mode == _LATE:
                v = vadd(v, r)
            if res != 0 and mode == _TIMES:
                v = vmul(v, r)
            at = (y + i) * arg(args, OUT_Y) + (x + j) * arg(args, OUT_X) + n0
            vstore_n(out, at, v, width)


@inline_njit
def _finish_pooled(args, patch, image, y, x, n0, width):
    """Write the largest of each two by two pixels of one vector of channels of one tile."""
    m = arg(args, M_X)
    rows, columns = min(arg(args, M_Y), arg(args, OUT_H) - y), min(m, arg(args, OUT_W) - x)
    code, p0, p1 = arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1)
    shift = vload_n(arg(args, BIAS), n0, width) if arg(args, BIAS) != 0 else vzero()
    out = arg(args, OUT) + 4 * image * arg(args, OUT_B)
    for i in range(0, rows, 2):
        for j in range(0, columns, 2):
            first = patch + (i * m + j) * _BYTES
            a, b = vload(first, 0), vload(first, LANES)
            c, d = vload(first, m * LANES), vload(first, (m + 1) * LANES)
            a, b = vact(code, vadd(a, shift), p0, p1), vact(code, vadd(b, shift), p0, p1)
            c, d = vact(code, vadd(c, shift), p0, p1), vact(code, vadd(d, shift), p0, p1)
            at = (y + i) // 2 * arg(args, OUT_Y) + (x + j) // 2 * arg(args, OUT_X) + n0
            vstore_n(out, at, vmax(vmax(a, b), vmax(c, d)), width)


@inline_njit
def _bounds(args):
    """Return the clamp that is the activation, and whether the transform can end with it."""
    act = arg(args, ACT)
    if arg(args, RES) != 0 and (arg(args, RES_MODE) == _LATE or arg(args, RES_MODE) == _TIMES):
        return -_INF, _INF, False
    if act == _RELU:
        return np.float32(0.0), _INF, True
    if act == _RELU6:
        return np.float32(0.0), np.float32(6.0), True
    if act == _CLAMP:
        return argf(args, ACT_P0), argf(args, ACT_P1), True
    return -_INF, _INF, act == _NONE


@inline_njit
def write_tile(args, patch, tile, src, step, n0, n1):
    """Transform columns ``n0 .. n1`` of one tile of M back and finish them."""
    write, m_y, m_x, inf = arg(args, WRITE), arg(args, M_Y), arg(args, M_X), _INF
    image, y, x = place(args, tile)
    low, high, simple = _bounds(args)
    bias, res = arg(args, BIAS), arg(args, RES)
    first = n0
    inside = y + m_y <= arg(args, OUT_H) and x + m_x <= arg(args, OUT_W)
    if simple and inside and n1 - n0 >= LANES:
        out_y, out_x = 4 * arg(args, OUT_Y), 4 * arg(args, OUT_X)
        res_y, res_x = 4 * arg(args, RES_Y), 4 * arg(args, RES_X)
        pool = arg(args, POOL)
        out = arg(args, OUT) + 4 * image * arg(args, OUT_B) + y // pool * out_y + x // pool * out_x
        out += 4 * n0
        if res != 0:
            res += 4 * image * arg(args, RES_B) + y * res_y + x * res_x + 4 * n0
        if bias != 0:
            bias += 4 * n0
        whole = (n1 - n0) // LANES
        if pool == 2:
            transform_pooled(arg(args, POOLED), src, step, out, out_y, out_x, bias,
                             low, high, whole)  # fmt: skip
        else:
            transform_output(write, src, step, out, out_y, out_x, bias, res, res_y, res_x,
                             low, high, whole)  # fmt: skip
        first += whole * LANES
        src += whole * step
    for c in range(first, n1, LANES):
        transform_output(write, src, step, patch, m_x * _BYTES, _BYTES, 0, 0, 0, 0, -inf, inf, 1)
        if arg(args, POOL) == 2:
            _finish_pooled(args, patch, image, y, x, c, n1 - c)
        else:
            _finish(args, patch, image, y, x, c, n1 - c)
        src += step


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
            write_tile(args, patch, tile + t, src + t * _BYTES, step, n0, n1)
