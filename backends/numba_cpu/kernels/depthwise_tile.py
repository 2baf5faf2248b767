"""numba_cpu > kernels > depthwise_tile: register tiles of the depthwise convolution as LLVM IR.

``whole`` computes COLUMNS neighbouring outputs of one line, ``single`` one output, for a range of
channels; their arguments are the fields of ``_Tile``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields, replace

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import vecmath as vm
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

COLUMNS = 4  # outputs of one register tile
_FAST = ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1))  # (columns of the kernel, stride) with a tile


@dataclass(frozen=True)
class _Tile:
    """The arguments of a tile as LLVM values, int64 but the last two; addresses and steps in bytes.

    Attributes:
        table, lines: ``(input line, weights)`` addresses of the window's lines, at least one.
        x_at, w_at: bytes added to these. pixel, tap: steps of the window's columns. taps: columns.
        step: from one window to the next. bias, out: addresses.
        out_step: from one output to the next.
        channels: channels to compute (the fast tiles: rounded down to vectors). low, high: bounds.
    """

    table: ir.Value
    lines: ir.Value
    x_at: ir.Value
    w_at: ir.Value
    pixel: ir.Value
    tap: ir.Value
    taps: ir.Value
    step: ir.Value
    bias: ir.Value
    out: ir.Value
    out_step: ir.Value
    channels: ir.Value
    low: ir.Value
    high: ir.Value

    def clamp(self, b: ir.IRBuilder, v: ir.Value) -> ir.Value:
        """Return ``v`` within the bounds; NaN stays."""
        return vm.clamp_high(b, vm.clamp_low(b, v, splat(b, self.low)), splat(b, self.high))


def _loop(b: ir.IRBuilder, count, values: list[ir.Value], body) -> list[ir.Value]:
    """Write ``for i in range(count): values = body(i, values)``, count >= 1; return values."""
    before = b.block
    loop, end = (b.function.append_basic_block(n) for n in ("loop", "end"))
    b.branch(loop)
    b.position_at_end(loop)
    i, phis = b.phi(I64), [b.phi(v.type) for v in values]
    new = body(i, phis)
    after = b.add(i, i64(1))
    for phi, first, later in zip([i, *phis], [i64(0), *values], [after, *new], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, b.block)
    b.cbranch(b.icmp_signed("<", after, count), loop, end)
    b.position_at_end(end)
    return new


def _lines_of(b: ir.IRBuilder, t: _Tile, at, sums: list[ir.Value], body) -> list[ir.Value]:
    """Run ``body(x_address, w_address, sums)`` over the lines, ``at`` bytes into the channels."""

    def line(i, sums):
        entry = b.add(t.table, b.shl(i, i64(4)))
        x, w = (b.load(pointer(b, entry, i64(k), 8), align=8, typ=I64) for k in range(2))
        return body(b.add(b.add(x, t.x_at), at), b.add(b.add(w, t.w_at), at), sums)

    return _loop(b, t.lines, sums, line)


def _emit_fast(width: int, stride: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    """Compute whole windows of ``width`` columns: every input of a line is loaded once."""
    t = _Tile(*args)

    def line(x, w, sums):
        new = list(sums)
        factors = [load_vec(b, pointer(b, b.add(w, b.mul(t.tap, i64(k))))) for k in range(width)]
        for p in range((COLUMNS - 1) * stride + width):
            v = load_vec(b, pointer(b, b.add(x, b.mul(t.pixel, i64(p)))))
            for k in range(width):
                j, rest = divmod(p - k, stride)
                if rest == 0 and 0 <= j < COLUMNS:
                    new[j] = fma(b, v, factors[k], new[j])
        return new

    def vector(i, _):
        at = b.mul(i, i64(4 * LANES))
        start = load_vec(b, pointer(b, b.add(t.bias, at)))
        sums = _lines_of(b, t, at, [start] * COLUMNS, line)
        for j, v in enumerate(sums):
            out = b.add(b.add(t.out, at), b.mul(t.out_step, i64(j)))
            b.store(t.clamp(b, v), pointer(b, out), align=4)
        return []

    _loop(b, b.sdiv(t.channels, i64(LANES)), [], vector)


def _emit_any(count: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    """Compute ``count`` windows of any width; also the channels beyond the last whole vector."""
    t = _Tile(*args)

    def vector(i, _):
        at = b.mul(i, i64(4 * LANES))
        mask = first_lanes(b, b.sub(t.channels, b.mul(i, i64(LANES))))

        def line(x, w, sums):
            starts = [b.add(x, b.mul(t.step, i64(j))) for j in range(count)]

            def column(k, sums):
                here = b.mul(k, t.pixel)
                factor = load_vec(b, pointer(b, b.add(w, b.mul(k, t.tap))))
                inputs = [masked_load(b, pointer(b, b.add(x, here)), mask) for x in starts]
                return [fma(b, v, factor, s) for v, s in zip(inputs, sums, strict=True)]

            return _loop(b, t.taps, sums, column)

        start = masked_load(b, pointer(b, b.add(t.bias, at)), mask)
        for j, v in enumerate(_lines_of(b, t, at, [start] * count, line)):
            out = b.add(b.add(t.out, at), b.mul(t.out_step, i64(j)))
            masked_store(b, t.clamp(b, v), pointer(b, out), mask)
        return []

    _loop(b, b.sdiv(b.add(t.channels, i64(LANES - 1)), i64(LANES)), [], vector)


def _tile(name: str, emit):
    """Return the intrinsic of one tile; its arguments are the fields of ``_Tile``."""

    def tile(
        typingctx, table, lines, x_at, w_at, pixel, tap, taps, step, bias, out, out_step, channels,
        low, high,
    ):  # fmt: skip
        def build(context, builder, sig, args):
            params = [I64] * 12 + [F32] * 2
            fn = shared_function(builder.module, name, ir.VoidType(), params, emit)
            builder.call(fn, args)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 12, *(types.float32,) * 2), build

    return intrinsic(tile)


def _emit_whole(b: ir.IRBuilder, *args: ir.Value) -> None:
    """Compute COLUMNS whole windows: whole vectors of channels by a fast tile if there is one."""
    t = _Tile(*args)
    done, slow = (b.function.append_basic_block(n) for n in ("done", "slow"))
    entry = b.block
    whole = b.and_(t.channels, i64(-LANES))
    some = b.icmp_signed(">", whole, i64(0))
    arrivals = [(i64(0), entry)]
    params = [I64] * 12 + [F32] * 2
    for width, stride in _FAST:
        # A line's windows are ``stride`` pixels apart exactly if its taps are one pixel apart.
        same = b.and_(
            b.icmp_signed("==", t.taps, i64(width)),
            b.icmp_signed("==", t.step, b.mul(t.pixel, i64(stride))),
        )
        yes, no = (b.function.append_basic_block(n) for n in ("fast", "other"))
        b.cbranch(b.and_(some, same), yes, no)
        b.position_at_end(yes)
        emit = functools.partial(_emit_fast, width, stride)
        name = f"lep_depthwise_{width}_{stride}"
        b.call(shared_function(b.module, name, ir.VoidType(), params, emit), args)
        arrivals.append((whole, b.block))
        b.cbranch(b.icmp_signed("==", whole, t.channels), done, slow)
        b.position_at_end(no)
    arrivals[0] = (i64(0), b.block)
    b.branch(slow)
    b.position_at_end(slow)
    first = b.phi(I64)
    for value, block in arrivals:
        first.add_incoming(value, block)
    skip = b.mul(first, i64(4))
    rest = replace(
        t, x_at=b.add(t.x_at, skip), w_at=b.add(t.w_at, skip), bias=b.add(t.bias, skip),
        out=b.add(t.out, skip), channels=b.sub(t.channels, first),
    )  # fmt: skip
    emit = functools.partial(_emit_any, COLUMNS)
    fn = shared_function(b.module, "lep_depthwise_n", ir.VoidType(), params, emit)
    b.call(fn, [getattr(rest, f.name) for f in fields(rest)])
    b.branch(done)
    b.position_at_end(done)


whole = _tile("lep_depthwise", _emit_whole)
single = _tile("lep_depthwise_1", functools.partial(_emit_any, 1))
