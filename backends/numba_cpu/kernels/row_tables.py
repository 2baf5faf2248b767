"""numba_cpu > kernels > row_tables: tables of row addresses, which the register tile reads.

A table holds the address of each row of a block, and ROWS times that of the last one behind: a tile
may be taller than the rows that are left.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS
from leptonc.backends.numba_cpu.kernels.vec import LANES, ldi64, sti64, vload_n, vstore_n
from leptonc.backends.numba_cpu.kernels.vectype import (
    I64,
    i64,
    pointer,
    prefetch,
    shared_function,
    splat,
)

LINE = 64  # bytes of a cache line
ENTRIES = ir.VectorType(I64, max(2, LANES // 2))


@intrinsic
def fill(typingctx, table, start, count, first, step):
    """Write ``first, first + step, ...`` into ``count`` entries of ``table`` from ``start``.

    One function a module: inlined and unrolled at its many calls it would dominate the compile
    time.
    """

    def write(b, table, start, count, first, step):
        table = b.add(table, b.mul(start, i64(8)))
        entry = b.block
        blocks = [b.append_basic_block(name) for name in ("many", "rest", "one", "end")]
        many, rest, one, end = blocks
        ramp = b.mul(splat(b, step, ENTRIES), ir.Constant(ENTRIES, list(range(ENTRIES.count))))
        stride = b.mul(step, i64(ENTRIES.count))
        b.cbranch(b.icmp_signed(">=", count, i64(ENTRIES.count)), many, rest)
        b.position_at_end(many)
        i, value = b.phi(I64), b.phi(I64)
        b.store(b.add(splat(b, value, ENTRIES), ramp), pointer(b, table, i, 8), align=8)
        more = b.add(i, i64(ENTRIES.count))
        following = b.add(value, stride)
        for phi, before, after in ((i, i64(0), more), (value, first, following)):
            phi.add_incoming(before, entry)
            phi.add_incoming(after, many)
        b.cbranch(b.icmp_signed("<=", b.add(more, i64(ENTRIES.count)), count), many, rest)
        b.position_at_end(rest)
        at, left = b.phi(I64), b.phi(I64)
        for phi, before, after in ((at, i64(0), more), (left, first, following)):
            phi.add_incoming(before, entry)
            phi.add_incoming(after, many)
        b.cbranch(b.icmp_signed("<", at, count), one, end)
        b.position_at_end(one)
        i, value = b.phi(I64), b.phi(I64)
        b.store(value, pointer(b, table, i, 8), align=8)
        following = b.add(i, i64(1))
        for phi, before, after in ((i, at, following), (value, left, b.add(value, step))):
            phi.add_incoming(before, rest)
            phi.add_incoming(after, one)
        b.cbranch(b.icmp_signed("<", following, count), one, end)
        b.position_at_end(end)

    def build(context, builder, sig, args):
        fn = shared_function(builder.module, "lep_fill", ir.VoidType(), [I64] * 5, write)
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 5), build


@intrinsic
def ask_rows(typingctx, table, count, offset):
    """Ask for the PANEL floats from byte ``offset`` of each of the ``count`` rows of a table."""

    def write(b, table, count, offset):
        entry, loop, end = b.block, b.append_basic_block("row"), b.append_basic_block("end")
        b.branch(loop)
        b.position_at_end(loop)
        i = b.phi(I64)
        place = b.add(b.load(pointer(b, table, i, 8), align=8, typ=I64), offset)
        for at in range(0, 4 * PANEL, LINE):
            prefetch(b, pointer(b, place, i64(at), 1))
        following = b.add(i, i64(1))
        i.add_incoming(i64(0), entry)
        i.add_incoming(following, loop)
        b.cbranch(b.icmp_signed("<", following, count), loop, end)
        b.position_at_end(end)

    def build(context, builder, sig, args):
        fn = shared_function(builder.module, "lep_ask_rows", ir.VoidType(), [I64] * 3, write)
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 3), build


@inline_njit
def affine_rows(table, m0, count, rows_y, rows_x, base, stride_z, stride_y, stride_x, size):
    """Write the addresses of rows ``m0 .. m0 + count``; repeat the last one ROWS times.

    The strides count elements of ``size`` bytes.
    """
    m = m0
    while m < m0 + count:
        line, x = m // rows_x, m % rows_x
        run = min(rows_x - x, m0 + count - m)
        at = (line // rows_y) * stride_z + (line % rows_y) * stride_y + x * stride_x
        fill(table, m - m0, run, base + size * at, size * stride_x)
        m += run
    fill(table, count, ROWS, ldi64(table, count - 1), 0)


@inline_njit
def copy_rows(table, count, depth, offset, to, pitch):
    """Copy ``depth`` floats from byte ``offset`` of each row; let the table show the copies."""
    for i in range(count):
        row = ldi64(table, i) + offset
        for k in range(0, depth, LANES):
            vstore_n(to, k, vload_n(row, k, depth - k), depth - k)
        sti64(table, i, to)
        to += 4 * pitch
    fill(table, count, ROWS, ldi64(table, count - 1), 0)
