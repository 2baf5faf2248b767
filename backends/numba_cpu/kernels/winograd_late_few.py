"""numba_cpu > kernels > winograd_late_few: products of few tiles of :mod:`winograd_late`.

A register tile (:mod:`winograd_late_tile`) makes planes of the weights while it multiplies them. Up
to FEW tiles take all planes of a line, of taps. More tiles go TALL at a time, each time with a part
of the planes. Taps that are transformed down (half-lines) are needed several times then: those of
the two lines of a pair of points are made together, of some channels, for the first-level cache;
the outer lines are rows of taps as they are.

V is ``[group][vector of channels][P][tiles of the group][LANES]``, some planes turned
(:mod:`winograd_quads`): what one call reads of a vector of channels lies together. Sums of some
channels are added up in M, always in the same order: bits do not depend on groups.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.ir_loops import case_of
from leptonc.backends.numba_cpu.kernels.machine_code import adds_beside
from leptonc.backends.numba_cpu.kernels.microkernel import ROWS, VECTORS
from leptonc.backends.numba_cpu.kernels.part import Part, part
from leptonc.backends.numba_cpu.kernels.vec import arg
from leptonc.backends.numba_cpu.kernels.vectype import I64, LANES, i64
from leptonc.backends.numba_cpu.kernels.winograd_calls import call_of, name_of
from leptonc.backends.numba_cpu.kernels.winograd_late_tile import (
    SUMS,
    VECTOR,
    Place,
    emit_half,
    emit_tile,
    line_of,
    row_of,
    sets,
)
from leptonc.backends.numba_cpu.kernels.winograd_points import Form
from leptonc.backends.numba_cpu.kernels.winograd_quads import FEW, QUADS, turn_rows
from leptonc.backends.numba_cpu.kernels.winograd_slots import (
    BLOCK,
    CHANNELS,
    HALF,
    LOW,
    M_X,
    M_Y,
    N_X,
    N_Y,
    PRODUCTS,
    SIDE_X,
    SIDE_Y,
    STRIDE,
    WEIGHTS,
)

TALL = 2 * FEW  # tiles of a group where they are more than FEW
#: Tiles that are few, measured where additions run beside multiply-adds.
MOST_FEW = 3 * TALL if LANES == 16 and adds_beside() else FEW
#: Vectors of channels at a time: V and weights of so many lie in the first-level cache; where loads
#: do not limit, adding up in M counts more.
FEW_BLOCK, TALL_BLOCK = 2 if adds_beside() else 4, 4
_PARAMS, _HALF = [I64] * 10, [I64] * 4


def products(form: Form, height: int, of_taps: bool) -> Part:
    """Return the products of ``height`` tiles: a turn for each line and set of its planes.

    ``of_taps``: they are made of taps, else of half-lines.
    """
    some = sets(form, height)
    turns = [(i, planes) for i in range(form.y.n if of_taps else 1) for planes in some]

    @part(name_of(form, f"late_few{height}{'' if of_taps else '_half'}"), _PARAMS)
    def made(b: ir.IRBuilder, turn, a, weights, w_step, *rest):
        at, count = Place(a, *rest), i64(len(some))
        line = b.udiv(turn, count)

        def one(k: int) -> None:
            i, planes = turns[k]
            taps = line_of(form, b, i, weights, 1) if of_taps else row_of(weights, w_step)
            emit_tile(form, height, planes, b, line, taps, at)

        case_of(b, turn if of_taps else b.urem(turn, count), range(len(turns)), one)

    return made


def half_lines(form: Form) -> Part:
    """Return what makes the half-lines of the pairs of points of a form that has a zero."""

    @part(name_of(form, "late_half"), _HALF)
    def made(b: ir.IRBuilder, i, *rest):
        case_of(b, i, range(1, form.y.n - 1, 2), lambda k: emit_half(form, k, b, *rest))

    return made


_CALL, _CALL_HALF = call_of(_PARAMS), call_of(_HALF)


@intrinsic
def multiply_planes(
    typingctx, code, turn, a, weights, w_step, out, column, vectors, onto, ahead, advance
):
    """Multiply the planes of a turn of a group of tiles with a block of weights.

    ``code``: the address of the form's products. ``a``: address of plane 0 of V, of the first
    vector of channels. ``weights``: address of ``f32[vectors * LANES, *taps, LANES]``, or of a row
    of taps or half-line, ``w_step`` bytes from channel to channel. ``out``: address of plane 0 of
    M, ``f32[ROWS, LANES]``, and plane by plane; ``column``: bytes to the next vector of columns.
    ``vectors``: of channels, at least 1. ``onto``: 0, or sums are added to what lies at ``out``.
    ``ahead``: address of what to ask for meanwhile, ``advance`` bytes with each channel.
    """
    return types.void(*(types.int64,) * 11), _CALL


@intrinsic
def make_half(typingctx, code, i, raw, to, channels):
    """Write half-lines ``i``, odd, and ``i + 1``: what planes of these lines are made of.

    ``code``: the address of the form's part. ``raw``: address of ``f32[channels, *taps, LANES]``.
    ``to``: address of ``f32[channels, 2, taps of a line, LANES]``. ``channels``: at least 1.
    """
    return types.void(*(types.int64,) * 5), _CALL_HALF


def half_bytes(form: Form, block: int) -> int:
    """Return the bytes of two half-lines of ``block`` vectors of channels."""
    return 2 * block * LANES * form.x.taps * VECTOR


@inline_njit
def taps_across(args):
    """Return the taps of a row of a kernel."""
    return arg(args, SIDE_X) - arg(args, STRIDE) * (arg(args, M_X) - 1)


@inline_njit
def taps_of(args):
    """Return the taps of a kernel."""
    down = arg(args, SIDE_Y) - arg(args, STRIDE) * (arg(args, M_Y) - 1)
    return down * taps_across(args)


@inline_njit
def height_of(args, left):
    """Return the tiles of the next group, of which ``left`` are left."""
    return FEW if left <= FEW or arg(args, HALF) == 0 else TALL


@inline_njit
def turn_planes(args, v, height):
    """Turn the planes of a group of ``height`` tiles that products read so, QUADS of each line."""
    lines, n_x = arg(args, CHANNELS) // LANES * arg(args, N_Y), arg(args, N_X)
    for line in range(lines):
        for j in QUADS:
            at = v + (line * n_x + j) * height * VECTOR
            for t in range(0, height, FEW):
                turn_rows(at + t * VECTOR)


@inline_njit
def _sets(args, height):
    """Return the turns of a line: how many sets of its planes there are."""
    together = SUMS // height
    return (arg(args, N_X) + together - 1) // together


@inline_njit
def _multiply_line(args, i, count, v, v_group, raw, made, out, m_group, vectors, k, ahead, advance):
    """Multiply line ``i`` of ``count`` tiles with a block of weights; return what to ask for next.

    ``made``: where half-lines go, if products read these: those of a pair of lines together.
    """
    n_y, planes = arg(args, N_Y), arg(args, N_Y) * arg(args, N_X)
    column, row, w_step = planes * ROWS * VECTOR, taps_across(args) * VECTOR, taps_of(args) * VECTOR
    weights = raw  # and the first row of taps
    if arg(args, HALF) != 0 and i == n_y - 1:
        weights += w_step - row
    elif arg(args, HALF) != 0 and i > 0:
        if i % 2 == 1:
            make_half(arg(args, HALF), i, raw, made, vectors * LANES)
        weights, w_step = made + (1 - i % 2) * row, 2 * row
    for first in range(0, count, TALL):
        height = height_of(args, count - first)
        sets, at = _sets(args, height), v + first // TALL * v_group + k * planes * height * VECTOR
        code = arg(args, LOW) if height == FEW else arg(args, PRODUCTS)
        for turn in range(i * sets, (i + 1) * sets):
            multiply_planes(
                code, turn, at, weights, w_step, out + first // TALL * m_group, column, vectors, k,
                ahead, advance,
            )  # fmt: skip
            ahead += advance * vectors * LANES
    return ahead


@inline_njit
def multiply_few(args, count, v, v_group, m_base, m_group, made, panel0, panels):
    """Multiply every plane of V of few tiles with ``panels`` panels, from ``panel0``, into M.

    All groups of tiles take a block of weights while a near cache holds it, all columns a block of
    V. ``made``: where half-lines go, of more than FEW tiles.
    """
    channels, n_y, block = arg(args, CHANNELS) // LANES, arg(args, N_Y), arg(args, BLOCK)
    # Bytes of the weights of a vector of channels, and of M from vector to vector of columns.
    size, column = LANES * VECTOR * taps_of(args), n_y * arg(args, N_X) * ROWS * VECTOR
    columns, products = panels * VECTORS, 0
    for first in range(0, count, TALL):
        products += n_y * _sets(args, height_of(args, count - first))
    begin = arg(args, WEIGHTS) + panel0 * VECTORS * channels * size
    advance = size // (products * LANES)
    for k in range(0, channels, block):
        vectors = min(block, channels - k)
        for j in range(columns):
            raw = begin + (j * channels + k) * size
            ahead = raw + vectors * size
            if k + vectors >= channels:
                ahead = begin + (j + columns) * channels * size
            for i in range(n_y):
                ahead = _multiply_line(args, i, count, v, v_group, raw, made, m_base + j * column,
                                       m_group, vectors, k, ahead, advance)  # fmt: skip
