"""numba_cpu > lower > sparse: linear layers and 1x1 convolutions of mostly zero weights."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from leptonc.backends.numba_cpu.kernels import sparse as kernels
from leptonc.backends.numba_cpu.lower import questions
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.product import SERIAL_WORK, Finish
from leptonc.backends.numba_cpu.lower.shape import contiguous, copy_view
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View, static_shape
from leptonc.ir.constants import Const
from leptonc.ir.core import Op
from leptonc.ir.types import DType
from leptonc.meaning import array_of, nonzero_share


def wins(ctx: Lowering, op: Op) -> bool:
    """Return whether the product of ``op`` was measured, or is estimated, to be faster sparse."""
    const = ctx.constant(op.operands[1])
    if const is None:
        return False
    question = questions.sparse(op, const, ctx.precision)
    return question is not None and ctx.decide(question) == questions.SPARSE


def sparse_product(ctx: Lowering, op: Op, x: View, out: View, end: Finish) -> None:
    """Append ``out[..., n] = finish(x[..., k] @ w.T)``; the views' last axis is the row's."""
    const = ctx.constant(op.operands[1])
    assert const is not None
    x = x if _rows(x) else contiguous(ctx, x)
    made = out if _rows(out) else ctx.temp(DType.F32, out.shape)
    res = end.res
    if res is not None and not _rows(res):
        res = contiguous(ctx, res)
    key = id(const.payload)
    parts = [ctx.packed((f"sparse {i}", key), partial(_list, const, i), const) for i in range(3)]
    n, *inner = static_shape(const.type)
    k = math.prod(inner)
    rows = out.numel // max(n, 1)
    scratch, stride = ctx.scratch(kernels.scratch_bytes(k))
    code, p0, p1 = end.act
    values: dict[str, Any] = {
        "rows": rows, "depth": k, "columns": n, "x": x.ref, "x_row": k, "starts": parts[0],
        "inputs": parts[1], "weights": parts[2], "bias": end.bias, "out": made.ref, "out_row": n,
        "res": 0 if res is None else res.ref, "res_row": n, "res_mode": int(end.mode),
        "act": int(code), "act_p0": float(p0), "act_p1": float(p1), "scratch": scratch,
        "scratch_bytes": stride,
    }  # fmt: skip
    reads = [x, *end.reads, *([] if res is None else [res])]
    slots: list[Slot] = list(values.values())
    if made.numel:
        work = rows * n * k * nonzero_share(const, questions.MOST_DENSE)
        ctx.step(kernels.sparse, slots, reads, [made], serial=work < SERIAL_WORK)
    if made is not out:
        copy_view(ctx, made, out)


def _list(weight: Const, i: int) -> np.ndarray:
    array = array_of(weight)
    return kernels.lists(array.reshape(len(array), -1))[i]


def _rows(view: View) -> bool:
    """Return whether rows lie one behind the other without gaps."""
    return view.is_contiguous
