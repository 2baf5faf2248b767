"""numba_cpu > lower > fixed: linear layers of few rows and large weights, by :mod:`fixed_rows`."""

from __future__ import annotations

import math

from leptonc.backends.numba_cpu.kernels import fixed_rows
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.product import Finish
from leptonc.backends.numba_cpu.lower.shape import contiguous, copy_view
from leptonc.backends.numba_cpu.views import View
from leptonc.ir.constants import Const
from leptonc.ir.types import DType
from leptonc.meaning import elements_of


def fixed(ctx: Lowering, x: View, weight: Const, out: View, end: Finish) -> None:
    """Append the product of rows with the constant ``weight: [columns, depth]``."""
    x, res = _dense(ctx, x), None if end.res is None else _dense(ctx, end.res)
    made = out if out.is_contiguous else ctx.temp(DType.F32, out.shape)
    columns, depth = out.shape[-1], x.shape[-1]
    fetch = ctx.pool.fetch
    key = ("fixed", id(weight.payload))
    packed = ctx.packed(key, lambda: fixed_rows.pack(elements_of(weight), fetch), weight)
    code, p0, p1 = end.act
    values = {
        "rows": math.prod(x.shape[:-1]), "columns": columns, "depth": depth,
        "x": x.ref, "x_row": depth, "weights": packed,
        "panel_bytes": fixed_rows.panel_bytes(depth), "bias": end.bias,
        "res": 0 if res is None else res.ref, "res_row": columns, "res_mode": int(end.mode),
        "out": made.ref, "out_row": columns, "act": int(code), "act_p0": float(p0),
        "act_p1": float(p1),
    }  # fmt: skip
    reads = [x, *end.reads, *([] if res is None else [res])]
    ctx.step(fixed_rows.fixed_rows, [values[name] for name in fixed_rows.NAMES], reads, [made])
    if made is not out:
        copy_view(ctx, made, out)


def _dense(ctx: Lowering, x: View) -> View:
    return x if x.is_contiguous else contiguous(ctx, x)
