"""numba_cpu > kernels > winograd_product: the register tile of the products of Winograd, as IR.

Unlike :mod:`microkernel`, whose rows lie anywhere, the rows of A are the tiles of a group, stored
``[vector of channels][ROWS][LANES]``: the transform writes whole vectors, and here one pointer and
constants address all rows.
"""

from __future__ import annotations

import functools

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS, VECTORS
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I8,
    I64,
    LANES,
    PTR,
    fconst,
    fma,
    i64,
    load_vec,
    pointer,
    prefetch,
    shared_function,
    splat,
)

#: Row counts that a tile exists for. Fewer than 4 rows would be bound by the latency of fma.
HEIGHTS = tuple(range(ROWS, 3, -2)) or (ROWS,)
UNROLL = 4  # of the loop over the channels of a vector; divides LANES
_LINES = UNROLL * PANEL * 4 // 64  # cache lines of the panel that a step reads


def _counted(b: ir.IRBuilder, count, starts, body) -> list[ir.Value]:
    """Write a loop that carries values; ``body(values)`` returns the next; count is at least 1."""
    entry, loop, end = b.block, b.append_basic_block("loop"), b.append_basic_block("end")
    b.branch(loop)
    b.position_at_end(loop)
    k, *carried = (b.phi(v.type) for v in (i64(0), *starts))
    laters = body(carried)
    following = b.add(k, i64(1))
    firsts, laters = [i64(0), *starts], [following, *laters]
    for phi, first, later in zip([k, *carried], firsts, laters, strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(later, b.block)
    b.cbranch(b.icmp_signed("<", following, count), loop, end)
    b.position_at_end(end)
    return laters[1:]


def _tile(height: int, b: ir.IRBuilder, a, panel, out, out_step, vectors, ahead, advance) -> None:
    """Write the tile of ``height`` rows; see :func:`multiply_tile`."""

    def floats(ptr: ir.Value, offset: int) -> ir.Value:
        return b.gep(ptr, [i64(offset)], source_etype=F32)

    def some_channels(values: list[ir.Value]) -> list[ir.Value]:
        rows, columns, following, *sums = values
        for k in range(UNROLL):
            for line in range(k, _LINES, UNROLL):
                prefetch(b, b.gep(following, [i64(line * 64)], source_etype=I8), level=2)
            line = [load_vec(b, floats(columns, k * PANEL + j * LANES)) for j in range(VECTORS)]
            for i in range(height):
                x = splat(b, b.load(floats(rows, i * LANES + k), align=4, typ=F32))
                for j in range(VECTORS):
                    cell = i * VECTORS + j
                    sums[cell] = fma(b, x, line[j], sums[cell])
        following = b.gep(following, [advance], source_etype=I8)
        return [floats(rows, UNROLL), floats(columns, UNROLL * PANEL), following, *sums]

    def one_vector(values: list[ir.Value]) -> list[ir.Value]:
        rows, *others = values
        _, *others = _counted(b, i64(LANES // UNROLL), [rows, *others], some_channels)
        return [floats(rows, ROWS * LANES), *others]

    starts = [b.inttoptr(v, PTR) for v in (a, panel, ahead)]
    zeros = [fconst(0.0)] * (height * VECTORS)
    sums = _counted(b, vectors, [*starts, *zeros], one_vector)[3:]
    for i in range(height):
        for j in range(VECTORS):
            to = pointer(b, b.add(out, b.mul(out_step, i64(j))), i64(i * LANES))
            b.store(sums[i * VECTORS + j], to, align=4)


_PARAMS = [I64] * 7


def _choice(b: ir.IRBuilder, count: ir.Value, *args: ir.Value) -> None:
    """Call the smallest tile that holds ``count`` rows."""
    for height in sorted(HEIGHTS):
        here, taller = b.append_basic_block("here"), b.append_basic_block("taller")
        b.cbranch(b.icmp_signed("<=", count, i64(height)), here, taller)
        b.position_at_end(here)
        name, body = f"lep_wino_tile_{height}", functools.partial(_tile, height)
        b.call(shared_function(b.module, name, ir.VoidType(), _PARAMS, body), args)
        b.ret_void()
        b.position_at_end(taller)


@intrinsic
def multiply_tile(typingctx, count, a, panel, out, out_step, vectors, ahead, advance):
    """Multiply ``count`` rows of A with a panel of B; a tile taller than that may run.

    ``count``: rows, 1 to ROWS. ``a``: address of ``f32[vectors, ROWS, LANES]``. ``panel``: address
    of ``f32[vectors * LANES, PANEL]``. ``out``: address of ``f32[ROWS, LANES]``, the first vector
    of columns; ``out_step``: bytes from there to the next. ``vectors``: vectors of channels, at
    least 1. ``ahead``: address of what to ask for meanwhile, ``advance`` bytes every UNROLL
    channels, at most those of UNROLL rows of the panel.
    """

    def build(context, builder, sig, args):
        params = [I64, *_PARAMS]
        fn = shared_function(builder.module, "lep_wino_multiply", ir.VoidType(), params, _choice)
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 8), build
