"""numba_cpu > lower > strassen: linear layers and 1x1 convolutions by :mod:`strassen`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from leptonc.backends.numba_cpu.kernels import strassen as kernels
from leptonc.backends.numba_cpu.kernels.igemm_record import Res
from leptonc.backends.numba_cpu.kernels.pack import packed_size
from leptonc.backends.numba_cpu.kernels.tile_finish import ADD_RES, MULTIPLY_RES, NO_RES
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.epilogue import zeros
from leptonc.backends.numba_cpu.lower.product import Finish, merged, rows_product
from leptonc.backends.numba_cpu.lower.product_cost import strassen_columns, strassen_sizes
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import Ref, View

LATE = {Res.BEFORE: NO_RES, Res.AFTER: ADD_RES, Res.TIMES: MULTIPLY_RES}


def possible(x: View, out: View, end: Finish) -> bool:
    """Return whether rows lie so that the kernel can walk them."""
    return _steps(x, out, end) is not None


def _steps(x: View, out: View, end: Finish) -> dict[str, int] | None:
    """Return the floats from row to row of each view; None where the kernel cannot walk them.

    Rows of ``x`` may lie in lines, see :data:`kernels.NAMES`.
    """
    written = [v for v in (out, end.res) if v is not None]
    axes, lines = merged(x.shape[:-1], [v.strides[:-1] for v in written]), _lines(x)
    if len(axes) != 1 or lines is None or any(v.strides[-1] != 1 for v in (x, *written)):
        return None
    out_row, *res_row = axes[0][1]
    return {**lines, "out_row": out_row, "res_row": res_row[0] if res_row else 0}


def _lines(x: View) -> dict[str, int] | None:
    """Return how the rows of ``x`` lie; None where that takes more than two axes."""
    axes = merged(x.shape[:-1], [x.strides[:-1]])
    if len(axes) > 2:
        return None
    (lines, (line,)), (width, (row,)) = [(1, (0,))] * (2 - len(axes)) + axes
    del lines
    return {"width": width, "a_line": line, "a_row": row}


def strassen_product(ctx: Lowering, x: View, b: Slot, out: View, end: Finish) -> None:
    """Append ``out[..., n] = finish(x[..., k] @ B)``, B packed, where that is :func:`possible`.

    Columns behind :func:`strassen_columns` are a plain product.
    """
    columns = out.shape[-1]
    whole = strassen_columns(columns)
    _whole(ctx, x, b, _some(out, 0, whole), _finish_of(end, 0, whole))
    if whole < columns:
        behind = _behind(b, 4 * packed_size(whole, x.shape[-1]))
        rest, some = _finish_of(end, whole, columns), _some(out, whole, columns)
        rows_product(ctx, x, behind, some, rest, by_parts=False)


def _some(view: View, first: int, stop: int) -> View:
    """Return some columns of a view."""
    return view.slice(view.rank - 1, first, stop)


def _finish_of(end: Finish, first: int, stop: int) -> Finish:
    """Return the epilogue of some columns."""
    res = None if end.res is None else _some(end.res, first, stop)
    return replace(end, bias=_behind(end.bias, 4 * first), res=res)


def _behind(address: Slot, nbytes: int) -> Slot:
    """Return an address so many bytes on; none is none."""
    if address == 0:
        return address
    assert isinstance(address, Ref)
    return replace(address, byte_offset=address.byte_offset + nbytes)


def _whole(ctx: Lowering, x: View, b: Slot, out: View, end: Finish) -> None:
    """Append the step of a product of whole pairs of panels."""
    steps = _steps(x, out, end)
    assert steps is not None
    sides = math.prod(x.shape[:-1]), x.shape[-1], out.shape[-1]
    sizes = strassen_sizes(*sides, ctx.threads)
    assert sizes is not None
    table = sizes.table()
    scratch, stride = ctx.scratch(sizes.scratch()["end"])
    code, p0, p1 = end.act
    values: dict[str, Any] = {
        **sizes.slots(), "table": ctx.packed(("strassen", table.tobytes()), lambda: table),
        "a": x.ref, "b": b, **steps,
        "bias": zeros(ctx, sizes.columns) if end.bias == 0 else end.bias,
        "out": out.ref, "res": 0 if end.res is None else end.res.ref,
        "late": NO_RES if end.res is None else LATE[end.mode], "act": int(code),
        "act_p0": float(p0), "act_p1": float(p1), "scratch": scratch, "scratch_bytes": stride,
    }  # fmt: skip
    slots: list[Slot] = [values[name] for name in kernels.NAMES]
    reads = [x, *end.reads, *([] if end.res is None else [end.res])]
    ctx.step(kernels.strassen, slots, reads, [out])
