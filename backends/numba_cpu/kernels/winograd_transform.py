"""numba_cpu > kernels > winograd_transform: the transforms of Winograd convolution as LLVM IR.

One call transforms one vector of channels of one tile; the matrices are those of :mod:`winograd`.
"""

from __future__ import annotations

import functools

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.vec import LANES
from leptonc.backends.numba_cpu.kernels.vectype import (
    I64,
    fconst,
    fma,
    i64,
    load_vec,
    pointer,
    shared_function,
)


def _input_4(b: ir.IRBuilder, d: list[ir.Value]) -> list[ir.Value]:
    """Return ``BT d`` of F(4,3)."""
    four, minus = fconst(4.0), fconst(-4.0)
    p, q = fma(b, minus, d[2], d[4]), fma(b, minus, d[1], d[3])
    r, s = b.fsub(d[4], d[2]), b.fsub(d[3], d[1])
    return [
        fma(b, four, d[0], fma(b, fconst(-5.0), d[2], d[4])),
        b.fadd(p, q),
        b.fsub(p, q),
        fma(b, fconst(2.0), s, r),
        fma(b, fconst(-2.0), s, r),
        fma(b, four, d[1], fma(b, fconst(-5.0), d[3], d[5])),
    ]


def _output_4(b: ir.IRBuilder, d: list[ir.Value]) -> list[ir.Value]:
    """Return ``AT d`` of F(4,3)."""
    p, q = b.fadd(d[1], d[2]), b.fsub(d[1], d[2])
    r, s = b.fadd(d[3], d[4]), b.fsub(d[3], d[4])
    return [
        b.fadd(b.fadd(d[0], p), r),
        fma(b, fconst(2.0), s, q),
        fma(b, fconst(4.0), r, p),
        b.fadd(fma(b, fconst(8.0), s, q), d[5]),
    ]


def _input_2(b: ir.IRBuilder, d: list[ir.Value]) -> list[ir.Value]:
    """Return ``BT d`` of F(2,3)."""
    return [b.fsub(d[0], d[2]), b.fadd(d[1], d[2]), b.fsub(d[2], d[1]), b.fsub(d[1], d[3])]


def _output_2(b: ir.IRBuilder, d: list[ir.Value]) -> list[ir.Value]:
    """Return ``AT d`` of F(2,3)."""
    return [b.fadd(b.fadd(d[0], d[1]), d[2]), b.fsub(b.fsub(d[1], d[2]), d[3])]


_TRANSFORMS = {2: (_input_2, _output_2), 4: (_input_4, _output_4)}


def _both_axes(b: ir.IRBuilder, one, tile: list[list[ir.Value]]) -> list[ir.Value]:
    """Return the transform along columns, then rows, row by row."""
    columns = [one(b, [row[j] for row in tile]) for j in range(len(tile))]
    return [v for i in range(len(columns[0])) for v in one(b, [c[i] for c in columns])]


def _emit_input(m: int, b: ir.IRBuilder, table, offset, dst, step) -> None:
    n = m + 2

    def load(i: int, j: int) -> ir.Value:
        address = b.load(pointer(b, table, i64(i * n + j), 8), align=8, typ=I64)
        return load_vec(b, pointer(b, b.add(address, offset)))

    tile = [[load(i, j) for j in range(n)] for i in range(n)]
    for k, v in enumerate(_both_axes(b, _TRANSFORMS[m][0], tile)):
        b.store(v, pointer(b, b.add(dst, b.mul(step, i64(k)))), align=4)


def _emit_output(m: int, b: ir.IRBuilder, src, step, dst) -> None:
    n = m + 2
    tile = [
        [load_vec(b, pointer(b, b.add(src, b.mul(step, i64(i * n + j))))) for j in range(n)]
        for i in range(n)
    ]
    for k, v in enumerate(_both_axes(b, _TRANSFORMS[m][1], tile)):
        b.store(v, pointer(b, dst, i64(k * LANES)), align=4)


def _switch(name: str, arity: int, emit, b: ir.IRBuilder, *args: ir.Value) -> None:
    """Write the choice between the transforms of m = 4 and m = 2, the first argument."""
    yes, no, end = (b.function.append_basic_block(n) for n in ("four", "two", "end"))
    m, *rest = args
    b.cbranch(b.icmp_signed("==", m, i64(4)), yes, no)
    for block, size in ((yes, 4), (no, 2)):
        b.position_at_end(block)
        body = functools.partial(emit, size)
        full = f"{name}_{size}"
        b.call(shared_function(b.module, full, ir.VoidType(), [I64] * arity, body), rest)
        b.branch(end)
    b.position_at_end(end)


def _call(name: str, arity: int, emit):
    """Return the code of an intrinsic ``(m, *args)`` with ``arity`` args."""
    body = functools.partial(_switch, name, arity, emit)

    def code(context, builder, sig, args):
        params = [I64] * (arity + 1)
        builder.call(shared_function(builder.module, name, ir.VoidType(), params, body), args)
        return context.get_dummy_value()

    return code


@intrinsic
def transform_input(typingctx, m, table, offset, dst, step):
    """Write ``BT d B`` of one vector of channels of one tile.

    ``m`` is 2 or 4, ``table`` the address of the addresses of the ``(m + 2)**2`` pixels, ``offset``
    is added to them; ``dst`` is where plane 0 goes, ``step`` the bytes from plane to plane.
    """
    return types.void(*(types.int64,) * 5), _call("lep_wino_in", 4, _emit_input)


@intrinsic
def transform_output(typingctx, m, src, step, dst):
    """Write ``AT M A`` of one vector of channels as ``m * m`` vectors from ``dst``.

    ``m`` is 2 or 4, ``src`` the address of plane 0, ``step`` the bytes from plane to plane.
    """
    return types.void(*(types.int64,) * 4), _call("lep_wino_out", 3, _emit_output)
