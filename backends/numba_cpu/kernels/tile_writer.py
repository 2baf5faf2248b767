"""numba_cpu > kernels > tile_writer: the loops of a register tile, written as LLVM IR.

A tile computes ``rows x columns`` sums in registers. Its A operand is indirect: for each tap a
table holds the address of each row, so that one tile serves products, convolutions and padding. The
cells live in registers over all taps. What a cell is, and how it begins and ends, a subclass of
:class:`TileWriter` says.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from leptonc.backends.numba_cpu.kernels.machine_code import host_features
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I1,
    I8,
    I64,
    LANES,
    PTR,
    first_lanes,
    i64,
    pointer,
    prefetch,
    shared_function,
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
# Two panels at a time: 24 multiply-adds take 10 loads, where 28 of 14 rows take 16 and reload the
# addresses of five rows. Alone on a core both run at the peak; beside another thread of the core,
# which takes its share of the first-level cache, this one is up to a tenth faster.
PAIR_HEIGHTS = (6, 5, 4) if LANES == 16 else ()
PAIR_TOP = max(PAIR_HEIGHTS, default=1)  # rows
ROWS = HEIGHTS[0]
ROW_SUMS = 4 * VECTORS  # chains of fma of one row alone, whatever its width


class TileWriter:
    """Writes one microkernel of ``mr`` rows and ``nv`` vectors into a function.

    ``parts``: partial sums of each cell, for tiles with too few cells to hide the latency of fma.
    A subclass says what is summed: something of four bytes a step of depth.
    """

    zero: ir.Constant  # of the cells' type

    def __init__(self, b: ir.IRBuilder, mr: int, nv: int, parts: int, t: Any) -> None:
        self.b, self.mr, self.nv, self.parts, self.t = b, mr, nv, parts, t
        self.cells = [(i, j) for i in range(mr) for j in range(nv)]
        self.masks = [first_lanes(b, b.sub(t.width, i64(j * LANES))) for j in range(nv)]

    def write(self) -> None:
        """Write the tile."""
        self.finish(self.accumulate(self.start()))

    def start(self) -> list[ir.Value]:
        """Return the initial cells."""
        raise NotImplementedError

    def broadcast(self, at: ir.Value) -> ir.Value:
        """Return the four bytes of A at a pointer in all lanes."""
        raise NotImplementedError

    def column(self, at: ir.Value) -> ir.Value:
        """Return the vector of B at a pointer."""
        raise NotImplementedError

    def multiply_add(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """Return ``x * y + z`` for four bytes of A, a vector of B and a cell."""
        raise NotImplementedError

    def multiply_add_many(self, xs: list[ir.Value], ys: list[ir.Value], z: ir.Value) -> ir.Value:
        """Return ``z`` plus the products of some steps of depth; of one step here."""
        (x,), (y,) = xs, ys
        return self.multiply_add(x, y, z)

    def plus(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Return the sum of two cells."""
        raise NotImplementedError

    def finish(self, acc: list[ir.Value]) -> None:
        """Write what follows the sums."""
        raise NotImplementedError

    def block(self, name: str) -> ir.Block:
        """Return a new basic block of the function."""
        return self.b.function.append_basic_block(name)

    def row(self, table: ir.Value, i: int) -> ir.Value:
        """Return entry ``i`` of a table of row addresses."""
        return self.b.load(pointer(self.b, table, i64(i), 8), align=8, typ=I64)

    def merge(self, choices: list[tuple[list[ir.Value], ir.Block]]) -> list[ir.Value]:
        """Return one phi a cell over ``(values, block they come from)``."""
        phis = [self.b.phi(self.zero.type) for _ in choices[0][0]]
        for values, block in choices:
            for phi, value in zip(phis, values, strict=True):
                phi.add_incoming(value, block)
        return phis

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
        sums = [b.phi(self.zero.type) for _ in init]
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
        first = self.split(sums)
        k, ptr, ahead, many = self.while_left(rows, i64(0), panel, ahead, first, self.parts)
        return self.last_steps(rows, k, ptr, ahead, many)

    def split(self, sums):
        """Return partial sums: the cells, and zeros for the other parts."""
        return [*sums, *[self.zero] * (len(sums) * (self.parts - 1))]

    def last_steps(self, rows, k, ptr, ahead, many):
        """Add up the parts; write the steps from ``k`` on; return as :meth:`depth_loop` does."""
        half, cells = self.parts, self.mr * self.nv
        while half > 1:  # in pairs: the parts differ least in size
            half //= 2
            pairs = zip(many[: half * cells], many[half * cells :], strict=True)
            many = [self.plus(x, y) for x, y in pairs]
        _, ptr, ahead, sums = self.while_left(rows, k, ptr, ahead, many, 1)
        return sums, ptr, ahead

    def while_left(self, rows, k, ptr, ahead, sums, unroll, span=1, depth=None):
        """Write :meth:`steps`, passed by if less than it takes at a time is left of ``depth``."""
        b, before, depth = self.b, self.b.block, self.t.depth if depth is None else depth
        some, end = self.block("some"), self.block("no_more")
        b.cbranch(b.icmp_signed(">=", b.sub(depth, k), i64(unroll * span)), some, end)
        b.position_at_end(some)
        old = [k, ptr, ahead, *sums]
        *new, many = self.steps(rows, k, ptr, ahead, sums, unroll, span)
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

    def steps(self, rows, k0, panel, ahead0, sums, unroll, span=1):
        """Write the loop over ``unroll * span`` of depth at a time, one or more times.

        ``sums`` are the accumulators of the first ``span`` steps, then those of the second, and so
        on. Returns k and the pointers after it, and its accumulators.
        """
        b, before, stride = self.b, self.b.block, unroll * span
        loop, end = self.block("depth"), self.block("depth_end")
        b.branch(loop)
        b.position_at_end(loop)
        k, ptr, ahead = b.phi(I64), b.phi(PTR), b.phi(PTR)
        acc = [b.phi(self.zero.type) for _ in sums]
        new, cells, asking = [], self.mr * self.nv, ahead
        for u in range(unroll):
            here = range(u * span, (u + 1) * span)
            columns, asking = self.columns_of(here, ptr, asking)
            for i in range(self.mr):
                places = [b.gep(rows[i], [b.add(k, i64(s))], source_etype=F32) for s in here]
                a = [self.broadcast(at) for at in places]
                for j in range(self.nv):
                    cell = acc[u * cells + i * self.nv + j]
                    new.append(self.multiply_add_many(a, [c[j] for c in columns], cell))
        next_k = b.add(k, i64(stride))
        next_ptr = b.gep(ptr, [i64(stride * PANEL)], source_etype=F32)
        starts, laters = [k0, panel, ahead0, *sums], [next_k, next_ptr, asking, *new]
        for phi, first, later in zip([k, ptr, ahead, *acc], starts, laters, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, loop)
        last = b.sub(self.t.depth, i64(stride))
        b.cbranch(b.icmp_signed("<=", next_k, last), loop, end)
        b.position_at_end(end)
        return next_k, next_ptr, asking, new

    def panels(self, at: ir.Value) -> list[ir.Value]:
        """Return a pointer into the first panel, and the same place of a second one if any."""
        return [at]

    def vector(self, ptr: ir.Value, step: int, j: int) -> ir.Value:
        """Return the pointer of vector ``j`` of B, so many steps of depth behind ``ptr``."""
        places = self.panels(ptr)
        at = step * PANEL + j % VECTORS * LANES
        return self.b.gep(places[j // VECTORS], [i64(at)], source_etype=F32)

    def columns_of(self, steps, ptr, asking):
        """Return the vectors of B of each of ``steps``, and ``asking`` after what it asks for."""
        b, columns = self.b, []
        for s in steps:
            columns.append([self.column(self.vector(ptr, s, j)) for j in range(self.nv)])
            # A narrow tile of many rows reads little of B, and has no loads to spare.
            asked = min(self.nv, VECTORS) if self.nv >= VECTORS or self.mr == 1 else 0
            for panel in self.panels(asking):
                for line in range(0, 4 * asked * LANES, 64):
                    prefetch(b, b.gep(panel, [i64(line)], source_etype=I8))
            asking = b.gep(asking, [self.t.advance], source_etype=I8)
        return columns, asking


@dataclass(frozen=True)
class TileForm:
    """A family of tiles: the name of its functions, what writes them, their arguments.

    One with ``pair_heights`` has an argument ``apart``: 0, or the bytes to a second panel.
    """

    name: str
    writer: type[TileWriter]
    arguments: type[Any]
    params: Sequence[ir.Type]
    heights: tuple[int, ...] = HEIGHTS
    half_heights: tuple[int, ...] = HALF_HEIGHTS
    pair_heights: tuple[int, ...] = ()


def _body(form: TileForm, mr: int, nv: int, parts: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    writer = form.writer(b, mr, nv, parts, form.arguments(*args))
    writer.write()


def _emit_tile(
    b: ir.IRBuilder, form: TileForm, mr: int, nv: int, args: Sequence[ir.Value], parts: int = 1
) -> None:
    """Call the tile of ``mr`` rows and ``nv`` vectors, writing it into the module on first use."""
    body = functools.partial(_body, form, mr, nv, parts)
    name = f"{form.name}_{mr}x{nv}x{parts}"
    b.call(shared_function(b.module, name, ir.VoidType(), form.params, body), args)


def emit_row(form: TileForm, b: ir.IRBuilder, *args: ir.Value) -> None:
    """Call the tile of one row with partial sums; half as wide if that covers the columns."""
    emit_rows(form, 1, ROW_SUMS, b, *args)


def emit_rows(form: TileForm, mr: int, sums: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    """Call the tile of ``mr`` rows of ``sums`` partial sums, or half as wide if that is enough."""
    width = form.arguments(*args).width
    narrow, wide, end = (b.function.append_basic_block(n) for n in ("narrow", "wide", "done"))
    b.cbranch(b.icmp_signed("<=", width, i64(LANES)), narrow, wide)
    for block, nv in ((narrow, 1), (wide, VECTORS)):
        b.position_at_end(block)
        _emit_tile(b, form, mr, nv, args, max(1, sums // nv))
        b.branch(end)
    b.position_at_end(end)


def _widths(
    form: TileForm, b: ir.IRBuilder, t: Any
) -> Iterator[tuple[int, tuple[int, ...], ir.Value]]:
    """Yield vectors, heights and when they are chosen; the last are for all that is left."""
    if form.pair_heights:
        yield 2 * VECTORS, form.pair_heights, b.icmp_signed("!=", t.apart, i64(0))
    yield 1, form.half_heights, b.icmp_signed("<=", t.width, i64(LANES))
    yield VECTORS, form.heights, ir.Constant(I1, 1)


def emit_choice(form: TileForm, b: ir.IRBuilder, count: ir.Value, *args: ir.Value) -> None:
    """Call the smallest tile that holds ``count`` rows; half as wide if that covers the columns."""
    end = b.function.append_basic_block("done")
    for nv, heights, chosen in _widths(form, b, form.arguments(*args)):
        here, other = (b.function.append_basic_block(n) for n in ("fits", "other"))
        b.cbranch(chosen, here, other)
        b.position_at_end(here)
        for height in sorted(heights):
            last = height == heights[0]
            fits = ir.Constant(I1, 1) if last else b.icmp_signed("<=", count, i64(height))
            block, taller = (b.function.append_basic_block(n) for n in ("run", "taller"))
            b.cbranch(fits, block, taller)
            b.position_at_end(block)
            _emit_tile(b, form, height, nv, args)
            b.branch(end)
            b.position_at_end(taller)
        b.branch(end)
        b.position_at_end(other)
    b.branch(end)
    b.position_at_end(end)
