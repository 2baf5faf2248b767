"""numba_cpu > kernels > winograd_late: products of :mod:`winograd` with weights as they are.

Transformed once for all calls, the weights of F(4x4, 3x3) are four times the bytes, and a layer of
few tiles waits for them. Here they stay as they are. The products of HEIGHT tiles with a vector of
columns read the taps of a channel, make some planes of their transform in registers and multiply
these with the tiles: what is transformed is never stored.

The points of :mod:`winograd_points` are small integers for 3x3. The denominators of ``G`` are left
out of the planes and multiply the sums of a block of channels, so that a plane takes two operations
or three, each with one rounding. Blocks also shorten the chains of sums: with 512 channels results
err a third of what they do where one chain runs over all channels.

Weights are ``f32[vectors of columns, channels, *taps, LANES]`` (:func:`winograd_plan.pack_late`),
of whole vectors of channels. Those of a block stay in the first-level cache while all planes are
made of them, and the next block comes from memory meanwhile.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.ir_loops import Loop
from leptonc.backends.numba_cpu.kernels.microkernel import ROWS, VECTORS
from leptonc.backends.numba_cpu.kernels.part import Part, part
from leptonc.backends.numba_cpu.kernels.vec import arg
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I64,
    LANES,
    PTR,
    fconst,
    fma,
    i64,
    load_vec,
    pointer,
    prefetch,
    splat,
)
from leptonc.backends.numba_cpu.kernels.winograd_calls import call_of
from leptonc.backends.numba_cpu.kernels.winograd_points import Axis, Form, matrices, points
from leptonc.backends.numba_cpu.kernels.winograd_slots import (
    CHANNELS,
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
from leptonc.backends.numba_cpu.kernels.winograd_transform import add_times

_BYTES = 4 * LANES
HEIGHT = 4  # tiles of a group
_BLOCK = 4  # vectors of channels whose weights fit the first-level cache
_UNROLL = 2  # channels, of a vector; divides LANES
_SUMS = 24 if LANES == 16 else 12  # that registers hold beside what they are made of
Read = Callable[[int], ir.Value]


def scales(axis: Axis) -> list[float]:
    """Return what :func:`evaluate` leaves out of the rows of ``G``: their first elements."""
    return [*map(float, matrices(axis).g[:-1, 0]), 1.0]


def sets(form: Form) -> list[tuple[int, tuple[int, ...]]]:
    """Return the planes, of one line of them, that are made together: the line and the columns."""
    some = max(1, _SUMS // HEIGHT)
    return [
        (i, tuple(range(j, min(j + some, form.x.n))))
        for i in range(form.y.n)
        for j in range(0, form.x.n, some)
    ]


def evaluate(b: ir.IRBuilder, axis: Axis, rows: Sequence[int], taps: Read) -> dict[int, ir.Value]:
    """Return rows of ``G`` times three taps, without their :func:`scales`; an axis without singles.

    A row of point p is the polynomial of the taps at p; the rows of a pair share its even part.
    """
    at, made, even = points(axis), dict[int, ir.Value](), dict[float, ir.Value]()
    for k in rows:
        if k in (0, axis.n - 1):
            made[k] = taps(0 if k == 0 else 2)
            continue
        square = at[k] ** 2
        if square not in even:
            even[square] = add_times(b, square, taps(2), taps(0))
        made[k] = add_times(b, at[k], taps(1), even[square])
    return made


@dataclass(frozen=True)
class Late:
    """The products of one form, of planes in so many turns."""

    products: Part
    turns: int

    def slots(self) -> dict[str, Part | int]:
        """Return what the record says of it."""
        return {"late": self.products, "turns": self.turns}


#: What the record says where weights are transformed before.
EARLY: Mapping[str, Part | int] = {"late": 0, "turns": 0}


def _tile(
    form: Form, i: int, planes: Sequence[int], b: ir.IRBuilder, a, v_plane, raw, out, vectors, onto,
    ahead,
) -> None:  # fmt: skip
    """Write the products of some planes of line ``i`` of them; see :func:`multiply_planes`."""
    taps, across = math.prod(form.kernel), form.x.taps
    lines = -(-taps * _UNROLL // len(sets(form)))  # to ask for in a step
    firsts = [b.add(a, b.mul(v_plane, i64(i * form.x.n + j))) for j in planes]
    pointers = [b.inttoptr(x, PTR) for x in (raw, ahead, *firsts)]
    outer = Loop(b, "vector", [vectors, *pointers, *[fconst(0.0)] * (len(planes) * HEIGHT)])
    left, *state = outer.values
    inner = Loop(b, "channels", [i64(LANES // _UNROLL), *state])
    steps, weights, asked, *rest = inner.values
    tiles, sums = rest[: len(planes)], rest[len(planes) :]

    def at(ptr: ir.Value, floats: int) -> ir.Value:
        return b.gep(ptr, [i64(floats)], source_etype=F32)

    def tap(k: int, x: int, y: int) -> ir.Value:
        return load_vec(b, at(weights, (k * taps + y * across + x) * LANES))

    for k in range(_UNROLL):
        for line in range(k, lines, _UNROLL):
            prefetch(b, at(asked, line * LANES), level=2)
        columns = [evaluate(b, form.y, [i], functools.partial(tap, k, x))[i] for x in range(across)]
        made = evaluate(b, form.x, planes, columns.__getitem__)
        for p, plane in enumerate(planes):
            for t in range(HEIGHT):
                one = splat(b, b.load(at(tiles[p], t * LANES + k), align=4, typ=F32))
                sums[p * HEIGHT + t] = fma(b, one, made[plane], sums[p * HEIGHT + t])
    weights, asked = at(weights, _UNROLL * taps * LANES), at(asked, lines * LANES)
    tiles = [at(tile, _UNROLL) for tile in tiles]
    for loop, turns in ((inner, steps), (outer, left)):
        if loop is outer:
            tiles = [at(tile, (ROWS - 1) * LANES) for tile in tiles]
        after = b.sub(turns, i64(1))
        more = b.icmp_signed(">", after, i64(0))
        loop.close(more, [after, weights, asked, *tiles, *sums])
    _write(form, i, planes, b, sums, out, onto)


def _write(form: Form, i: int, planes: Sequence[int], b: ir.IRBuilder, sums, out, onto) -> None:
    """Write the sums times what was left out of ``G``, or add them where ``onto`` is not 0."""
    cells = [(j, t) for j in planes for t in range(HEIGHT)]
    places = [pointer(b, out, i64(((i * form.x.n + j) * ROWS + t) * LANES)) for j, t in cells]
    factors = [fconst(scales(form.y)[i] * scales(form.x)[j]) for j, _ in cells]
    add, write, end = (b.append_basic_block(name) for name in ("add", "write", "end"))
    b.cbranch(b.icmp_signed("!=", onto, i64(0)), add, write)
    b.position_at_end(write)
    for place, total, factor in zip(places, sums, factors, strict=True):
        b.store(b.fmul(factor, total), place, align=4)
    b.branch(end)
    b.position_at_end(add)
    for place, total, factor in zip(places, sums, factors, strict=True):
        b.store(fma(b, factor, total, load_vec(b, place)), place, align=4)
    b.branch(end)
    b.position_at_end(end)


_PARAMS = [I64] * 8


def _late(form: Form) -> Late:
    """Return the products of ``form``."""
    (y, x), turns = form, sets(form)

    @part(f"wino_late_{y.m}x{x.m}_{y.taps}x{x.taps}", _PARAMS)
    def products(b: ir.IRBuilder, turn: ir.Value, *args: ir.Value) -> None:
        end = b.append_basic_block("end")
        switch = b.switch(turn, end)
        for k, (i, planes) in enumerate(turns):
            here = b.append_basic_block("planes")
            switch.add_case(i64(k), here)
            b.position_at_end(here)
            _tile(form, i, planes, b, *args)
            b.branch(end)
        b.position_at_end(end)

    return Late(products, len(turns))


#: F(2x2) has fewer planes than tiles to spread their transform over: kept, it is faster.
LATE: Mapping[Form, Late] = {form: _late(form) for form in (Form.square(3, 4),)}
_CALL = call_of(_PARAMS)


@intrinsic
def multiply_planes(typingctx, code, turn, a, v_plane, raw, out, vectors, onto, ahead):
    """Multiply the planes of a turn of HEIGHT tiles with a block of weights.

    ``code``: the address of the form's products. ``a``: address of plane 0 of V, ``f32[vectors,
    ROWS, LANES]``; ``v_plane``: bytes to the next plane. ``raw``: address of ``f32[vectors * LANES,
    *taps, LANES]``. ``out``: address of plane 0 of M, ``f32[ROWS, LANES]``, and plane by plane.
    ``vectors``: of channels, at least 1. ``onto``: 0, or sums are added to what lies at ``out``.
    ``ahead``: address of what to ask for meanwhile, a share of as much as at ``raw``.
    """
    return types.void(*(types.int64,) * 9), _CALL


@inline_njit
def multiply_late(args, groups, v, v_plane, v_group, m_base, m_group, panel0, panels):
    """Multiply every plane of V with ``panels`` panels of weights, from ``panel0``, into M."""
    channels, turns = arg(args, CHANNELS) // LANES, arg(args, TURNS)
    # Of a vector of channels: weights; of M: from vector to vector of columns.
    taps = (arg(args, SIDE_Y) - arg(args, M_Y) + 1) * (arg(args, SIDE_X) - arg(args, M_X) + 1)
    size, column = LANES * _BYTES * taps, arg(args, N_Y) * arg(args, N_X) * ROWS * _BYTES
    raw = arg(args, WEIGHTS) + panel0 * VECTORS * channels * size
    for j in range(panels * VECTORS):
        for k in range(0, channels, _BLOCK):
            vectors = min(_BLOCK, channels - k)
            following = raw + vectors * size  # of the next block, or of the next columns
            a, share = v + k * ROWS * _BYTES, vectors * size // turns
            for turn in range(turns):
                for g in range(groups):
                    multiply_planes(
                        arg(args, PRODUCTS), turn, a + g * v_group, v_plane, raw,
                        m_base + j * column + g * m_group, vectors, k, following + turn * share,
                    )  # fmt: skip
            raw = following
