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
from leptonc.backends.numba_cpu.kernels.part import part
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
#: Rows of the tallest tile that takes two panels at once, 0 where registers do not hold one. A tile
#: of few rows waits for its loads: with two panels each element of A serves four vectors.
PAIR_ROWS = 6 if LANES == 16 else 0


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


def _ask(b: ir.IRBuilder, k: int, asked: ir.Value, apart: ir.Value | None) -> None:
    """Ask for the part of step ``k`` of UNROLL of what is needed later, of two panels if ``apart``.

    Into the first level, though most of it has left for the second when it is read: weights that
    stream from memory arrive sooner that way (4 % of the time of 16 tiles of 256 channels, 8 % of
    16 tiles of 512), and those at hand take as long as before.
    """
    places = [asked] if apart is None else [asked, b.gep(asked, [apart], source_etype=I8)]
    for place in places:
        for line in range(k, _LINES, UNROLL):
            prefetch(b, b.gep(place, [i64(line * 64)], source_etype=I8))


def _tile(
    height: int, panels: int, b: ir.IRBuilder, a, panel, out, out_step, steps, ahead, advance,
    onto, apart,
) -> None:  # fmt: skip
    """Write the tile of ``height`` rows; see :func:`multiply_tile`."""
    cells = height * VECTORS  # of a panel

    def floats(ptr: ir.Value, offset: int) -> ir.Value:
        return b.gep(ptr, [i64(offset)], source_etype=F32)

    def some_channels(values: list[ir.Value]) -> list[ir.Value]:
        rows, asked, *rest = values
        columns, sums = rest[:panels], rest[panels:]
        for k in range(UNROLL):
            _ask(b, k, asked, apart if panels == 2 else None)
            lines = [
                load_vec(b, floats(column, k * PANEL + j * LANES))
                for column in columns
                for j in range(VECTORS)
            ]
            for i in range(height):
                x = splat(b, b.load(floats(rows, i * LANES + k), align=4, typ=F32))
                for j, line in enumerate(lines):
                    cell = j // VECTORS * cells + i * VECTORS + j % VECTORS
                    sums[cell] = fma(b, x, line, sums[cell])
        asked = b.gep(asked, [advance], source_etype=I8)
        columns = [floats(column, UNROLL * PANEL) for column in columns]
        return [floats(rows, UNROLL), asked, *columns, *sums]

    whole = i64(LANES // UNROLL)

    def one_vector(values: list[ir.Value]) -> list[ir.Value]:
        rows, left, *others = values
        some = b.select(b.icmp_signed("<", left, whole), left, whole)
        _, *others = _counted(b, some, [rows, *others], some_channels)
        return [floats(rows, ROWS * LANES), b.sub(left, whole), *others]

    rows, *starts = [b.inttoptr(v, PTR) for v in (a, ahead, panel)]
    starts += [b.inttoptr(b.add(panel, apart), PTR)] * (panels - 1)
    zeros = [fconst(0.0)] * (cells * panels)
    vectors = b.sdiv(b.add(steps, i64(LANES // UNROLL - 1)), whole)
    sums = _counted(b, vectors, [rows, steps, *starts, *zeros], one_vector)[3 + panels :]
    places = {
        j // VECTORS * cells + i * VECTORS + j % VECTORS: pointer(b, line, i64(i * LANES))
        for j in range(VECTORS * panels)
        for line in [b.add(out, b.mul(out_step, i64(j)))]
        for i in range(height)
    }
    with b.if_else(b.icmp_signed("!=", onto, i64(0))) as (more, none):
        with more:
            for cell, to in places.items():
                b.store(b.fadd(sums[cell], load_vec(b, to)), to, align=4)
        with none:
            for cell, to in places.items():
                b.store(sums[cell], to, align=4)


_PARAMS = [I64] * 9


@part("wino_multiply", [I64, *_PARAMS])
def MULTIPLY(b: ir.IRBuilder, count: ir.Value, *args: ir.Value) -> None:
    """Call the smallest tile that holds ``count`` rows, of two panels if they lie ``apart``."""
    pair, one = b.append_basic_block("pair"), b.append_basic_block("one")
    b.cbranch(b.icmp_signed("!=", args[-1], i64(0)), pair, one)
    for panels, block in ((2, pair), (1, one)):
        b.position_at_end(block)
        for height in sorted(h for h in HEIGHTS if panels == 1 or h <= PAIR_ROWS):
            here, taller = b.append_basic_block("here"), b.append_basic_block("taller")
            b.cbranch(b.icmp_signed("<=", count, i64(height)), here, taller)
            b.position_at_end(here)
            name = f"lep_wino_tile_{height}x{panels}"
            body = functools.partial(_tile, height, panels)
            b.call(shared_function(b.module, name, ir.VoidType(), _PARAMS, body), args)
            b.ret_void()
            b.position_at_end(taller)
        if panels == 2:
            b.ret_void()


@intrinsic
def multiply_tile(typingctx, count, a, panel, out, out_step, steps, ahead, advance, onto, apart):
    """Multiply ``count`` rows of A with a panel of B or two; a tile taller than that may run.

    ``count``: rows, 1 to ROWS; for two panels, to PAIR_ROWS. ``a``: address of ``f32[vectors, ROWS,
    LANES]``. ``panel``: address of ``f32[vectors * LANES, PANEL]``. ``out``: address of ``f32[ROWS,
    LANES]``, the first vector of columns; ``out_step``: bytes from there to the next. ``steps``: of
    UNROLL channels, at least 1; the last vector of channels may have less than its own. ``ahead``:
    address of what to ask for meanwhile, ``advance`` bytes a step, at most those of UNROLL rows of
    the panel. ``onto``: 0, or sums are added to what lies at ``out``. ``apart``: bytes to a second
    panel, and to what is asked for with it, or 0.
    """
    return types.void(*(types.int64,) * 10), MULTIPLY.code
