"""numba_cpu > kernels > winograd: 3x3 convolution with stride 1 by F(4x4,3x3) and F(2x2,3x3).

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (2015): an output tile of
``m x m`` is ``AT [sum_c (G g GT) * (BT d B)] A`` over input tiles of ``m+2 x m+2``; ``(m+2)**2``
matrix products replace nine times ``m**2``: 4 times (m = 4) or 2.25 times (m = 2) less
multiplication. The points are 0, +-1, +-2, infinity.

The image is channels-last (channel stride 1) and is not padded: tiles at a border read the
addresses of a zero row. A thread transforms a block of tiles into its scratch (V), multiplies each
of the ``P = (m+2)**2`` planes with the packed weights (M) for a block of output channels, and
transforms back with bias, residual and activation.

Error, ``max |y - exact| / max |exact|``, largest of 5 draws of unit normal data at 16 / 512
channels: 4e-6 / 1.5e-5 (m = 4), 3e-7 / 1e-6 (m = 2), 5e-7 / 2.4e-6 (:mod:`igemm`). The a priori
bound is epsilon times ``||BT||**2 ||AT||**2 ||G||**2``, 1.3e4 (m = 4) and 20 (m = 2) in 2-norms. A
NaN or inf spreads over the tiles that read it; ``precision="strict"`` uses :mod:`igemm`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leptonc.backends.numba_cpu.kernels.activation import vact
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.igemm import Res
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS, run_tile
from leptonc.backends.numba_cpu.kernels.pack import aligned_empty
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    sti64,
    vadd,
    vload,
    vload_n,
    vmul,
    vstore_n,
    vzero,
)
from leptonc.backends.numba_cpu.kernels.winograd_transform import (
    transform_input,
    transform_output,
)

_G = {
    2: np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
    4: np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
}

#: floats of V and of M that one thread's block aims at: well inside a second-level cache of 1 MiB.
V_BLOCK, M_BLOCK = 112 * 1024, 56 * 1024

NAMES = (
    "m", "x", "x_b", "x_y", "x_x", "batch", "in_h", "in_w", "channels", "columns",
    "pad_y", "pad_x",
    "out_h", "out_w", "out", "out_b", "out_y", "out_x", "weights", "bias",
    "res", "res_b", "res_y", "res_x", "res_mode", "act", "act_p0", "act_p1",
    "zero_row", "tile_block", "panel_block", "scratch", "scratch_bytes",
)  # fmt: skip
"""Slots of the record, in order: the tile's size ``m``, 2 or 4; addresses (bytes; ``bias``, ``res``
or 0), strides (elements, of image, line and pixel), sizes. ``zero_row``: ``channels`` zeros;
``channels`` is at least LANES. ``res_mode`` is a ``Res``, ``act`` an ``Act``. ``weights`` are
:func:`transform_weights`. The blocks come from :func:`blocking`."""

(
    M, X, X_B, X_Y, X_X, BATCH, IN_H, IN_W, CHANNELS, COLUMNS, PAD_Y, PAD_X,
    OUT_H, OUT_W, OUT, OUT_B, OUT_Y, OUT_X, WEIGHTS, BIAS,
    RES, RES_B, RES_Y, RES_X, RES_MODE, ACT, ACT_P0, ACT_P1,
    ZERO_ROW, TILE_BLOCK, PANEL_BLOCK, SCRATCH, SCRATCH_BYTES,
) = range(len(NAMES))  # fmt: skip


@dataclass(frozen=True)
class Blocking:
    """How one thread walks: tiles and panels at a time, and the scratch that takes in bytes."""

    tile_block: int
    panel_block: int
    scratch_bytes: int


def _v_row(channels: int) -> int:
    """Floats from one tile's row of V to the next; odd in vectors, so that rows do not alias."""
    return (-(-channels // LANES) | 1) * LANES


def blocking(m: int, tiles: int, channels: int, columns: int) -> Blocking:
    """Return the blocks of a conv with ``tiles`` tiles (over the batch) of ``m x m`` outputs."""
    planes = (m + 2) ** 2
    most = max(1, V_BLOCK // (planes * ROWS * _v_row(channels)))
    tile_block = ROWS * max(1, min(most, -(-tiles // ROWS), 16))
    panels = -(-columns // PANEL)
    panel_block = max(1, min(panels, M_BLOCK // (planes * tile_block * PANEL)))
    tables = 8 * (planes + 2 * (tile_block + ROWS))
    v = planes * (tile_block * _v_row(channels) + LANES)
    width = panel_block * PANEL + LANES
    total = 64 + tables + 4 * (v + planes * (tile_block * width + LANES) + planes * LANES)
    return Blocking(tile_block, panel_block, -(-total // 64) * 64)


def transform_weights(weight: np.ndarray, m: int) -> np.ndarray:
    """Return ``G g GT`` of ``weight: [out, in, 3, 3]``, panels ``f32[panels, P * in, PANEL]``.

    Computed in float64 and rounded once.
    """
    out, inner = weight.shape[:2]
    both = np.kron(_G[m], _G[m])  # of a flattened 3x3 kernel
    panels = aligned_empty((-(-out // PANEL), len(both), inner, PANEL))
    panels[-1] = 0.0
    for p, panel in enumerate(panels):
        some = weight[p * PANEL : (p + 1) * PANEL].reshape(-1, inner, 9)
        taps = np.ascontiguousarray(some.transpose(2, 1, 0), dtype=np.float64)
        panel[..., : len(some)] = (both @ taps.reshape(9, -1)).reshape(-1, inner, len(some))
    return panels.reshape(len(panels), -1, PANEL)


# --- the kernel ---------------------------------------------------------------------------------

_LATE, _TIMES = int(Res.AFTER), int(Res.TIMES)


@inline_njit
def _split(nt, tiles, panels):
    """Return how many parts of the tiles and of the panels to make.

    The cost of a part, in eighths of a tile times a panel: products; reading the weights once,
    worth about LANES tiles; the input transform, which every part of the panels repeats.
    """
    best, best_tiles, best_panels = -1, 1, 1
    for parts in range(1, nt + 1):
        by_tiles = min(parts, tiles)
        by_panels = min(nt // by_tiles, panels)
        share = (tiles + by_tiles - 1) // by_tiles
        wide = (panels + by_panels - 1) // by_panels
        cost = 8 * wide * (max(share, 8) + LANES) + share
        if best < 0 or cost < best:
            best, best_tiles, best_panels = cost, by_tiles, by_panels
    return best_tiles, best_panels


@inline_njit
def _fill(table, count, base, step):
    """Write ``base, base + step, ...`` and repeat the last address ROWS times."""
    for i in range(count + ROWS):
        sti64(table, i, base + min(i, count - 1) * step)


@inline_njit
def _place(args, tile):
    """Return the image and the first output pixel ``(y, x)`` of a tile."""
    m = arg(args, M)
    down, across = (arg(args, OUT_H) + m - 1) // m, (arg(args, OUT_W) + m - 1) // m
    image, rest = tile // (down * across), tile % (down * across)
    return image, rest // across * m, rest % across * m


@inline_njit
def _read_tile(args, table, tile, dst, plane):
    """Transform one tile of all channels into V (``plane``: bytes between planes)."""
    m = arg(args, M)
    image, y0, x0 = _place(args, tile)
    y0, x0 = y0 - arg(args, PAD_Y), x0 - arg(args, PAD_X)
    in_h, in_w, x_x = arg(args, IN_H), arg(args, IN_W), 4 * arg(args, X_X)
    zero = arg(args, ZERO_ROW)
    for i in range(m + 2):
        y = y0 + i
        row = arg(args, X) + 4 * (image * arg(args, X_B) + y * arg(args, X_Y)) + x0 * x_x
        inside = 0 <= y < in_h
        for j in range(m + 2):
            ok = inside and 0 <= x0 + j < in_w
            sti64(table, i * (m + 2) + j, row + j * x_x if ok else zero)
    channels = arg(args, CHANNELS)
    for c in range(0, channels, LANES):
        # The last vector overlaps the one before it instead of reading beyond the pixel.
        at = 4 * min(c, channels - LANES)
        transform_input(m, table, at, dst + at, plane)


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
def _write_tile(args, patch, tile, src, plane, n0, n1):
    """Transform columns ``n0 .. n1`` of one tile of M back and finish them."""
    image, y, x = _place(args, tile)
    for c in range(n0, n1, LANES):
        transform_output(arg(args, M), src + 4 * (c - n0), plane, patch)
        _finish(args, patch, image, y, x, c, n1 - c)


@inline_njit
def _multiply(planes, rows, out_rows, count, depth, v_plane, m_plane, weights, panels):
    """Multiply every plane of V with ``panels`` panels of weights into M; all steps in bytes."""
    inf = np.float32(np.inf)
    size = 4 * depth * PANEL
    for plane in range(planes):
        for p in range(panels):
            b = weights + (p * planes + plane) * size
            column = plane * m_plane + 4 * p * PANEL
            for i in range(0, count, ROWS):
                run_tile(min(ROWS, count - i), rows + 8 * i, 0, 1, depth, plane * v_plane, b,
                         out_rows + 8 * i, column, PANEL, 0, 0, -inf, inf)  # fmt: skip


@inline_njit
def _run_block(args, base, t0, count, panel0, panel1):
    """Compute tiles ``t0 .. t0 + count`` of panels ``panel0 .. panel1``; scratch at ``base``."""
    depth, block = arg(args, CHANNELS), arg(args, TILE_BLOCK)
    planes, panel_block = (arg(args, M) + 2) * (arg(args, M) + 2), arg(args, PANEL_BLOCK)
    v_row = 4 * LANES * (((depth + LANES - 1) // LANES) | 1)
    m_row = 4 * (panel_block * PANEL + LANES)
    v_plane, m_plane = block * v_row + 4 * LANES, block * m_row + 4 * LANES
    v = base + 4 * planes * LANES  # the first bytes hold the patch of one tile's results
    m_base = v + planes * v_plane
    table = m_base + planes * m_plane
    rows = table + 8 * planes
    out_rows = rows + 8 * (block + ROWS)
    for t in range(count):
        _read_tile(args, table, t0 + t, v + t * v_row, v_plane)
    _fill(rows, count, v, v_row)
    _fill(out_rows, count, m_base, m_row)
    for p0 in range(panel0, panel1, panel_block):
        panels = min(panel_block, panel1 - p0)
        weights = arg(args, WEIGHTS) + 4 * p0 * planes * depth * PANEL
        _multiply(planes, rows, out_rows, count, depth, v_plane, m_plane, weights, panels)
        n1 = min((p0 + panels) * PANEL, arg(args, COLUMNS))
        for t in range(count):
            _write_tile(args, base, t0 + t, m_base + t * m_row, m_plane, p0 * PANEL, n1)


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
    by_tiles, by_panels = _split(nt, tiles, panels)
    if tid >= by_tiles * by_panels:
        return
    i_tile, i_panel = tid // by_panels, tid % by_panels
    panel0, panel1 = panels * i_panel // by_panels, panels * (i_panel + 1) // by_panels
    begin, end = tiles * i_tile // by_tiles, tiles * (i_tile + 1) // by_tiles
    base = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    block = arg(args, TILE_BLOCK)
    for t0 in range(begin, end, block):
        _run_block(args, base, t0, min(block, end - t0), panel0, panel1)
