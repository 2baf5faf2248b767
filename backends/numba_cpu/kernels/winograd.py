"""numba_cpu > kernels > winograd: convolution, 3x3 with stride 1 or 2, 5x5, 1x3, 1x7 and upright.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), the matrices of
:mod:`winograd_points`: with stride 1, ``P = (m + 2)**2`` matrix products replace nine times
``m**2``, which is 4 times (m = 4) or 2.25 times (m = 2) less multiplication. (m = 6 was 2 to 7 %
faster than m = 4 on images from 56x56 up: not worth its errors.) With stride 2 the channels of the
four phases of the image (even and odd rows and columns) are those of ``P = (m + 1)**2`` planes, all
four in a plane of finite points, two or one at infinity: 1.44 times less multiplication for m = 2.
(m = 4 multiplies 1.78 times less, but its weights are 9 times as many instead of 2.8: 6 % faster on
64 channels of 56x56, slower than m = 2 from 128 channels on.) A kernel of one line or one column is
transformed along its taps: of ``m = 4`` outputs F(4, 3) takes 6 planes for 12 products, 2 times
less, F(4, 7) 10 for 28, 2.8 times less, and its weights are but 10 / 7 as many. A kernel of 5x5
takes m = 3: 49 planes for 225 products, 4.6 times less. (m = 4 multiplies 6.3 times less, but its
error bound is above that of F(4x4, 3x3).) One of 4x4 takes m = 4, 49 planes for 256 products; that
is what a 7x7 with stride 2 becomes when the stride of an image is folded into its channels
(:mod:`fold`): 12 of them, of which the products take no more than there are.

The image is channels-last (channel stride 1) and is not padded: tiles at a border read zeros
(:mod:`winograd_tiles`). A thread transforms a block of tiles into its scratch (V), multiplies each
of the ``P`` planes with the packed weights (M) for a block of output channels, and transforms back
with bias, residual and activation, or with a 2x2 max-pool. The record is :mod:`winograd_slots`.

Memory of a thread: a patch of one tile of LANES channels, for zeros and for what is cut off; V
``[group][P][phase][vector of channels][ROWS][LANES]``, with one vector more per plane lest planes
share cache sets; M ``[group][vector of columns][P][ROWS][LANES]``; tables of addresses; where
weights are transformed late (:mod:`winograd_late`), the planes of a line, or half-lines.

Error: every output is within :func:`winograd_points.error_bound`. Measured, ``max |y - exact| / max
|exact|``, largest of 5 draws of unit normal data at 16 / 512 channels: 4e-6 / 1.5e-5 (m = 4), 3e-7
/ 1e-6 (m = 2), 4e-6 / 1.2e-5 (F(3x3, 5x5)), 4e-6 / 2e-5 (F(4x4, 4x4)), 9e-7 / 4e-6 (F(4, 3) along
one axis), 2e-6 / 1.1e-5 (F(4, 7)), 5e-7 / 2.4e-6 (3x3 by :mod:`igemm`). A NaN or inf spreads over
the tiles that read it; ``precision="strict"`` uses :mod:`igemm`.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS, VECTORS
from leptonc.backends.numba_cpu.kernels.prefetch import ask_later, ask_to_write
from leptonc.backends.numba_cpu.kernels.shares import part
from leptonc.backends.numba_cpu.kernels.vec import LANES, arg, ldi64, sti64
from leptonc.backends.numba_cpu.kernels.winograd_finish import FINISH
from leptonc.backends.numba_cpu.kernels.winograd_late import EARLY, Late, multiply_lines
from leptonc.backends.numba_cpu.kernels.winograd_late_few import (
    TALL,
    height_of,
    multiply_few,
    turn_planes,
)
from leptonc.backends.numba_cpu.kernels.winograd_plan import depth, rows_of_groups
from leptonc.backends.numba_cpu.kernels.winograd_points import Form
from leptonc.backends.numba_cpu.kernels.winograd_product import (
    MULTIPLY,
    PAIR_ROWS,
    UNROLL,
    multiply_tile,
)
from leptonc.backends.numba_cpu.kernels.winograd_slots import (
    BATCH,
    CHANNELS,
    COLUMNS,
    LINE,
    M_X,
    M_Y,
    N_X,
    N_Y,
    OUT,
    OUT_B,
    OUT_H,
    OUT_W,
    OUT_X,
    OUT_Y,
    PAD_X,
    PAD_Y,
    PANEL_BLOCK,
    POOL,
    PRODUCTS,
    SCRATCH,
    SCRATCH_BYTES,
    SIDE_X,
    SIDE_Y,
    STEPS,
    STRIDE,
    TILE_BLOCK,
    WEIGHTS,
    X_B,
    X_X,
    X_Y,
    X,
)
from leptonc.backends.numba_cpu.kernels.winograd_tiles import (
    next_place,
    place,
    read_tile,
    write_tile,
)

_BYTES = 4 * LANES
_AHEAD = 16384  # bytes of weights to prefetch before they are read
_SOON = 2048  # the same for tiles of few rows, which need them as fast as any cache gives them
_LINES = 32  # eighths of a tile that the planes of a panel take to make
#: Eighths of a tile times a panel that its input transform takes. Alone it is one: but of many
#: channels V is so large that its lines come from memory to be written (VGG-16, 49 tiles of 512).
#: Where weights are made line by line it counts as one: parts of the tiles make them all anew.
_READING = 4
_NEAR = 1 << 19  # bytes of weights up to which each core's second-level cache may hold them all
_FAR = 7 << 19  # bytes of input and output from which on the second-level cache is far too small


@inline_njit
def split_tiles(nt, tiles, panels, by_line, least):
    """Return how many parts of the tiles and of the panels to make.

    The cost of a part, in eighths of a tile times a panel: products, which wait for the weights
    below ``least`` tiles, and what makes these, where that is done line by line, in every part of
    the tiles; the input transform, which every part of the panels repeats. A part of the tiles
    reads all weights, one of the panels the whole image, of which other cores wrote a part.
    """
    making, reading = (_LINES, 1) if by_line else (0, _READING)
    best, best_tiles, best_panels = -1, 1, 1
    for parts in range(1, nt + 1):
        by_tiles = min(parts, tiles)
        by_panels = min(nt // by_tiles, panels)
        share = (tiles + by_tiles - 1) // by_tiles
        wide = (panels + by_panels - 1) // by_panels
        cost = wide * (8 * max(share, least) + making) + reading * share
        if best < 0 or cost < best:
            best, best_tiles, best_panels = cost, by_tiles, by_panels
    return best_tiles, best_panels


@inline_njit
def _least(weight_bytes):
    """Return how many tiles products take that wait for so many bytes of weights."""
    return LANES // 2 if weight_bytes <= _NEAR else LANES


def tiles_of_a_thread(
    form: Form, tiles: int, channels: int, columns: int, late: Late | None, threads: int
) -> int:
    """Return how many of the tiles a thread has where all have equal shares, the largest."""
    panels, slots = -(-columns // PANEL), EARLY if late is None else late.slots()
    split, least = (getattr(f, "py_func", f) for f in (split_tiles, _least))
    waits = least(4 * PANEL * depth(form, channels) * panels)
    by_tiles, _ = split(threads, tiles, panels, slots["line"] != 0, waits)
    return -(-tiles // by_tiles)


@inline_njit
def _depth(args):
    """Return the rows of a panel of weights: see :func:`winograd_plan.depth`."""
    stride = arg(args, STRIDE)
    planes = (stride * (arg(args, N_Y) - 1) + 1) * (stride * (arg(args, N_X) - 1) + 1)
    return planes * ((arg(args, CHANNELS) + LANES - 1) // LANES) * LANES


@inline_njit
def _tables(args, table, t0, count, size):
    """Write the addresses of the inputs of ``count`` tiles of the next block, of these' outputs."""
    stride, pool = arg(args, STRIDE), arg(args, POOL)
    # Lines and pixels that the tiles above and to the left have read.
    halo_y = arg(args, SIDE_Y) - stride * arg(args, M_Y)
    halo_x = arg(args, SIDE_X) - stride * arg(args, M_X)
    image, y, x = place(args, t0)
    next_image, next_y, next_x = place(args, t0 + size)
    for t in range(count):
        at = y // pool * arg(args, OUT_Y) + x // pool * arg(args, OUT_X)
        at += image * arg(args, OUT_B)
        sti64(table, size + t, arg(args, OUT) + 4 * at)
        at = (stride * next_y - arg(args, PAD_Y) + halo_y) * arg(args, X_Y)
        at += (stride * next_x - arg(args, PAD_X) + halo_x) * arg(args, X_X)
        at += next_image * arg(args, X_B)
        sti64(table, t, arg(args, X) + 4 * at)
        image, y, x = next_place(args, image, y, x)
        next_image, next_y, next_x = next_place(args, next_image, next_y, next_x)


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
def _fetch_line(args, table, tile, line, panel0, panels):
    """Ask for a line of a tile's input in the next block, and for where this one's result goes."""
    stride, m, pool = arg(args, STRIDE), arg(args, M_X), arg(args, POOL)
    in_x, in_y = 4 * arg(args, X_X), 4 * arg(args, X_Y)
    _fetch(ldi64(table, tile) + line * stride * in_y, m * stride * in_x, stride, in_y, False)
    if line % pool == 0:
        at = ldi64(table, arg(args, TILE_BLOCK) + tile) + line // pool * 4 * arg(args, OUT_Y)
        _fetch(at + 4 * PANEL * panel0, 4 * PANEL * panels, m // pool, 4 * arg(args, OUT_X), True)


@inline_njit
def _multiply(args, table, groups, rows, count, v, v_plane, v_group, m_base, m_group, panel0,
              panels, behind, fetch):  # fmt: skip
    """Multiply every plane of V with ``panels`` panels of weights, from ``panel0``, into M.

    Memory is busy meanwhile: every group of tiles asks for its part of the next panel of weights
    (``behind``: the address of those after the last), and with ``fetch``, line of tiles by line
    of tiles, for the input of the next block and for where this one's results will go.
    """
    stride, m, n_y, n_x = arg(args, STRIDE), arg(args, M_Y), arg(args, N_Y), arg(args, N_X)
    channels = (arg(args, CHANNELS) + LANES - 1) // LANES  # vectors of them
    planes, all_size = n_y * n_x, 4 * PANEL * _depth(args)
    at_plane = arg(args, WEIGHTS) + panel0 * all_size  # the weights of the first panel
    column = planes * ROWS * _BYTES  # of M: bytes from vector to vector
    wide = 2 if groups == 1 and count <= PAIR_ROWS else 1
    done, tile, line, products = 0, 0, 0, planes * panels
    for plane in range(planes):
        vectors = channels
        if plane % n_x < n_x - 1:
            vectors *= stride
        if plane // n_x < n_y - 1:
            vectors *= stride
        size = 4 * vectors * LANES * PANEL
        steps = (vectors - channels) * (LANES // UNROLL) + arg(args, STEPS)
        for p in range(0, panels, wide):
            b = at_plane + p * all_size
            ahead, advance = b + (_AHEAD if wide == 1 else _SOON), 4 * UNROLL * PANEL // groups
            apart = all_size if p + 1 < panels and wide == 2 else 0
            if wide == 1 and (size <= _AHEAD or groups > 1):
                ahead = b + all_size
                if p == panels - 1:
                    ahead = at_plane + size if plane < planes - 1 else behind
            out = m_base + VECTORS * p * column + plane * ROWS * _BYTES
            for g in range(groups):
                multiply_tile(
                    min(rows, count - g * rows),
                    v + g * v_group + plane * v_plane,
                    b,
                    out + g * m_group,
                    column,
                    steps,
                    ahead + g * (size // groups),
                    advance,
                    0,
                    apart,
                )
            done += fetch * count * m * wide
            while done >= products:
                done -= products
                _fetch_line(args, table, tile, line, panel0, panels)
                line += 1
                if line == m:
                    tile, line = tile + 1, 0
        at_plane += size


@inline_njit
def _read_few(args, base, t0, count, v, v_group):
    """Transform few tiles, ``t0 .. t0 + count``, into V."""
    planes = arg(args, N_Y) * arg(args, N_X)
    image, y, x = place(args, t0)
    for first in range(0, count, TALL):
        height, to = height_of(args, count - first), v + first // TALL * v_group
        for t in range(min(height, count - first)):
            read_tile(args, base, image, y, x, to + t * _BYTES, height * _BYTES,
                      planes * height * _BYTES)  # fmt: skip
            image, y, x = next_place(args, image, y, x)
        turn_planes(args, to, height)


@inline_njit
def _run_block(args, base, t0, count, panel0, panel1):
    """Compute tiles ``t0 .. t0 + count`` of panels ``panel0 .. panel1``; scratch at ``base``."""
    vectors, panel_block = (arg(args, CHANNELS) + LANES - 1) // LANES, arg(args, PANEL_BLOCK)
    stride, planes = arg(args, STRIDE), arg(args, N_Y) * arg(args, N_X)
    few, by_line = arg(args, PRODUCTS) != 0, arg(args, LINE) != 0
    rows = TALL if few else rows_of_groups(count)
    groups, column = (count + rows - 1) // rows, planes * ROWS * _BYTES
    v_plane = (stride * stride * vectors * ROWS + 1) * _BYTES
    v_group = planes * (vectors * height_of(args, count) * _BYTES if few else v_plane)
    m_group = panel_block * VECTORS * column
    patch = arg(args, SIDE_Y) * arg(args, SIDE_X) * _BYTES  # the first bytes: of one tile
    v = base + patch
    m_base = v + groups * v_group
    table = m_base + groups * m_group
    made = table + (16 * arg(args, TILE_BLOCK) + _BYTES - 1) // _BYTES * _BYTES  # of late weights
    if few:
        _read_few(args, base, t0, count, v, v_group)
    else:
        image, y, x = place(args, t0)
        for t in range(count):
            to = v + t // rows * v_group + t % rows * _BYTES
            read_tile(args, base, image, y, x, to, v_plane, ROWS * _BYTES)
            image, y, x = next_place(args, image, y, x)
    area = arg(args, BATCH) * arg(args, OUT_H) * arg(args, OUT_W)
    fetch = not by_line and 4 * area * (arg(args, CHANNELS) + arg(args, COLUMNS)) > _FAR
    if fetch:
        _tables(args, table, t0, count, arg(args, TILE_BLOCK))
    size = 4 * PANEL * _depth(args)
    for p0 in range(panel0, panel1, panel_block):
        panels = min(panel_block, panel1 - p0)
        behind = arg(args, WEIGHTS) + (p0 + panels if p0 + panels < panel1 else panel0) * size
        if few:
            multiply_few(args, count, v, v_group, m_base, m_group, made, p0, panels)
        elif by_line:
            multiply_lines(args, groups, rows, count, v, v_plane, v_group, m_base, m_group, made,
                           p0, panels)  # fmt: skip
        else:
            _multiply(args, table, groups, rows, count, v, v_plane, v_group, m_base, m_group, p0,
                      panels, behind, fetch)  # fmt: skip
        n1 = min((p0 + panels) * PANEL, arg(args, COLUMNS))
        image, y, x = place(args, t0)
        for t in range(count):
            src = m_base + t // rows * m_group + t % rows * _BYTES
            write_tile(args, base, image, y, x, src, column, p0 * PANEL, n1)
            image, y, x = next_place(args, image, y, x)


@kernel(parts=(FINISH, MULTIPLY))
def winograd(args, tid, nt, cuts):
    """Compute this thread's tiles and output channels of the conv that the record describes.

    Every output is the same sum in the same order for any blocks and thread count.
    """
    m_y, m_x = arg(args, M_Y), arg(args, M_X)
    tiles = ((arg(args, OUT_H) + m_y - 1) // m_y) * ((arg(args, OUT_W) + m_x - 1) // m_x)
    tiles *= arg(args, BATCH)
    panels = (arg(args, COLUMNS) + PANEL - 1) // PANEL
    if tiles <= 0 or panels <= 0:
        return
    least = _least(4 * PANEL * _depth(args) * panels)
    by_tiles, by_panels = split_tiles(nt, tiles, panels, arg(args, LINE) != 0, least)
    if tid >= by_tiles * by_panels:
        return
    cuts = cuts if by_tiles * by_panels == nt else 0
    i_tile, i_panel = tid // by_panels, tid % by_panels
    panel0, panel1 = part(panels, i_panel, by_panels, tid - i_panel, 1, cuts)
    begin, end = part(tiles, i_tile, by_tiles, 0, by_panels, cuts)
    base = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    block = arg(args, TILE_BLOCK)
    for t0 in range(begin, end, block):
        _run_block(args, base, t0, min(block, end - t0), panel0, panel1)
