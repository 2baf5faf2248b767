"""numba_cpu > kernels > int8_winograd: 3x3 convolution of codes with stride 1, F(2x2), exact.

The algorithm is that of :mod:`winograd` in whole numbers: 16 products of int16 replace 36 of codes.
The transform of the weights is doubled on both sides, so that it is whole, and sums come out four
times as large: a quarter of them is the sum itself. Codes are transformed as they are; what lies
outside the image is the zero point, and ``sums`` corrects for it as in :mod:`int8_gemm`. int32
holds all of it up to ``MOST_CHANNELS`` channels (:mod:`int8_winograd_plan`).

Memory of a thread: addresses of the pixels of a tile; tables of rows of V and M, and of the output
and the residual, four to a tile; four staged rows of floats and where they go; a row for pixels
beyond the image; V ``i16[16][tiles][channels]``, a cache line more to a plane, lest planes share
cache sets; M ``i32[tiles][16][PANEL]`` of one panel.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.igemm import (
    A_X,
    A_Y,
    A_Z,
    ACT,
    ACT_P0,
    ACT_P1,
    BIAS,
    COLUMNS,
    DEPTH,
    IN_H,
    IN_W,
    OUT,
    OUT_X,
    OUT_Y,
    OUT_Z,
    RES,
    RES_X,
    RES_Y,
    RES_Z,
    ROW_BLOCK,
    ROWS_X,
    ROWS_Y,
    ROWS_Z,
    SCRATCH,
    SCRATCH_BYTES,
    ZERO_ROW,
    A,
    B,
)
from leptonc.backends.numba_cpu.kernels.int8_finish import store_codes
from leptonc.backends.numba_cpu.kernels.int8_gemm import (
    CODE_HIGH,
    CODE_LOW,
    INVERSE,
    LATE_NOTHING,
    OUT_KIND,
    RES_KIND,
    RES_SCALE,
    RES_ZERO,
    SCALE,
    SUMS,
    ZERO,
    Int8Gemm,
    bounds,
    code_bounds,
    late_of,
)
from leptonc.backends.numba_cpu.kernels.int8_tile import CODES, FLOAT_RES, FLOATS, NO_RES, PACKED
from leptonc.backends.numba_cpu.kernels.int8_winograd_plan import PLANES, SIDE
from leptonc.backends.numba_cpu.kernels.int8_winograd_tile import (
    run_code_end,
    run_word_tile,
    transform_codes,
)
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS, tile_rows
from leptonc.backends.numba_cpu.kernels.row_tables import fill
from leptonc.backends.numba_cpu.kernels.tile_finish import finish_tile
from leptonc.backends.numba_cpu.kernels.vec import LANES, arg, argf, sti64
from leptonc.backends.numba_cpu.kernels.winograd import split_tiles


@dataclass(frozen=True)
class Int8Winograd(Int8Gemm):
    """One call of :data:`int8_winograd`: the slots of ``Int8Gemm``, then those below.

    ``rows_z`` counts images, ``depth`` pairs of channels, ``row_block`` tiles; ``b`` is of
    :func:`int8_winograd_plan.transform_weights`. ``zero_row`` is always there.

    Attributes:
        channels: of the image. pad_y, pad_x: lines above it, pixels left of it.
    """

    channels: int
    pad_y: int
    pad_x: int


CHANNELS, PAD_Y, PAD_X = range(len(fields(Int8Gemm)), len(fields(Int8Winograd)))
_TILE_SUMS = 4 * PLANES * PANEL  # bytes of M a tile
_LINE = 64


def scratch_bytes(tile_block: int, pitch: int, columns: int) -> int:
    """Return the bytes of scratch a thread needs; ``pitch``: of a transformed pixel."""
    return _places(0, tile_block, pitch, columns)[-1]


def _places(base, block, pitch, columns):
    """Return the addresses of the parts of a thread's memory, and of its end."""
    rows = base + 8 * PLANES
    sums = rows + 8 * (block + ROWS)
    outs = sums + 8 * (block + ROWS)
    residuals = outs + 32 * block
    stage = residuals + 32 * block
    beyond = stage + 32 + 16 * PANEL
    v = (beyond + 4 * ((columns + PANEL - 1) // PANEL) * PANEL + _LINE - 1) // _LINE * _LINE
    m = v + PLANES * (block * pitch + _LINE)
    return rows, sums, outs, residuals, stage, beyond, v, m, m + block * _TILE_SUMS


_places_of = inline_njit(_places)


@inline_njit
def _place(args, tile):
    """Return the image and the first output pixel ``(y, x)`` of a tile."""
    down, across = (arg(args, ROWS_Y) + 1) // 2, (arg(args, ROWS_X) + 1) // 2
    image, rest = tile // (down * across), tile % (down * across)
    return image, rest // across * 2, rest % across * 2


@inline_njit
def _read_tile(args, pixels, tile, dst, plane):
    """Transform the codes of one tile to ``dst``."""
    image, y, x = _place(args, tile)
    y, x = y - arg(args, PAD_Y), x - arg(args, PAD_X)
    line, pixel, zero = arg(args, A_Y), arg(args, A_X), arg(args, ZERO_ROW)
    src = arg(args, A) + image * arg(args, A_Z) + y * line + x * pixel
    for i in range(SIDE):
        for j in range(SIDE):
            inside = 0 <= y + i < arg(args, IN_H) and 0 <= x + j < arg(args, IN_W)
            sti64(pixels, SIDE * i + j, src + i * line + j * pixel if inside else zero)
    transform_codes(pixels, arg(args, CHANNELS), dst, plane)


@inline_njit
def _write_rows(args, tile, outs, residuals, beyond):
    """Write where the pixels of a tile go and their residuals; those that are none go beyond."""
    image, y0, x0 = _place(args, tile)
    size = 4 if arg(args, OUT_KIND) == FLOATS else 1
    res_size = 4 if arg(args, RES_KIND) == FLOAT_RES else 1
    out = arg(args, OUT) + size * image * arg(args, OUT_Z)
    res = arg(args, RES) + res_size * image * arg(args, RES_Z)
    for k in range(4):
        y, x = y0 + k // 2, x0 + k % 2
        exists = y < arg(args, ROWS_Y) and x < arg(args, ROWS_X)
        at = out + size * (y * arg(args, OUT_Y) + x * arg(args, OUT_X))
        sti64(outs, k, at if exists else beyond)
        y, x = y if exists else y0, x if exists else x0
        sti64(residuals, k, res + res_size * (y * arg(args, RES_Y) + x * arg(args, RES_X)))


@inline_njit
def _multiply(args, panel, count, width, rows, sums, v_plane, following):
    """Multiply all planes of ``count`` tiles with one panel; ``following``: what to ask for."""
    pairs = arg(args, DEPTH)
    size, tiles = 4 * PANEL * pairs, (count + ROWS - 1) // ROWS
    for plane in range(PLANES):
        b = panel + plane * size
        ahead = b + size if plane + 1 < PLANES else following
        i = 0
        while i < count:
            some = tile_rows(count - i, width)
            run_word_tile(
                some, rows + 8 * i, 0, 1, pairs, plane * v_plane, b, sums + 8 * i,
                4 * PANEL * plane, width, ahead, 4 * PANEL // tiles,
            )  # fmt: skip
            i += some
            ahead += size // tiles


@inline_njit
def _end(args, count, column, outs, residuals, stage, m):
    """End the pixels of ``count`` tiles for one panel of columns."""
    width, late, kind = arg(args, COLUMNS) - column, late_of(args), arg(args, OUT_KIND)
    low, high, unfinished = bounds(args)
    res_kind = NO_RES if late != LATE_NOTHING else arg(args, RES_KIND)
    code_low, code_high = code_bounds(args, low, high)
    zero = arg(args, ZERO)
    staged = unfinished and kind == CODES
    stored = FLOATS if staged else kind
    if stored == CODES and code_low == -zero and code_high == 255 - zero:
        stored = PACKED
    fill(stage, 0, 4, stage + 32 - 4 * column, 4 * PANEL)
    for t in range(count):
        goal, res_rows = outs + 32 * t, residuals + 32 * t
        made = stage if staged else goal
        run_code_end(
            m + t * _TILE_SUMS, made, column, width, arg(args, SUMS), arg(args, SCALE),
            arg(args, BIAS), res_rows, res_kind, arg(args, RES_ZERO), stored, zero,
            argf(args, RES_SCALE), low, high, argf(args, INVERSE), code_low, code_high,
        )  # fmt: skip
        if unfinished:
            finish_tile(arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1), late, made,
                        res_rows, 4, 4 * column, width)  # fmt: skip
        if staged:
            store_codes(made, goal, 4, column, width, zero, argf(args, INVERSE),
                        argf(args, CODE_LOW), argf(args, CODE_HIGH))  # fmt: skip


@inline_njit
def _run_block(args, base, t0, count, panel0, panel1):
    """Compute tiles ``t0 .. t0 + count`` of panels ``panel0 .. panel1``; memory at ``base``."""
    block = arg(args, ROW_BLOCK)
    pitch = 4 * LANES * ((arg(args, CHANNELS) + 2 * LANES - 1) // (2 * LANES))
    rows, sums, outs, residuals, stage, beyond, v, m, _ = _places_of(
        base, block, pitch, arg(args, COLUMNS)
    )
    v_plane = block * pitch + _LINE
    for t in range(count):
        _read_tile(args, base, t0 + t, v + t * pitch, v_plane)
        _write_rows(args, t0 + t, outs + 32 * t, residuals + 32 * t, beyond)
    fill(rows, 0, count, v, pitch)
    fill(rows, count, ROWS, v + (count - 1) * pitch, 0)
    fill(sums, 0, count, m, _TILE_SUMS)
    fill(sums, count, ROWS, m + (count - 1) * _TILE_SUMS, 0)
    size = 4 * PANEL * arg(args, DEPTH) * PLANES
    for p in range(panel0, panel1):
        panel = arg(args, B) + p * size
        following = panel + size if p + 1 < panel1 else arg(args, B) + panel0 * size
        width = arg(args, COLUMNS) - p * PANEL
        _multiply(args, panel, count, width, rows, sums, v_plane, following)
        _end(args, count, p * PANEL, outs, residuals, stage, m)


@kernel
def int8_winograd(args, tid, nt):
    """Compute this thread's share of the convolution that an :class:`Int8Winograd` describes."""
    tiles = (arg(args, ROWS_Y) + 1) // 2 * ((arg(args, ROWS_X) + 1) // 2) * arg(args, ROWS_Z)
    panels = (arg(args, COLUMNS) + PANEL - 1) // PANEL
    if tiles <= 0 or panels <= 0:
        return
    by_tiles, by_panels = split_tiles(nt, tiles, panels)
    if tid >= by_tiles * by_panels:
        return
    i_tile, i_panel = tid // by_panels, tid % by_panels
    panel0, panel1 = panels * i_panel // by_panels, panels * (i_panel + 1) // by_panels
    begin, end = tiles * i_tile // by_tiles, tiles * (i_tile + 1) // by_tiles
    base, block = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES), arg(args, ROW_BLOCK)
    for t0 in range(begin, end, block):
        _run_block(args, base, t0, min(block, end - t0), panel0, panel1)
