"""numba_cpu > kernels > microkernel: the register tile of the float32 matrix product.

``run_tiles`` computes up to ROWS x PANEL outputs at a time, in registers (:mod:`tile_writer`). The
bias or the sums of an earlier block are the initial values; the residual is added to the finished
sums, and a clamp ends the tile. A sum that began with the residual would round every product at the
residual's size: activations of decoders grow to thousands along the residuals, and that cost a
digit of the result. Tiles that share a panel are one call: with a short sum what surrounds a tile
would take half of its time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import vecmath as vm
from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.part import part
from leptonc.backends.numba_cpu.kernels.tile_writer import (
    HALF_HEIGHTS,
    HALF_ROWS,
    HEIGHTS,
    PAIR_HEIGHTS,
    PAIR_TOP,
    PANEL,
    PREFETCH,
    ROWS,
    VECTORS,
    TileForm,
    TileWriter,
    emit_choice,
    emit_row,
)
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I8,
    I64,
    LANES,
    VM,
    fconst,
    fma,
    i64,
    load_vec,
    masked_load,
    masked_store,
    pointer,
    splat,
)

__all__ = [
    "PAIR_HEIGHTS",
    "PAIR_TOP",
    "PANEL",
    "PREFETCH",
    "ROW",
    "ROWS",
    "TILES",
    "VECTORS",
    "equal_pairs",
    "equal_tiles",
    "pair_rows",
    "run_row",
    "run_tiles",
    "tile_rows",
]


@dataclass(frozen=True)
class Tile:
    """The arguments of a microkernel as LLVM values; see :func:`run_tiles` for their meaning."""

    tiles: ir.Value
    rows: ir.Value
    tap_step: ir.Value
    taps: ir.Value
    depth: ir.Value
    offset: ir.Value
    panel: ir.Value
    apart: ir.Value
    out_rows: ir.Value
    column: ir.Value
    width: ir.Value
    bias: ir.Value
    init_rows: ir.Value
    plus_rows: ir.Value
    ahead: ir.Value
    advance: ir.Value
    low: ir.Value
    high: ir.Value


_PARAMS = [I64] * 16 + [F32, F32]
_APART = list(Tile.__dataclass_fields__).index("apart")


class FloatTile(TileWriter):
    """Tiles of float32: bias and partial sums begin them, residual and clamp end each.

    ``bias``: its vectors, from :meth:`first_values`.
    """

    bias: list[ir.Value]

    zero = fconst(0.0)

    def write(self) -> None:
        """Write the loop over tiles, each ``mr`` rows further down the tables."""
        t, b = self.t, self.b
        self.bias = self.first_values()
        down, asked = i64(8 * self.mr), b.mul(t.advance, b.mul(t.taps, t.depth))
        steps = {"tiles": i64(-1), "rows": down, "out_rows": down, "ahead": asked}
        for name in ("init_rows", "plus_rows"):
            steps[name] = b.select(b.icmp_signed("!=", getattr(t, name), i64(0)), down, i64(0))
        entry, loop, end = b.block, self.block("tile"), self.block("end")
        b.branch(loop)
        b.position_at_end(loop)
        here = {name: b.phi(I64) for name in steps}
        self.t = replace(t, **here)
        self.finish(self.accumulate(self.start()))
        later = {name: b.add(here[name], step) for name, step in steps.items()}
        for name, phi in here.items():
            phi.add_incoming(getattr(t, name), entry)
            phi.add_incoming(later[name], b.block)
        b.cbranch(b.icmp_signed(">", later["tiles"], i64(0)), loop, end)
        b.position_at_end(end)

    def at(self, base: ir.Value, j: int) -> ir.Value:
        """Return the pointer of vector ``j`` of this tile's columns from byte address ``base``."""
        start = self.b.add(base, self.t.column)
        return pointer(self.b, start, i64(j * LANES))

    def panels(self, at: ir.Value) -> list[ir.Value]:
        """Return a pointer into the panel, and the same place of the second one if there is one."""
        second = [self.b.gep(at, [self.t.apart], source_etype=I8)] * (self.nv > VECTORS)
        return [at, *second]

    def broadcast(self, at: ir.Value) -> ir.Value:
        """Return the element of A at a pointer in all lanes."""
        return splat(self.b, self.b.load(at, align=4, typ=F32))

    def column(self, at: ir.Value) -> ir.Value:
        """Return the vector of B at a pointer."""
        return load_vec(self.b, at)

    def multiply_add(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """Return ``x * y + z`` for an element of A, a vector of B and a cell."""
        return fma(self.b, x, y, z)

    def plus(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Return the sum of two cells."""
        return self.b.fadd(x, y)

    def matrix(self, table: ir.Value) -> list[ir.Value]:
        """Load the tile's cells from rows at ``table``; columns beyond the width are 0."""
        starts = [self.row(table, i) for i in range(self.mr)]
        return [masked_load(self.b, self.at(starts[i], j), self.masks[j]) for i, j in self.cells]

    def first_values(self) -> list[ir.Value]:
        """Return the bias of each vector of columns."""
        t, b = self.t, self.b
        has_bias = b.icmp_signed("!=", t.bias, i64(0))
        # Without a bias nothing is loaded, but the address must be one that can be read.
        base = b.select(has_bias, b.add(t.bias, t.column), t.rows)
        columns = []
        for j, mask in enumerate(self.masks):
            wanted = b.and_(mask, splat(b, has_bias, VM))
            columns.append(masked_load(b, pointer(b, base, i64(j * LANES)), wanted))
        return columns

    def start(self) -> list[ir.Value]:
        """Return the initial accumulators: bias plus what ``init_rows`` point to."""
        return self.plus_matrix([self.bias[j] for _, j in self.cells], self.t.init_rows)

    def plus_matrix(self, cells: list[ir.Value], table: ir.Value) -> list[ir.Value]:
        """Return the cells plus those of the rows at ``table``, if that is not 0."""
        b, more, end, before = self.b, self.block("add"), self.block("added"), self.b.block
        b.cbranch(b.icmp_signed("!=", table, i64(0)), more, end)
        b.position_at_end(more)
        sums = [self.plus(x, y) for x, y in zip(self.matrix(table), cells, strict=True)]
        b.branch(end)
        b.position_at_end(end)
        return self.merge([(cells, before), (sums, more)])

    def finish(self, acc: list[ir.Value]) -> None:
        """Add the residual, clamp, store; only the last, narrow panel pays for masked stores."""
        t, b = self.t, self.b
        acc = self.clamped(self.plus_matrix(acc, t.plus_rows))
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

    def clamped(self, acc: list[ir.Value]) -> list[ir.Value]:
        """Return the cells within the bounds; most tiles of a sum have none."""
        t, b = self.t, self.b
        limits = [(t.low, "-inf"), (t.high, "inf")]
        some = [b.fcmp_unordered("!=", v, ir.Constant(F32, float(end))) for v, end in limits]
        clamp, done, before = self.block("clamp"), self.block("clamped"), b.block
        b.cbranch(b.or_(*some), clamp, done)
        b.position_at_end(clamp)
        low, high = splat(b, t.low), splat(b, t.high)
        bound = [vm.clamp_high(b, vm.clamp_low(b, x, low), high) for x in acc]
        b.branch(done)
        b.position_at_end(done)
        return self.merge([(acc, before), (bound, clamp)])

    def store(self, acc: list[ir.Value], masked: bool) -> None:
        """Store the cells into the output rows."""
        starts = [self.row(self.t.out_rows, i) for i in range(self.mr)]
        for (i, j), value in zip(self.cells, acc, strict=True):
            if masked:
                masked_store(self.b, value, self.at(starts[i], j), self.masks[j])
            else:
                self.b.store(value, self.at(starts[i], j), align=4)


_FLOATS = TileForm("lep_tile", FloatTile, Tile, _PARAMS, pair_heights=PAIR_HEIGHTS)


@part("float_tiles", [I64, *_PARAMS])
def TILES(b: ir.IRBuilder, count: ir.Value, *args: ir.Value) -> None:
    """Call the smallest tile that holds ``count`` rows."""
    emit_choice(_FLOATS, b, count, *args)


@part("float_row", [t for i, t in enumerate(_PARAMS) if i not in (0, _APART)])
def ROW(b: ir.IRBuilder, *args: ir.Value) -> None:
    """Call the tile of one row and one panel, with what :func:`run_tiles` takes besides."""
    args = (i64(1), *args)
    emit_row(_FLOATS, b, *args[:_APART], i64(0), *args[_APART:])


@intrinsic
def run_tiles(
    typingctx, count, tiles, rows, tap_step, taps, depth, offset, panel, apart, out_rows, column,
    width, bias, init_rows, plus_rows, ahead, advance, low, high,
):  # fmt: skip
    """Compute ``tiles`` tiles of ``count`` x PANEL outputs, one below the other.

    A tile taller than ``count`` may run: the tables must repeat their last row up to ROWS entries,
    and of a height that is not in HEIGHTS (HALF_HEIGHTS for one vector, PAIR_HEIGHTS for two
    panels) there is one tile only. Kernels that call it have the part TILES.
    All arguments are int64 but the last two.

    ``count``: rows of a tile. ``rows``: address of the row addresses of A in the first tap.
    ``tap_step``: bytes from there to the next tap's. ``taps``, ``depth``: taps, and k per tap.
    ``offset``: bytes added to each A row. ``panel``: packed B ``[taps][depth][PANEL]``. ``apart``:
    0, or the bytes to a second panel, that of the next columns, and to what is asked for with it.
    ``out_rows``: address of the output row addresses. ``column``: bytes added to each output row,
    initial row and added row, and to ``bias``. ``width``: columns that exist from there. ``bias``:
    address or 0. ``init_rows``: address of the addresses of rows to start from (partial sums) or 0.
    ``plus_rows``: the same of rows to add to the finished sums (residual) or 0. ``ahead``: address
    of what to ask for meanwhile, any; it grows by ``advance`` bytes, at most those of a row of the
    panel, per k. ``low``, ``high``: float32 bounds of the result.
    """
    return types.void(*(types.int64,) * 17, *(types.float32,) * 2), TILES.code


@intrinsic
def run_row(
    typingctx, rows, tap_step, taps, depth, offset, panel, out_rows, column, width, bias,
    init_rows, plus_rows, ahead, advance, low, high,
):  # fmt: skip
    """Compute one row of up to PANEL outputs; arguments as of :func:`run_tiles`.

    Each sum is made of ROW_SUMS / 2 or more partial sums per tap, so its rounding differs from that
    of a tile: what uses this must do so for all numbers of threads. Kernels that call it have the
    part ROW.
    """
    return types.void(*(types.int64,) * 14, *(types.float32,) * 2), ROW.code


@inline_njit
def tile_rows(left, width):
    """Return how many of ``left`` rows the next tile takes.

    It is the height of a tile for ``width`` columns (for one vector HALF_ROWS at most), unless all
    that are left are fewer: a tile that reached into rows of the next one would add to their
    initial values twice. The highest tiles read a panel the fewest times for what they compute; the
    last three share their rows evenly, so that all are filled.
    """
    top = HALF_ROWS if width <= LANES else ROWS
    if left >= 3 * top:
        return top
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


@inline_njit
def pair_rows(left):
    """Return how many of ``left`` rows the next tile of two panels takes; see :func:`tile_rows`."""
    if left >= 3 * PAIR_TOP:
        return PAIR_TOP
    tiles = (left + PAIR_TOP - 1) // PAIR_TOP
    return (left + tiles - 1) // tiles


@inline_njit
def equal_pairs(left, some):
    """Return how many tiles in a row :func:`pair_rows` makes as high as the next one, ``some``."""
    return max(1, left // PAIR_TOP - 2) if some == PAIR_TOP else 1


@inline_njit
def equal_tiles(left, some, width):
    """Return how many tiles in a row :func:`tile_rows` makes as high as the next one, ``some``."""
    if some == ROWS and left % ROWS == 0:
        return left // ROWS
    many = 1
    while left > many * some and tile_rows(left - many * some, width) == some:
        many += 1
    return many
