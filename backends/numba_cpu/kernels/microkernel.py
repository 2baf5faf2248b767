"""numba_cpu > kernels > microkernel: the register tile of the matrix product, written as LLVM IR.

``run_tile`` computes up to ROWS x PANEL outputs, in registers. Its A operand is
indirect: for each tap a table holds the address of each row, so that one tile serves products,
convolutions and padding. The accumulators live in registers over all taps; bias and residual are
their initial values; a clamp ends the tile.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import vecmath as vm
from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.machine_code import host_features
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I1,
    I8,
    I64,
    LANES,
    PTR,
    VF,
    VM,
    fconst,
    first_lanes,
    fma,
    i64,
    load_vec,
    masked_load,
    masked_store,
    pointer,
    prefetch,
    shared_function,
    splat,
)

VECTORS = 2
PANEL = VECTORS * LANES  # columns of a packed panel of B
PREFETCH = 8192  # bytes ahead in B: the hardware's own prefetch ends with each page of 4 KiB

# Row counts that a tile exists for, largest first. The largest fills the registers (32 with AVX-512
# and NEON, else 16). Rows are spread evenly over tiles, so that those in between are used: 15 rows
# are 8 and 7, not 14 and 1. Below 4 rows a tile is bound by the latency of its 8 chains of fma, so
# fewer rows would not be faster.
_HEIGHTS = {16: (14, 12, 10, 8, 6, 4, 1), 8: (6, 5, 4, 1), 4: (4, 3, 1)}
HEIGHTS = (12, 10, 8, 6, 4, 1) if "+neon" in host_features() else _HEIGHTS[LANES]
HALF_HEIGHTS = (HEIGHTS[0], 12, 8) if LANES == 16 else HEIGHTS[:1]
# A tile of one vector loads once for every fma. With AVX-512 the addresses of more than twelve rows
# do not fit the integer registers, and would have to be loaded, too.
HALF_ROWS = 12 if LANES == 16 else HEIGHTS[0]
ROWS = HEIGHTS[0]
ROW_SUMS = 4 * VECTORS  # chains of fma of one row alone, whatever its width


@dataclass(frozen=True)
class _Tile:
    """The arguments of a microkernel as LLVM values; see :func:`tile` for their meaning."""

    rows: ir.Value
    tap_step: ir.Value
    taps: ir.Value
    depth: ir.Value
    offset: ir.Value
    panel: ir.Value
    out_rows: ir.Value
    column: ir.Value
    width: ir.Value
    bias: ir.Value
    init_rows: ir.Value
    ahead: ir.Value
    advance: ir.Value
    low: ir.Value
    high: ir.Value


_PARAMS = [I64] * 13 + [F32, F32]


class _Writer:
    """Writes one microkernel of ``mr`` rows and ``nv`` vectors into a function.

    ``parts``: partial sums of each cell, for tiles with too few cells to hide the latency of fma.
    """

    def __init__(self, b: ir.IRBuilder, mr: int, nv: int, parts: int, t: _Tile) -> None:
        self.b, self.mr, self.nv, self.parts, self.t = b, mr, nv, parts, t
        self.cells = [(i, j) for i in range(mr) for j in range(nv)]
        self.masks = [first_lanes(b, b.sub(t.width, i64(j * LANES))) for j in range(nv)]

    def block(self, name: str) -> ir.Block:
        """Return a new basic block of the function."""
        return self.b.function.append_basic_block(name)

    def at(self, base: ir.Value, j: int) -> ir.Value:
        """Return the pointer of vector ``j`` of this tile's columns from byte address ``base``."""
        start = self.b.add(base, self.t.column)
        return pointer(self.b, start, i64(j * LANES))

    def row(self, table: ir.Value, i: int) -> ir.Value:
        """Return entry ``i`` of a table of row addresses."""
        return self.b.load(pointer(self.b, table, i64(i), 8), align=8, typ=I64)

    def matrix(self, table: ir.Value) -> list[ir.Value]:
        """Load the tile's cells from rows at ``table``; columns beyond the width are 0."""
        starts = [self.row(table, i) for i in range(self.mr)]
        return [masked_load(self.b, self.at(starts[i], j), self.masks[j]) for i, j in self.cells]

    def merge(self, choices: list[tuple[list[ir.Value], ir.Block]]) -> list[ir.Value]:
        """Return one phi a cell over ``(values, block they come from)``."""
        phis = [self.b.phi(VF) for _ in choices[0][0]]
        for values, block in choices:
            for phi, value in zip(phis, values, strict=True):
                phi.add_incoming(value, block)
        return phis

    def start(self) -> list[ir.Value]:
        """Return the initial accumulators: bias plus what ``init_rows`` point to."""
        t, b = self.t, self.b
        has_bias = b.icmp_signed("!=", t.bias, i64(0))
        # Without a bias nothing is loaded, but the address must be one that can be read.
        base = b.select(has_bias, b.add(t.bias, t.column), t.rows)
        columns = []
        for j, mask in enumerate(self.masks):
            wanted = b.and_(mask, splat(b, has_bias, VM))
            columns.append(masked_load(b, pointer(b, base, i64(j * LANES)), wanted))
        cells = [columns[j] for _, j in self.cells]
        more, end, before = self.block("init"), self.block("start"), b.block
        b.cbranch(b.icmp_signed("!=", t.init_rows, i64(0)), more, end)
        b.position_at_end(more)
        sums = [b.fadd(x, c) for x, c in zip(self.matrix(t.init_rows), cells, strict=True)]
        b.branch(end)
        b.position_at_end(end)
        return self.merge([(cells, before), (sums, more)])

    def accumulate(self, init: list[ir.Value]) -> list[ir.Value]:
        """Write the loops over taps and depth; return the final accumulators."""
        t, b = self.t, self.b
        entry, tap_loop, tap_end, done = (
            b.block,
            self.block("tap"),
            self.block("tap_end"),
            self.block("done"),
        )
        some = b.and_(b.icmp_signed(">", t.taps, i64(0)), b.icmp_signed(">", t.depth, i64(0)))
        base, start = b.inttoptr(t.panel, PTR), b.inttoptr(t.ahead, PTR)
        b.cbranch(some, tap_loop, done)

        b.position_at_end(tap_loop)
        tap, table, panel, ahead = b.phi(I64), b.phi(I64), b.phi(PTR), b.phi(PTR)
        sums = [b.phi(VF) for _ in init]
        rows = [pointer(b, b.add(self.row(table, i), t.offset)) for i in range(self.mr)]
        inner, panel_end, ahead_end = self.depth_loop(rows, panel, ahead, sums)
        b.branch(tap_end)

        b.position_at_end(tap_end)
        next_tap, next_table = b.add(tap, i64(1)), b.add(table, t.tap_step)
        for phi, first, later in zip(
            [tap, table, panel, ahead, *sums],
            [i64(0), t.rows, base, start, *init],
            [next_tap, next_table, panel_end, ahead_end, *inner],
            strict=True,
        ):
            phi.add_incoming(first, entry)
            phi.add_incoming(later, tap_end)
        b.cbranch(b.icmp_signed("<", next_tap, t.taps), tap_loop, done)
        b.position_at_end(done)
        return self.merge([(init, entry), (inner, tap_end)])

    def depth_loop(self, rows, panel, ahead, sums):
        """Write the innermost loops; return their accumulators and both pointers after them.

        ``ahead`` points to what is asked for into the caches meanwhile.
        """
        if self.parts == 1:
            _, ptr, ahead, sums = self.steps(rows, i64(0), panel, ahead, sums, 1)
            return sums, ptr, ahead
        b, cells = self.b, len(sums)
        zero = fconst(0.0)
        first = [*sums, *[zero] * (cells * (self.parts - 1))]
        k, ptr, ahead, many = self.while_left(rows, i64(0), panel, ahead, first, self.parts)
        half = self.parts
        while half > 1:  # in pairs: the parts differ least in size
            half //= 2
            pairs = zip(many[: half * cells], many[half * cells :], strict=True)
            many = [b.fadd(x, y) for x, y in pairs]
        _, ptr, ahead, sums = self.while_left(rows, k, ptr, ahead, many, 1)
        return sums, ptr, ahead

    def while_left(self, rows, k, ptr, ahead, sums, unroll):
        """Write :meth:`steps`, passed by if less than ``unroll`` of the depth is left."""
        b, before = self.b, self.b.block
        some, end = self.block("some"), self.block("no_more")
        b.cbranch(b.icmp_signed(">=", b.sub(self.t.depth, k), i64(unroll)), some, end)
        b.position_at_end(some)
        old = [k, ptr, ahead, *sums]
        *new, many = self.steps(rows, k, ptr, ahead, sums, unroll)
        after = b.block
        b.branch(end)
        b.position_at_end(end)
        phis = []
        for first, later in zip(old, [*new, *many], strict=True):
            phi = b.phi(first.type)
            phi.add_incoming(first, before)
            phi.add_incoming(later, after)
            phis.append(phi)
        return *phis[:3], phis[3:]

    def steps(self, rows, k0, panel, ahead0, sums, unroll):
        """Write the loop over ``unroll`` of depth at a time, one or more times.

        ``sums`` are the accumulators of the first of ``unroll``, then those of the second, and so
        on. Returns k and the pointers after it, and its accumulators.
        """
        b, before = self.b, self.b.block
        loop, end = self.block("depth"), self.block("depth_end")
        b.branch(loop)
        b.position_at_end(loop)
        k, ptr, ahead = b.phi(I64), b.phi(PTR), b.phi(PTR)
        acc = [b.phi(VF) for _ in sums]
        new, cells, asking = [], self.mr * self.nv, ahead
        for u in range(unroll):
            places = [u * PANEL + j * LANES for j in range(self.nv)]
            columns = [load_vec(b, b.gep(ptr, [i64(at)], source_etype=F32)) for at in places]
            # A narrow tile of many rows reads little of B, and has no loads to spare.
            asked = 4 * self.nv * LANES if self.nv == VECTORS or self.mr == 1 else 0
            for line in range(0, asked, 64):
                prefetch(b, b.gep(asking, [i64(line)], source_etype=I8))
            asking = b.gep(asking, [self.t.advance], source_etype=I8)
            for i in range(self.mr):
                at = b.gep(rows[i], [b.add(k, i64(u))], source_etype=F32)
                a = splat(b, b.load(at, align=4, typ=F32))
                for j in range(self.nv):
                    new.append(fma(b, a, columns[j], acc[u * cells + i * self.nv + j]))
        next_k = b.add(k, i64(unroll))
        next_ptr = b.gep(ptr, [i64(unroll * PANEL)], source_etype=F32)
        starts, laters = [k0, panel, ahead0, *sums], [next_k, next_ptr, asking, *new]
        for phi, first, later in zip([k, ptr, ahead, *acc], starts, laters, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, loop)
        last = b.sub(self.t.depth, i64(unroll))
        b.cbranch(b.icmp_signed("<=", next_k, last), loop, end)
        b.position_at_end(end)
        return next_k, next_ptr, asking, new

    def finish(self, acc: list[ir.Value]) -> None:
        """Clamp and store; only the last, narrow panel pays for masked stores."""
        t, b = self.t, self.b
        low, high = splat(b, t.low), splat(b, t.high)
        acc = [vm.clamp_high(b, vm.clamp_low(b, x, low), high) for x in acc]
        if LANES == 16:  # AVX-512 masks stores for free
            self.store(acc, masked=True)
            return
        whole, narrow, end = self.block("whole"), self.block("narrow"), self.block("end")
        b.cbranch(b.icmp_signed(">=", t.width, i64(self.nv * LANES)), whole, narrow)
        for block, masked in ((whole, False), (narrow, True)):
            b.position_at_end(block)
            self.store(acc, masked)
            b.branch(end)
        b.position_at_end(end)

    def store(self, acc: list[ir.Value], masked: bool) -> None:
        """Store the cells into the output rows."""
        starts = [self.row(self.t.out_rows, i) for i in range(self.mr)]
        for (i, j), value in zip(self.cells, acc, strict=True):
            if masked:
                masked_store(self.b, value, self.at(starts[i], j), self.masks[j])
            else:
                self.b.store(value, self.at(starts[i], j), align=4)


def _body(mr: int, nv: int, parts: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    writer = _Writer(b, mr, nv, parts, _Tile(*args))
    writer.finish(writer.accumulate(writer.start()))


def _emit_tile(b: ir.IRBuilder, mr: int, nv: int, args: Sequence[ir.Value], parts: int = 1) -> None:
    """Call the tile of ``mr`` rows and ``nv`` vectors, writing it into the module on first use."""
    body, name = functools.partial(_body, mr, nv, parts), f"lep_tile_{mr}x{nv}x{parts}"
    b.call(shared_function(b.module, name, ir.VoidType(), _PARAMS, body), args)


def _emit_row(b: ir.IRBuilder, *args: ir.Value) -> None:
    """Call the tile of one row with partial sums; half as wide if that covers the columns."""
    width = _Tile(*args).width
    narrow, wide, end = (b.function.append_basic_block(n) for n in ("narrow", "wide", "done"))
    b.cbranch(b.icmp_signed("<=", width, i64(LANES)), narrow, wide)
    for block, nv in ((narrow, 1), (wide, VECTORS)):
        b.position_at_end(block)
        _emit_tile(b, 1, nv, args, ROW_SUMS // nv)
        b.branch(end)
    b.position_at_end(end)


def _emit_choice(b: ir.IRBuilder, count: ir.Value, *args: ir.Value) -> None:
    """Call the smallest tile that holds ``count`` rows; half as wide if that covers the columns."""
    width = _Tile(*args).width
    end = b.function.append_basic_block("done")
    for nv in (1, VECTORS):
        fits = b.icmp_signed("<=", width, i64(nv * LANES)) if nv < VECTORS else ir.Constant(I1, 1)
        here, other = (b.function.append_basic_block(n) for n in ("fits", "wider"))
        b.cbranch(fits, here, other)
        b.position_at_end(here)
        heights = sorted(HEIGHTS if nv == VECTORS else HALF_HEIGHTS)
        for height in heights:
            last = height == heights[-1]
            fits = ir.Constant(I1, 1) if last else b.icmp_signed("<=", count, i64(height))
            block, taller = (b.function.append_basic_block(n) for n in ("run", "taller"))
            b.cbranch(fits, block, taller)
            b.position_at_end(block)
            _emit_tile(b, height, nv, args)
            b.branch(end)
            b.position_at_end(taller)
        b.branch(end)
        b.position_at_end(other)
    b.branch(end)
    b.position_at_end(end)


@intrinsic
def run_tile(
    typingctx, count, rows, tap_step, taps, depth, offset, panel, out_rows, column, width, bias,
    init_rows, ahead, advance, low, high,
):  # fmt: skip
    """Compute a tile of up to ROWS x PANEL outputs.

    A tile taller than ``count`` may run: the tables must repeat their last row up to ROWS entries.
    All arguments are int64 but the last two.

    ``count``: rows of the tile. ``rows``: address of the row addresses of A in the first tap.
    ``tap_step``: bytes from there to the next tap's. ``taps``, ``depth``: taps, and k per tap.
    ``offset``: bytes added to each A row. ``panel``: packed B ``[taps][depth][PANEL]``.
    ``out_rows``: address of the output row addresses. ``column``: bytes added to each output row,
    each initial row and to ``bias``. ``width``: columns that exist from there. ``bias``: address or
    0. ``init_rows``: address of the addresses of rows to start from (residual, partial sums) or 0.
    ``ahead``: address of what to ask for meanwhile, any; it grows by ``advance`` bytes, at most
    those of a row of the panel, per k. ``low``, ``high``: float32 bounds of the result.
    """

    def build(context, builder, sig, args):
        params = [I64, *_PARAMS]
        fn = shared_function(builder.module, "lep_run_tile", ir.VoidType(), params, _emit_choice)
        builder.call(fn, args)
        return context.get_dummy_value()

    params = (types.int64,) * 14 + (types.float32,) * 2
    return types.void(*params), build


@intrinsic
def run_row(
    typingctx, rows, tap_step, taps, depth, offset, panel, out_rows, column, width, bias,
    init_rows, ahead, advance, low, high,
):  # fmt: skip
    """Compute one row of up to PANEL outputs; arguments as of :func:`run_tile`.

    Each sum is made of ROW_SUMS / 2 or more partial sums per tap, so its rounding differs from that
    of a tile: what uses this must do so for all numbers of threads.
    """

    def build(context, builder, sig, args):
        fn = shared_function(builder.module, "lep_run_row", ir.VoidType(), _PARAMS, _emit_row)
        builder.call(fn, args)
        return context.get_dummy_value()

    params = (types.int64,) * 13 + (types.float32,) * 2
    return types.void(*params), build


@inline_njit
def tile_rows(left, width):
    """Return how many of ``left`` rows the next tile takes, so that all are filled evenly.

    It is the height of a tile for ``width`` columns (for one vector HALF_ROWS at most), unless all
    that are left are fewer: a tile that reached into rows of the next one would add to their
    initial values twice.
    """
    top = HALF_ROWS if width <= LANES else ROWS
    tiles = (left + top - 1) // top
    want = (left + tiles - 1) // tiles
    best = top
    if width <= LANES:
        for height in HALF_HEIGHTS:
            best = height if height >= want else best
    else:
        for height in HEIGHTS:
            best = height if height >= want else best
    return min(best, left)
