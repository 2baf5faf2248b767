"""numba_cpu > kernels > depthwise_walk: windows of 3 columns that walk along a line, as LLVM IR.

For one vector of channels the weights of the window and the columns that the next window needs
again stay in registers: an output loads only the columns that are new. It takes 32 registers; with
fewer the tiles of :mod:`depthwise_tile` are better. Both add up the taps in the same order.
"""

from __future__ import annotations

import functools

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.depthwise_tile import TILE_PARAMS, Tiles
from leptonc.backends.numba_cpu.kernels.ir_loops import counted
from leptonc.backends.numba_cpu.kernels.vectype import (
    I64,
    LANES,
    fma,
    i64,
    load_vec,
    pointer,
    shared_function,
)

WALKS = LANES == 16  # whether the machine has the registers, and masks for a last vector
WIDTH = 3  # columns of the window
STRIDES = (1, 2)
MOST_LINES = 3  # of the window


class _Walk:
    """Writes the walk of windows of ``height`` lines for one vector of channels."""

    def __init__(self, s: Tiles, stride: int, height: int, at: ir.Value, mask: ir.Value) -> None:
        b, t = s.b, s.t
        self.s, self.stride, self.mask, here = s, stride, mask, b.add(t.at, at)
        column0 = b.add(here, b.mul(t.start, s.at["pixel"]))
        self.lines: list[ir.Value] = []
        self.factors: list[list[ir.Value]] = []
        for i in range(height):
            x, w = s.entry(i64(i))
            taps = s.weights(w, here)
            self.lines.append(b.add(x, column0))
            places = [b.add(taps, i64(4 * LANES * k)) for k in range(WIDTH)]
            self.factors.append([load_vec(b, pointer(b, place)) for place in places])
        self.bias = s.load(b.add(s.at["bias"], here), mask)

    def column(self, offset: ir.Value, exists: ir.Value | None = None) -> list[ir.Value]:
        """Load the pixels ``offset`` bytes into each line, zeros unless they exist."""
        b = self.s.b
        places = [b.add(line, offset) for line in self.lines]
        if exists is not None:
            places = [b.select(exists, place, self.s.at["zero"]) for place in places]
        return [self.s.load(place, self.mask) for place in places]

    def step(self, values: list[ir.Value], exists: ir.Value | None = None) -> list[ir.Value]:
        """Compute one output from the columns kept, the next column's offset, the output's address.

        Returns them for the next output. ``exists``: whether the last column does.
        """
        b, (*kept, offset, out), height = self.s.b, values, len(self.lines)
        for i in range(self.stride):
            kept += self.column(offset, exists if i == self.stride - 1 else None)
            offset = b.add(offset, self.s.at["pixel"])
        total = self.bias
        for line, factors in enumerate(self.factors):
            for k, factor in enumerate(factors):
                total = fma(b, kept[k * height + line], factor, total)
        self.s.store(total, out, self.mask)
        return [*kept[self.stride * height :], offset, b.add(out, self.s.at["out_step"])]


def _line(stride: int, height: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    """Compute a line of ``count`` outputs, at least 2; see :func:`run_walk`."""
    s = Tiles(b, args)
    t, pixel = s.t, s.at["pixel"]
    last = b.add(b.add(t.start, b.mul(b.sub(t.count, i64(1)), i64(stride))), i64(WIDTH - 1))
    begins, ends = b.icmp_signed(">=", t.start, i64(0)), b.icmp_signed("<", last, s.at["in_w"])

    def vector(at: ir.Value, mask: ir.Value) -> None:
        walk = _Walk(s, stride, height, at, mask)
        kept = walk.column(i64(0), begins)
        if stride == 1:
            kept += walk.column(pixel)
        values = [*kept, b.mul(pixel, i64(WIDTH - stride)), b.add(t.out, at)]
        values = counted(s.b, b.sub(t.count, i64(1)), values, lambda _, v: walk.step(v))
        walk.step(values, ends)

    s.vectors(True, vector)


def _choose(b: ir.IRBuilder, stride: ir.Value, *args: ir.Value) -> None:
    """Call the function for this stride and number of lines."""
    end = b.append_basic_block("end")
    for step in STRIDES:
        for height in range(1, MOST_LINES + 1):
            here, other = b.append_basic_block("here"), b.append_basic_block("other")
            lines = b.icmp_signed("==", args[1], i64(height))
            b.cbranch(b.and_(b.icmp_signed("==", stride, i64(step)), lines), here, other)
            b.position_at_end(here)
            name, body = f"lep_walk_{step}_{height}", functools.partial(_line, step, height)
            b.call(shared_function(b.module, name, ir.VoidType(), TILE_PARAMS, body), args)
            b.branch(end)
            b.position_at_end(other)
    b.branch(end)
    b.position_at_end(end)


@intrinsic
def run_walk(typingctx, stride, frame, lines, start, at, channels, out, count):
    """Compute a line of ``count`` outputs for ``channels`` channels, all arguments int64.

    ``stride``: one of STRIDES. ``count``: at least 2. ``lines``: of the window that exist, 1 to
    MOST_LINES. Windows leave the line by one pixel at most. The others: see ``TileCall``.
    """

    def build(context, builder, sig, args):
        params = [I64] * 8
        fn = shared_function(builder.module, "lep_walk", ir.VoidType(), params, _choose)
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 8), build
