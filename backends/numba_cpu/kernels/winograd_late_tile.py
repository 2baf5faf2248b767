"""numba_cpu > kernels > winograd_late_tile: the register tiles of :mod:`winograd_late`, as IR.

A tile multiplies the planes of one line of a transformed weight with some tiles of the image. It
makes them of the line before its second transform, in registers: a plane of a pair of points is the
even part of the taps plus or minus the odd one, and what multiplies a tap is a power of two, so the
planes of a line take additions alone, for which the processor has pipes that do not multiply.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from llvmlite import ir

from leptonc.backends.numba_cpu.kernels.ir_loops import Loop, counted, opaque
from leptonc.backends.numba_cpu.kernels.microkernel import ROWS
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I8,
    LANES,
    PTR,
    fconst,
    floats_on,
    fma,
    i64,
    load_vec,
    pointer,
    prefetch,
    splat,
)
from leptonc.backends.numba_cpu.kernels.winograd_points import Axis, Form, matrices, points
from leptonc.backends.numba_cpu.kernels.winograd_transform import add_times

VECTOR = 4 * LANES  # bytes
_SUMS = 24 if LANES == 16 else 12  # that registers hold beside what planes are made of
Read = Callable[[int], ir.Value]


@dataclass(frozen=True)
class Shape:
    """What one call multiplies: so many tiles of the image, so many vectors of columns.

    The weights of the ``wide`` vectors lie side by side, V of the ``height`` tiles as well.
    """

    height: int
    wide: int
    few: bool = False  # all tiles there are

    def sets(self, form: Form) -> list[tuple[int, ...]]:
        """Return the planes of a line that are made together: their columns."""
        some, n = max(1, _SUMS // (self.height * self.wide)), form.x.n
        return [tuple(range(j, min(j + some, n))) for j in range(0, n, some)]


def scales(axis: Axis) -> list[float]:
    """Return what :func:`evaluate` leaves out of the rows of ``G``: their first elements."""
    return [*map(float, matrices(axis).g[:-1, 0]), 1.0]


def evaluate(
    b: ir.IRBuilder, axis: Axis, rows: Iterable[int], taps: Read
) -> Iterator[tuple[int, ir.Value]]:
    """Yield rows of ``G`` times three taps, without their :func:`scales`; no singles, powers of 2.

    A row of point p is the polynomial of the taps at p. What is yielded is meant to be used up
    before the next is asked for: a register is free again. The middle tap is read once more for
    each row of which it is the odd part, since a load costs less than a register.
    """
    at, rows = points(axis), sorted(rows)
    inner = [k for k in rows if 0 < k < axis.n - 1]
    first, last = taps(0), taps(2)
    if 0 in rows:
        yield 0, first
    even = {p: b.fadd(first, _times(b, p * p, last)) for p in {abs(at[k]): None for k in inner}}
    if axis.n - 1 in rows:
        yield axis.n - 1, last
    odd: dict[float, ir.Value] = {}
    for k in inner:
        p = abs(at[k])
        if p == 1 or p not in odd:
            odd[p] = _times(b, p, taps(1))
        yield k, (b.fadd if at[k] > 0 else b.fsub)(even[p], odd[p])


def _times(b: ir.IRBuilder, power: float, x: ir.Value) -> ir.Value:
    """Return ``power * x`` for a power of two, by additions."""
    while power > 1:
        x, power = b.fadd(x, x), power / 2
    return x


def emit_halves(form: Form, wide: int, b: ir.IRBuilder, raw, to, channels) -> None:
    """Write the inner rows of ``G`` times the taps: see :func:`winograd_late.make_halves`."""
    (y, x), rows, wide = form, range(1, form.y.n - 1), wide * LANES
    size = b.mul(channels, i64(x.taps * wide))

    def one_channel(_, values):
        source, target = values
        for at in range(0, x.taps * wide, LANES):
            places = [floats_on(b, target, at)]
            for _ in rows[1:]:
                places.append(b.gep(places[-1], [size], source_etype=F32))
            read = functools.partial(_tap, b, source, x.taps * wide, at)
            for k, made in evaluate(b, y, rows, read):
                b.store(made, places[k - 1], align=4)
        return floats_on(b, source, y.taps * x.taps * wide), floats_on(b, target, x.taps * wide)

    counted(b, channels, [b.inttoptr(raw, PTR), b.inttoptr(to, PTR)], one_channel)


def _tap(b: ir.IRBuilder, source: ir.Value, apart: int, at: int, k: int) -> ir.Value:
    return load_vec(b, floats_on(b, source, k * apart + at))


@dataclass(frozen=True)
class Line:
    """Half transformed weights of a line of planes, or what they are made of.

    ``start``: address of the first channel's; ``step``: bytes from channel to channel. Without a
    ``point`` they are ``f32[x.taps, wide, LANES]``, with one all taps, of which the row of that
    point is to be made.
    """

    start: ir.Value
    step: ir.Value
    point: float | None = None


def _columns(form: Form, wide: int, b: ir.IRBuilder, line: Line, at: ir.Value, v: int) -> Read:
    """Return what reads column ``k`` of the taps of vector ``v``, of the channel at ``at``."""
    row = form.x.taps * wide * LANES

    def read(k: int) -> ir.Value:
        # A middle tap that LLVM knows to have read already would stay in a register: it spills.
        here = opaque(b, at) if k == 1 and line.point is None else at
        tap = functools.partial(_tap, b, here, row, (k * wide + v) * LANES)
        if line.point is None:
            return tap(0)
        even = add_times(b, line.point**2, tap(2), tap(0))
        return add_times(b, line.point, tap(1), even)

    made: dict[int, ir.Value] = {}

    def once(k: int) -> ir.Value:
        made[k] = made.get(k) or read(k)
        return made[k]

    return read if line.point is None else once


@dataclass(frozen=True)
class Place:
    """Where a tile reads and writes; addresses, bytes: :func:`winograd_late.multiply_planes`."""

    a: ir.Value
    out: ir.Value
    column: ir.Value
    vectors: ir.Value
    onto: ir.Value
    ahead: ir.Value
    advance: ir.Value
    soon: ir.Value


def emit_tile(
    form: Form, shape: Shape, planes: Sequence[int], b: ir.IRBuilder, i, line: Line, at: Place
) -> None:
    """Write the products of the planes of line ``i`` with ``shape.height`` tiles."""
    height, few = shape.height, shape.few
    cells = [(j, v, t) for j in planes for v in range(shape.wide) for t in range(height)]
    first = b.add(at.a, b.mul(i, i64(form.x.n * height * VECTOR)))
    share = i64(form.x.n * height * 4)  # of the next tiles, to ask for with each channel
    soon = b.add(b.add(first, at.soon), i64(-form.x.n * height * 4))
    starts = [b.inttoptr(p, PTR) for p in (line.start, at.ahead, first, soon)]
    outer = Loop(b, "vector", [at.vectors, *starts, *[fconst(0.0)] * len(cells)])
    left, *state = outer.values
    inner = Loop(b, "channels", [i64(LANES), *state])
    steps, weights, asked, tiles, soon, *values = inner.values
    sums = dict(zip(cells, values, strict=True))
    prefetch(b, asked, level=2)
    soon = b.gep(soon, [share], source_etype=I8)
    if few:
        prefetch(b, floats_on(b, asked, 16), level=2)
    else:  # few tiles are all in the first-level cache
        prefetch(b, soon)
    read = [_columns(form, shape.wide, b, line, weights, v) for v in range(shape.wide)]
    for made in zip(*(evaluate(b, form.x, planes, r) for r in read), strict=True):
        plane = made[0][0]
        for t in range(height):
            one = splat(
                b, b.load(floats_on(b, tiles, (plane * height + t) * LANES), align=4, typ=F32)
            )
            for v, (_, weight) in enumerate(made):
                sums[plane, v, t] = fma(b, one, weight, sums[plane, v, t])
    weights = b.gep(weights, [line.step], source_etype=I8)
    asked, tiles = b.gep(asked, [at.advance], source_etype=I8), floats_on(b, tiles, 1)
    rest = [(form.planes * height - 1) * LANES, (form.planes - form.x.n) * height * LANES]
    for loop, turns in ((inner, steps), (outer, left)):
        if loop is outer:
            tiles, soon = floats_on(b, tiles, rest[0]), floats_on(b, soon, rest[1])
        after = b.sub(turns, i64(1))
        more = b.icmp_signed(">", after, i64(0))
        loop.close(more, [after, weights, asked, tiles, soon, *sums.values()])
    _write(form, b, i, sums, at)


def _write(form: Form, b: ir.IRBuilder, i, sums: dict, at: Place) -> None:
    """Write the sums times what was left out of ``G``, or add them where ``onto`` is not 0."""
    out = b.add(at.out, b.mul(i, i64(form.x.n * ROWS * VECTOR)))
    bases = (out, b.add(out, at.column))
    places = [pointer(b, bases[v], i64((j * ROWS + t) * LANES)) for j, v, t in sums]
    scale = _one_of(b, i, scales(form.y))
    by_plane = {j: b.fmul(scale, fconst(scales(form.x)[j])) for j in {j: None for j, _, _ in sums}}
    factors = [by_plane[j] for j, _, _ in sums]
    add, write, end = (b.append_basic_block(name) for name in ("add", "write", "end"))
    b.cbranch(b.icmp_signed("!=", at.onto, i64(0)), add, write)
    b.position_at_end(write)
    for place, total, factor in zip(places, sums.values(), factors, strict=True):
        b.store(b.fmul(factor, total), place, align=4)
    b.branch(end)
    b.position_at_end(add)
    for place, total, factor in zip(places, sums.values(), factors, strict=True):
        b.store(fma(b, factor, total, load_vec(b, place)), place, align=4)
    b.branch(end)
    b.position_at_end(end)


def _one_of(b: ir.IRBuilder, i: ir.Value, values: Sequence[float]) -> ir.Value:
    """Return ``values[i]`` in all lanes."""
    found = ir.Constant(F32, values[0])
    for k, value in enumerate(values[1:], 1):
        found = b.select(b.icmp_signed("==", i, i64(k)), ir.Constant(F32, value), found)
    return splat(b, found)
