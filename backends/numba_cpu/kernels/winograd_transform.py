"""numba_cpu > kernels > winograd_transform: the transforms of Winograd convolution as LLVM IR.

The matrices are those of :mod:`winograd_points`. A transform is written as two passes, over rows
that are made together: each part reads its inputs again, and all its values fit the registers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import vecmath as vm
from leptonc.backends.numba_cpu.kernels.microkernel import ROWS
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I64,
    LANES,
    VF,
    VM,
    fconst,
    fma,
    i64,
    load_vec,
    pointer,
    shared_function,
    splat,
)
from leptonc.backends.numba_cpu.kernels.winograd_points import PAIRS, even_part

BYTES = 4 * LANES
Read = Callable[[int], ir.Value]


def _add_times(b: ir.IRBuilder, scale: float, x: ir.Value, y: ir.Value) -> ir.Value:
    """Return ``scale * x + y``."""
    if scale == 1.0:
        return b.fadd(y, x)
    return b.fsub(y, x) if scale == -1.0 else fma(b, fconst(scale), x, y)


def _chain(b: ir.IRBuilder, scales: Sequence[float], values: Sequence[ir.Value]) -> ir.Value:
    """Return the sum of ``scales[i] * values[i]``, from the last, whose scale is 1."""
    total = values[-1]
    for scale, value in zip(reversed(scales[:-1]), reversed(values[:-1]), strict=True):
        total = _add_times(b, scale, value, total)
    return total


def _input_parts(m: int) -> list[tuple[tuple[int, ...], Callable[..., list[ir.Value]]]]:
    """Return the rows of ``BT`` that are made together, and what makes them of ``d``."""
    pairs, n = PAIRS[m], m + 2

    def end(first: int, b: ir.IRBuilder, d: Read) -> list[ir.Value]:
        return [_chain(b, even_part(pairs), [d(k) for k in range(first, n, 2)])]

    def pair(i: int, b: ir.IRBuilder, d: Read) -> list[ir.Value]:
        scales = even_part(pairs[:i] + pairs[i + 1 :])
        even, odd = (_chain(b, scales, [d(k) for k in range(s, n - 1, 2)]) for s in (2, 1))
        return [_add_times(b, sign * pairs[i], odd, even) for sign in (1.0, -1.0)]

    middle = [((2 * i + 1, 2 * i + 2), functools.partial(pair, i)) for i in range(len(pairs))]
    ends = [((k,), functools.partial(end, k and 1)) for k in (0, n - 1)]
    return [ends[0], *middle, ends[1]]


def _output_parts(m: int) -> list[tuple[tuple[int, ...], Callable[..., list[ir.Value]]]]:
    """Return the rows of ``AT`` that are made together, and what makes them of ``d``."""
    pairs, n = PAIRS[m], m + 2

    def rows(odd: int, b: ir.IRBuilder, d: Read) -> list[ir.Value]:
        join = b.fsub if odd else b.fadd
        sums = [join(d(2 * k + 1), d(2 * k + 2)) for k in range(len(pairs))]
        made = []
        for i in range(odd, m, 2):
            # From the pair of 1, whose scale is 1, on.
            total = sums[0]
            if i == 0:
                total = b.fadd(d(0), total)
            for p, s in zip(pairs[1:], sums[1:], strict=True):
                total = _add_times(b, p**i, s, total)
            made.append(b.fadd(total, d(n - 1)) if i == m - 1 else total)
        return made

    return [(tuple(range(odd, m, 2)), functools.partial(rows, odd)) for odd in (0, 1)]


def _two_passes(b: ir.IRBuilder, n: int, parts, load, store) -> None:
    """Transform along rows, then columns; ``load(i, j)``, ``store(i, [values of row i])``."""
    for rows, make in parts:
        columns = [make(b, functools.partial(_column, load, j)) for j in range(n)]
        for r, row in enumerate(rows):
            line: dict[int, ir.Value] = {}
            for places, along in parts:
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


def _emit_input(m: int, b: ir.IRBuilder, src, y_step, x_step, dst, step, count, dst_step) -> None:
    n = m + 2
    lines = [b.add(src, y) for y in _times(b, y_step, n)]
    across, places = _times(b, x_step, n), _times(b, step, n * n)

    def one(v: ir.Value) -> None:
        at, to = b.mul(v, i64(BYTES)), b.add(dst, b.mul(v, dst_step))
        bases = [b.add(line, at) for line in lines]

        def load(i: int, j: int) -> ir.Value:
            return load_vec(b, pointer(b, b.add(bases[i], across[j])))

        def store(i: int, values: list[ir.Value]) -> None:
            for j, value in enumerate(values):
                b.store(value, pointer(b, b.add(to, places[i * n + j])), align=4)

        _two_passes(b, n, _input_parts(m), load, store)

    _loop(b, count, one)


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


def _emit_output(
    m: int, b: ir.IRBuilder, src, step, dst, dst_y, dst_x, bias, res, res_y, res_x, low, high,
    count,
) -> None:  # fmt: skip
    n = m + 2
    least, most = splat(b, low), splat(b, high)
    down, across = _times(b, dst_y, m), _times(b, dst_x, m)
    res_down, res_across = _times(b, res_y, m), _times(b, res_x, m)
    has_res = b.icmp_signed("!=", res, i64(0))
    has_bias = b.icmp_signed("!=", bias, i64(0))

    def one(v: ir.Value) -> None:
        start, at = b.add(src, b.mul(v, step)), b.mul(v, i64(BYTES))
        # Without a bias nothing is added, but the address must be one that can be read.
        shift = load_vec(b, pointer(b, b.select(has_bias, b.add(bias, at), start)))
        shift = b.select(splat(b, has_bias, VM), shift, fconst(0.0))

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

        _two_passes(b, n, _output_parts(m), load, store)

    _loop(b, count, one)


def _switch(name: str, params: list[ir.Type], emit, b: ir.IRBuilder, *args: ir.Value) -> None:
    """Write the choice between the transforms by m, the first argument."""
    end = b.append_basic_block("end")
    m, *rest = args
    switch = b.switch(m, end)
    for size in PAIRS:
        block = b.append_basic_block(f"m{size}")
        switch.add_case(i64(size), block)
        b.position_at_end(block)
        body = functools.partial(emit, size)
        b.call(shared_function(b.module, f"{name}_{size}", ir.VoidType(), params, body), rest)
        b.branch(end)
    b.position_at_end(end)


def _call(name: str, params: list[ir.Type], emit):
    """Return the code of an intrinsic ``(m, *args)``, args of types ``params``."""
    body = functools.partial(_switch, name, params, emit)

    def code(context, builder, sig, args):
        fn = shared_function(builder.module, name, ir.VoidType(), [I64, *params], body)
        builder.call(fn, args)
        return context.get_dummy_value()

    return code


@intrinsic
def transform_input(typingctx, m, src, y_step, x_step, dst, step, count, dst_step):
    """Write ``BT d B`` of one tile, ``count`` (at least 1) vectors of channels.

    ``m``: 2 or 4. ``src``: the address of pixel (0, 0), ``y_step`` and ``x_step`` the bytes from
    line to line and from pixel to pixel. ``dst``: where plane 0 goes, ``step`` the bytes from plane
    to plane, ``dst_step`` from vector to vector.
    """
    return types.void(*(types.int64,) * 8), _call("lep_wino_in", [I64] * 7, _emit_input)


@intrinsic
def transform_output(
    typingctx, m, src, step, dst, dst_y, dst_x, bias, res, res_y, res_x, low, high, count
):
    """Write ``AT M A`` plus bias and residual, within bounds: ``count`` vectors of one tile.

    ``m``: 2 or 4. ``src``: the address of plane 0, the planes ROWS vectors apart; ``step``: the
    bytes from vector to vector. ``dst``, ``res``: addresses of the first pixel, their ``_y`` and
    ``_x`` the bytes from line to line and pixel to pixel; ``bias``: address; ``res`` and ``bias``
    may be 0. ``low``, ``high``: float32 bounds of the result.
    """
    numbers = (types.int64,) * 10
    sig = types.void(*numbers, types.float32, types.float32, types.int64)
    params = [*[I64] * 9, F32, F32, I64]
    return sig, _call("lep_wino_out", params, _emit_output)
