"""numba_cpu > kernels > int8_winograd: 3x3 convolution of codes with stride 1, exact.

The algorithm is that of :mod:`winograd` in whole numbers (:mod:`int8_winograd_forms`): products of
int16 replace those of codes, 2.25 times fewer with F(2x2), four times fewer with F(4x4). Codes are
transformed as they are; what lies outside the image is the zero point, and ``sums`` corrects for it
as in :mod:`int8_gemm`.

Memory of a thread: addresses of the pixels of a tile; heights of products; tables of rows of V and
M, and of the pixels of the output and the residual; staged rows of floats for the pixels of a tile,
and where they go; a row for pixels beyond the image; V ``i16[tiles][planes][channels]``, a cache
line more to a tile, lest tiles share cache sets; M ``i32[tiles][planes][PANEL]`` of one panel.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.igemm_record import (
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
from leptonc.backends.numba_cpu.kernels.int8_winograd_places import SPARE, code_places, sum_places
from leptonc.backends.numba_cpu.kernels.int8_winograd_tile import (
    run_code_end,
    run_word_tile,
    transform_codes,
)
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS, tile_rows
from leptonc.backends.numba_cpu.kernels.row_tables import fill
from leptonc.backends.numba_cpu.kernels.shares import part
from leptonc.backends.numba_cpu.kernels.tile_finish import FINISH_TILE, finish_tile
from leptonc.backends.numba_cpu.kernels.vec import LANES, arg, argf, ldi64, sti64
from leptonc.backends.numba_cpu.kernels.winograd import split_tiles


@dataclass(frozen=True)
class Int8Winograd(Int8Gemm):
    """One call of :data:`int8_winograd`: the slots of ``Int8Gemm``, then those below.

    ``rows_z`` counts images, ``depth`` pairs of channels, ``row_block`` tiles; ``b`` is of
    :func:`int8_winograd_plan.transform_weights`. ``zero_row`` is always there.

    Attributes:
        m: which of the forms of :mod:`int8_winograd_forms`: the side of an output tile.
        channels: of the image. pad_y, pad_x: lines above it, pixels left of it.
    """

    m: int
    channels: int
    pad_y: int
    pad_x: int


M, CHANNELS, PAD_Y, PAD_X = range(len(fields(Int8Gemm)), len(fields(Int8Winograd)))
_SUM = 4 * PANEL  # bytes of M a plane of a tile
_LINE = 64


def scratch_bytes(m: int, tile_block: int, pitch: int, columns: int) -> int:
    """Return the bytes of scratch a thread needs; ``pitch``: of a transformed pixel."""
    return _places(m, 0, tile_block, pitch, columns)[-1]


def _places(m, base, block, pitch, columns):
    """Return the addresses of the parts of a thread's memory, and of its end."""
    planes, pixels = (m + 2) * (m + 2), m * m
    heights = base + 8 * (planes + SPARE)
    rows = heights + 8 * block
    sums = rows + 8 * (block + ROWS)
    outs = sums + 8 * (block + ROWS)
    residuals = outs + 8 * pixels * block
    stage = residuals + 8 * pixels * block
    beyond = stage + (8 + 4 * PANEL) * pixels
    v = (beyond + 4 * ((columns + PANEL - 1) // PANEL) * PANEL + _LINE - 1) // _LINE * _LINE
    made = v + block * (planes * pitch + _LINE)
    end = made + planes * block * _SUM
    return heights, rows, sums, outs, residuals, stage, beyond, v, made, end


_places_of = inline_njit(_places)


@inline_njit
def _place(args, tile):
    """Return the image and the first output pixel ``(y, x)`` of a tile."""
    m = arg(args, M)
    down, across = (arg(args, ROWS_Y) + m - 1) // m, (arg(args, ROWS_X) + m - 1) // m
    image, rest = tile // (down * across), tile % (down * across)
    return image, rest // across * m, rest % across * m


@inline_njit
def _open_tile(args, tile, pixels, dst, plane, outs, residuals, beyond):
    """Transform the codes of one tile to ``dst``; write where its sums go, and their residuals.

    Those of no pixel go beyond.
    """
    m, (image, y, x) = arg(args, M), _place(args, tile)
    top, left = y - arg(args, PAD_Y), x - arg(args, PAD_X)
    line, pixel = arg(args, A_Y), arg(args, A_X)
    first = arg(args, A) + image * arg(args, A_Z) + top * line + left * pixel
    code_places(m, pixels, first, line, pixel, top, left, arg(args, IN_H), arg(args, IN_W),
                arg(args, ZERO_ROW))  # fmt: skip
    transform_codes(m, pixels, arg(args, CHANNELS), dst, plane)
    size = 4 if arg(args, OUT_KIND) == FLOATS else 1
    line, pixel = size * arg(args, OUT_Y), size * arg(args, OUT_X)
    first = arg(args, OUT) + size * image * arg(args, OUT_Z) + y * line + x * pixel
    height, width = arg(args, ROWS_Y), arg(args, ROWS_X)
    sum_places(m, outs, first, line, pixel, y, x, height, width, beyond)
    size = 4 if arg(args, RES_KIND) == FLOAT_RES else 1
    line, pixel = size * arg(args, RES_Y), size * arg(args, RES_X)
    first = arg(args, RES) + size * image * arg(args, RES_Z) + y * line + x * pixel
    sum_places(m, residuals, first, line, pixel, y, x, height, width, first)


@inline_njit
def _heights(count, width, table):
    """Write the heights of the products of ``count`` tiles; return how many there are."""
    done, runs = 0, 0
    while done < count:
        some = tile_rows(count - done, width)
        sti64(table, runs, some)
        done, runs = done + some, runs + 1
    return runs


@inline_njit
def _multiply(args, panel, count, width, heights, rows, sums, pitch, following):
    """Multiply all planes of ``count`` tiles with one panel; ``following``: what to ask for."""
    pairs, runs = arg(args, DEPTH), _heights(count, width, heights)
    size, planes = 4 * PANEL * pairs, (arg(args, M) + 2) * (arg(args, M) + 2)
    share, advance = size // runs, 4 * PANEL // runs
    for plane in range(planes):
        b = panel + plane * size
        ahead = b + size if plane + 1 < planes else following
        i = 0
        for run in range(runs):
            some = ldi64(heights, run)
            run_word_tile(
                some, rows + 8 * i, 0, 1, pairs, plane * pitch, b, sums + 8 * i, _SUM * plane,
                width, ahead, advance,
            )  # fmt: skip
            i += some
            ahead += share


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
    form = arg(args, M)
    size, pixels = (form + 2) * (form + 2) * _SUM, form * form
    fill(stage, 0, pixels, stage + 8 * pixels - 4 * column, 4 * PANEL)
    for t in range(count):
        goal, res_rows = outs + 8 * pixels * t, residuals + 8 * pixels * t
        made = stage if staged else goal
        run_code_end(
            form, m, made, column, width, arg(args, SUMS), arg(args, SCALE), arg(args, BIAS),
            res_rows, res_kind, arg(args, RES_ZERO), stored, zero,
            argf(args, RES_SCALE), low, high, argf(args, INVERSE), code_low, code_high,
        )  # fmt: skip
        if unfinished:
            finish_tile(arg(args, ACT), argf(args, ACT_P0), argf(args, ACT_P1), late, made,
                        res_rows, pixels, 4 * column, width)  # fmt: skip
        if staged:
            store_codes(made, goal, pixels, column, width, zero, argf(args, INVERSE),
                        argf(args, CODE_LOW), argf(args, CODE_HIGH))  # fmt: skip
        m += size


@inline_njit
def _run_block(args, base, t0, count, panel0, panel1):
    """Compute tiles ``t0 .. t0 + count`` of panels ``panel0 .. panel1``; memory at ``base``."""
    block = arg(args, ROW_BLOCK)
    pitch = 4 * LANES * ((arg(args, CHANNELS) + 2 * LANES - 1) // (2 * LANES))
    form = arg(args, M)
    planes, pixels = (form + 2) * (form + 2), form * form
    heights, rows, sums, outs, residuals, stage, beyond, v, m, _ = _places_of(
        form, base, block, pitch, arg(args, COLUMNS)
    )
    v_tile = planes * pitch + _LINE
    for t in range(count):
        _open_tile(args, t0 + t, base, v + t * v_tile, pitch, outs + 8 * pixels * t,
                   residuals + 8 * pixels * t, beyond)  # fmt: skip
    fill(rows, 0, count, v, v_tile)
    fill(rows, count, ROWS, v + (count - 1) * v_tile, 0)
    fill(sums, 0, count, m, planes * _SUM)
    fill(sums, count, ROWS, m + (count - 1) * planes * _SUM, 0)
    size = 4 * PANEL * arg(args, DEPTH) * planes
    for p in range(panel0, panel1):
        panel = arg(args, B) + p * size
        following = panel + size if p + 1 < panel1 else arg(args, B) + panel0 * size
        width = arg(args, COLUMNS) - p * PANEL
        _multiply(args, panel, count, width, heights, rows, sums, pitch, following)
        _end(args, count, p * PANEL, outs, residuals, stage, m)


@kernel(parts=(FINISH_TILE,))
def int8_winograd(args, tid, nt, cuts):
    """Compute this thread's share of the convolution that an :class:`Int8Winograd` describes."""
    m = arg(args, M)
    down, across = (arg(args, ROWS_Y) + m - 1) // m, (arg(args, ROWS_X) + m - 1) // m
    tiles = down * across * arg(args, ROWS_Z)
    panels = (arg(args, COLUMNS) + PANEL - 1) // PANEL
    if tiles <= 0 or panels <= 0:
        return
    by_tiles, by_panels = split_tiles(nt, tiles, panels, False, LANES)
    if tid >= by_tiles * by_panels:
        return
    cuts = cuts if by_tiles * by_panels == nt else 0
    i_tile, i_panel = tid // by_panels, tid % by_panels
    panel0, panel1 = part(panels, i_panel, by_panels, tid - i_panel, 1, cuts)
    begin, end = part(tiles, i_tile, by_tiles, 0, by_panels, cuts)
    base, block = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES), arg(args, ROW_BLOCK)
    for t0 in range(begin, end, block):
        _run_block(args, base, t0, min(block, end - t0), panel0, panel1)
