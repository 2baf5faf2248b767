"""numba_cpu > kernels > winograd: 3x3 convolution with stride 1 (m = 2, 4) or 2 (m = 2).

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), the matrices of
:mod:`winograd_points`: with stride 1, ``P = (m + 2)**2`` matrix products replace nine times
``m**2``, which is 4 times (m = 4) or 2.25 times (m = 2) less multiplication. (m = 6 was 2 to 7 %
faster than m = 4 on images from 56x56 up: not worth its errors.) With stride 2 the channels of the
four phases of the image (even and odd rows and columns) are those of ``P = (m + 1)**2`` planes, all
four in a plane of finite points, two or one at infinity: 1.44 times less multiplication for m = 2.
(m = 4 multiplies 1.78 times less, but its weights are 9 times as many instead of 2.8: 6 % faster on
64 channels of 56x56, slower than m = 2 from 128 channels on.)

The image is channels-last (channel stride 1) and is not padded: tiles at a border are copied into a
patch with zeros. A thread transforms a block of tiles into its scratch (V), multiplies each of the
``P`` planes with the packed weights (M) for a block of output channels, and transforms back with
bias, residual and activation.

Memory of a thread: a patch of one tile of LANES channels; V ``[group][P][phase][vector of channels]
[ROWS][LANES]``, with one vector more per plane lest planes share cache sets; M ``[group][vector of
columns][P][ROWS][LANES]``; tables of addresses.

Error: every output is within :func:`winograd_points.error_bound`. Measured, ``max |y - exact| / max
|exact|``, largest of 5 draws of unit normal data at 16 / 512 channels: 4e-6 / 1.5e-5 (m = 4), 3e-7
/ 1e-6 (m = 2), 5e-7 / 2.4e-6 (:mod:`igemm`). A NaN or inf spreads over the tiles that read it;
``precision="strict"`` uses :mod:`igemm`.
"""

from __future__ import annotations

import numpy as np

from leptonc.backends.numba_cpu.kernels.activation import Act, vact
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.igemm import Res
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS, VECTORS
from leptonc.backends.numba_cpu.kernels.prefetch import ask_later, ask_to_write
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    ldi64,
    sti64,
    vadd,
    vload,
    vload_n,
    vmul,
    vstore,
    vstore_n,
    vzero,
)
from leptonc.backends.numba_cpu.kernels.winograd_product import (
    HEIGHTS,
    UNROLL,
    multiply_tile,
)
from leptonc.backends.numba_cpu.kernels.winograd_transform import (
    transform_input,
    transform_output,
)

NAMES = (
    "stride", "m", "x", "x_b", "x_y", "x_x", "batch", "in_h", "in_w", "channels", "columns",
    "pad_y", "pad_x",
    "out_h", "out_w", "out", "out_b", "out_y", "out_x", "weights", "bias",
    "res", "res_b", "res_y", "res_x", "res_mode", "act", "act_p0", "act_p1",
    "tile_block", "panel_block", "scratch", "scratch_bytes",
)  # fmt: skip
"""Slots of the record, in order: the stride, 1 or 2, and the tile's size ``m``, 2 or 4; addresses
(bytes; ``bias``, ``res`` or 0), strides (elements, of image, line and pixel), sizes. ``res_mode``
is a ``Res``, ``act`` an ``Act``. ``weights`` and blocks come from :mod:`winograd_plan`."""

(
    STRIDE, M, X, X_B, X_Y, X_X, BATCH, IN_H, IN_W, CHANNELS, COLUMNS, PAD_Y, PAD_X,
    OUT_H, OUT_W, OUT, OUT_B, OUT_Y, OUT_X, WEIGHTS, BIAS,
    RES, RES_B, RES_Y, RES_X, RES_MODE, ACT, ACT_P0, ACT_P1,
    TILE_BLOCK, PANEL_BLOCK, SCRATCH, SCRATCH_BYTES,
) = range(len(NAMES))  # fmt: skip


# --- the kernel ---------------------------------------------------------------------------------

_LATE, _TIMES = int(Res.AFTER), int(Res.TIMES)
_NONE, _RELU, _RELU6, _CLAMP = int(Act.NONE), int(Act.RELU), int(Act.RELU6), int(Act.CLAMP)
_INF = np.float32(np.inf)
_BYTES = 4 * LANES
_AHEAD = 16384  # bytes of weights to prefetch before they are read
_FAR = 1 << 22  # bytes of input and output from which on the second-level cache is far too small


@inline_njit
def split_tiles(nt, tiles, panels):
    """Return how many parts of the tiles and of the panels to make.

    The cost of a part, in eighths of a tile times a panel: products, which wait for the weights
    below LANES tiles; the input transform, which every part of the panels repeats.
    """
    best, best_tiles, best_panels = -1, 1, 1
    for parts in range(1, nt + 1):
        by_tiles = min(parts, tiles)
        by_panels = min(nt // by_tiles, panels)
        share = (tiles + by_tiles - 1) // by_tiles
        wide = (panels + by_panels - 1) // by_panels
        cost = 8 * wide * max(share, LANES) + share
        if best < 0 or cost < best:
            best, best_tiles, best_panels = cost, by_tiles, by_panels
    return best_tiles, best_panels


@inline_njit
def _rows_of_groups(count):
    """Return how many of ``count`` tiles to put into a group, so that the products take least."""
    best, best_rows = -1, ROWS
    for rows in HEIGHTS:
        rest = count % rows
        cost = count // rows * rows + (0 if rest == 0 else max(rest + rest % 2, HEIGHTS[-1]))
        # A group also reads the weights once more from the second-level cache.
        cost = 4 * cost + (count + rows - 1) // rows
        if best < 0 or cost < best:
            best, best_rows = cost, rows
    return best_rows


@inline_njit
def _place(args, tile):
    """Return the image and the first output pixel ``(y, x)`` of a tile."""
    m = arg(args, M)
    down, across = (arg(args, OUT_H) + m - 1) // m, (arg(args, OUT_W) + m - 1) // m
    image, rest = tile // (down * across), tile % (down * across)
    return image, rest // across * m, rest % across * m


@inline_njit
def _depth(args):
    """Return the rows of a panel of weights: see :func:`winograd_plan.depth`."""
    stride = arg(args, STRIDE)
    along = stride * (arg(args, M) + 2 - stride) + 1
    return along * along * ((arg(args, CHANNELS) + LANES - 1) // LANES) * LANES


@inline_njit
def _read_tile(args, patch, tile, dst, plane):
    """Transform one tile of all channels into V at ``dst`` (``plane``: bytes between planes)."""
    stride, m, channels = arg(args, STRIDE), arg(args, M), arg(args, CHANNELS)
    n, whole, step = stride * (m - 1) + 3, channels // LANES, ROWS * _BYTES
    phase = (channels + LANES - 1) // LANES * step
    image, y0, x0 = _place(args, tile)
    y0, x0 = stride * y0 - arg(args, PAD_Y), stride * x0 - arg(args, PAD_X)
    i0, i1 = max(0, -y0), min(n, arg(args, IN_H) - y0)
    j0, j1 = max(0, -x0), min(n, arg(args, IN_W) - x0)
    line, pixel = 4 * arg(args, X_Y), 4 * arg(args, X_X)
    src = arg(args, X) + 4 * image * arg(args, X_B) + y0 * line + x0 * pixel
    first = 0
    if i0 == 0 and i1 == n and j0 == 0 and j1 == n:
        transform_input(stride, m, src, line, pixel, dst, plane, whole, step, phase)
        first = whole
    if first * LANES >= channels:
        return
    for k in range(n * n):
        vstore(patch, k * LANES, vzero())
    for v in range(first, (channels + LANES - 1) // LANES):
        at = src + v * _BYTES
        for i in range(i0, i1):
            for j in range(j0, j1):
                pixel_at = at + i * line + j * pixel
                vstore(patch, (i * n + j) * LANES, vload_n(pixel_at, 0, channels - v * LANES))
        to = dst + v * step
        transform_input(stride, m, patch, n * _BYTES, _BYTES, to, plane, 1, step, phase)


@inline_njit
def _finish(args, patch, image, y, x, n0, width):
    """Write one vector of channels of one tile: bias, residual, activation, what exists."""
    m = arg(args, M)
    rows, columns = min(m, arg(args, OUT_H) - y), min(m, arg(args, OUT_W) - x)
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
def _write_tile(args, patch, tile, src, step, n0, n1):
    """Transform columns ``n0 .. n1`` of one tile of M back and finish them."""
    stride, m, inf = arg(args, STRIDE), arg(args, M), _INF
    image, y, x = _place(args, tile)
    low, high, simple = _bounds(args)
    bias, res = arg(args, BIAS), arg(args, RES)
    first = n0
    if simple and y + m <= arg(args, OUT_H) and x + m <= arg(args, OUT_W) and n1 - n0 >= LANES:
        out_y, out_x = 4 * arg(args, OUT_Y), 4 * arg(args, OUT_X)
        res_y, res_x = 4 * arg(args, RES_Y), 4 * arg(args, RES_X)
        out = arg(args, OUT) + 4 * image * arg(args, OUT_B) + y * out_y + x * out_x + 4 * n0
        if res != 0:
            res += 4 * image * arg(args, RES_B) + y * res_y + x * res_x + 4 * n0
        if bias != 0:
            bias += 4 * n0
        whole = (n1 - n0) // LANES
        transform_output(stride, m, src, step, out, out_y, out_x, bias, res, res_y, res_x, low,
                         high, whole)  # fmt: skip
        first += whole * LANES
        src += whole * step
    for c in range(first, n1, LANES):
        transform_output(stride, m, src, step, patch, m * _BYTES, _BYTES, 0, 0, 0, 0, -inf, inf, 1)
        _finish(args, patch, image, y, x, c, n1 - c)
        src += step


@inline_njit
def _tables(args, table, t0, count, size):
    """Write the addresses of the inputs of ``count`` tiles of the next block, of these' outputs."""
    following, stride = t0 + arg(args, TILE_BLOCK), arg(args, STRIDE)
    halo = 3 - stride  # lines that tiles above have read
    for t in range(count):
        image, y, x = _place(args, t0 + t)
        at = image * arg(args, OUT_B) + y * arg(args, OUT_Y) + x * arg(args, OUT_X)
        sti64(table, size + t, arg(args, OUT) + 4 * at)
        image, y, x = _place(args, following + t)
        y, x = stride * y - arg(args, PAD_Y) + halo, stride * x - arg(args, PAD_X) + halo
        at = image * arg(args, X_B) + y * arg(args, X_Y) + x * arg(args, X_X)
        sti64(table, t, arg(args, X) + 4 * at)


@inline_njit
def _fetch(place, length, pixels, step, write):
    """Prefetch ``length`` bytes of each of some pixels ``step`` bytes apart."""
    for j in range(pixels):
        for at in range(place + j * step, place + j * step + length, 64):
            if write:
                ask_to_write(at)
            else:
                ask_later(at)


@inline_njit
def _multiply(args, table, groups, rows, count, v, v_plane, v_group, m_base, m_group, panel0,
              panels, following, fetch):  # fmt: skip
    """Multiply every plane of V with ``panels`` panels of weights, from ``panel0``, into M.

    Memory is busy meanwhile: every group of tiles asks for its part of the next panel of weights
    (``following``: the address of those after the last), and with ``fetch``, line of tiles by line
    of tiles, for the input of the next block and for where this one's results will go.
    """
    stride, m = arg(args, STRIDE), arg(args, M)
    channels = (arg(args, CHANNELS) + LANES - 1) // LANES  # vectors of them
    side = m + 3 - stride
    planes, all_size = side * side, 4 * PANEL * _depth(args)
    at_plane = arg(args, WEIGHTS) + panel0 * all_size  # the weights of the first panel
    column = planes * ROWS * _BYTES  # of M: bytes from vector to vector
    in_x, in_y = 4 * arg(args, X_X), 4 * arg(args, X_Y)
    out_x, out_y = 4 * arg(args, OUT_X), 4 * arg(args, OUT_Y)
    done, tile, line, products = 0, 0, 0, planes * panels
    for plane in range(planes):
        vectors = channels
        if plane % side < side - 1:
            vectors *= stride
        if plane // side < side - 1:
            vectors *= stride
        size = 4 * vectors * LANES * PANEL
        for p in range(panels):
            b = at_plane + p * all_size
            ahead, advance = b + _AHEAD, 4 * UNROLL * PANEL // groups
            if size <= _AHEAD or groups > 1:
                ahead = b + all_size
                if p == panels - 1:
                    ahead = at_plane + size if plane < planes - 1 else following
            out = m_base + VECTORS * p * column + plane * ROWS * _BYTES
            for g in range(groups):
                multiply_tile(
                    min(rows, count - g * rows),
                    v + g * v_group + plane * v_plane,
                    b,
                    out + g * m_group,
                    column,
                    vectors,
                    ahead + g * (size // groups),
                    advance,
                )
            done += fetch * count * m
            while done >= products:
                done -= products
                at = ldi64(table, tile) + line * stride * in_y
                _fetch(at, m * stride * in_x, stride, in_y, False)
                at = ldi64(table, arg(args, TILE_BLOCK) + tile) + line * out_y + 4 * PANEL * panel0
                _fetch(at, 4 * PANEL * panels, m, out_x, True)
                line += 1
                if line == m:
                    tile, line = tile + 1, 0
        at_plane += size


@inline_njit
def _run_block(args, base, t0, count, panel0, panel1):
    """Compute tiles ``t0 .. t0 + count`` of panels ``panel0 .. panel1``; scratch at ``base``."""
    vectors, panel_block = (arg(args, CHANNELS) + LANES - 1) // LANES, arg(args, PANEL_BLOCK)
    stride, m = arg(args, STRIDE), arg(args, M)
    planes, side = (m + 3 - stride) * (m + 3 - stride), stride * (m - 1) + 3
    rows = _rows_of_groups(count)
    groups = (count + rows - 1) // rows
    v_plane = (stride * stride * vectors * ROWS + 1) * _BYTES
    v_group, column = planes * v_plane, planes * ROWS * _BYTES
    m_group = panel_block * VECTORS * column
    v = base + side * side * _BYTES  # the first bytes hold the patch of one tile
    m_base = v + groups * v_group
    table = m_base + groups * m_group
    for t in range(count):
        to = v + t // rows * v_group + t % rows * _BYTES
        _read_tile(args, base, t0 + t, to, v_plane)
    area = arg(args, BATCH) * arg(args, OUT_H) * arg(args, OUT_W)
    fetch = 4 * area * (arg(args, CHANNELS) + arg(args, COLUMNS)) > _FAR
    if fetch:
        _tables(args, table, t0, count, arg(args, TILE_BLOCK))
    size = 4 * PANEL * _depth(args)
    for p0 in range(panel0, panel1, panel_block):
        panels = min(panel_block, panel1 - p0)
        following = arg(args, WEIGHTS) + (p0 + panels if p0 + panels < panel1 else panel0) * size
        _multiply(args, table, groups, rows, count, v, v_plane, v_group, m_base, m_group, p0,
                  panels, following, fetch)  # fmt: skip
        n1 = min((p0 + panels) * PANEL, arg(args, COLUMNS))
        for t in range(count):
            src = m_base + t // rows * m_group + t % rows * _BYTES
            _write_tile(args, base, t0 + t, src, column, p0 * PANEL, n1)


@kernel
def winograd(args, tid, nt):
    """Compute this thread's tiles and output channels of the conv that the record describes.

    Every output is the same sum in the same order for any blocks and thread count.
    """
    m = arg(args, M)
    tiles = ((arg(args, OUT_H) + m - 1) // m) * ((arg(args, OUT_W) + m - 1) // m)
    tiles *= arg(args, BATCH)
    panels = (arg(args, COLUMNS) + PANEL - 1) // PANEL
    if tiles <= 0 or panels <= 0:
        return
    by_tiles, by_panels = split_tiles(nt, tiles, panels)
    if tid >= by_tiles * by_panels:
        return
    i_tile, i_panel = tid // by_panels, tid % by_panels
    panel0, panel1 = panels * i_panel // by_panels, panels * (i_panel + 1) // by_panels
    begin, end = tiles * i_tile // by_tiles, tiles * (i_tile + 1) // by_tiles
    base = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    block = arg(args, TILE_BLOCK)
    for t0 in range(begin, end, block):
        _run_block(args, base, t0, min(block, end - t0), panel0, panel1)
