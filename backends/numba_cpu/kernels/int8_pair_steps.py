"""numba_cpu > kernels > int8_pair_steps: how a tile multiplies where ``vpmaddubsw`` must be exact.

What was taken out of a panel is multiplied first (:mod:`int8_pairs`), then the panel: in groups of
steps whose products are summed in int16 where the panel's header says so, else step by step.
"""

from __future__ import annotations

from llvmlite import ir

from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.int8_dot import PROVEN, pair_sums, widened
from leptonc.backends.numba_cpu.kernels.int8_pairs import ENTRY, GROUP, PLACE
from leptonc.backends.numba_cpu.kernels.microkernel import tile_rows
from leptonc.backends.numba_cpu.kernels.tile_writer import HALF_HEIGHTS, HEIGHTS, TileWriter
from leptonc.backends.numba_cpu.kernels.vectype import I64, LANES, VI, i64, pointer

PAIRS = PROVEN == "pairs"
# Beside a cell's own, a group needs a register for each vector of B and of A in each of its steps,
# and one for their sum: fewer rows fit than of fma.
_PAIR_HEIGHTS = {16: (12, 8, 6, 4, 1), 8: (4, 3, 1), 4: (4, 3, 1)}[LANES]
#: Rows of the tiles of products of bytes: of two vectors, of one.
BYTE_HEIGHTS = (_PAIR_HEIGHTS, _PAIR_HEIGHTS) if PAIRS else (HEIGHTS, HALF_HEIGHTS)


class PairSteps(TileWriter):
    """A tile of sums of products of bytes; its arguments have ``extra``, a panel's header."""

    def of_header(self, k: int) -> ir.Value:
        """Return number ``k`` of the header."""
        return self.b.load(pointer(self.b, self.t.extra, i64(k), 8), align=8, typ=I64)

    def with_extra(self, cells: list[ir.Value]) -> list[ir.Value]:
        """Return the cells plus the products that were taken out of the panel."""
        b, t, before = self.b, self.t, self.b.block
        first, count = b.add(t.extra, self.of_header(0)), self.of_header(1)
        loop, end = self.block("extra"), self.block("no_extra")
        b.cbranch(b.icmp_signed(">", count, i64(0)), loop, end)
        b.position_at_end(loop)
        index, entry = b.phi(I64), b.phi(I64)
        sums = [b.phi(VI) for _ in cells]
        tap, byte = (b.load(pointer(b, entry, i64(k), 8), align=8, typ=I64) for k in range(2))
        table, at = b.add(t.rows, b.mul(tap, t.tap_step)), b.add(byte, t.offset)
        panel = b.add(entry, i64(PLACE))
        columns = [self.column(pointer(b, panel, i64(j * LANES))) for j in range(self.nv)]
        rows = [self.broadcast(pointer(b, b.add(self.row(table, i), at))) for i in range(self.mr)]
        new = [
            self.multiply_add(rows[i], columns[j], cell)
            for (i, j), cell in zip(self.cells, sums, strict=True)
        ]
        following = b.add(index, i64(1))
        starts = [i64(0), first, *cells]
        laters = [following, b.add(entry, i64(ENTRY)), *new]
        for phi, start, later in zip([index, entry, *sums], starts, laters, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(later, loop)
        b.cbranch(b.icmp_signed("<", following, count), loop, end)
        b.position_at_end(end)
        return self.merge([(cells, before), (new, loop)])

    def depth_loop(self, rows, panel, ahead, sums):
        """Write the steps of a tap: groups, as long as there are whole ones, then single steps."""
        if not PAIRS:
            return super().depth_loop(rows, panel, ahead, sums)
        b, many = self.b, self.split(sums)
        grouped = b.icmp_signed("==", self.of_header(2), i64(GROUP))
        depth = b.select(grouped, self.t.depth, i64(0))
        k, ptr, ahead, many = self.while_left(
            rows, i64(0), panel, ahead, many, self.parts, GROUP, depth
        )
        if self.parts > 1:
            k, ptr, ahead, many = self.while_left(rows, k, ptr, ahead, many, self.parts)
        return self.last_steps(rows, k, ptr, ahead, many)

    def multiply_add_many(self, xs: list[ir.Value], ys: list[ir.Value], z: ir.Value) -> ir.Value:
        """Return ``z`` plus the products of a step, or of a group, summed in int16 first."""
        if len(xs) == 1:
            return self.multiply_add(xs[0], ys[0], z)
        first, *others = (pair_sums(self.b, x, y) for x, y in zip(xs, ys, strict=True))
        for other in others:
            first = self.b.add(first, other)
        return self.b.add(z, widened(self.b, first))


def _rows_of(heights: tuple[int, ...]):
    """Return :func:`tile_rows` for tiles of other heights, whatever their width."""
    top = heights[0]

    @inline_njit
    def rows(left, width):
        tiles = (left + top - 1) // top
        want = (left + tiles - 1) // tiles
        best = top
        for height in heights:
            best = height if height >= want else best
        return min(best, left)

    return rows


#: Rows that the next tile of products of bytes takes, as of ``tile_rows``.
byte_rows = _rows_of(_PAIR_HEIGHTS) if PAIRS else tile_rows
