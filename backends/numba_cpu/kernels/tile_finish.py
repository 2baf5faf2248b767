"""numba_cpu > kernels > tile_finish: activations and late residuals of a stored tile.

It runs over a tile that was just stored, while it is in the first-level cache. Written as IR
because it is called from the innermost loops of ``igemm``: a numba function would be compiled once
for every level that calls it.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.activation import emit_act
from leptonc.backends.numba_cpu.kernels.microkernel import VECTORS
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I64,
    LANES,
    VF,
    first_lanes,
    i64,
    masked_load,
    masked_store,
    pointer,
    shared_function,
)

NO_RES, ADD_RES, MULTIPLY_RES = 0, 1, 2


def _with_residual(b: ir.IRBuilder, v: ir.Value, late: ir.Value, place: ir.Value, mask: ir.Value):
    """Return ``v``, ``v + r`` or ``v * r`` with ``r`` loaded from ``place``."""
    before = b.block
    load, end = (b.function.append_basic_block(name) for name in ("load", "combined"))
    b.cbranch(b.icmp_signed("!=", late, i64(NO_RES)), load, end)
    b.position_at_end(load)
    r = masked_load(b, place, mask)
    multiply = b.icmp_signed("==", late, i64(MULTIPLY_RES))
    combined = b.select(multiply, b.fmul(v, r), b.fadd(v, r))
    b.branch(end)
    b.position_at_end(end)
    phi = b.phi(VF)
    phi.add_incoming(v, before)
    phi.add_incoming(combined, load)
    return phi


def _write(b: ir.IRBuilder, act, p0, p1, late, out_rows, res_rows, count, column, width) -> None:
    """Write the loop over rows; ``count`` is at least 1."""
    masks = [first_lanes(b, b.sub(width, i64(j * LANES))) for j in range(VECTORS)]
    entry, loop, end = b.block, b.append_basic_block("row"), b.append_basic_block("done")
    b.branch(loop)
    b.position_at_end(loop)
    i = b.phi(I64)
    out = b.add(b.load(pointer(b, out_rows, i, 8), align=8, typ=I64), column)
    res = b.add(b.load(pointer(b, res_rows, i, 8), align=8, typ=I64), column)
    for j, mask in enumerate(masks):
        place = pointer(b, out, i64(j * LANES))
        v = emit_act(b, act, masked_load(b, place, mask), p0, p1)
        v = _with_residual(b, v, late, pointer(b, res, i64(j * LANES)), mask)
        masked_store(b, v, place, mask)
    following = b.add(i, i64(1))
    i.add_incoming(i64(0), entry)
    i.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, count), loop, end)
    b.position_at_end(end)


@intrinsic
def finish_tile(typingctx, act, p0, p1, late, out_rows, res_rows, count, column, width):
    """Replace each output ``v`` of a tile by ``act(v)``, ``act(v) + res`` or ``act(v) * res``.

    ``act``: an ``Act``, ``p0``, ``p1``: its float32 parameters. ``late``: NO_RES, ADD_RES or
    MULTIPLY_RES. ``out_rows``: address of the output row addresses (bytes). ``res_rows``: those
    of the residual; read, but not followed, with NO_RES. ``count``: rows, at least 1.
    ``column``: bytes added to each row. ``width``: columns that exist from there.
    """
    numbers = (types.int64,) * 6
    sig = types.void(types.int64, types.float32, types.float32, *numbers)

    def build(context, builder, sig, args):
        params = [I64, F32, F32, *[I64] * 6]
        fn = shared_function(builder.module, "lep_finish_tile", ir.VoidType(), params, _write)
        builder.call(fn, args)
        return context.get_dummy_value()

    return sig, build
