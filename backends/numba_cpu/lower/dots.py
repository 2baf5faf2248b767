"""numba_cpu > lower > dots: a linear layer of one row and few columns, by :mod:`row_dots`."""

from __future__ import annotations

import math

from leptonc.backends.numba_cpu.kernels import row_dots
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.product import SERIAL_WORK, Finish
from leptonc.backends.numba_cpu.lower.shape import contiguous
from leptonc.backends.numba_cpu.views import View
from leptonc.ir.constants import Const
from leptonc.meaning import elements_of


def fits(x: View, out: View, end: Finish) -> bool:
    """Return whether ``out[..., n] = x[..., k] @ B`` is one row of few columns and long sums."""
    columns, depth = out.shape[-1], x.shape[-1]
    return (
        math.prod(x.shape[:-1]) == 1
        and 0 < columns <= row_dots.MOST
        and depth >= row_dots.LEAST
        and end.res is None
    )


def dots(ctx: Lowering, x: View, weight: Const, out: View, end: Finish) -> None:
    """Append the product of a row with the constant ``weight: [columns, depth]``."""
    if x.strides[-1] != 1:
        x = contiguous(ctx, x)
    columns, depth = out.shape[-1], x.shape[-1]
    fetch = ctx.pool.fetch
    key = ("row dots", id(weight.payload))
    packed = ctx.packed(key, lambda: row_dots.pack_columns(elements_of(weight), fetch), weight)
    code, p0, p1 = end.act
    values = {
        "columns": columns, "depth": depth, "a": x.ref, "weights": packed, "bias": end.bias,
        "out": out.ref, "act": int(code), "act_p0": float(p0), "act_p1": float(p1),
    }  # fmt: skip
    slots = [values[name] for name in row_dots.NAMES]
    small = columns * depth < SERIAL_WORK
    ctx.step(row_dots.row_dots, slots, [x, *end.reads], [out], serial=small)
