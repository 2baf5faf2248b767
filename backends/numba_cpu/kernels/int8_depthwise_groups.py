"""numba_cpu > kernels > int8_depthwise_groups: lines of codes laid side by side, as LLVM IR.

The order of channels and lanes is that of :mod:`int8_depthwise_plan`: it costs no instruction that
crosses the pieces of a register.
"""

from __future__ import annotations

import functools

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.int8_depthwise_plan import (
    BLOCKS,
    DEEP,
    PARTS,
    PIECE,
    VECTOR,
)
from leptonc.backends.numba_cpu.kernels.ir_loops import counted
from leptonc.backends.numba_cpu.kernels.vectype import (
    I8,
    I16,
    I32,
    I64,
    VI,
    call,
    i64,
    pointer,
    shared_function,
    shuffle,
    splat,
)


def _interleaved(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> list[ir.Value]:
    """Return the elements of ``x`` and ``y`` in turn: the pieces' low halves, the high ones."""
    count, halves = x.type.count, []
    piece = 8 * PIECE // x.type.element.width
    for half in range(2):
        lanes = [
            at + start + half * piece // 2 + k
            for start in range(0, count, piece)
            for k in range(piece // 2)
            for at in (0, count)
        ]
        halves.append(shuffle(b, x, y, lanes))
    return halves


def _groups(b: ir.IRBuilder, lines: list[ir.Value]) -> list[ir.Value]:
    """Return the PARTS registers of groups of DEEP lines of codes."""
    size = lines[0].type.count
    pairs = ir.VectorType(I16, size // 2)
    if DEEP == 2:
        zero = ir.Constant(lines[0].type, None)
        mixed = _interleaved(b, *lines)
        return [part for half in mixed for part in _interleaved(b, half, zero)]
    first, second = (
        [b.bitcast(v, pairs) for v in _interleaved(b, *lines[k : k + 2])] for k in (0, 2)
    )
    return [part for k in range(2) for part in _interleaved(b, first[k], second[k])]


def _load_piece(b: ir.IRBuilder, at: ir.Value, left: ir.Value) -> ir.Value:
    """Load the first ``left`` bytes of a piece."""
    codes = ir.VectorType(I8, PIECE)
    lane = ir.Constant(codes, list(range(PIECE)))
    mask = b.icmp_signed("<", lane, splat(b, b.trunc(left, I8), codes))
    args = [pointer(b, at), ir.Constant(I32, 1), mask, ir.Constant(codes, None)]
    return call(b, f"llvm.masked.load.v{PIECE}i8.p0", codes, args)


def _emit_group(
    size: int, masked: bool, b: ir.IRBuilder, table: ir.Value, target: ir.Value, plane: ir.Value,
    count: ir.Value, left: ir.Value,
) -> None:  # fmt: skip
    """Write the loop over columns of ``size`` channels, ``left`` of them if ``masked``."""
    entries = [b.load(pointer(b, table, i64(k), 8), align=8, typ=I64) for k in range(2 * DEEP)]
    starts, steps = entries[::2], entries[1::2]

    def column(_, at):
        *places, to = at
        codes = ir.VectorType(I8, size)
        if masked:
            lines = [_load_piece(b, place, left) for place in places]
        else:
            lines = [b.load(pointer(b, place), align=1, typ=codes) for place in places]
        for q, part in enumerate(_groups(b, lines)):
            b.store(part, pointer(b, b.add(to, b.mul(plane, i64(q)))), align=PIECE)
        following = [b.add(place, step) for place, step in zip(places, steps, strict=True)]
        return [*following, b.add(to, i64(size))]

    counted(b, count, [*starts, target], column)


def _dispatch_group(b: ir.IRBuilder, size: ir.Value, *args: ir.Value) -> None:
    """Call the loop for blocks of ``size``; of the smallest, whole or not."""
    end = b.append_basic_block("end")
    last = b.append_basic_block("partial")
    switch = b.switch(size, last)
    for block in (*BLOCKS, None):
        here = last
        if block is not None:
            here = b.append_basic_block(f"columns{block}")
            switch.add_case(i64(block), here)
        b.position_at_end(here)
        masked = block is None
        body = functools.partial(_emit_group, block or PIECE, masked)
        name = f"lep_group_lines_{'part' if masked else block}"
        fn = shared_function(b.module, name, ir.VoidType(), [I64] * 5, body)
        b.call(fn, args)
        b.branch(end)
    b.position_at_end(end)


@intrinsic
def group_lines(typingctx, size, table, target, plane, count, left):
    """Write ``count >= 1`` columns of groups, all arguments int64.

    ``size``: channels, one of BLOCKS; or 0: PIECE channels, of which only ``left`` may be read.
    ``table``: address of ``(address, bytes from column to column)`` of DEEP lines. ``target``:
    address of the first part of the first column; ``plane``: bytes from part to part.
    """

    def build(context, builder, sig, args):
        fn = shared_function(
            builder.module, "lep_group_lines", ir.VoidType(), [I64] * 6, _dispatch_group
        )
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 6), build


@intrinsic
def lay_beside(typingctx, target, plane, size, code):
    """Write groups of one code over ``size >= 1`` bytes of each part, and up to a register more.

    ``target``: address of the first part; ``plane``: bytes from part to part.
    """

    def write(b, target, plane, size, code):
        lane = b.mul(b.trunc(code, I32), ir.Constant(I32, 0x01010101 if DEEP == 4 else 0x00010001))
        groups = splat(b, lane, VI)

        def register(i, _):
            for q in range(PARTS):
                at = b.add(b.add(target, b.mul(plane, i64(q))), b.mul(i, i64(VECTOR)))
                b.store(groups, pointer(b, at), align=PIECE)
            return []

        counted(b, b.udiv(b.add(size, i64(VECTOR - 1)), i64(VECTOR)), [], register)

    def build(context, builder, sig, args):
        fn = shared_function(
            builder.module, "lep_lay_beside", ir.VoidType(), [I64] * 4, write, inline=True
        )
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 4), build
