"""numba_cpu > lower > product: steps of the indirect matrix product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from leptonc.backends.numba_cpu.kernels import bf16x3_plan, igemm_plan
from leptonc.backends.numba_cpu.kernels.activation import Act
from leptonc.backends.numba_cpu.kernels.bf16x3 import bf16x3
from leptonc.backends.numba_cpu.kernels.igemm import igemm
from leptonc.backends.numba_cpu.kernels.igemm_record import IGemm, Res
from leptonc.backends.numba_cpu.kernels.pack import pack_b, packed_size
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.product_cost import bf16x3_cycles
from leptonc.backends.numba_cpu.lower.shape import contiguous, copy_view
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View, row_major
from leptonc.ir.types import DType

SERIAL_WORK = 16 * 1024  # multiply-adds below which a product runs on one thread
_FLOATS = ("act_p0", "act_p1")
Axis = tuple[int, tuple[int, ...]]  # size, stride of each view


@dataclass(frozen=True)
class Finish:
    """The epilogue of one step: addresses and views that it reads."""

    bias: Slot = 0
    act: tuple[Act, float, float] = (Act.NONE, 0.0, 0.0)
    res: View | None = None
    mode: Res = Res.BEFORE
    reads: tuple[View, ...] = ()


def emit(
    ctx: Lowering,
    call: IGemm,
    a: View,
    b: Slot,
    out: View,
    finish: Finish,
    reads: Sequence[View] = (),
    by_parts: bool | None = None,
) -> None:
    """Append the step of ``call``, whose strides and extents are set, with these operands.

    Args:
        ctx: the lowering.
        call: the record.
        a: the first operand; its element 0 is the record's.
        b: address of packed B.
        out: the result; its element 0 is the record's.
        finish: the epilogue; the strides of its residual are in ``call``.
        reads: further buffers that the step reads.
        by_parts: whether by :mod:`bf16x3`; None: where that is estimated to be faster.
    """
    if by_parts is None:
        by_parts = not ctx.in_bands and _gains_by_parts(call, ctx.precision)
    call = bf16x3_plan.blocked(call) if by_parts else igemm_plan.spread_rows(call)
    scratch, stride = ctx.scratch(int(call.scratch_bytes))
    code, p0, p1 = finish.act
    values: dict[str, Any] = dict(vars(call))  # in the order of its fields
    values |= {"a": a.ref, "b": b, "bias": finish.bias, "out": out.ref, "act": code, "act_p0": p0}
    values |= {"act_p1": p1, "res_mode": finish.mode, "scratch": scratch, "scratch_bytes": stride}
    values["res"] = 0 if finish.res is None else finish.res.ref
    slots = [_slot(name, value) for name, value in values.items()]
    extra = [] if finish.res is None else [finish.res]
    rows = call.outer0 * call.outer1 * call.rows_z * call.rows_y * call.rows_x
    if rows * call.columns > 0:
        small = rows * call.columns * max(call.taps * call.depth, 1) < SERIAL_WORK
        kernel, extra = bf16x3 if by_parts else igemm, [*reads, *finish.reads, *extra]
        ctx.step(kernel, slots, [a, *extra], [out], serial=small)


def _gains_by_parts(call: IGemm, precision: str) -> bool:
    rows = call.rows_z * call.rows_y * call.rows_x
    return bf16x3_cycles(rows, call.taps, call.depth, call.columns, precision) < math.inf


def _slot(name: str, value: Any) -> Slot:
    if name in _FLOATS:
        return float(value)
    return value if not isinstance(value, int) and not hasattr(value, "__index__") else int(value)


def merged(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[Axis]:
    """Return the fewest axes that walk several views of ``shape`` in order."""
    axes: list[Axis] = []
    for n, steps in zip(shape, zip(*strides, strict=True), strict=True):
        if n == 1:
            continue
        if axes and all(o == s * n for o, s in zip(axes[-1][1], steps, strict=True)):
            axes[-1] = (axes[-1][0] * n, steps)
        else:
            axes.append((n, steps))
    return axes


def padded(axes: list[Axis], count: int, views: int) -> tuple[list[int], list[list[int]]]:
    """Return sizes and, per view, strides of exactly ``count`` axes, outermost first."""
    axes = [(1, (0,) * views)] * (count - len(axes)) + axes
    return [n for n, _ in axes], [[s[i] for _, s in axes] for i in range(views)]


def rows_product(
    ctx: Lowering, a: View, b: Slot, out: View, finish: Finish, reads: Sequence[View] = (),
    by_parts: bool | None = None,
) -> None:  # fmt: skip
    """Append ``out[..., n] = a[..., k] @ B`` for one packed B; all leading axes are rows.

    ``a``, ``out`` and the residual have the same leading axes, of any strides; only what no three
    axes can walk is copied.
    """
    if 1 not in (a.strides[-1], a.shape[-1]):
        a = contiguous(ctx, a)
    lead, res = a.shape[:-1], finish.res
    axes = merged(lead, [v.strides[:-1] for v in (a, out, res) if v is not None])
    if len(axes) > 3:
        a, made = contiguous(ctx, a), out
        if not out.is_contiguous:
            made = ctx.temp(DType.F32, out.shape, row_major(out.shape))
        finish = replace(finish, res=None if res is None else contiguous(ctx, res))
        rows_product(ctx, a, b, made, finish, reads, by_parts)
        if made is not out:
            copy_view(ctx, made, out)
        return
    sizes, (a_s, out_s, *res_s) = padded(axes, 3, 2 if res is None else 3)
    (res_z, res_y, res_x) = res_s[0] if res_s else (0, 0, 0)
    call = igemm_plan.linear(math.prod(lead), a.shape[-1], out.shape[-1])
    call = replace(
        call, rows_z=sizes[0], rows_y=sizes[1], rows_x=sizes[2],
        in_d=sizes[0], in_h=sizes[1], in_w=sizes[2], a_z=a_s[0], a_y=a_s[1], a_x=a_s[2],
        out_z=out_s[0], out_y=out_s[1], out_x=out_s[2], res_z=res_z, res_y=res_y, res_x=res_x,
    )  # fmt: skip
    if math.prod(lead) == 0:
        call = replace(call, rows_x=0)
    emit(ctx, igemm_plan.large_blocks(call), a, b, out, finish, reads, by_parts)


def pack_at_run_time(ctx: Lowering, matrices: View, scale: float = 1.0) -> View:
    """Append the packing of ``matrices: [..., k, n]``; return the panels as ``[..., floats]``."""
    *outer, k, n = matrices.shape
    axes = merged(outer, [matrices.strides[:-2]])
    if len(axes) > 2:
        matrices = contiguous(ctx, matrices)
        axes = merged(outer, [matrices.strides[:-2]])
    size = packed_size(n, k)
    packed = ctx.temp(DType.F32, (*outer, size))
    sizes, (steps,) = padded(axes, 2, 1)
    slots: list[Slot] = [
        *sizes, k, n, matrices.ref, *steps, matrices.strides[-2], matrices.strides[-1],
        packed.ref, sizes[1] * size, size, float(scale),
    ]  # fmt: skip
    if packed.numel:
        ctx.step(pack_b, slots, [matrices], [packed], serial=packed.numel < SERIAL_WORK // 4)
    return packed
