"""numba_cpu > kernels > int8_depthwise_tile: a line of outputs of groups of codes, as LLVM IR.

The order of channels and lanes is that of :mod:`int8_depthwise_plan`; values are rounded as those
of ``int8_tile``, in the same order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.int8_depthwise_plan import (
    BLOCKS,
    DEEP,
    ENDS,
    PARTS,
    PIECE,
    TILE,
    VECTOR,
)
from leptonc.backends.numba_cpu.kernels.int8_dot import FORMS, add_words, target_triple
from leptonc.backends.numba_cpu.kernels.int8_tile import nearest
from leptonc.backends.numba_cpu.kernels.ir_loops import counted
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I1,
    I8,
    I16,
    I64,
    LANES,
    VF,
    VI,
    call,
    i64,
    pointer,
    shared_function,
    shuffle,
    splat,
)

_CODES, _WORDS = ir.VectorType(I8, VECTOR), ir.VectorType(I16, VECTOR // 2)
# Of the tiles that are written out: those of kernels of 3x3 and of 5x5 in their cheapest windows.
STEPS = (3, 10) if DEEP == 4 else (6, 15)
_DOT = FORMS["vnni"] if DEEP == 4 else add_words


# ----- a line of outputs --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """The arguments of a line of outputs as LLVM values; see :func:`sum_codes`."""

    data: ir.Value
    places: ir.Value
    steps: ir.Value
    plane: ir.Value
    weights: ir.Value
    ends: ir.Value
    count: ir.Value
    block: ir.Value
    out: ir.Value
    pixel: ir.Value
    zero: ir.Value
    low: ir.Value
    high: ir.Value
    flip: ir.Value
    inverse: ir.Value


_PARAMS = [I64] * 14 + [F32]


def _pixels(b: ir.IRBuilder, t: _Line) -> ir.Value:
    """Return the pixels of a register; blocks are powers of two."""
    bits = call(b, "llvm.cttz.i64", I64, [t.block, ir.Constant(I1, 1)])
    return b.lshr(i64(VECTOR), bits)


class _Tile:
    """Writes the tiles of a line: ``width`` registers of outputs, ``steps`` or any number."""

    def __init__(self, b: ir.IRBuilder, width: int, steps: int | None, t: _Line) -> None:
        self.b, self.width, self.steps, self.t = b, width, steps, t

    def tiles(self, body: Callable[[ir.Value], None]) -> None:
        """Write ``body(first output)`` for each tile; the last overlaps the one before it."""
        b, t = self.b, self.t
        span = b.mul(_pixels(b, t), i64(self.width))
        most = b.sub(t.count, span)
        last = b.select(b.icmp_signed("<", most, i64(0)), i64(0), most)
        before = b.block
        again, end = (b.function.append_basic_block(n) for n in ("tile", "end"))
        b.branch(again)
        b.position_at_end(again)
        at = b.phi(I64)
        body(b.select(b.icmp_signed("<", at, last), at, last))
        following = b.add(at, span)
        at.add_incoming(i64(0), before)
        at.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, t.count), again, end)
        b.position_at_end(end)

    def sums(self, x: ir.Value, part: int) -> list[ir.Value]:
        """Return the sums of one part of the channels as float32, scaled."""
        b, t = self.b, self.t
        data = b.add(b.add(t.data, b.mul(x, t.block)), b.mul(t.plane, i64(part)))
        correction, scale, bias = (self.end(part, k) for k in range(ENDS))
        first = [b.bitcast(correction, VI)] * self.width

        def step(k, cells):
            place = b.load(pointer(b, t.places, k, 8), align=8, typ=I64)
            at = b.mul(b.add(b.mul(k, i64(PARTS)), i64(part)), i64(VECTOR))
            factor = b.load(pointer(b, t.weights, at, 1), align=4, typ=VI)
            base = pointer(b, data, place, 1)
            groups = [
                b.load(b.gep(base, [i64(j * VECTOR)], source_etype=I8), align=4, typ=VI)
                for j in range(self.width)
            ]
            return [_DOT(b, c, g, factor) for c, g in zip(cells, groups, strict=True)]

        if self.steps is None:
            cells = counted(b, t.steps, first, step)
        else:
            cells = first
            for k in range(self.steps):
                cells = step(i64(k), cells)
        return [b.fadd(b.fmul(b.sitofp(c, VF), scale), bias) for c in cells]

    def end(self, part: int, k: int) -> ir.Value:
        """Return a vector of what channels have beside their weights."""
        at = i64((part * ENDS + k) * VECTOR)
        return self.b.load(pointer(self.b, self.t.ends, at, 1), align=4, typ=VF)


def _emit_codes(width: int, steps: int | None, b: ir.IRBuilder, *args: ir.Value) -> None:
    """Write a line of outputs as codes."""
    t = _Line(*args)
    tile = _Tile(b, width, steps, t)
    inverse = splat(b, t.inverse)

    def one(x):
        words = []
        for pair in range(0, PARTS, 2):
            parts = [
                [nearest(b, b.fmul(v, inverse)) for v in tile.sums(x, q)] for q in (pair, pair + 1)
            ]
            words.append([narrow_words(b, *both) for both in zip(*parts, strict=True)])
        pairs = [[*pair] for pair in zip(*words, strict=True)]
        _store_codes(b, t, b.add(t.out, b.mul(x, t.pixel)), _codes_of(b, t, pairs))

    tile.tiles(one)


def _codes_of(b: ir.IRBuilder, t: _Line, pairs: list[list[ir.Value]]) -> list[ir.Value]:
    """Return a register of codes of each pair of words; to narrow them is enough for most."""
    plain = b.icmp_signed("==", t.zero, i64(0))
    for bound, sign, most in ((t.low, "<=", 0), (t.high, ">=", 255)):
        plain = b.and_(plain, b.icmp_signed(sign, bound, i64(most)))
    bare, moved, end = (b.append_basic_block(n) for n in ("bare", "moved", "codes"))
    b.cbranch(plain, bare, moved)
    b.position_at_end(bare)
    choices = [([narrow_codes(b, *pair) for pair in pairs], bare)]
    b.branch(end)
    b.position_at_end(moved)
    zero, low, high = (splat(b, b.trunc(v, I16), _WORDS) for v in (t.zero, t.low, t.high))
    flip, made = splat(b, b.trunc(t.flip, I8), _CODES), []
    for pair in pairs:
        for name, operand in (("sadd.sat", zero), ("smax", low), ("smin", high)):
            pair = [call(b, f"llvm.{name}.v{2 * LANES}i16", _WORDS, [w, operand]) for w in pair]
        made.append(b.xor(narrow_codes(b, *pair), flip))
    choices.append((made, moved))
    b.branch(end)
    b.position_at_end(end)
    phis = [b.phi(_CODES) for _ in pairs]
    for values, block in choices:
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(value, block)
    return phis


def _store_codes(b: ir.IRBuilder, t: _Line, out: ir.Value, codes: list[ir.Value]) -> None:
    """Store registers of codes: whole where pixels follow each other, else pixel by pixel."""
    end, whole = b.append_basic_block("stored"), b.append_basic_block("whole")
    dense = b.icmp_signed("==", t.pixel, t.block)
    size = b.select(dense, i64(VECTOR), t.block)
    switch = b.switch(size, whole)
    for block in BLOCKS:
        here = whole
        if block != VECTOR:
            here = b.append_basic_block(f"pixels{block}")
            switch.add_case(i64(block), here)
        b.position_at_end(here)
        to, step = out, i64(VECTOR) if block == VECTOR else t.pixel
        if block == VECTOR:
            step = b.select(dense, i64(VECTOR), t.pixel)
        for register in codes:
            for first in range(0, VECTOR, block):
                part = shuffle(b, register, register, range(first, first + block))
                b.store(part, pointer(b, to), align=1)
                to = b.add(to, step)
        b.branch(end)
    b.position_at_end(end)


def _emit_floats(b: ir.IRBuilder, *args: ir.Value) -> None:
    """Write a line of outputs as floats, pixel after pixel."""
    t = _Line(*args)
    tile = _Tile(b, 1, None, t)

    def one(x):
        parts = [tile.sums(x, q)[0] for q in range(PARTS)]
        pairs = [shuffle(b, *parts[k : k + 2], range(2 * LANES)) for k in (0, 2)]
        out = b.add(t.out, b.mul(b.mul(x, t.block), i64(4)))
        for i in range(PARTS):
            cells = [divmod(i * LANES + k, PIECE) for k in range(LANES)]
            lanes = [at // 4 * LANES + 4 * piece + at % 4 for piece, at in cells]
            b.store(shuffle(b, *pairs, lanes), pointer(b, out, i64(i * LANES)), align=4)

    tile.tiles(one)


# ----- narrower integers --------------------------------------------------------------------------

_NARROW = {
    16: ("avx512.packssdw.512", "avx512.packuswb.512"), 8: ("avx2.packssdw", "avx2.packuswb"),
    4: ("sse2.packssdw.128", "sse2.packuswb.128"),
}  # fmt: skip


def narrow_words(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Return two registers of int32 as int16, clamped, piece by piece in turn."""
    return _narrow(b, x, y, _WORDS, 0, (-(1 << 15), (1 << 15) - 1))


def narrow_codes(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Return two registers of int16 as unsigned bytes, clamped, piece by piece in turn."""
    return _narrow(b, x, y, _CODES, 1, (0, 255))


def _narrow(b: ir.IRBuilder, x, y, to: ir.VectorType, which: int, bounds: tuple[int, int]):
    if "x86" in target_triple():
        return call(b, f"llvm.x86.{_NARROW[LANES][which]}", to, [x, y])
    bits, count = x.type.element.width, x.type.count
    for name, bound in zip(("smax", "smin"), bounds, strict=True):
        limit = ir.Constant(x.type, [bound] * count)
        x, y = (call(b, f"llvm.{name}.v{count}i{bits}", v.type, [v, limit]) for v in (x, y))
    lanes, piece = [], PIECE * 8 // bits
    for start in range(0, count, piece):
        lanes += [at + start + k for at in (0, count) for k in range(piece)]
    return b.trunc(shuffle(b, x, y, lanes), to)


# ----- what the kernel calls ----------------------------------------------------------------------


def _dispatch_codes(b: ir.IRBuilder, *args: ir.Value) -> None:
    """Call the tiles as wide as the line allows, written out where their steps are."""
    t, end = _Line(*args), b.append_basic_block("end")
    wide = b.icmp_signed(">=", t.count, b.mul(_pixels(b, t), i64(TILE)))
    widths = [(width, b.append_basic_block("width")) for width in (TILE, 1)]
    b.cbranch(wide, *[block for _, block in widths])
    for width, block in widths:
        b.position_at_end(block)
        others = b.append_basic_block("any_steps")
        switch = b.switch(t.steps, others)
        for steps in (None, *STEPS):
            here = others
            if steps is not None:
                here = b.append_basic_block(f"steps{steps}")
                switch.add_case(i64(steps), here)
            b.position_at_end(here)
            body = functools.partial(_emit_codes, width, steps)
            name = f"lep_sum_codes_{width}x{steps or 'any'}"
            b.call(shared_function(b.module, name, ir.VoidType(), _PARAMS, body), args)
            b.branch(end)
    b.position_at_end(end)


@intrinsic
def sum_codes(
    typingctx, data, places, steps, plane, weights, ends, count, block, out, pixel, zero, low,
    high, flip, inverse,
):  # fmt: skip
    """Write ``count`` outputs of ``block`` channels as codes, at least those of a register.

    ``data``: address of groups, ``places``: address of ``int64[steps]``, bytes from the groups of
    the first output to those that a step multiplies; ``plane``: bytes from part to part.
    ``weights``, ``ends``: addresses of what :mod:`int8_depthwise_plan` packs, for this block and
    line. ``out``: address of the first output, ``pixel``: bytes between them. A code is
    ``min(max(round(value * inverse) + zero, low), high)``, its bits changed by those of the byte
    ``flip``; int32 must hold the rounded number.
    """

    def build(context, builder, sig, args):
        fn = shared_function(
            builder.module, "lep_sum_codes", ir.VoidType(), _PARAMS, _dispatch_codes
        )
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 14, types.float32), build


@intrinsic
def sum_floats(typingctx, data, places, steps, plane, weights, ends, count, block, out):
    """Write ``count`` outputs as floats, ``block`` to a pixel; the last register is whole.

    The arguments are those of :func:`sum_codes`.
    """

    def build(context, builder, sig, args):
        fn = shared_function(builder.module, "lep_sum_floats", ir.VoidType(), _PARAMS, _emit_floats)
        rest = [i64(0)] * 5 + [ir.Constant(F32, 0.0)]
        builder.call(fn, [*args, *rest])
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 9), build
