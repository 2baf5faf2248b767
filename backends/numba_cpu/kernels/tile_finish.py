"""numba_cpu > kernels > tile_finish: activations and late residuals of a few stored tiles.

It runs over tiles that were just stored, while they are in the first-level cache. Written as IR
and a part of its own: every kernel of products ends with it.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.activation import over_rows
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS
from leptonc.backends.numba_cpu.kernels.part import part
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I64,
    LANES,
    VF,
    first_lanes,
    i64,
    load_vec,
    masked_load,
    masked_store,
    pointer,
)

NO_RES, ADD_RES, MULTIPLY_RES = 0, 1, 2
FINISH_ROWS = 5 * ROWS  # the most at once: long loops, and what was stored is still near


def _rows(b: ir.IRBuilder, count: ir.Value, name: str, body: Callable) -> None:
    """Write ``body(i)`` for every row; ``count`` is at least 1."""
    entry, loop, end = b.block, b.append_basic_block(name), b.append_basic_block(f"{name}_end")
    b.branch(loop)
    b.position_at_end(loop)
    i = b.phi(I64)
    body(i)
    following = b.add(i, i64(1))
    i.add_incoming(i64(0), entry)
    i.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, count), loop, end)
    b.position_at_end(end)


def _place(b: ir.IRBuilder, table: ir.Value, i: ir.Value, offset: ir.Value) -> ir.Value:
    """Return the pointer to ``offset`` bytes into row ``i`` of a table of row addresses."""
    return pointer(b, b.add(b.load(pointer(b, table, i, 8), align=8, typ=I64), offset))


def _combine(b: ir.IRBuilder, late, rows, res_rows, count, offset, mask) -> None:
    """Add the residual to one vector of each row, or multiply by it."""
    with b.if_then(b.icmp_signed("!=", late, i64(NO_RES))):
        multiply = b.icmp_signed("==", late, i64(MULTIPLY_RES))

        def body(i: ir.Value) -> None:
            place = _place(b, rows, i, offset)
            v = masked_load(b, place, mask)
            r = masked_load(b, _place(b, res_rows, i, offset), mask)
            masked_store(b, b.select(multiply, b.fmul(v, r), b.fadd(v, r)), place, mask)

        _rows(b, count, "residual", body)


def _activate(b: ir.IRBuilder, act, p0, p1, rows, count, offset, mask, whole) -> None:
    """Activate one vector of each row.

    AVX-512 masks loads and stores for free. Elsewhere a vector that is cut off goes through a
    buffer, so that the loops need no masks.
    """
    if LANES == 16:
        over_rows(b, act, (p0, p1), rows, count, offset, mask)
        return
    with b.goto_entry_block():
        cells = b.alloca(VF, FINISH_ROWS)
        table = b.alloca(I64, FINISH_ROWS)
    cells, table = b.ptrtoint(cells, I64), b.ptrtoint(table, I64)

    def cell(i: ir.Value) -> ir.Value:
        return b.add(cells, b.mul(i, i64(4 * LANES)))

    def copy_in(i: ir.Value) -> None:
        v = masked_load(b, _place(b, rows, i, offset), mask)
        b.store(v, pointer(b, cell(i)), align=4)
        b.store(cell(i), pointer(b, table, i, 8), align=8)

    def copy_out(i: ir.Value) -> None:
        v = load_vec(b, pointer(b, cell(i)))
        masked_store(b, v, _place(b, rows, i, offset), mask)

    with b.if_then(b.not_(whole)):
        _rows(b, count, "copy_in", copy_in)
    here, start = b.select(whole, rows, table), b.select(whole, offset, i64(0))
    over_rows(b, act, (p0, p1), here, count, start, None)
    with b.if_then(b.not_(whole)):
        _rows(b, count, "copy_out", copy_out)


@part("finish_tile", [I64, F32, F32, *[I64] * 6])
def FINISH_TILE(
    b: ir.IRBuilder, act, p0, p1, late, out_rows, res_rows, count, column, width
) -> None:
    """Finish one vector of each row after the other; ``count`` and ``width`` are at least 1."""
    limit = b.select(b.icmp_signed("<", width, i64(PANEL)), width, i64(PANEL))
    vectors = b.udiv(b.add(limit, i64(LANES - 1)), i64(LANES))

    def body(j: ir.Value) -> None:
        done = b.mul(j, i64(LANES))
        left = b.sub(width, done)
        offset, mask = b.add(column, b.mul(done, i64(4))), first_lanes(b, left)
        whole = b.icmp_signed(">=", left, i64(LANES))
        _activate(b, act, p0, p1, out_rows, count, offset, mask, whole)
        _combine(b, late, out_rows, res_rows, count, offset, mask)

    _rows(b, vectors, "vector", body)


@intrinsic
def finish_tile(typingctx, act, p0, p1, late, out_rows, res_rows, count, column, width):
    """Replace each output ``v`` of a tile by ``act(v)``, ``act(v) + res`` or ``act(v) * res``.

    ``act``: an ``Act``, ``p0``, ``p1``: its float32 parameters. ``late``: NO_RES, ADD_RES or
    MULTIPLY_RES. ``out_rows``: address of the output row addresses (bytes). ``res_rows``: those
    of the residual; read, but not followed, with NO_RES. ``count``: rows, 1 to FINISH_ROWS.
    ``column``: bytes added to each row. ``width``: columns that exist from there, at
    least 1. Kernels that call it have the part FINISH_TILE.
    """
    numbers = (types.int64,) * 6
    return types.void(types.int64, types.float32, types.float32, *numbers), FINISH_TILE.code
