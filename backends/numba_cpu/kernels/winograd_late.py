"""numba_cpu > kernels > winograd_late: products of :mod:`winograd` with weights as they are.

Transformed once for all calls, the weights of F(4x4, 3x3) are four times the bytes, and a layer of
few tiles waits for them. Here they stay as they are, and each call transforms them: along the lines
of the kernel block by block of channels, to halves in the second-level cache (:func:`make_halves`),
which all tiles of the image share; along its columns in the registers of the products
(:mod:`winograd_late_tile`). Of up to FEW tiles the halves are made in registers, too: that repeats
little then, and storing them takes longer.

The points of :mod:`winograd_points` are small powers of two for 3x3. The denominators of ``G`` are
left out of the planes and multiply the sums of a block of channels, so that a row takes two
roundings. Blocks also shorten the chains of sums: with 512 channels results err a third of what
they do where one chain runs over all channels.

Weights are ``f32[columns of wide vectors, channels, *taps, wide, LANES]``
(:func:`winograd_plan.pack_late`), of whole vectors of channels. V is ``[tiles of height][vector of
channels][P][height][LANES]``: what one call reads of a vector of channels lies together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.microkernel import ROWS, VECTORS
from leptonc.backends.numba_cpu.kernels.part import Part, part
from leptonc.backends.numba_cpu.kernels.vec import arg
from leptonc.backends.numba_cpu.kernels.vectype import I64, LANES, i64
from leptonc.backends.numba_cpu.kernels.winograd_calls import call_of
from leptonc.backends.numba_cpu.kernels.winograd_late_tile import (
    VECTOR,
    Line,
    Place,
    Shape,
    emit_halves,
    emit_tile,
)
from leptonc.backends.numba_cpu.kernels.winograd_points import Form, points
from leptonc.backends.numba_cpu.kernels.winograd_slots import (
    CHANNELS,
    HALVES,
    M_X,
    M_Y,
    N_X,
    N_Y,
    SIDE_X,
    SIDE_Y,
    TURNS,
    WEIGHTS,
)
from leptonc.backends.numba_cpu.kernels.winograd_slots import LATE as PRODUCTS

FEW = 4  # tiles for which halves are not stored
_FEW, _MANY = Shape(FEW, 1, few=True), Shape(2, 2) if LANES == 16 else Shape(4, 1)
GROUP = ROWS // _MANY.height * _MANY.height  # tiles of a group of M
BLOCK = 4  # vectors of channels whose weights are transformed at a time


@dataclass(frozen=True)
class Late:
    """The products of one form: of planes in so many turns, of ``halves`` unless tiles are few."""

    shape: Shape
    halves: Part | None
    products: Part
    turns: int

    @property
    def parts(self) -> tuple[Part, ...]:
        """What a network that multiplies so needs."""
        return (self.products,) if self.halves is None else (self.halves, self.products)

    def slots(self) -> dict[str, Part | int]:
        """Return what the record says of it."""
        return {"halves": self.halves or 0, "late": self.products, "turns": self.turns}


#: What the record says where weights are transformed before.
EARLY: Mapping[str, Part | int] = {"halves": 0, "late": 0, "turns": 0}
_PARAMS, _HALVES = [I64] * 11, [I64] * 3


def _name(form: Form, what: str) -> str:
    return f"wino_{what}_{form.y.m}x{form.x.m}_{form.y.taps}x{form.x.taps}"


def _few(form: Form) -> Late:
    """Return the products of up to FEW tiles: a turn for each line and set of its planes."""
    (y, x), at = form, points(form.y)
    turns = [(i, planes) for i in range(y.n) for planes in _FEW.sets(form)]
    row = x.taps * _FEW.wide * VECTOR

    @part(_name(form, "late_few"), _PARAMS)
    def products(b: ir.IRBuilder, turn, a, raw, half, *rest):
        end = b.append_basic_block("end")
        switch = b.switch(turn, end)
        for k, (i, planes) in enumerate(turns):
            here = b.append_basic_block("planes")
            switch.add_case(i64(k), here)
            b.position_at_end(here)
            inner = 0 < i < y.n - 1
            start = b.add(raw, i64((y.taps - 1) * row)) if i == y.n - 1 else raw
            line = Line(start, i64(y.taps * row), at[i] if inner else None)
            emit_tile(form, _FEW, planes, b, i64(i), line, Place(a, *rest))
            b.branch(end)
        b.position_at_end(end)

    return Late(_FEW, None, products, len(turns))


def _many(form: Form) -> Late:
    """Return the products of more tiles, and what they are made of."""
    y, sets = form.y, _MANY.sets(form)

    @part(_name(form, "halves"), _HALVES)
    def halves(b: ir.IRBuilder, *args: ir.Value) -> None:
        emit_halves(form, _MANY.wide, b, *args)

    @part(_name(form, "late"), _PARAMS)
    def products(b: ir.IRBuilder, turn, a, raw, half, *rest):
        i, end = b.sdiv(turn, i64(len(sets))), b.append_basic_block("end")
        line, place = _line(form, b, i, raw, half, rest[2]), Place(a, *rest)
        switch = b.switch(b.srem(turn, i64(len(sets))), end)
        for k, planes in enumerate(sets):
            here = b.append_basic_block("planes")
            switch.add_case(i64(k), here)
            b.position_at_end(here)
            emit_tile(form, _MANY, planes, b, i, line, place)
            b.branch(end)
        b.position_at_end(end)

    return Late(_MANY, halves, products, y.n * len(sets))


def _line(form: Form, b: ir.IRBuilder, i, raw, half, vectors) -> Line:
    """Return the half transformed weights of line ``i``: those of the first and last are taps."""
    y, row = form.y, form.x.taps * _MANY.wide * VECTOR
    size = b.mul(vectors, i64(LANES * row))
    inner = b.add(half, b.mul(b.sub(i, i64(1)), size))
    first = b.icmp_signed("==", i, i64(0))
    last = b.icmp_signed("==", i, i64(y.n - 1))
    start = b.select(first, raw, b.select(last, b.add(raw, i64((y.taps - 1) * row)), inner))
    return Line(start, b.select(b.or_(first, last), i64(y.taps * row), i64(row)))


#: F(2x2) has fewer planes than tiles to spread their transform over: kept, it is faster.
_FORMS = (Form.square(3, 4),)
LATE: Mapping[Form, tuple[Late, Late]] = {form: (_few(form), _many(form)) for form in _FORMS}
"""For each form that may be late: the products of up to FEW tiles, those of more."""


def late_of(form: Form, tiles: int) -> Late:
    """Return the products for so many tiles over the batch."""
    few, many = LATE[form]
    return few if tiles <= FEW else many


def halves_bytes(form: Form) -> int:
    """Return the bytes of a block of halves, a multiple of those of a vector."""
    return (form.y.n - 2) * form.x.taps * BLOCK * LANES * _MANY.wide * VECTOR


_CALL, _CALL_HALVES = call_of(_PARAMS), call_of(_HALVES)


@intrinsic
def make_halves(typingctx, code, raw, to, channels):
    """Write the inner rows of ``G`` times the taps of ``channels`` channels, at least 1.

    ``code``: the address of the form's part. ``raw``: address of ``f32[channels, *taps, wide,
    LANES]``. ``to``: address of ``f32[n_y - 2, channels, x.taps, wide, LANES]``.
    """
    return types.void(*(types.int64,) * 4), _CALL_HALVES


@intrinsic
def multiply_planes(
    typingctx, code, turn, a, raw, half, out, column, vectors, onto, ahead, advance, soon
):
    """Multiply the planes of a turn of some tiles with a block of weights.

    ``code``: the address of the form's products. ``a``: address of plane 0 of V, of these tiles and
    the first vector of channels. ``raw``: address of ``f32[vectors * LANES, *taps, wide, LANES]``,
    the first vector of columns; ``half``: address of what :func:`make_halves` made of them, or not
    read. ``out``: address of plane 0 of M, ``f32[ROWS, LANES]``, and plane by plane; ``column``:
    bytes to the next vector of columns. ``vectors``: of channels, at least 1. ``onto``: 0, or sums
    are added to what lies at ``out``. ``ahead``: address of what to ask for meanwhile, ``advance``
    bytes with each channel. ``soon``: bytes from ``a`` to the tiles of the next call.
    """
    return types.void(*(types.int64,) * 12), _CALL


_HEIGHT, _WIDE = _MANY.height, _MANY.wide


@inline_njit
def late_shape(args):
    """Return how many tiles lie side by side in V, and vectors of columns in the weights."""
    return (FEW, 1) if arg(args, HALVES) == 0 else (_HEIGHT, _WIDE)


@inline_njit
def multiply_late(args, count, v, m_base, m_group, half, panel0, panels):
    """Multiply every plane of V with ``panels`` panels of weights, from ``panel0``, into M."""
    height, wide = late_shape(args)
    channels, turns = arg(args, CHANNELS) // LANES, arg(args, TURNS)
    # Of a vector of channels: weights, V; of M: from vector to vector of columns.
    taps = (arg(args, SIDE_Y) - arg(args, M_Y) + 1) * (arg(args, SIDE_X) - arg(args, M_X) + 1)
    planes = arg(args, N_Y) * arg(args, N_X)
    size, step = LANES * wide * VECTOR * taps, planes * height * VECTOR
    column = planes * ROWS * VECTOR
    raw = arg(args, WEIGHTS) + panel0 * (VECTORS // wide) * channels * size
    calls = (count + height - 1) // height
    for j in range(0, panels * VECTORS, wide):
        for k in range(0, channels, BLOCK):
            vectors = min(BLOCK, channels - k)
            following = raw + vectors * size  # of the next block, or of the next columns
            if arg(args, HALVES) != 0:
                make_halves(arg(args, HALVES), raw, half, vectors * LANES)
            share, ahead = vectors * size // (turns * calls), following
            for turn in range(turns):
                for t in range(calls):
                    g, row = t * height // GROUP, t * height % GROUP
                    multiply_planes(
                        arg(args, PRODUCTS), turn, v + (t * channels + k) * step, raw, half,
                        m_base + j * column + g * m_group + row * VECTOR, column, vectors, k,
                        ahead, share // (vectors * LANES), channels * step if t + 1 < calls else 0,
                    )  # fmt: skip
                    ahead += share
            raw = following
