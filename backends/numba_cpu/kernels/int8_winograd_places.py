"""numba_cpu > kernels > int8_winograd_places: tables of where the pixels of a tile lie.

Straight code, a line of a tile in one register: tables are written for every tile, and entry by
entry they would take a tenth of the time of the whole convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.int8_winograd_forms import Form, call_by_form
from leptonc.backends.numba_cpu.kernels.vectype import I64, i64, pointer, splat

SPARE = 2  # entries that are written behind those of a tile of codes


def _emit_grid(
    size: int, lines: Sequence[int], b: ir.IRBuilder, table, first, line, pixel, y, x, height,
    width, other,
) -> None:  # fmt: skip
    """Write ``size`` entries of each of ``lines``, behind the last up to a power of two."""
    kind = ir.VectorType(I64, 1 << (size - 1).bit_length())
    ramp = ir.Constant(kind, list(range(kind.count)))
    # As unsigned numbers, what lies before the first line or pixel is beyond the last, too.
    across = b.icmp_unsigned("<", b.add(splat(b, x, kind), ramp), splat(b, width, kind))
    steps, others = b.mul(splat(b, pixel, kind), ramp), splat(b, other, kind)
    for k, i in enumerate(lines):
        places = b.add(splat(b, b.add(first, b.mul(line, i64(i))), kind), steps)
        inside = b.icmp_unsigned("<", b.add(y, i64(i)), height)
        places = b.select(inside, b.select(across, places, others), others)
        b.store(places, pointer(b, table, i64(size * k), 8), align=8)


def _grid(name: str, size_of: Callable[[Form], int], lines_of: Callable[[Form], Sequence[int]]):
    """Return the intrinsic that writes the table of a tile of codes, or of sums."""

    def emit(form: Form, b: ir.IRBuilder, *args: ir.Value) -> None:
        _emit_grid(size_of(form), lines_of(form), b, *args)

    @intrinsic
    def places(typingctx, m, table, first, line, pixel, y, x, height, width, other):
        """Write the address of each pixel of a tile of form ``m``, ``other`` for those outside.

        ``first``: address of pixel (0, 0), with the bytes from ``line`` to line and ``pixel`` to
        pixel; ``y``, ``x``: where in an image of ``height x width`` it is.
        """

        def build(context, builder, sig, args):
            call_by_form(builder, name, [I64] * 9, emit, args)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 10), build

    return places


code_places = _grid("lep_wino_code_places", lambda f: f.side, lambda f: range(f.side))
sum_places = _grid("lep_wino_sum_places", lambda f: f.m, lambda f: f.lines)
