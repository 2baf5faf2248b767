"""numba_cpu > kernels > lines_tile: the register tile of :mod:`lines`, written as LLVM IR.

Its rows are neighbouring pixels of one line of outputs, or of two for a pool. What they read lies
one step apart, so that a pointer a line and a few multiples of the step address all rows: no table
of row addresses is made, and none is reloaded in the loop.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import vecmath as vm
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, VECTORS
from leptonc.backends.numba_cpu.kernels.tile_writer import HEIGHTS
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I8,
    I64,
    LANES,
    PTR,
    first_lanes,
    fma,
    i64,
    load_vec,
    masked_load,
    masked_store,
    pointer,
    shared_function,
    splat,
)

#: Pixels of a line that a tile exists for, largest first, with pools and without.
PIXELS = HEIGHTS
POOLED_PIXELS = tuple(range(max(HEIGHTS[0] // 4, 1) * 2, 0, -2))


@dataclass(frozen=True)
class _Tile:
    """The arguments of a tile as LLVM values; see :func:`line_tile` for their meaning."""

    table: ir.Value
    offset: ir.Value
    step: ir.Value
    taps: ir.Value
    depth: ir.Value
    panel: ir.Value
    out: ir.Value
    out_step: ir.Value
    width: ir.Value
    bias: ir.Value
    low: ir.Value
    high: ir.Value


_PARAMS = [I64] * 10 + [F32, F32]


def _row(b: ir.IRBuilder, start: ir.Value, multiples: dict[int, ir.Value], i: int) -> ir.Value:
    """Return ``start + i * step``: an odd multiple in a register times what an address scales."""
    scale = 1
    while i and i % 2 == 0 and scale < 8:
        i, scale = i // 2, scale * 2
    if i == 0:
        return start
    return b.gep(start, [multiples[i]], source_etype=ir.IntType(8 * scale))


def _loop(b: ir.IRBuilder, count: ir.Value, starts: Sequence[ir.Value], body) -> list[ir.Value]:
    """Write a loop that carries values; ``body(k, values)`` returns the next; count is >= 1."""
    entry, loop, end = b.block, b.append_basic_block("loop"), b.append_basic_block("end")
    b.branch(loop)
    b.position_at_end(loop)
    k, *carried = (b.phi(v.type) for v in (i64(0), *starts))
    laters = body(k, carried)
    following = b.add(k, i64(1))
    for phi, first, later in zip(
        [k, *carried], [i64(0), *starts], [following, *laters], strict=True
    ):
        phi.add_incoming(first, entry)
        phi.add_incoming(later, b.block)
    b.cbranch(b.icmp_signed("<", following, count), loop, end)
    b.position_at_end(end)
    return laters


def _as_written(b: ir.IRBuilder) -> None:
    """Keep LLVM from unrolling a loop whose cells fill the registers: it would spill them."""
    nothing = ir.InlineAsm(ir.FunctionType(ir.VoidType(), []), "", "", side_effect=True)
    b.call(nothing, [], attrs=("convergent",))


def _sums(pixels: int, lines: int, b: ir.IRBuilder, t: _Tile, first: Sequence[ir.Value]):
    """Write the loops over taps and depth; return a sum for each line, pixel and vector."""
    odd = {i: b.mul(t.step, i64(i)) for i in range(1, pixels, 2)} | {
        1: t.step,
        0: i64(0),
    }

    def one_depth(k: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        panel, *rest = values
        starts, sums = rest[:lines], rest[lines:]
        columns = [
            load_vec(b, b.gep(panel, [i64(j * LANES)], source_etype=F32)) for j in range(VECTORS)
        ]
        made: list[ir.Value] = []
        for start in starts:
            for i in range(pixels):
                x = splat(b, b.load(_row(b, start, odd, i), align=4, typ=F32))
                for j in range(VECTORS):
                    made.append(fma(b, x, columns[j], sums[len(made)]))
        _as_written(b)
        panel = b.gep(panel, [i64(PANEL)], source_etype=F32)
        return [panel, *(b.gep(s, [i64(4)], source_etype=I8) for s in starts), *made]

    def one_tap(tap: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        panel, *sums = values
        places = [b.add(b.mul(tap, i64(lines)), i64(line)) for line in range(lines)]
        starts = [b.load(pointer(b, t.table, p, 8), align=8, typ=I64) for p in places]
        starts = [b.inttoptr(b.add(s, t.offset), PTR) for s in starts]
        panel, *rest = _loop(b, t.depth, [panel, *starts, *sums], one_depth)
        return [panel, *rest[lines:]]

    return _loop(b, t.taps, [b.inttoptr(t.panel, PTR), *first], one_tap)[1:]


def _write(pixels: int, lines: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    """Write the tile of ``pixels`` of each of ``lines`` lines; two lines are pooled."""
    t = _Tile(*args)
    masks = [first_lanes(b, b.sub(t.width, i64(j * LANES))) for j in range(VECTORS)]
    shifts = [
        masked_load(b, pointer(b, t.bias, i64(j * LANES)), mask) for j, mask in enumerate(masks)
    ]
    sums = _sums(pixels, lines, b, t, shifts * (pixels * lines))
    least, most = splat(b, t.low), splat(b, t.high)
    for i in range(0, pixels, lines):
        to = b.add(t.out, b.mul(t.out_step, i64(i // lines)))
        for j in range(VECTORS):
            value = sums[i * VECTORS + j]
            if lines == 2:
                cells = (i, i + 1, pixels + i, pixels + i + 1)
                value = vm.largest(b, [sums[c * VECTORS + j] for c in cells])
            value = vm.clamp_high(b, vm.clamp_low(b, value, least), most)
            masked_store(b, value, pointer(b, to, i64(j * LANES)), masks[j])


def _choice(b: ir.IRBuilder, pool: ir.Value, count: ir.Value, *args: ir.Value) -> None:
    """Call the tile of ``count`` pixels."""
    end = b.append_basic_block("end")
    switch = b.switch(b.add(b.mul(pool, i64(64)), count), end)
    forms = [(1, n) for n in PIXELS] + [(2, n) for n in POOLED_PIXELS]
    for lines, pixels in forms:
        here = b.append_basic_block("tile")
        switch.add_case(i64(64 * lines + pixels), here)
        b.position_at_end(here)
        body = functools.partial(_write, pixels, lines)
        name = f"lep_lines_{lines}x{pixels}"
        b.call(shared_function(b.module, name, ir.VoidType(), _PARAMS, body), args)
        b.branch(end)
    b.position_at_end(end)


@intrinsic
def line_tile(
    typingctx, pool, count, table, offset, step, taps, depth, panel, out, out_step, width, bias,
    low, high,
):  # fmt: skip
    """Compute ``count`` neighbouring pixels of up to PANEL columns; of two lines if pooled.

    ``pool``: 1, or 2 to write the largest of each two by two. ``count``: one of PIXELS or
    POOLED_PIXELS. ``table``: address of the addresses of the lines that are read, ``[tap][pool]``;
    ``offset``: bytes from there to the first pixel, ``step``: to the next. ``depth``: floats of a
    line that a pixel reads. ``panel``: packed B ``[taps][depth][PANEL]``. ``out``: address of the
    first pixel to write, ``out_step``: bytes to the next. ``width``: columns that exist. ``bias``:
    address of the columns' initial values. ``low``, ``high``: float32 bounds of the result.
    """

    def build(context, builder, sig, args):
        params = [I64, I64, *_PARAMS]
        fn = shared_function(builder.module, "lep_lines", ir.VoidType(), params, _choice)
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 12, types.float32, types.float32), build
