"""numba_cpu > kernels > winograd_late_tile: the register tiles of :mod:`winograd_late`, as IR.

A plane of a pair of points is the even part of the taps plus or minus the odd one, and what
multiplies a tap is a power of two, so the planes of a line take additions alone, for which some
processors have pipes that do not multiply. With stride 2 a line has the planes of two phases, of
two taps each or of one. Of few tiles of the image a register tile multiplies the
planes of one line while it makes them, of taps or of half-lines: taps transformed down, as all
planes of a line need them, and stored. Of more tiles the planes of a line are stored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from llvmlite import ir

from leptonc.backends.numba_cpu.kernels.ir_loops import Loop, counted
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
from leptonc.backends.numba_cpu.kernels.winograd_points import POINTS, Axis, Form, matrices
from leptonc.backends.numba_cpu.kernels.winograd_quads import FEW, QUADS, splats
from leptonc.backends.numba_cpu.kernels.winograd_transform import add_times

VECTOR = 4 * LANES  # bytes
APART = LANES  # floats between planes of a line, lest they share cache sets
SUMS = 24 if LANES == 16 else 12  # that registers hold beside what planes are made of
Read = Callable[[int], ir.Value]


def sets(form: Form, height: int) -> list[tuple[int, ...]]:
    """Return the planes of a line that ``height`` tiles are multiplied with at once: columns."""
    some, n = SUMS // height, form.x.n
    return [tuple(range(j, min(j + some, n))) for j in range(0, n, some)]


def scales(axis: Axis) -> list[float]:
    """Return what :func:`evaluate` leaves out of the rows of ``G``: their first elements."""
    return [*map(float, matrices(axis).g[:-1, 0]), 1.0]


def evaluate(
    b: ir.IRBuilder, axis: Axis, rows: Iterable[int], taps: Read
) -> Iterator[tuple[int, ir.Value]]:
    """Yield rows of ``G`` times three taps, without their :func:`scales`; no singles, powers of 2.

    A single tap is its only row.
    A row of point p is the polynomial of the taps at p. What is yielded is meant to be used up
    before the next is asked for: a register is free again. The middle tap is read once more for
    each row of which it is the odd part, since a load costs less than a register.
    """
    if axis.taps == 1:
        yield 0, taps(0)
        return
    at, rows = POINTS[axis].all, sorted(rows)
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


def _tap(b: ir.IRBuilder, source: ir.Value, apart: int, at: int, k: int) -> ir.Value:
    return load_vec(b, floats_on(b, source, k * apart + at))


@dataclass(frozen=True)
class Line:
    """What the planes of a line are made of.

    ``start``: address of the first channel's taps, ``f32[*taps, wide, LANES]``; ``step``: bytes
    from channel to channel; ``wide``: vectors of columns side by side. The line is the polynomial
    of ``rows`` of taps at ``point``; of a single one it is that row.
    """

    start: ir.Value
    step: ir.Value
    wide: int
    rows: tuple[int, ...]
    point: float


def line_of(form: Form, b: ir.IRBuilder, i: int, raw: ir.Value, wide: int, phase: int = 0) -> Line:
    """Return what line ``i`` of a phase is made of; with stride 1 there is one phase."""
    axis = form.y
    step = i64(axis.taps * form.x.taps * wide * VECTOR)
    rows, place = axis.phases[phase], POINTS[axis].all[i] if i < axis.n - 1 else 0.0
    if i == axis.n - 1:
        rows = rows[-1:]
    elif place == 0:
        rows = rows[:1]
    return Line(raw, step, wide, rows, place)


def _columns(form: Form, b: ir.IRBuilder, line: Line, at: ir.Value, v: int) -> Read:
    """Return what reads column ``k`` of the line, vector ``v``, of the channel at ``at``."""
    row = form.x.taps * line.wide * LANES
    made: dict[int, ir.Value] = {}

    def read(k: int) -> ir.Value:
        first, *others = (
            functools.partial(_tap, b, at, row, (k * line.wide + v) * LANES, r) for r in line.rows
        )
        if len(others) == 2:
            even = add_times(b, line.point**2, others[1](), first())
            return add_times(b, line.point, others[0](), even)
        return add_times(b, line.point, others[0](), first()) if others else first()

    def once(k: int) -> ir.Value:
        made[k] = made.get(k) or read(k)
        return made[k]

    return once


def _along(form: Form, b: ir.IRBuilder, phase: int, read: Read) -> Iterator[tuple[int, ir.Value]]:
    """Yield the planes of a line and a phase, without their :func:`scales`."""
    axis = form.x
    if axis.stride == 1:
        yield from evaluate(b, axis, range(axis.n), read)
        return
    taps, at = axis.phases[phase], POINTS[axis].all
    for j in (j for j in range(axis.n) if axis.shares(j) > phase):
        if j == axis.n - 1:
            yield j, read(taps[-1])
        elif len(taps) > 1 and at[j]:
            yield j, add_times(b, at[j], read(taps[1]), read(taps[0]))
        else:
            yield j, read(taps[0])


def slots_of(form: Form, i: int) -> dict[tuple[int, int, int], int]:
    """Return where the planes of line ``i`` lie: by column and phases, as V has them."""
    found = [
        (j, py, px)
        for j in range(form.x.n)
        for py in range(form.y.shares(i))
        for px in range(form.x.shares(j))
    ]
    return {key: k for k, key in enumerate(found)}


def emit_line(form: Form, i: int, b: ir.IRBuilder, lines: Sequence[Line], to, channels) -> None:
    """Write the planes of line ``i``, of all its phases: see :func:`winograd_late.make_line`."""
    wide, slots = lines[0].wide, slots_of(form, i)
    size = b.add(b.mul(channels, i64(wide * LANES)), i64(APART))
    down, across = scales(form.y)[i], scales(form.x)

    def one_channel(_, values):
        source, target = values
        for v in range(wide):
            places = [floats_on(b, target, v * LANES)]
            while len(places) < len(slots):
                places.append(b.gep(places[-1], [size], source_etype=F32))
            for py, line in enumerate(lines):
                read = _columns(form, b, line, source, v)
                for px in range(form.x.stride):
                    for j, made in _along(form, b, px, read):
                        value = b.fmul(fconst(down * across[j]), made)
                        b.store(value, places[slots[j, py, px]], align=4)
        source = b.gep(source, [lines[0].step], source_etype=I8)
        return source, floats_on(b, target, wide * LANES)

    counted(b, channels, [b.inttoptr(lines[0].start, PTR), b.inttoptr(to, PTR)], one_channel)


def row_of(start: ir.Value, step: ir.Value) -> Line:
    """Return the line that a single row of taps is, or a half-line: ``step`` bytes a channel."""
    return Line(start, step, 1, (0,), 0.0)


def emit_half(form: Form, i: int, b: ir.IRBuilder, raw, to, channels) -> None:
    """Write half-lines ``i`` and ``i + 1``: see :func:`winograd_late_few.make_half`."""
    columns = form.x.taps

    def one_channel(_, values):
        source, target = values
        for k in range(columns):
            taps = functools.partial(_tap, b, source, columns * LANES, k * LANES)
            for row, made in evaluate(b, form.y, (i, i + 1), taps):
                at = (row - i) * columns + k
                b.store(made, floats_on(b, target, at * LANES), align=4)
        source = floats_on(b, source, form.y.taps * columns * LANES)
        return source, floats_on(b, target, 2 * columns * LANES)

    counted(b, channels, [b.inttoptr(a, PTR) for a in (raw, to)], one_channel)


@dataclass(frozen=True)
class Place:
    """Where a tile reads and writes, in bytes: see :func:`winograd_late_few.multiply_planes`."""

    a: ir.Value
    out: ir.Value
    column: ir.Value
    vectors: ir.Value
    onto: ir.Value
    ahead: ir.Value
    advance: ir.Value


def emit_tile(
    form: Form, height: int, planes: Sequence[int], b: ir.IRBuilder, i: ir.Value, line: Line,
    at: Place,
) -> None:  # fmt: skip
    """Write the products of the planes of line ``i`` with ``height`` tiles."""
    cells = [(j, t) for j in planes for t in range(height)]
    first = b.add(at.a, b.mul(i, i64(form.x.n * height * VECTOR)))
    starts = [b.inttoptr(p, PTR) for p in (line.start, at.ahead, first, first)]
    outer = Loop(b, "vector", [at.vectors, *starts, *[fconst(0.0)] * len(cells)])
    left, *state = outer.values
    inner = Loop(b, "channels", [i64(LANES), *state])
    steps, weights, asked, tiles, quads, *values = inner.values
    sums = dict(zip(cells, values, strict=True))
    for k in range(max(1, len(planes) // 3)):  # lines
        prefetch(b, floats_on(b, asked, k * 16), level=2)
    for plane, weight in evaluate(b, form.x, planes, _columns(form, b, line, weights, 0)):
        read = splats(b, floats_on(b, quads if plane in QUADS else tiles, plane * height * LANES),
                      plane)  # fmt: skip
        for t in range(height):
            sums[plane, t] = fma(b, read(t), weight, sums[plane, t])
    weights = b.gep(weights, [line.step], source_etype=I8)
    asked = b.gep(asked, [at.advance], source_etype=I8)
    tiles, quads = floats_on(b, tiles, 1), floats_on(b, quads, FEW)
    others = form.planes * height * LANES  # floats of V from vector to vector
    for loop, turns in ((inner, steps), (outer, left)):
        if loop is outer:
            tiles = floats_on(b, tiles, others - LANES)
            quads = floats_on(b, quads, others - FEW * LANES)
        after = b.sub(turns, i64(1))
        more = b.icmp_signed(">", after, i64(0))
        loop.close(more, [after, weights, asked, tiles, quads, *sums.values()])
    _write(form, b, i, sums, at)


def _write(form: Form, b: ir.IRBuilder, i, sums: dict, at: Place) -> None:
    """Write the sums times what was left out of ``G``, or add them where ``onto`` is not 0."""
    out = b.add(at.out, b.mul(i, i64(form.x.n * ROWS * VECTOR)))
    places = [pointer(b, out, i64((j * ROWS + t) * LANES)) for j, t in sums]
    scale = _one_of(b, i, scales(form.y))
    by_plane = {j: b.fmul(scale, fconst(scales(form.x)[j])) for j in {j: None for j, _ in sums}}
    factors = [by_plane[j] for j, _ in sums]
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
