"""numba_cpu > kernels > int8_gather: lines of few channels side by side, as rows of bytes.

A convolution of few channels reads, for each line of its window, a few bytes that lie in a row.
Padded to whole steps of four bytes one by one, lines waste a good part of the products; and each
line is a tap of its own, too short for what begins and ends with it. Copied side by side they are
one row without gaps.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.ir_loops import Loop
from leptonc.backends.numba_cpu.kernels.vectype import (
    I8,
    I16,
    I32,
    I64,
    call,
    i64,
    pointer,
    shared_function,
    splat,
)

Move = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], None]
LEAST_BYTES, MOST_BYTES = 8, 64


def serves(lines: int, line_bytes: int) -> bool:
    """Return whether lines of so many bytes can be gathered, and there is more than one."""
    return lines > 1 and LEAST_BYTES <= line_bytes <= MOST_BYTES


def pitch_of(lines: int, line_bytes: int) -> int:
    """Return the bytes from row to row, whole steps of four."""
    return -(-lines * line_bytes // 4) * 4


def _move_twice(b: ir.IRBuilder, row: ir.Value, at: ir.Value, size: ir.Value) -> None:
    """Copy 8 to 16 bytes by two moves that overlap."""
    second = b.sub(size, i64(8))
    pairs = [(row, at), (b.add(row, second), b.add(at, second))]
    moved = [b.load(pointer(b, start), align=1, typ=I64) for start, _ in pairs]
    for value, (_, place) in zip(moved, pairs, strict=True):
        b.store(value, pointer(b, place), align=1)


def _move_masked(width: int) -> Move:
    def move(b: ir.IRBuilder, row: ir.Value, at: ir.Value, size: ir.Value) -> None:
        """Copy up to ``width`` bytes by a masked move."""
        typ, lanes = ir.VectorType(I8, width), ir.VectorType(I16, width)
        lane = ir.Constant(lanes, list(range(width)))
        mask = b.icmp_signed("<", lane, splat(b, b.trunc(size, I16), lanes))
        one, none, name = ir.Constant(I32, 1), ir.Constant(typ, [0] * width), f"v{width}i8.p0"
        moved = call(b, f"llvm.masked.load.{name}", typ, [pointer(b, row), one, mask, none])
        args = [moved, pointer(b, at), one, mask]
        call(b, f"llvm.masked.store.{name}", ir.VoidType(), args)

    return move


_MOVES: dict[int, Move] = {16: _move_twice, 32: _move_masked(32), MOST_BYTES: _move_masked(64)}


@intrinsic
def gather_line(typingctx, source, step, count, size, to, pitch):
    """Copy ``size`` bytes to each of ``count >= 1`` places.

    ``source``: address of the first, ``step`` bytes before the next. ``size``: from LEAST_BYTES to
    MOST_BYTES; nothing else is read or written. ``to``: address of the first place, ``pitch`` bytes
    before the next.
    """

    def write(b, source, step, count, size, to, pitch):
        end = b.append_basic_block("end")
        for most, move in _MOVES.items():
            here, wider = (b.append_basic_block(n) for n in ("here", "wider"))
            b.cbranch(b.icmp_signed("<=", size, i64(most)), here, wider)
            b.position_at_end(here)
            loop = Loop(b, "row", [i64(0), source, to])
            index, row, at = loop.values
            move(b, row, at, size)
            following = b.add(index, i64(1))
            more = b.icmp_signed("<", following, count)
            loop.close(more, [following, b.add(row, step), b.add(at, pitch)])
            b.branch(end)
            b.position_at_end(wider)
        b.branch(end)
        b.position_at_end(end)

    def build(context, builder, sig, args):
        fn = shared_function(builder.module, "lep_gather_line", ir.VoidType(), [I64] * 6, write)
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 6), build
