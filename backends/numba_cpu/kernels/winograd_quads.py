"""numba_cpu > kernels > winograd_quads: elements of V for the products of few tiles, as LLVM IR.

Each product of :mod:`winograd_late_tile` takes an element of V of its own, and a core loads two of
them a cycle, as many as it multiplies; the weights come on top. Where additions have pipes of their
own, so have shuffles: there some planes (:data:`QUADS`) have the elements of four tiles side by
side, for one load and four shuffles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.ir_loops import opaque
from leptonc.backends.numba_cpu.kernels.machine_code import adds_beside
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I64,
    LANES,
    floats_on,
    i64,
    load_vec,
    pointer,
    shared_function,
    splat,
)

FEW = 4  # tiles of a group
#: Columns of planes whose V is ``[channel][FEW]`` in each group, ``[FEW][channel]`` in others. With
#: one more, shuffles would take longer than loads.
QUADS = (1, 4) if LANES == 16 and adds_beside() else ()
_QUARTERS = range(0, 16, 4)


def splats(b: ir.IRBuilder, start: ir.Value, plane: int) -> Callable[[int], ir.Value]:
    """Return what gives the element of a tile in all lanes; ``start``: those of a channel."""
    if plane not in QUADS:
        return lambda t: splat(b, b.load(floats_on(b, start, t * LANES), align=4, typ=F32))
    kind = ir.VectorType(F32, FEW)

    @functools.cache
    def four(group: int) -> ir.Value:
        some = b.load(floats_on(b, start, group * FEW * LANES), align=4, typ=kind)
        # Else LLVM makes four loads of it.
        return opaque(b, _shuffled(b, some, some, [k % FEW for k in range(LANES)]), "v")

    def one(t: int) -> ir.Value:
        whole = four(t // FEW)
        return _shuffled(b, whole, whole, [k // FEW * FEW + t % FEW for k in range(LANES)])

    return one


def _shuffled(b: ir.IRBuilder, x: ir.Value, y: ir.Value, places: Sequence[int]) -> ir.Value:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), list(places))
    return b.shuffle_vector(x, y, mask)


def _turn(b: ir.IRBuilder, place: ir.Value) -> None:
    """Write the function: words change places within quarters of vectors, then the quarters."""
    rows = [pointer(b, place, i64(t * LANES)) for t in range(FEW)]
    w, x, y, z = (load_vec(b, row) for row in rows)

    def words(p: ir.Value, q: ir.Value, first: int, some: Sequence[int]) -> ir.Value:
        return _shuffled(b, p, q, [k + first + c for k in _QUARTERS for c in some])

    def quarters(p: ir.Value, q: ir.Value, some: Sequence[int]) -> ir.Value:
        return _shuffled(b, p, q, [4 * k + c for k in some for c in range(4)])

    one, two = (0, 16, 1, 17), (0, 1, 16, 17)
    pairs = [(words(w, x, j, one), words(y, z, j, one)) for j in (0, 2)]
    # Of all tiles: channels j, j + 4, j + 8 and j + 12.
    by_four = [words(*pair, j, two) for pair in pairs for j in (0, 2)]
    for half in (0, 2):
        some = (half, half + 1, half + 4, half + 5)
        low, high = quarters(*by_four[:2], some), quarters(*by_four[2:], some)
        for j in (0, 1):
            b.store(quarters(low, high, (j, j + 2, j + 4, j + 6)), rows[half + j], align=4)


@intrinsic
def turn_rows(typingctx, place):
    """Turn ``f32[FEW, LANES]`` at address ``place`` into ``f32[LANES, FEW]``; of 16 lanes."""

    def code(context, b, sig, args):
        b.call(shared_function(b.module, "lep_turn", ir.VoidType(), [I64], _turn), args)
        return context.get_dummy_value()

    return types.void(types.int64), code
