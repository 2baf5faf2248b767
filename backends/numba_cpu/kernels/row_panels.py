"""numba_cpu > kernels > row_panels: a product of one row, from panel to panel of B without a stop.

A call of the register tile for each panel costs a hundred cycles around the sum: tables to fill and
to read, divisions, clamps to choose. For one row, whose sums are short, that is a third of the
time. Here all of that stands outside of the loop over panels. Each sum is made in the chains of
:func:`~leptonc.backends.numba_cpu.kernels.microkernel.run_row`: the same bits.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.ir_loops import Loop
from leptonc.backends.numba_cpu.kernels.microkernel import FloatTile, Tile, run_row
from leptonc.backends.numba_cpu.kernels.part import part
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.tile_writer import PANEL, PREFETCH, ROW_SUMS, VECTORS
from leptonc.backends.numba_cpu.kernels.vec import sti64
from leptonc.backends.numba_cpu.kernels.vectype import F32, I64, i64

_PARAMS = [I64] * 7 + [F32, F32]
_BYTES = 4 * PANEL


class _RowPanel(FloatTile):
    """One row and one whole panel; the row's tables are the addresses themselves."""

    def row(self, table: ir.Value, i: int) -> ir.Value:
        """Return the address of the only row."""
        del i
        return table


@part("float_row_panels", _PARAMS)
def ROW_PANELS(
    b: ir.IRBuilder, panels: ir.Value, depth: ir.Value, a: ir.Value, *rest: ir.Value
) -> None:
    """Write the loop over panels."""
    panel, bias, res, out, low, high = rest
    size = b.mul(depth, i64(_BYTES))
    zero = i64(0)
    loop = Loop(b, "panel", [panels, panel, bias, res, out])
    left, panel, bias, res, out = loop.values
    tile = Tile(
        tiles=i64(1), rows=a, tap_step=zero, taps=i64(1), depth=depth, offset=zero, panel=panel,
        apart=zero, out_rows=out, column=zero, width=i64(PANEL), bias=bias, init_rows=zero,
        plus_rows=res, ahead=b.add(panel, i64(PREFETCH)), advance=i64(_BYTES), low=low, high=high,
    )  # fmt: skip
    writer = _RowPanel(b, 1, VECTORS, ROW_SUMS // VECTORS, tile)
    writer.bias = writer.first_values()
    writer.finish(writer.accumulate(writer.start()))
    later = [b.select(b.icmp_signed("!=", x, zero), b.add(x, i64(_BYTES)), zero)
             for x in (bias, res)]  # fmt: skip
    after = b.sub(left, i64(1))
    loop.close(b.icmp_signed(">", after, zero),
               [after, b.add(panel, size), *later, b.add(out, i64(_BYTES))])  # fmt: skip


@intrinsic
def run_row_panels(typingctx, panels, depth, a, panel, bias, res, out, low, high):
    """Compute one row of ``panels`` >= 1 whole panels one after another.

    ``depth``: of the sum. ``a``: address of ``f32[depth]``. ``panel``: address of the first packed
    panel. ``bias``, ``res``: addresses of floats that the sums begin with, and of such that are
    added to the finished sums, or 0. ``out``: address of the row. All are int64; ``low``, ``high``:
    float32 bounds of the result.
    """
    return types.void(*(types.int64,) * 7, *(types.float32,) * 2), ROW_PANELS.code


@inline_njit
def row_product(n, depth, a, b, bias, res, out, tables, low, high, tid, nt, cuts):
    """Compute this thread's columns of one row: whole panels, then what is less than one.

    ``tables``: room for three words; everything else as of :class:`~igemm_record.IGemm`.
    """
    panels = -(-n // PANEL)
    begin, end = share(panels, tid, nt, cuts)
    whole = min(end, n // PANEL)
    at, panel = _BYTES * begin, b + _BYTES * begin * depth
    if whole > begin:
        run_row_panels(whole - begin, depth, a, panel, bias + at if bias != 0 else 0,
                       res + at if res != 0 else 0, out + at, low, high)  # fmt: skip
    if end > max(whole, begin):
        sti64(tables, 0, a)
        sti64(tables, 1, out)
        sti64(tables, 2, res)
        panel = b + _BYTES * whole * depth
        run_row(tables, 0, 1, depth, 0, panel, tables + 8, _BYTES * whole, n - PANEL * whole, bias,
                0, tables + 16 if res != 0 else 0, panel + PREFETCH, _BYTES, low, high)  # fmt: skip
