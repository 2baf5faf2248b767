"""numba_cpu > kernels > winograd: 3x3 convolution with stride 1 by F(4x4,3x3) and F(2x2,3x3).

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (2015): an output tile of ``m x m`` is
``AT [sum_c (G g GT) * (BT d B)] A`` over input tiles of ``m+2 x m+2``; ``(m+2)**2`` matrix products replace nine
times ``m**2``: 4 times (m = 4) or 2.25 times (m = 2) less multiplication. The points are 0, +-1, +-2, infinity.

The image is channels-last (channel stride 1) and is not padded: tiles at a border read addresses of a zero row.
A thread transforms a block of tiles into its scratch (V), multiplies each of the ``P = (m+2)**2`` planes with
the packed weights (M) for a block of output channels, and transforms back with bias, residual and activation.

Error: with E = ``max |y - exact| / max |exact|`` over unit normal data, measured for 64 to 512 channels,
E <= 1e-5 (m = 4) and <= 2e-6 (m = 2); direct summation gives 1e-6. The a priori bound grows with the product of the
transforms' norms, ``||BT||**2 ||AT||**2 ||G||**2``: about 1e4 (m = 4) and 30 (m = 2) times epsilon, never approached
on real data. A NaN or inf spreads over the whole tile; ``precision="strict"`` uses :mod:`igemm`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.activation import vact
from leptonc.backends.numba_cpu.kernels.base import Kernel, inline_njit, make_kernel
from leptonc.backends.numba_cpu.kernels.igemm import Res
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS, run_tile
from leptonc.backends.numba_cpu.kernels.pack import pack_matrix
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
    vstore_n,
    vzero,
)
from leptonc.backends.numba_cpu.kernels.vectype import (
    I64,
    VF,
    fconst,
    fma,
    i64,
    load_vec,
    pointer,
    shared_function,
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

#: floats of V and of M that one thread's block aims at: together well inside a second-level cache of 1 MiB.
V_BLOCK, M_BLOCK = 112 * 1024, 56 * 1024

NAMES = (
    "x", "x_b", "x_y", "x_x", "batch", "in_h", "in_w", "channels", "columns", "pad_y", "pad_x",
    "out_h", "out_w", "out", "out_b", "out_y", "out_x", "weights", "bias",
    "res", "res_b", "res_y", "res_x", "res_mode", "act", "act_p0", "act_p1",
    "zero_row", "tile_block", "panel_block", "scratch", "scratch_bytes",
)  # fmt: skip
"""Slots of the record, in order: addresses (bytes; ``bias``, ``res`` or 0), strides (elements, of
image, line and pixel), sizes. ``zero_row`` points to ``channels`` zeros. ``res_mode`` is a ``Res``,
``act`` an ``Act``. ``weights`` are :func:`transform_weights`. Blocks come from :func:`blocking`."""

(
    X, X_B, X_Y, X_X, BATCH, IN_H, IN_W, CHANNELS, COLUMNS, PAD_Y, PAD_X,
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
    g = _G[m]
    planes = np.einsum("ia,ncab,jb->ijcn", g, weight.astype(np.float64), g, optimize=True)
    return pack_matrix(planes.reshape(-1, weight.shape[0]).astype(np.float32))


# --- the transforms, along one axis -------------------------------------------------------------


def _input_4(b: ir.IRBuilder, d: list[ir.Value]) -> list[ir.Value]:
    """Return ``BT d`` of F(4,3)."""
    four, minus = fconst(4.0), fconst(-4.0)
    p, q = fma(b, minus, d[2], d[4]), fma(b, minus, d[1], d[3])
    r, s = b.fsub(d[4], d[2]), b.fsub(d[3], d[1])
    return [
        fma(b, four, d[0], fma(b, fconst(-5.0), d[2], d[4])),
        b.fadd(p, q),
        b.fsub(p, q),
        fma(b, fconst(2.0), s, r),
        fma(b, fconst(-2.0), s, r),
        fma(b, four, d[1], fma(b, fconst(-5.0), d[3], d[5])),
    ]


def _output_4(b: ir.IRBuilder, d: list[ir.Value]) -> list[ir.Value]:
    """Return ``AT d`` of F(4,3)."""
    p, q = b.fadd(d[1], d[2]), b.fsub(d[1], d[2])
    r, s = b.fadd(d[3], d[4]), b.fsub(d[3], d[4])
    return [
        b.fadd(b.fadd(d[0], p), r),
        fma(b, fconst(2.0), s, q),
        fma(b, fconst(4.0), r, p),
        b.fadd(fma(b, fconst(8.0), s, q), d[5]),
    ]


def _input_2(b: ir.IRBuilder, d: list[ir.Value]) -> list[ir.Value]:
    """Return ``BT d`` of F(2,3)."""
    return [b.fsub(d[0], d[2]), b.fadd(d[1], d[2]), b.fsub(d[2], d[1]), b.fsub(d[1], d[3])]


def _output_2(b: ir.IRBuilder, d: list[ir.Value]) -> list[ir.Value]:
    """Return ``AT d`` of F(2,3)."""
    return [b.fadd(b.fadd(d[0], d[1]), d[2]), b.fsub(b.fsub(d[1], d[2]), d[3])]


_TRANSFORMS = {2: (_input_2, _output_2), 4: (_input_4, _output_4)}


def _both_axes(b: ir.IRBuilder, one, tile: list[list[ir.Value]]) -> list[ir.Value]:
    """Return the transform along columns, then rows, row by row."""
    columns = [one(b, [row[j] for row in tile]) for j in range(len(tile))]
    return [v for i in range(len(columns[0])) for v in one(b, [c[i] for c in columns])]


def _emit_input(m: int, b: ir.IRBuilder, table, offset, dst, step) -> None:
    n = m + 2

    def load(i: int, j: int) -> ir.Value:
        address = b.load(pointer(b, table, i64(i * n + j), 8), align=8, typ=I64)
        return load_vec(b, pointer(b, b.add(address, offset)))

    tile = [[load(i, j) for j in range(n)] for i in range(n)]
    for k, v in enumerate(_both_axes(b, _TRANSFORMS[m][0], tile)):
        b.store(v, pointer(b, b.add(dst, b.mul(step, i64(k)))), align=4)


def _emit_output(m: int, b: ir.IRBuilder, src, step, dst) -> None:
    n = m + 2
    tile = [
        [load_vec(b, pointer(b, b.add(src, b.mul(step, i64(i * n + j))))) for j in range(n)]
        for i in range(n)
    ]
    for k, v in enumerate(_both_axes(b, _TRANSFORMS[m][1], tile)):
        b.store(v, pointer(b, dst, i64(k * LANES)), align=4)


def _void_intrinsic(name: str, arity: int, emit):
    """Return an intrinsic of ``arity`` int64 arguments whose code is one function a module."""

    def code(context, builder, sig, args):
        fn = shared_function(builder.module, name, ir.VoidType(), [I64] * arity, emit)
        builder.call(fn, args)
        return context.get_dummy_value()

    sig = types.void(*[types.int64] * arity)
    shapes = {3: lambda ctx, a, b, c: (sig, code), 4: lambda ctx, a, b, c, d: (sig, code)}
    return intrinsic(shapes[arity])


# --- the kernel ---------------------------------------------------------------------------------

# Inlined before typing: a function that holds a tile or a transform would be compiled once by itself and once more
# in each of its callers.
_inlined = numba.njit(inline="always")


@inline_njit
def _split(nt, tiles, panels):
    """Return how many parts of the tiles and of the panels to make.

    The cost of a part, in eighths of a tile times a panel: products; reading the weights once, worth about
    LANES tiles; the input transform, which every part of the panels repeats.
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


@_inlined
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


@functools.cache
def winograd(m: int) -> Kernel:
    """Return the kernel F(m x m, 3 x 3), ``m`` 2 or 4; its record is described by :data:`NAMES`.

    Needs ``channels >= LANES`` (a vector of channels reads that much). Every output is the same sum in the same
    order for any blocks and thread count.
    """
    n = m + 2
    planes, cells = n * n, m * m
    transform_input = _void_intrinsic(
        f"lep_wino_in_{m}", 4, functools.partial(_emit_input, m)
    )
    transform_output = _void_intrinsic(
        f"lep_wino_out_{m}", 3, functools.partial(_emit_output, m)
    )
    late, times = int(Res.AFTER), int(Res.TIMES)

    @inline_njit
    def read_tile(args, table, tile, dst, plane):
        """Transform one tile of all channels into V (``plane``: bytes between planes)."""
        down, across = (arg(args, OUT_H) + m - 1) // m, (arg(args, OUT_W) + m - 1) // m
        image, place = tile // (down * across), tile % (down * across)
        y0 = place // across * m - arg(args, PAD_Y)
        x0 = place % across * m - arg(args, PAD_X)
        in_h, in_w, x_x = arg(args, IN_H), arg(args, IN_W), 4 * arg(args, X_X)
        zero = arg(args, ZERO_ROW)
        for i in range(n):
            y = y0 + i
            row = arg(args, X) + 4 * (image * arg(args, X_B) + y * arg(args, X_Y)) + x0 * x_x
            inside = 0 <= y < in_h
            for j in range(n):
                ok = inside and 0 <= x0 + j < in_w
                sti64(table, i * n + j, row + j * x_x if ok else zero)
        channels = arg(args, CHANNELS)
        for c in range(0, channels, LANES):
            at = 4 * min(c, channels - LANES)
            transform_input(table, at, dst + at, plane)

    @inline_njit
    def finish(args, patch, image, y, x, n0, width):
        """Write one vector of channels of one tile: bias, residual, activation, what exists."""
        rows, columns = min(m, arg(args, OUT_H) - y), min(m, arg(args, OUT_W) - x)
        bias, res, mode = arg(args, BIAS), arg(args, RES), arg(args, RES_MODE)
        code, p0, p1 = arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1)
        shift = vload_n(bias, n0, width) if bias != 0 else vzero()
        out = arg(args, OUT) + 4 * image * arg(args, OUT_B)
        res += 4 * image * arg(args, RES_B)
        has_res = arg(args, RES) != 0
        for i in range(rows):
            for j in range(columns):
                v = vadd(vload(patch, (i * m + j) * LANES), shift)
                at = (y + i) * arg(args, OUT_Y) + (x + j) * arg(args, OUT_X) + n0
                if has_res:
                    r_at = (y + i) * arg(args, RES_Y) + (x + j) * arg(args, RES_X) + n0
                    r = vload_n(res, r_at, width)
                    if mode == late:
                        v = vadd(vact(code, v, p0, p1), r)
                    elif mode == times:
                        v = vmul(vact(code, v, p0, p1), r)
                    else:
                        v = vact(code, vadd(v, r), p0, p1)
                elif code != 0:
                    v = vact(code, v, p0, p1)
                vstore_n(out, at, v, width)

    @inline_njit
    def write_tile(args, patch, tile, src, plane, n0, n1):
        """Transform columns ``n0 .. n1`` of one tile of M back and finish them."""
        down, across = (arg(args, OUT_H) + m - 1) // m, (arg(args, OUT_W) + m - 1) // m
        image, place = tile // (down * across), tile % (down * across)
        y, x = place // across * m, place % across * m
        for c in range(n0, n1, LANES):
            transform_output(src + 4 * (c - n0), plane, patch)
            finish(args, patch, image, y, x, c, n1 - c)

    @_inlined
    def run_block(args, base, t0, count, panel0, panel1):
        """Compute tiles ``t0 .. t0 + count`` of panels ``panel0 .. panel1``; scratch at ``base``."""
        depth, block = arg(args, CHANNELS), arg(args, TILE_BLOCK)
        panel_block = arg(args, PANEL_BLOCK)
        v_row = 4 * LANES * (((depth + LANES - 1) // LANES) | 1)
        m_row = 4 * (panel_block * PANEL + LANES)
        v_plane, m_plane = block * v_row + 4 * LANES, block * m_row + 4 * LANES
        patch = base
        v = patch + 4 * planes * LANES
        m_base = v + planes * v_plane
        table = m_base + planes * m_plane
        rows = table + 8 * planes
        out_rows = rows + 8 * (block + ROWS)
        for t in range(count):
            read_tile(args, table, t0 + t, v + t * v_row, v_plane)
        _fill(rows, count, v, v_row)
        _fill(out_rows, count, m_base, m_row)
        for p0 in range(panel0, panel1, panel_block):
            panels = min(panel_block, panel1 - p0)
            weights = arg(args, WEIGHTS) + 4 * p0 * planes * depth * PANEL
            _multiply(planes, rows, out_rows, count, depth, v_plane, m_plane, weights, panels)
            n1 = min((p0 + panels) * PANEL, arg(args, COLUMNS))
            for t in range(count):
                write_tile(args, patch, t0 + t, m_base + t * m_row, m_plane, p0 * PANEL, n1)

    def body(args, tid, nt):
        down, across = (arg(args, OUT_H) + m - 1) // m, (arg(args, OUT_W) + m - 1) // m
        tiles = arg(args, BATCH) * down * across
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
            run_block(args, base, t0, min(block, end - t0), panel0, panel1)

    return make_kernel(body, "winograd", (m,))
