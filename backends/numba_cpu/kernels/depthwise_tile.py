"""numba_cpu > kernels > depthwise_tile: register tiles of the depthwise convolution as LLVM IR.

A tile is COLUMNS neighbouring outputs of one line for one vector of channels. ``run_tiles``
computes tiles for a range of channels; what they share stands in a frame of 8-byte slots, FRAME.
A tile for a kernel of 3, 5 or 7 columns loads every input of a line once. Tiles that reach over
the ends of the line read zeros there: the address is chosen, never the value, so that a window of
one that lies inside does the same arithmetic.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import vecmath as vm
from leptonc.backends.numba_cpu.kernels.ir_loops import counted
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I64,
    LANES,
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

COLUMNS = 7  # outputs of one tile: widths of 224 / 2**k divide into it
FAST = ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1))  # (columns of the kernel, stride) with own tiles
FRAME = (
    "table", "pixel", "window_taps", "in_w", "stride", "dilation", "taps", "bias", "out_step",
    "zero", "spare", "places", "last", "low", "high",
)  # fmt: skip
"""Slots of the frame. ``table``: address of ``(input line, weights)`` addresses of the window's
lines. ``pixel``, ``out_step``: bytes between pixels and outputs. ``window_taps``: of all lines.
``in_w``: pixels of a line. ``stride``, ``dilation``: pixels. ``taps``: columns of the kernel.
``bias``: address. ``zero``: address of as many zeros as there are channels, rounded up to vectors.
``spare``: address of a vector that nobody reads. ``places``: of PLACES slots for each line of the
window, to be overwritten. ``last``: first output of a line's last whole tile. ``low``, ``high``:
the clamp, float32."""
PLACES = max((COLUMNS - 1) * stride + width for width, stride in FAST)
ANY = len(FAST)  # the code of the tile for all other kernels
_FLOATS = ("low", "high")
_WHOLE_ONLY = LANES != 16  # AVX-512 masks for free; elsewhere the last vector is computed apart


@dataclass(frozen=True)
class TileCall:
    """The arguments of a tile function as LLVM values, int64.

    Attributes:
        frame: address. lines: of the window that exist, at least one. start: pixel of the first
            tap of the first output, may be negative. at: bytes to the first channel.
        channels: to compute (without masks: rounded down to vectors). out: address of the first
            output's first channel.
        count: tiles of a line, or outputs of the one tile that may reach over the ends.
    """

    frame: ir.Value
    lines: ir.Value
    start: ir.Value
    at: ir.Value
    channels: ir.Value
    out: ir.Value
    count: ir.Value

    def slot(self, b: ir.IRBuilder, name: str) -> ir.Value:
        """Load a slot of the frame."""
        place = pointer(b, self.frame, i64(FRAME.index(name)), 8)
        return b.load(place, align=8, typ=F32 if name in _FLOATS else I64)


TILE_PARAMS = [I64] * 7


class Tiles:
    """Writes one tile function."""

    def __init__(self, b: ir.IRBuilder, args: tuple[ir.Value, ...]) -> None:
        self.b, self.t = b, TileCall(*args)
        self.at = {name: self.t.slot(b, name) for name in FRAME}
        self.low, self.high = (splat(b, self.at[name]) for name in _FLOATS)

    def vectors(self, masked: bool, body: Callable[[ir.Value, ir.Value | None], None]) -> None:
        """Write the loop over vectors: ``body(bytes to the vector, mask or None)``."""
        b, channels = self.b, self.t.channels

        def vector(i, _):
            left = b.sub(channels, b.mul(i, i64(LANES)))
            body(b.mul(i, i64(4 * LANES)), first_lanes(b, left) if masked else None)
            return []

        rounded = b.add(channels, i64(LANES - 1)) if masked else channels
        counted(self.b, b.sdiv(rounded, i64(LANES)), [], vector)

    def load(self, address: ir.Value, mask: ir.Value | None) -> ir.Value:
        """Load a vector of channels."""
        place = pointer(self.b, address)
        return load_vec(self.b, place) if mask is None else masked_load(self.b, place, mask)

    def store(self, value: ir.Value, address: ir.Value, mask: ir.Value | None) -> None:
        """Clamp (NaN stays) and store a vector of channels."""
        b = self.b
        value = vm.clamp_high(b, vm.clamp_low(b, value, self.low), self.high)
        if mask is None:
            b.store(value, pointer(b, address), align=4)
        else:
            masked_store(b, value, pointer(b, address), mask)

    def some(self, values: list[ir.Value], at: ir.Value, mask: ir.Value | None) -> None:
        """Store those of a tile's outputs that exist, ``at`` bytes into the channels."""
        b, t = self.b, self.t
        for j, v in enumerate(values):
            out = b.add(b.add(t.out, b.mul(self.at["out_step"], i64(j))), at)
            exists = b.icmp_signed("<", i64(j), t.count)
            self.store(v, b.select(exists, out, self.at["spare"]), mask)

    def sums(self, here: ir.Value, mask: ir.Value | None, line: Callable) -> list[ir.Value]:
        """Return the sums of one tile: bias, then ``line(x, w, sums)`` over the lines.

        ``here``: bytes to the vector; ``x``, ``w``: addresses of its pixel 0 and its first tap.
        """
        b, t = self.b, self.t

        def one(i, sums):
            x, w = self.entry(i)
            return line(b.add(x, here), self.weights(w, here), sums)

        start = self.load(b.add(self.at["bias"], here), mask)
        return counted(self.b, t.lines, [start] * COLUMNS, one)

    def entry(self, i: ir.Value) -> list[ir.Value]:
        """Return the addresses of line ``i`` of the window: its pixel 0, its first tap."""
        b, place = self.b, self.b.add(self.at["table"], self.b.shl(i, i64(4)))
        return [b.load(pointer(b, place, i64(k), 8), align=8, typ=I64) for k in range(2)]

    def tile(self, i: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return first pixel and output address of tile ``i`` of a line; the last may overlap."""
        b, last = self.b, self.at["last"]
        x = b.mul(i, i64(COLUMNS))
        x = b.select(b.icmp_signed("<", x, last), x, last)
        start = b.add(self.t.start, b.mul(x, self.at["stride"]))
        return start, b.add(self.t.out, b.mul(x, self.at["out_step"]))

    def weights(self, w: ir.Value, here: ir.Value) -> ir.Value:
        """Return the address of a line's taps for the vector ``here`` bytes into the channels."""
        return self.b.add(w, self.b.mul(here, self.at["window_taps"]))

    def products(self, width: int, stride: int, w: ir.Value, sums: list[ir.Value], column):
        """Return ``sums`` with one line added, ``column(p)`` being its input column ``p``."""
        b, new = self.b, list(sums)
        factors = [load_vec(b, pointer(b, b.add(w, i64(4 * LANES * k)))) for k in range(width)]
        for p in range((COLUMNS - 1) * stride + width):
            v = column(p)
            for k in range(width):
                j, rest = divmod(p - k, stride)
                if rest == 0 and 0 <= j < COLUMNS:
                    new[j] = fma(b, v, factors[k], new[j])
        return new

    def guarded(self, x: ir.Value, position: ir.Value, zero: ir.Value | None = None) -> ir.Value:
        """Return the address of pixel ``position`` of the line at ``x``, or of zeros outside."""
        zero = self.at["zero"] if zero is None else zero
        b = self.b
        inside = b.icmp_unsigned("<", position, self.at["in_w"])
        return b.select(inside, b.add(x, b.mul(position, self.at["pixel"])), zero)


def _line(width: int, stride: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    """Compute ``count`` tiles; windows may leave the line by half a kernel on either side."""
    s, span, edge = Tiles(b, args), (COLUMNS - 1) * stride + width, width // 2
    pixel = s.at["pixel"]

    def tile(i, _):
        start, out0 = s.tile(i)
        column0, exists = b.mul(start, pixel), {}
        for p in (*range(edge), *range(span - edge, span)):
            exists[p] = b.icmp_unsigned("<", b.add(start, i64(p)), s.at["in_w"])

        def vector(at, mask):
            def line(x, w, sums):
                steps = [b.add(x, column0)]
                for _ in range(span - 1):
                    steps.append(b.add(steps[-1], pixel))
                for p, inside in exists.items():
                    steps[p] = b.select(inside, steps[p], s.at["zero"])
                return s.products(width, stride, w, sums, lambda p: s.load(steps[p], mask))

            out = b.add(out0, at)
            for v in s.sums(b.add(s.t.at, at), mask, line):
                s.store(v, out, mask)
                out = b.add(out, s.at["out_step"])

        s.vectors(not _WHOLE_ONLY, vector)
        return []

    counted(s.b, s.t.count, [], tile)


def _over_ends(width: int, stride: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    """Compute one tile of ``count`` outputs whose windows may leave the line.

    The addresses of its inputs are chosen once for all vectors of channels.
    """
    s, span = Tiles(b, args), (COLUMNS - 1) * stride + width

    def choose(i, _):
        x = b.load(pointer(b, s.at["table"], b.shl(i, i64(1)), 8), align=8, typ=I64)
        at = b.mul(i, i64(span))
        for p in range(span):
            address = s.guarded(x, b.add(s.t.start, i64(p)))
            b.store(address, pointer(b, s.at["places"], b.add(at, i64(p)), 8), align=8)
        return []

    counted(s.b, s.t.lines, [], choose)

    def vector(at, mask):
        here = b.add(s.t.at, at)

        def line(i, sums):
            places = pointer(b, s.at["places"], b.mul(i, i64(span)), 8)
            entry = b.add(b.shl(i, i64(1)), i64(1))
            w = b.load(pointer(b, s.at["table"], entry, 8), align=8, typ=I64)

            def column(p):
                place = b.gep(places, [i64(p)], source_etype=I64)
                return s.load(b.add(b.load(place, align=8, typ=I64), here), mask)

            return s.products(width, stride, s.weights(w, here), sums, column)

        start = s.load(b.add(s.at["bias"], here), mask)
        s.some(counted(s.b, s.t.lines, [start] * COLUMNS, line), at, mask)

    s.vectors(not _WHOLE_ONLY, vector)


def _any(b: ir.IRBuilder, *args: ir.Value) -> None:
    """Compute one tile of ``count`` outputs of any kernel, one tap after the other."""
    s = Tiles(b, args)

    def line(mask):
        def one(x, w, sums):
            def tap(k, sums):
                factor = load_vec(b, pointer(b, b.add(w, b.mul(k, i64(4 * LANES)))))
                position = b.add(s.t.start, b.mul(k, s.at["dilation"]))
                new = []
                for total in sums:
                    v = s.load(s.guarded(x, position), mask)
                    new.append(fma(b, v, factor, total))
                    position = b.add(position, s.at["stride"])
                return new

            return counted(s.b, s.at["taps"], sums, tap)

        return one

    s.vectors(True, lambda at, mask: s.some(s.sums(b.add(s.t.at, at), mask, line(mask)), at, mask))


def _call(b: ir.IRBuilder, name: str, emit: Callable, args: list[ir.Value]) -> None:
    fn = shared_function(b.module, f"lep_depthwise_{name}", ir.VoidType(), TILE_PARAMS, emit)
    b.call(fn, args)


def _dispatch(b: ir.IRBuilder, code: ir.Value, inside: ir.Value, *args: ir.Value) -> None:
    """Call the tile function of ``code``; what it leaves of the channels is done by ``_any``."""
    rest, done = (b.function.append_basic_block(n) for n in ("rest", "done"))
    t, entry = TileCall(*args), b.block
    switch, arrivals = b.switch(code, rest), [(i64(0), entry)]
    for i, (width, stride) in enumerate(FAST):
        case, strip, ends, after = (b.append_basic_block(n) for n in ("k", "in", "ends", "after"))
        switch.add_case(i64(i), case)
        b.position_at_end(case)
        whole = t.channels if not _WHOLE_ONLY else b.and_(t.channels, i64(-LANES))
        some = b.icmp_signed(">", whole, i64(0))
        first = b.append_basic_block("first")
        b.cbranch(some, first, rest)
        arrivals.append((i64(0), case))
        b.position_at_end(first)
        b.cbranch(b.icmp_signed("!=", inside, i64(0)), strip, ends)
        for block, kind, emit in ((strip, "line", _line), (ends, "ends", _over_ends)):
            b.position_at_end(block)
            made = functools.partial(emit, width, stride)
            _call(b, f"{kind}_{width}_{stride}", made, list(args))
            b.branch(after)
        b.position_at_end(after)
        b.cbranch(b.icmp_signed("==", whole, t.channels), done, rest)
        arrivals.append((whole, after))
    b.position_at_end(rest)
    first_left = b.phi(I64)
    for value, block in arrivals:
        first_left.add_incoming(value, block)
    _rest(b, t, inside, first_left)
    b.branch(done)
    b.position_at_end(done)


def _rest(b: ir.IRBuilder, t: TileCall, inside: ir.Value, first: ir.Value) -> None:
    """Compute the channels from ``first`` on by ``_any``, tile by tile."""
    tiles = b.select(b.icmp_signed("!=", inside, i64(0)), t.count, i64(1))
    outputs = b.select(b.icmp_signed("!=", inside, i64(0)), i64(COLUMNS), t.count)
    skip, s = b.mul(first, i64(4)), Tiles(b, tuple(vars(t).values()))

    def tile(i, _):
        start, out = s.tile(i)
        at, left = b.add(t.at, skip), b.sub(t.channels, first)
        args = [t.frame, t.lines, start, at, left, b.add(out, skip), outputs]
        _call(b, "any", _any, args)
        return []

    counted(s.b, tiles, [], tile)


@intrinsic
def run_tiles(typingctx, code, inside, frame, lines, start, at, channels, out, count):
    """Compute tiles of one line for ``channels`` channels, all arguments int64.

    ``code``: an index into FAST, or ANY. ``inside``: whether these are the ``count`` whole tiles of
    a line, whose windows leave it by half a kernel at most; else one tile of ``count`` outputs, up
    to COLUMNS, which are at least those before ``last``. The others: see ``TileCall``.
    """

    def build(context, builder, sig, args):
        params = [I64] * 9
        fn = shared_function(builder.module, "lep_depthwise", ir.VoidType(), params, _dispatch)
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 9), build
