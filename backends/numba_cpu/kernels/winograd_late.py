"""numba_cpu > kernels > winograd_late: products of :mod:`winograd` with weights as they are.

Transformed once for all calls, the weights of F(4x4, 3x3) are four times the bytes, with stride 2
2.8 times, of F(4, 3) along one axis twice, and a layer of few tiles waits for them. Here they stay
as they are, and each call transforms them. Of up to FEW tiles that is done in the registers of the
products (:mod:`winograd_late_tile`): storing what is made would take longer than making it anew.
For more tiles, and with stride 2, the planes of one line are made of some channels of a panel
(:func:`make_line`), stored in a near cache, and multiplied by :mod:`winograd_product` as if they
had been made before; sums of some channels, and of the phases, are added up in M.

The points of :mod:`winograd_points` are small powers of two for 3x3. The denominators of ``G`` are
left out until the end of a row, so that it takes few roundings. Weights are ``f32[columns of wide
vectors, channels, *taps, wide, LANES]`` (:func:`winograd_plan.pack_late`), of whole vectors of
channels. V is that of :mod:`winograd`; of few tiles ``[vector of channels][P][FEW][LANES]``: what
one call reads of a vector of channels lies together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS, VECTORS
from leptonc.backends.numba_cpu.kernels.part import Part, part
from leptonc.backends.numba_cpu.kernels.vec import arg
from leptonc.backends.numba_cpu.kernels.vectype import I64, LANES, i64
from leptonc.backends.numba_cpu.kernels.winograd_calls import call_of
from leptonc.backends.numba_cpu.kernels.winograd_late_tile import (
    APART,
    FEW,
    VECTOR,
    Place,
    emit_line,
    emit_tile,
    line_of,
    sets,
    slots_of,
)
from leptonc.backends.numba_cpu.kernels.winograd_points import ONE, Axis, Form
from leptonc.backends.numba_cpu.kernels.winograd_product import UNROLL, multiply_tile
from leptonc.backends.numba_cpu.kernels.winograd_slots import (
    BLOCK,
    CHANNELS,
    LINE,
    M_X,
    M_Y,
    N_X,
    N_Y,
    SIDE_X,
    SIDE_Y,
    STRIDE,
    TURNS,
    WEIGHTS,
)
from leptonc.backends.numba_cpu.kernels.winograd_slots import LATE as PRODUCTS

#: Vectors of channels that are taken at a time: by few tiles; by up to SOME, whose planes of a line
#: the first-level cache holds; by more, which add up seldom and wait less for the second-level one.
_FEW_BLOCK, _SOME_BLOCK, _MANY_BLOCK = 4, 1, 8
SOME = 20


@dataclass(frozen=True)
class Late:
    """What multiplies with weights as they are: one part, and how often a product is begun.

    ``wide``: vectors of columns side by side in the weights. ``block``: vectors of channels at a
    time. ``turns``: of the products of few tiles, else 0: the part makes planes.
    """

    part: Part
    wide: int
    block: int
    turns: int = 0

    def slots(self) -> dict[str, Part | int]:
        """Return what the record says of it."""
        few = self.turns > 0
        return {
            "line": 0 if few else self.part, "late": self.part if few else 0,
            "turns": self.turns, "block": self.block,
        }  # fmt: skip


#: What the record says where weights are transformed before.
EARLY: Mapping[str, Part | int] = {"line": 0, "late": 0, "turns": 0, "block": 0}
_PARAMS, _LINE = [I64] * 9, [I64] * 4


def _name(form: Form, what: str) -> str:
    by = f"_by{form.stride}" if form.stride > 1 else ""
    return f"wino_{what}_{form.y.m}x{form.x.m}_{form.y.taps}x{form.x.taps}{by}"


def _few(form: Form) -> Late:
    """Return the products of up to FEW tiles: a turn for each line and set of its planes."""
    turns = [(i, planes) for i in range(form.y.n) for planes in sets(form)]

    @part(_name(form, "late_few"), _PARAMS)
    def products(b: ir.IRBuilder, turn, a, raw, *rest):
        end = b.append_basic_block("end")
        switch = b.switch(turn, end)
        for k, (i, planes) in enumerate(turns):
            here = b.append_basic_block("planes")
            switch.add_case(i64(k), here)
            b.position_at_end(here)
            emit_tile(form, planes, b, i64(i), line_of(form, b, i, raw, 1), Place(a, *rest))
            b.branch(end)
        b.position_at_end(end)

    return Late(products, 1, _FEW_BLOCK, len(turns))


def _many(form: Form) -> Late:
    """Return what makes the planes of a line for more tiles."""

    @part(_name(form, "late_line"), _LINE)
    def line(b: ir.IRBuilder, i, raw, to, channels):
        end = b.append_basic_block("end")
        switch = b.switch(i, end)
        for k in range(form.y.n):
            here = b.append_basic_block("line")
            switch.add_case(i64(k), here)
            b.position_at_end(here)
            phases = range(form.y.shares(k))
            lines = [line_of(form, b, k, raw, VECTORS, phase) for phase in phases]
            emit_line(form, k, b, lines, to, channels)
            b.branch(end)
        b.position_at_end(end)

    return Late(line, VECTORS, _MANY_BLOCK)


#: F(2x2) has fewer planes than tiles to spread their transform over: kept, it is faster.
LATE: Mapping[Form, tuple[Late, ...]] = {
    Form.square(3, 4): (_few(Form.square(3, 4)), _many(Form.square(3, 4))),
    Form.square(3, 2, 2): (_many(Form.square(3, 2, 2)),),
    Form(ONE, Axis(3, 4)): (_many(Form(ONE, Axis(3, 4))),),
    Form(Axis(3, 4), ONE): (_many(Form(Axis(3, 4), ONE)),),
}
"""For each form that may be late: the products of up to FEW tiles, if it has them, and last what
more are multiplied by."""


def late_of(form: Form, tiles: int) -> Late:
    """Return what is late for so many tiles over the batch."""
    first, many = LATE[form][0], LATE[form][-1]
    if tiles <= FEW and first.turns > 0:
        return first
    return replace(many, block=_SOME_BLOCK) if tiles <= SOME else many


def line_bytes(form: Form, block: int) -> int:
    """Return the bytes of the planes of a line, a multiple of those of a vector."""
    return len(slots_of(form, 0)) * 4 * (block * LANES * PANEL + APART)


_CALL, _CALL_LINE = call_of(_PARAMS), call_of(_LINE)


@intrinsic
def make_line(typingctx, code, i, raw, to, channels):
    """Write the planes of line ``i`` of a panel of weights.

    ``code``: the address of the form's part. ``raw``: address of ``f32[channels, *taps, PANEL]``.
    ``to``: address of ``f32[n_x of each phase, channels,
    PANEL]``, each followed by APART floats. ``channels``: at least 1.
    """
    return types.void(*(types.int64,) * 5), _CALL_LINE


@intrinsic
def multiply_planes(typingctx, code, turn, a, raw, out, column, vectors, onto, ahead, advance):
    """Multiply the planes of a turn of FEW tiles with a block of weights.

    ``code``: the address of the form's products. ``a``: address of plane 0 of V, of the first
    vector of channels. ``raw``: address of ``f32[vectors * LANES, *taps, LANES]``. ``out``: address
    of plane 0 of M, ``f32[ROWS, LANES]``, and plane by plane; ``column``: bytes to the next vector
    of columns. ``vectors``: of channels, at least 1. ``onto``: 0, or sums are added to what lies at
    ``out``. ``ahead``: address of what to ask for meanwhile, ``advance`` bytes with each channel.
    """
    return types.void(*(types.int64,) * 10), _CALL


@inline_njit
def _taps(args):
    """Return the taps of a kernel."""
    stride = arg(args, STRIDE)
    down = arg(args, SIDE_Y) - stride * (arg(args, M_Y) - 1)
    return down * (arg(args, SIDE_X) - stride * (arg(args, M_X) - 1))


@inline_njit
def multiply_few(args, v, m_base, panel0, panels):
    """Multiply every plane of V of few tiles with ``panels`` panels, from ``panel0``, into M."""
    channels, turns = arg(args, CHANNELS) // LANES, arg(args, TURNS)
    # Of a vector of channels: weights, V; of M: from vector to vector of columns.
    planes = arg(args, N_Y) * arg(args, N_X)
    size, step = LANES * VECTOR * _taps(args), planes * FEW * VECTOR
    column, block = planes * ROWS * VECTOR, arg(args, BLOCK)
    raw = arg(args, WEIGHTS) + panel0 * VECTORS * channels * size
    for j in range(panels * VECTORS):
        for k in range(0, channels, block):
            vectors = min(block, channels - k)
            following = raw + vectors * size  # of the next block, or of the next columns
            share, ahead = vectors * size // turns, following
            for turn in range(turns):
                multiply_planes(
                    arg(args, PRODUCTS), turn, v + k * step, raw, m_base + j * column, column,
                    vectors, k, ahead, share // (vectors * LANES),
                )  # fmt: skip
                ahead += share
            raw = following


@inline_njit
def multiply_lines(args, groups, rows, count, v, v_plane, v_group, m_base, m_group, planes,
                   panel0, panels):  # fmt: skip
    """Multiply every plane of V with ``panels`` panels, made line by line at ``planes``, into M.

    Meanwhile the weights of the next panel are asked for, a share with each product.
    """
    n_y, n_x, stride = arg(args, N_Y), arg(args, N_X), arg(args, STRIDE)
    channels = arg(args, CHANNELS) // LANES  # vectors of them
    # Of a vector of channels: weights, V of a plane; of M: from vector to vector of columns.
    size, step = LANES * 4 * PANEL * _taps(args), ROWS * VECTOR
    column, block = n_y * n_x * ROWS * VECTOR, arg(args, BLOCK)
    products = (stride * (n_y - 1) + 1) * (stride * (n_x - 1) + 1)  # of all planes and phases
    raw = arg(args, WEIGHTS) + panel0 * channels * size
    for p in range(panels):
        for k in range(0, channels, block):
            vectors = min(block, channels - k)
            ahead = raw + vectors * size  # of the next block, or of the next panel
            share = vectors * size // (products * groups)
            apart, made = 4 * (vectors * LANES * PANEL + APART), planes
            steps = vectors * (LANES // UNROLL)
            for plane in range(n_y * n_x):
                i, j = plane // n_x, plane % n_x
                if j == 0:
                    make_line(arg(args, LINE), i, raw, planes, vectors * LANES)
                    made = planes
                phases = (stride if i < n_y - 1 else 1) * (stride if j < n_x - 1 else 1)
                out = m_base + VECTORS * p * column + plane * step
                for phase in range(phases):
                    for g in range(groups):
                        multiply_tile(
                            min(rows, count - g * rows),
                            v + g * v_group + plane * v_plane + (phase * channels + k) * step,
                            made, out + g * m_group, column, steps, ahead, share // steps,
                            k + phase, 0,
                        )  # fmt: skip
                        ahead += share
                    made += apart
            raw += vectors * size
