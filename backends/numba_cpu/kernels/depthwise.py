"""numba_cpu > kernels > depthwise: convolution with one filter a channel, on channels-last images.

``out[b, z, y, x, c] = act(sum over taps of in[b, position(tap), c] * w[tap, c] + bias[c] + res)``,
channel stride 1. Images of 1 or 2 axes have depth (and height) 1. Of a
window only the lines that exist are summed; pixels beside the line are zeros (see
:mod:`depthwise_tile`). The sum starts with the bias and runs over the taps in row-major order in
every tile, so the bits do not depend on the number of threads. A thread goes over bands of lines
that fit in its second-level cache, and in a band over blocks of channels of which a window's lines
fit in the first level.
"""

from __future__ import annotations

import numpy as np

from leptonc.backends.numba_cpu.kernels.activation import clamp_of
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.depthwise_tile import (
    ANY,
    COLUMNS,
    FAST,
    FRAME,
    PLACES,
    run_tiles,
)
from leptonc.backends.numba_cpu.kernels.depthwise_walk import MOST_LINES, WALKS, WIDTH, run_walk
from leptonc.backends.numba_cpu.kernels.igemm_record import Res
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS
from leptonc.backends.numba_cpu.kernels.shares import part
from leptonc.backends.numba_cpu.kernels.tile_finish import (
    ADD_RES,
    FINISH_TILE,
    MULTIPLY_RES,
    NO_RES,
    finish_tile,
)
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    stf,
    sti64,
    vadd,
    vload_n,
    vstore_n,
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

L1_BYTES, L2_BYTES = 24 * 1024, 384 * 1024  # what a block's window and a band may take of them
LEAST_VECTORS = 2  # of a block, if there are as many: less would leave half of what is fetched


def padded(channels: int) -> int:
    """Return ``channels`` rounded up to whole vectors."""
    return -(-channels // LANES) * LANES


def pack_weights(weight: np.ndarray) -> np.ndarray:
    """Return ``weight: [c, 1, *kernel]`` as ``f32[vectors, taps, LANES]`` and a vector of zeros.

    All in one array: the taps of a vector of channels follow each other, since they are read
    together; behind them stand ``padded(c)`` zeros.
    """
    channels, wide = weight.shape[0], padded(weight.shape[0])
    taps = np.zeros((wide, weight[0].size), np.float32)
    taps[:channels] = weight.reshape(channels, -1)
    by_vector = taps.reshape(wide // LANES, LANES, -1).transpose(0, 2, 1)
    return np.concatenate([by_vector.reshape(-1), np.zeros(wide, np.float32)])


def scratch_bytes(kernel_z: int, kernel_y: int) -> int:
    """Return the bytes one thread needs: frame, spare vector, row addresses, window's lines."""
    return -(-(TABLE + 8 * (2 + PLACES) * max(1, kernel_z * kernel_y)) // 64) * 64


SPARE = -(-8 * len(FRAME) // 64) * 64  # bytes into the scratch
_ROWS = SPARE + 4 * LANES
TABLE = _ROWS + 16 * ROWS


# --- the kernel ---------------------------------------------------------------------------------

_INF = float("inf")
_BEFORE, _TIMES = int(Res.BEFORE), int(Res.TIMES)
BY_TILE, TILES, WALK = 0, 1, 2


@inline_njit
def existing_taps(start, size, kernel, dilation):
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
    size = 4 * LANES * width
    z_first, z_last = existing_taps(z0, arg(args, IN_D), arg(args, KERNEL_Z), step_z)
    y_first, y_last = existing_taps(y0, arg(args, IN_H), height, step_y)
    n = 0
    for i in range(z_first, z_last):
        plane = image * arg(args, X_B) + (z0 + i * step_z) * arg(args, X_Z)
        for j in range(y_first, y_last):
            line = plane + (y0 + j * step_y) * arg(args, X_Y)
            sti64(table, n, arg(args, X) + 4 * line)
            sti64(table, n + 1, arg(args, WEIGHTS) + (i * height + j) * size)
            n += 2
    if n == 0:
        sti64(table, 0, arg(args, X))
        sti64(table, 1, arg(args, WEIGHTS))
    return n // 2


@inline_njit
def _bounds(args):
    """Return the clamp that the tiles apply, and whether another pass must finish the outputs."""
    if arg(args, RES) != 0:
        return -_INF, _INF, True
    low, high, whole = clamp_of(arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1))
    return low, high, not whole


@inline_njit
def _finish(args, tables, out, res, count, channels):
    """Apply residual and activation to ``count`` outputs, which are in the cache still."""
    mode, late = arg(args, RES_MODE), NO_RES
    if res != 0 and mode == _BEFORE:
        for j in range(count):
            for c in range(0, channels, LANES):
                at = j * arg(args, OUT_X) + c
                r = vload_n(res, j * arg(args, RES_X) + c, channels - c)
                vstore_n(out, at, vadd(vload_n(out, at, channels - c), r), channels - c)
    elif res != 0:
        late = MULTIPLY_RES if mode == _TIMES else ADD_RES
    for j in range(0, count, ROWS):
        some = min(ROWS, count - j)
        for i in range(some):
            sti64(tables, i, out + 4 * (j + i) * arg(args, OUT_X))
            sti64(tables, ROWS + i, res + 4 * (j + i) * arg(args, RES_X))
        for c in range(0, channels, PANEL):
            finish_tile(arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1), late, tables,
                        tables + 8 * ROWS, some, 4 * c, channels - c)  # fmt: skip


@inline_njit
def tile_code(args):
    """Return the code of the tile that computes this kernel."""
    code = ANY
    for i, (width, stride) in enumerate(FAST):
        if arg(args, KERNEL_X) == width and arg(args, STRIDE_X) == stride:
            code = i
    return code if arg(args, DILATION_X) == 1 else ANY


@inline_njit
def write_frame(args, frame, low, high):
    """Write the frame of the tiles."""
    taps = arg(args, KERNEL_Z) * arg(args, KERNEL_Y) * arg(args, KERNEL_X)
    zeros = 4 * taps * ((arg(args, CHANNELS) + LANES - 1) // LANES * LANES)
    values = (
        frame + TABLE, 4 * arg(args, X_X), taps, arg(args, IN_W), arg(args, STRIDE_X),
        arg(args, DILATION_X), arg(args, KERNEL_X), arg(args, BIAS), 4 * arg(args, OUT_X),
        arg(args, WEIGHTS) + zeros, frame + SPARE,
        frame + TABLE + 16 * max(1, arg(args, KERNEL_Z) * arg(args, KERNEL_Y)),
        max(0, arg(args, OUT_W) - COLUMNS),
    )  # fmt: skip
    for i, value in enumerate(values):
        sti64(frame, i, value)
    stf(frame, 2 * len(values), low)
    stf(frame, 2 * len(values) + 2, high)


@inline_njit
def line_way(args, code):
    """Return how a line is computed: BY_TILE, in TILES of one call, or by a WALK."""
    stride, pad, width = arg(args, STRIDE_X), arg(args, PAD_X), arg(args, OUT_W)
    edge = arg(args, KERNEL_X) // 2
    behind = (width - 1) * stride + arg(args, KERNEL_X) - pad - arg(args, IN_W)
    near = pad <= edge and behind <= edge
    few = arg(args, KERNEL_Z) * arg(args, KERNEL_Y) <= MOST_LINES
    if WALKS and code != ANY and arg(args, KERNEL_X) == WIDTH and near and few and width > 1:
        return WALK
    return TILES if width >= COLUMNS and (code == ANY or near) else BY_TILE


@inline_njit
def tiles_of_line(args, frame, code, lines, way, c0, channels, out):
    """Compute one line of outputs of ``channels`` channels from ``c0``."""
    width, stride, pad = arg(args, OUT_W), arg(args, STRIDE_X), arg(args, PAD_X)
    tiles = (width + COLUMNS - 1) // COLUMNS
    if way == WALK and lines > 0:
        run_walk(stride, frame, lines, -pad, 4 * c0, channels, out, width)
        return
    if way == TILES and lines > 0:
        run_tiles(code, 1, frame, lines, -pad, 4 * c0, channels, out, tiles)
        return
    for t in range(tiles):
        # The last tile overlaps the one before it: the same outputs twice, no narrow tile.
        x = max(0, min(t * COLUMNS, width - COLUMNS))
        # A window wholly outside the image: one line of zeros.
        start = x * stride - pad if lines > 0 else arg(args, IN_W)
        run_tiles(code, 0, frame, max(lines, 1), start, 4 * c0, channels,
                  out + 4 * x * arg(args, OUT_X), min(COLUMNS, width))  # fmt: skip


@inline_njit
def line_shares(nt, lines, vectors):
    """Return how many parts to make of lines and channels: at most ``nt`` together."""
    best, parts = lines * vectors + 1, (1, 1)
    for by_lines in range(min(nt, lines), 0, -1):
        by_vectors = min(nt // by_lines, vectors)
        share = -(-lines // by_lines) * -(-vectors // by_vectors)
        if share < best:
            best, parts = share, (by_lines, by_vectors)
    return parts


@inline_njit
def _block_vectors(args, vectors):
    """Return the vectors of channels of a block: equal shares whose windows fit in the L1 cache."""
    lines = arg(args, KERNEL_Z) * arg(args, KERNEL_Y)
    most = max(LEAST_VECTORS, L1_BYTES // (4 * LANES * lines * arg(args, IN_W)))
    blocks = (vectors + most - 1) // most
    return (vectors + blocks - 1) // blocks


@inline_njit
def _strip(args, frame, code, way, line, c0, channels, unfinished):
    """Compute line ``line`` of all images for ``channels`` channels from ``c0``."""
    depth, height = arg(args, OUT_D), arg(args, OUT_H)
    plane, y = line // height, line % height
    image, z = plane // depth, plane % depth
    lines = _lines(args, frame + TABLE, image, z, y)
    out = image * arg(args, OUT_B) + z * arg(args, OUT_Z) + y * arg(args, OUT_Y) + c0
    out = arg(args, OUT) + 4 * out
    tiles_of_line(args, frame, code, lines, way, c0, channels, out)
    if unfinished:
        res = arg(args, RES)
        if res != 0:
            at = image * arg(args, RES_B) + z * arg(args, RES_Z) + y * arg(args, RES_Y) + c0
            res = res + 4 * at
        _finish(args, frame + _ROWS, out, res, arg(args, OUT_W), channels)


@kernel(parts=(FINISH_TILE,))
def depthwise(args, tid, nt, cuts):
    """Compute this thread's lines and channels of the conv that the record describes."""
    channels = arg(args, CHANNELS)
    lines = arg(args, BATCH) * arg(args, OUT_D) * arg(args, OUT_H)
    vectors = (channels + LANES - 1) // LANES
    by_lines, by_vectors = line_shares(nt, lines, vectors)
    if tid >= by_lines * by_vectors or arg(args, OUT_W) <= 0:
        return
    i, j = tid % by_lines, tid // by_lines
    cuts = cuts if by_lines * by_vectors == nt else 0
    begin, end = part(lines, i, by_lines, tid - i, 1, cuts)
    left, right = part(vectors, j, by_vectors, 0, by_lines, cuts)
    left, right = left * LANES, min(right * LANES, channels)
    low, high, unfinished = _bounds(args)
    frame = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    write_frame(args, frame, low, high)
    code = tile_code(args)
    way = line_way(args, code)
    block = _block_vectors(args, (right - left + LANES - 1) // LANES) * LANES
    line_bytes = 4 * arg(args, IN_W) * arg(args, STRIDE_Y) * max(right - left, 1)
    band = max(4, L2_BYTES // line_bytes)
    for first in range(begin, end, band):
        for c0 in range(left, right, block):
            some = min(block, right - c0)
            for line in range(first, min(first + band, end)):
                _strip(args, frame, code, way, line, c0, some, unfinished)
