"""numba_cpu > kernels > winograd_transform: the transforms of Winograd convolution as LLVM IR.

The matrices are those of :mod:`winograd_points`. A transform is written as two passes, over rows
that are made together: each part reads its inputs again, and all its values fit the registers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from llvmlite import ir

from leptonc.backends.numba_cpu.kernels import vecmath as vm
from leptonc.backends.numba_cpu.kernels.microkernel import ROWS
from leptonc.backends.numba_cpu.kernels.vectype import (
    I64,
    LANES,
    VF,
    VM,
    fconst,
    fma,
    i64,
    load_vec,
    pointer,
    splat,
)
from leptonc.backends.numba_cpu.kernels.winograd_points import (
    POINTS,
    Axis,
    Form,
    even_part,
    matrices,
)

BYTES = 4 * LANES
Read = Callable[[int], ir.Value]
#: Which rows of a matrix are made together, and what makes them of a column.
Parts = Sequence[tuple[tuple[int, ...], Callable[[ir.IRBuilder, Read], list[ir.Value]]]]


def add_times(b: ir.IRBuilder, scale: float, x: ir.Value, y: ir.Value) -> ir.Value:
    """Return ``scale * x + y``."""
    if scale == 1.0:
        return b.fadd(y, x)
    return b.fsub(y, x) if scale == -1.0 else fma(b, fconst(scale), x, y)


def _chain(b: ir.IRBuilder, scales: Sequence[float], values: Sequence[ir.Value]) -> ir.Value:
    """Return the sum of ``scales[i] * values[i]``, from the last, whose scale is 1."""
    total = values[-1]
    for scale, value in zip(reversed(scales[:-1]), reversed(values[:-1]), strict=True):
        total = add_times(b, scale, value, total)
    return total


def _input_parts(axis: Axis) -> Parts:
    """Return the rows of ``BT`` that are made together, and what makes them of ``d``."""
    (pairs, singles, zero), n = POINTS[axis], axis.n
    if singles or n == 1:
        return [((k,), functools.partial(_input_row, axis, k)) for k in range(n)]

    first = int(zero)

    def end(at: int, b: ir.IRBuilder, d: Read) -> list[ir.Value]:
        return [_chain(b, even_part(pairs), [d(k) for k in range(at, n, 2)])]

    def pair(i: int, b: ir.IRBuilder, d: Read) -> list[ir.Value]:
        scales = even_part(pairs[:i] + pairs[i + 1 :])
        times_x, once = (
            _chain(b, scales, [d(s + 2 * k) for k in range(len(pairs))]) for s in (first + 1, first)
        )
        return [add_times(b, sign * pairs[i], once, times_x) for sign in (1.0, -1.0)]

    ends = [((0,), functools.partial(end, 0))] if zero else []
    places = range(first, n - 1, 2)
    middle = [((k, k + 1), functools.partial(pair, i)) for i, k in enumerate(places)]
    return [*ends, *middle, ((n - 1,), functools.partial(end, first))]


def _input_row(axis: Axis, k: int, b: ir.IRBuilder, d: Read) -> list[ir.Value]:
    """Make row ``k`` of ``BT``, whose last coefficient is 1, of few values: nothing to share."""
    row = matrices(axis).bt[k]
    places = [int(j) for j in row.nonzero()[0]]
    return [_chain(b, [float(row[j]) for j in places], [d(j) for j in places])]


def _output_parts(axis: Axis) -> Parts:
    """Return the rows of ``AT`` that are made together, and what makes them of ``d``."""
    (pairs, singles, zero), n, m = POINTS[axis], axis.n, axis.m
    if n == 1:
        return [((0,), lambda b, d: [d(0)])]

    def rows(odd: int, b: ir.IRBuilder, d: Read) -> list[ir.Value]:
        join = b.fsub if odd else b.fadd
        values = [join(d(2 * k + zero), d(2 * k + 1 + zero)) for k in range(len(pairs))]
        values += [d(2 * len(pairs) + zero + k) for k in range(len(singles))]
        made = []
        for i in range(odd, m, 2):
            first = (*pairs, *singles)[0] ** i
            total = values[0] if first == 1.0 else b.fmul(fconst(first), values[0])
            if i == 0 and zero:
                total = b.fadd(d(0), total)
            for p, value in zip((*pairs, *singles)[1:], values[1:], strict=True):
                total = add_times(b, p**i, value, total)
            made.append(b.fadd(total, d(n - 1)) if i == m - 1 else total)
        return made

    return [(tuple(range(odd, m, 2)), functools.partial(rows, odd)) for odd in (0, 1)]


def _two_passes(b: ir.IRBuilder, down: Parts, across: Parts, size: int, load, store) -> None:
    """Transform ``size`` columns ``down``, then ``across``; along one tap a pass does nothing.

    ``load(i, j)``; ``store(i, [values of row i])``.
    """
    for rows, make in down:
        columns = [make(b, functools.partial(_column, load, j)) for j in range(size)]
        for r, row in enumerate(rows):
            line: dict[int, ir.Value] = {}
            for places, along in across:
                values = along(b, functools.partial(_entry, columns, r))
                line.update(zip(places, values, strict=True))
            store(row, [line[j] for j in sorted(line)])


def _entry(columns: list[list[ir.Value]], r: int, j: int) -> ir.Value:
    return columns[j][r]


def _column(load: Callable[[int, int], ir.Value], j: int, i: int) -> ir.Value:
    return load(i, j)


def _loop(b: ir.IRBuilder, count: ir.Value, body: Callable[[ir.Value], None]) -> None:
    """Write ``for v in range(count): body(v)``; count is at least 1."""
    entry, loop, end = b.block, b.append_basic_block("vector"), b.append_basic_block("end")
    b.branch(loop)
    b.position_at_end(loop)
    v = b.phi(I64)
    body(v)
    following = b.add(v, i64(1))
    v.add_incoming(i64(0), entry)
    v.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, count), loop, end)
    b.position_at_end(end)


def _times(b: ir.IRBuilder, step: ir.Value, count: int) -> list[ir.Value]:
    return [b.mul(step, i64(k)) for k in range(count)]


Place = Callable[[ir.Value], Callable[[int, int], ir.Value]]


def _emit_tile(
    form: Form, b: ir.IRBuilder, place: Place, dst, step, count, dst_step, phase_step
) -> None:
    """Write the input transform; ``place(bytes)(y, x)`` is a pixel's pointer for a vector."""
    stride, width = form.stride, form.x.n
    down_parts, across_parts = _input_parts(form.y), _input_parts(form.x)
    places = _times(b, step, form.planes)
    parts_of_plane = _times(b, phase_step, stride * stride)

    def one(v: ir.Value) -> None:
        to, pixel = b.add(dst, b.mul(v, dst_step)), place(b.mul(v, i64(BYTES)))

        def load(py: int, px: int, i: int, j: int) -> ir.Value:
            return load_vec(b, pixel(stride * i + py, stride * j + px))

        def store(py: int, px: int, i: int, values: list[ir.Value]) -> None:
            for j, value in enumerate(values):
                part = parts_of_plane[py * form.x.shares(j) + px]
                b.store(value, pointer(b, b.add(to, b.add(places[i * width + j], part))), align=4)

        for py in range(stride):
            for px in range(stride):
                # The odd phase has one pixel less and no row at infinity.
                down = down_parts[: len(down_parts) - py]
                along = across_parts[: len(across_parts) - px]
                here = [functools.partial(f, py, px) for f in (load, store)]
                _two_passes(b, down, along, width - px, *here)

    _loop(b, count, one)


def emit_input(form: Form, b: ir.IRBuilder, src, y_step, x_step, *rest) -> None:
    """Write the body of ``transform_input`` (:mod:`winograd_calls`) of one form."""
    lines = [b.add(src, y) for y in _times(b, y_step, form.y.side)]
    across = _times(b, x_step, form.x.side)

    def place(at: ir.Value) -> Callable[[int, int], ir.Value]:
        bases = [b.add(line, at) for line in lines]
        return lambda y, x: pointer(b, b.add(bases[y], across[x]))

    _emit_tile(form, b, place, *rest)


def emit_border(
    form: Form, b: ir.IRBuilder, src, y_step, x_step, dst, step, count, dst_step, phase_step,
    i0, i1, j0, j1, zeros,
) -> None:  # fmt: skip
    """Write the body of ``transform_border`` of one form."""

    def within(k: int, low: ir.Value, high: ir.Value) -> ir.Value:
        return b.and_(b.icmp_signed("<=", low, i64(k)), b.icmp_signed(">", high, i64(k)))

    down, along = range(form.y.side), range(form.x.side)
    lines = [b.add(src, y) for y in _times(b, y_step, form.y.side)]
    across = _times(b, x_step, form.x.side)
    rows, columns = [within(k, i0, i1) for k in down], [within(k, j0, j1) for k in along]
    pixels = [
        [b.select(b.and_(rows[y], columns[x]), b.add(lines[y], across[x]), zeros) for x in along]
        for y in down
    ]

    def place(at: ir.Value) -> Callable[[int, int], ir.Value]:
        return lambda y, x: pointer(b, b.add(pixels[y][x], at))

    _emit_tile(form, b, place, dst, step, count, dst_step, phase_step)


def _plus_residual(b: ir.IRBuilder, some: ir.Value, values, line, across) -> list[ir.Value]:
    """Return the values plus those at ``line + across``, where there is a residual."""
    before = b.block
    add, end = b.append_basic_block("residual"), b.append_basic_block("finish")
    b.cbranch(some, add, end)
    b.position_at_end(add)
    places = [pointer(b, b.add(line, a)) for a in across]
    sums = [b.fadd(v, load_vec(b, p)) for v, p in zip(values, places, strict=True)]
    b.branch(end)
    b.position_at_end(end)
    phis = [b.phi(VF) for _ in values]
    for phi, value, total in zip(phis, values, sums, strict=True):
        phi.add_incoming(value, before)
        phi.add_incoming(total, add)
    return phis


def emit_output(
    form: Form, b: ir.IRBuilder, src, step, dst, dst_y, dst_x, bias, res, res_y, res_x, low, high,
    count,
) -> None:  # fmt: skip
    """Write the body of ``transform_output`` of one form."""
    (m_y, m_x), n = (axis.m for axis in form), form.x.n
    parts = _output_parts(form.y), _output_parts(form.x)
    least, most = splat(b, low), splat(b, high)
    down, across = _times(b, dst_y, m_y), _times(b, dst_x, m_x)
    res_down, res_across = _times(b, res_y, m_y), _times(b, res_x, m_x)
    has_res = b.icmp_signed("!=", res, i64(0))

    def one(v: ir.Value) -> None:
        start, at = b.add(src, b.mul(v, step)), b.mul(v, i64(BYTES))
        shift = _shift(b, bias, at, start)

        def load(i: int, j: int) -> ir.Value:
            return load_vec(b, pointer(b, start, i64((i * n + j) * ROWS * LANES)))

        def store(i: int, values: list[ir.Value]) -> None:
            line = b.add(res, b.add(at, res_down[i]))
            values = [b.fadd(value, shift) for value in values]
            values = _plus_residual(b, has_res, values, line, res_across)
            to = b.add(b.add(dst, at), down[i])
            for j, value in enumerate(values):
                bounded = vm.clamp_high(b, vm.clamp_low(b, value, least), most)
                b.store(bounded, pointer(b, b.add(to, across[j])), align=4)

        _two_passes(b, *parts, n, load, store)

    _loop(b, count, one)


def emit_pooled(
    form: Form, b: ir.IRBuilder, src, step, dst, dst_y, dst_x, bias, low, high, count
) -> None:
    """Write the body of ``transform_pooled`` of one form."""
    (m_y, m_x), n = (axis.m for axis in form), form.x.n
    parts = _output_parts(form.y), _output_parts(form.x)
    least, most = splat(b, low), splat(b, high)
    down, across = _times(b, dst_y, m_y // 2), _times(b, dst_x, m_x // 2)

    def one(v: ir.Value) -> None:
        start, at = b.add(src, b.mul(v, step)), b.mul(v, i64(BYTES))
        shift, partners = _shift(b, bias, at, start), dict[int, list[ir.Value]]()

        def load(i: int, j: int) -> ir.Value:
            return load_vec(b, pointer(b, start, i64((i * n + j) * ROWS * LANES)))

        def store(i: int, values: list[ir.Value]) -> None:
            partner = partners.pop(i // 2, None)
            if partner is None:
                partners[i // 2] = values
                return
            to = b.add(b.add(dst, at), down[i // 2])
            for j in range(m_x // 2):
                four = (*values[2 * j : 2 * j + 2], *partner[2 * j : 2 * j + 2])
                value = b.fadd(vm.largest(b, four), shift)
                bounded = vm.clamp_high(b, vm.clamp_low(b, value, least), most)
                b.store(bounded, pointer(b, b.add(to, across[j])), align=4)

        _two_passes(b, *parts, n, load, store)

    _loop(b, count, one)


def _shift(b: ir.IRBuilder, bias, at, readable) -> ir.Value:
    """Return the vector of the bias at byte ``at``, zeros if there is no bias."""
    some = b.icmp_signed("!=", bias, i64(0))
    # Without a bias nothing is added, but the address must be one that can be read.
    shift = load_vec(b, pointer(b, b.select(some, b.add(bias, at), readable)))
    return b.select(splat(b, some, VM), shift, fconst(0.0))
