"""numba_cpu > kernels > strassen_tile: the register tile of the products of :mod:`strassen`, as IR.

The rows of A lie as those of :mod:`winograd_product` do, ``[vector of depth][ROWS][LANES]``: what
adds up quadrants of A writes them so, and one pointer and constants address all rows.

While the tiles of a product multiply, the first of them make the panel of B for the next product,
the sum or difference of two, a line or two every UNROLL of depth. Additions and stores take other
pipes than multiply-adds do; a pass of its own would take a fifteenth of a product's time, and a
first tile that made the sum it multiplies with would wait for the second-level cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import vecmath as vm
from leptonc.backends.numba_cpu.kernels.ir_loops import counted
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS, VECTORS
from leptonc.backends.numba_cpu.kernels.part import Part, part
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I8,
    I32,
    I64,
    LANES,
    PTR,
    VF,
    VI,
    fconst,
    floats_on,
    fma,
    i64,
    load_vec,
    pointer,
    prefetch,
    splat,
)
from leptonc.backends.numba_cpu.kernels.winograd_calls import call_of

#: Row counts that a tile exists for: of rows spread evenly over tiles, few are less.
HEIGHTS = tuple(range(ROWS, -(-2 * ROWS // 3) - 1, -1))
LINES = (1, 2)  # of a sum that a tile makes every UNROLL of depth
UNROLL = 4  # of the loop over the depth; divides LANES
NEGATIVE, ONTO = 1, 2  # how a sum is made, how products meet what is there
_SOON = 2 * ROWS * LANES  # floats ahead in A


@dataclass(frozen=True)
class Tile:
    """The arguments of a tile as LLVM values; see :func:`multiply_sums` for their meaning."""

    a: ir.Value
    panel: ir.Value
    x: ir.Value
    y: ir.Value
    made: ir.Value
    how: ir.Value
    vectors: ir.Value
    c: ir.Value
    c_how: ir.Value
    d: ir.Value
    d_how: ir.Value
    out_rows: ir.Value
    plus_rows: ir.Value
    column: ir.Value
    bias: ir.Value
    ahead: ir.Value
    apart: ir.Value
    advance: ir.Value
    low: ir.Value
    high: ir.Value


def _signed(b: ir.IRBuilder, value: ir.Value, sign: ir.Value) -> ir.Value:
    """Return a vector with the sign bits of ``sign`` turned over."""
    return b.bitcast(b.xor(b.bitcast(value, VI), sign), VF)


def _sign(b: ir.IRBuilder, how: ir.Value) -> ir.Value:
    """Return the sign bit in all lanes where ``how`` has NEGATIVE."""
    return splat(b, b.trunc(b.shl(b.and_(how, i64(NEGATIVE)), i64(31)), I32), VI)


class Writer:
    """Writes the tiles of one height into a part."""

    def __init__(self, b: ir.IRBuilder, height: int, t: Tile) -> None:
        self.b, self.height, self.t = b, height, t
        self.cells = [(i, j) for i in range(height) for j in range(VECTORS)]

    def products(self, lines: int) -> list[ir.Value]:
        """Write the loops over the depth, which make so many lines of a sum; return the cells."""
        b, t = self.b, self.t
        sign = _sign(b, t.how) if lines else None

        def some_depth(_, values: list[ir.Value]) -> list[ir.Value]:
            rows, soon, asked, panel, *sums, acc = *values[:7], values[7:]
            for at in (asked, b.gep(asked, [t.apart], source_etype=I8)):
                prefetch(b, at)
            for k in range(UNROLL):
                if k * LANES < ROWS * UNROLL:
                    prefetch(b, floats_on(b, soon, k * LANES))
                acc = self._step(k, rows, panel, acc)
                if sign is not None:
                    some = (n * lines * VECTORS // UNROLL for n in (k, k + 1))
                    self._make(range(*some), sums, sign)
            asked = b.gep(asked, [t.advance], source_etype=I8)
            soon, panel = floats_on(b, soon, ROWS * UNROLL), floats_on(b, panel, UNROLL * PANEL)
            sums = [floats_on(b, p, lines * PANEL) for p in sums]
            return [floats_on(b, rows, UNROLL), soon, asked, panel, *sums, *acc]

        def one_vector(_, values: list[ir.Value]) -> list[ir.Value]:
            rows, *others = values
            _, *others = counted(b, i64(LANES // UNROLL), [rows, *others], some_depth)
            return [floats_on(b, rows, ROWS * LANES), *others]

        a, *others = [b.inttoptr(v, PTR) for v in (t.a, t.ahead, t.panel, t.x, t.y, t.made)]
        starts = [a, floats_on(b, a, _SOON), *others]
        zeros = [fconst(0.0)] * len(self.cells)
        return counted(b, t.vectors, [*starts, *zeros], one_vector)[len(starts) :]

    def _step(self, k: int, rows: ir.Value, panel: ir.Value, acc: list[ir.Value]):
        """Return the cells after step ``k`` of UNROLL."""
        b, acc = self.b, list(acc)
        columns = [load_vec(b, floats_on(b, panel, k * PANEL + j * LANES)) for j in range(VECTORS)]
        for i in range(self.height):
            one = splat(b, b.load(floats_on(b, rows, i * LANES + k), align=4, typ=F32))
            for j, column in enumerate(columns):
                acc[i * VECTORS + j] = fma(b, one, column, acc[i * VECTORS + j])
        return acc

    def _make(self, vectors: range, sums: list[ir.Value], sign: ir.Value) -> None:
        """Write some of the vectors of a sum of panels."""
        b, (x, y, made) = self.b, sums
        for j in vectors:
            other = _signed(b, load_vec(b, floats_on(b, y, j * LANES)), sign)
            total = b.fadd(load_vec(b, floats_on(b, x, j * LANES)), other)
            b.store(total, floats_on(b, made, j * LANES), align=4)

    def finish(self, cells: list[ir.Value]) -> None:
        """Write what becomes of the products: onto ``c``, onto ``d`` or with it into the result."""
        b, t = self.b, self.t
        with b.if_then(b.icmp_signed("!=", t.c, i64(0))):
            self._store(self._met(cells, t.c, t.c_how), self._places(t.c))
        with b.if_else(b.icmp_signed("==", t.out_rows, i64(0))) as (onto, into):
            with onto:
                self._store(self._met(cells, t.d, t.d_how), self._places(t.d))
            with into:
                self._write(cells)

    def _write(self, cells: list[ir.Value]) -> None:
        """Write the finished sums plus bias and residual, within bounds, into the result."""
        b, t = self.b, self.t
        low, high = splat(b, t.low), splat(b, t.high)
        bias = [load_vec(b, pointer(b, t.bias, i64(j * LANES))) for j in range(VECTORS)]
        places = self._row_places(t.out_rows)

        def totals() -> Iterator[ir.Value]:
            for (_, j), v in zip(self.cells, self._met(cells, t.d, t.d_how), strict=True):
                yield b.fadd(v, bias[j])

        def bounded(value: ir.Value) -> ir.Value:
            return vm.clamp_high(b, vm.clamp_low(b, value, low), high)

        with b.if_else(b.icmp_signed("!=", t.plus_rows, i64(0))) as (more, alone):
            with more:
                added = self._row_places(t.plus_rows)
                both = (b.fadd(v, load_vec(b, p)) for v, p in zip(totals(), added, strict=True))
                self._store((bounded(v) for v in both), places)
            with alone:
                self._store((bounded(v) for v in totals()), places)

    def _store(self, values: Iterable[ir.Value], places: list[ir.Value]) -> None:
        """Store each value before the next one is made: more than one would not fit registers."""
        for value, place in zip(values, places, strict=True):
            self.b.store(value, place, align=4)

    def _places(self, at: ir.Value) -> list[ir.Value]:
        """Return the pointers of the cells in a tile of sums."""
        return [pointer(self.b, at, i64(i * PANEL + j * LANES)) for i, j in self.cells]

    def _row_places(self, table: ir.Value) -> list[ir.Value]:
        """Return the pointers of the cells in the rows of a table."""
        b, t = self.b, self.t
        rows = [b.load(pointer(b, table, i64(i), 8), align=8, typ=I64) for i in range(self.height)]
        return [pointer(b, b.add(rows[i], t.column), i64(j * LANES)) for i, j in self.cells]

    def _met(self, cells, at: ir.Value, how: ir.Value) -> Iterator[ir.Value]:
        """Yield the products or minus the products, with ONTO plus what lies at ``at``."""
        b, sign = self.b, _sign(self.b, how)
        keep = splat(b, b.trunc(b.neg(b.lshr(b.and_(how, i64(ONTO)), i64(1))), I32), VI)
        for place, value in zip(self._places(at), cells, strict=True):
            old = b.bitcast(b.and_(b.load(place, align=4, typ=VI), keep), VF)
            yield b.fadd(old, _signed(b, value, sign))


_PARAMS = [*[I64] * (len(Tile.__dataclass_fields__) - 2), F32, F32]


def _multiply(height: int, lines: int) -> Part:
    """Return the tile of ``height`` rows, with and without ``lines`` of a sum."""

    @part(f"strassen_{height}_{lines}", _PARAMS)
    def multiply(b: ir.IRBuilder, *args: ir.Value) -> None:
        writer = Writer(b, height, Tile(*args))
        plain, sums, end = (b.append_basic_block(name) for name in ("plain", "sums", "end"))
        b.cbranch(b.icmp_signed("!=", writer.t.x, i64(0)), sums, plain)
        made = []
        for block, some in ((plain, 0), (sums, lines)):
            b.position_at_end(block)
            made.append((writer.products(some), b.block))
            b.branch(end)
        b.position_at_end(end)
        cells = []
        for pair in zip(*(values for values, _ in made), strict=True):
            phi = b.phi(VF)
            for value, (_, block) in zip(pair, made, strict=True):
                phi.add_incoming(value, block)
            cells.append(phi)
        writer.finish(cells)

    return multiply


#: The parts by height and lines of a sum, compiled when a network has a product that needs them.
MULTIPLY = {(height, lines): _multiply(height, lines) for height in HEIGHTS for lines in LINES}
_CALL = call_of(_PARAMS)


@intrinsic
def multiply_sums(
    typingctx, code, a, panel, x, y, made, how, vectors, c, c_how, d, d_how, out_rows, plus_rows,
    column, bias, ahead, apart, advance, low, high,
):  # fmt: skip
    """Multiply rows of A with a panel; add the products to one or two quadrants.

    ``code``: the address of one of MULTIPLY. ``a``: address of ``f32[vectors, ROWS, LANES]``.
    ``panel``: address of ``f32[vectors * LANES, PANEL]``. ``x``: 0, or the address of lines of a
    panel to which those at ``y`` are added meanwhile, into ``made``. ``how``: NEGATIVE to subtract
    them. ``vectors``: of depth, at least 1. ``c``, ``d``: addresses of ``f32[ROWS, PANEL]`` that
    take the products, ``c`` may be 0; ``c_how``, ``d_how``: NEGATIVE, ONTO (added to what is there)
    or both. ``out_rows``: 0, or the address of the addresses of rows that take what ``d`` would,
    ``column`` bytes on, plus ``bias`` (address of ``f32[PANEL]``) and, if it is not 0, the rows of
    ``plus_rows``, within the float32 ``low`` and ``high``. ``ahead``: address of what to ask for
    meanwhile, and ``apart`` bytes behind, ``advance`` bytes every UNROLL of depth.
    """
    numbers = (types.int64,) * (len(_PARAMS) - 1)
    return types.void(*numbers, types.float32, types.float32), _CALL
