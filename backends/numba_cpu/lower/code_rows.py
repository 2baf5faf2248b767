"""numba_cpu > lower > code_rows: linear layers on codes of rows, weights of 4 or 8 bits.

A unit of pattern ``codes`` is ``int_linear`` on rows that were quantized by scales of their own (or
on any i8 codes without a zero point), of constant codes (also ``unpack_int4`` of a constant); then
in this order, all optional: the product with the rows' scales, the sum with a constant bias, an
activation. Groups of scales are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from leptonc.backends.numba_cpu.kernels import code_rows as kernels
from leptonc.backends.numba_cpu.kernels.activation import Act
from leptonc.backends.numba_cpu.kernels.int8_finish import quantize_rows
from leptonc.backends.numba_cpu.legal import YES, Claim, ClaimFn
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.epilogue import activation
from leptonc.backends.numba_cpu.lower.int8_unit import known
from leptonc.backends.numba_cpu.lower.product import SERIAL_WORK
from leptonc.backends.numba_cpu.lower.shape import contiguous, copy_view
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View, row_major
from leptonc.errors import ClaimError
from leptonc.ir.core import Function, Kind, Op, Value
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.quantize import IntLinear, QuantizeRows, UnpackInt4
from leptonc.ir.types import DType


@dataclass(frozen=True)
class _Form:
    """A unit: its root, the constant that holds the codes and their bits, what follows."""

    root: Op
    codes: Value
    bits: int
    row_scale: Value | None = None
    bias: Value | None = None
    act: tuple[Act, float, float] = (Act.NONE, 0.0, 0.0)


def lower_code_rows(ctx: Lowering, body: Function) -> bool:
    """Lower a unit of this form; False if the body is another, or its sizes do not fit."""
    found = _match(ctx, body)
    if found is None:
        return False
    return _lowered(ctx, *found)


def lower_alone(ctx: Lowering, op: Op) -> None:
    """Lower an ``int_linear`` with groups of scales. Raises ClaimError."""
    _, w, _, *bias = op.operands
    form = _Form(op, w, 8, bias=bias[0] if bias else None)
    if not _lowered(ctx, form, op.result):
        raise ClaimError("int_linear has no kernel for groups of such sizes, or computed weights")


def _lowered(ctx: Lowering, form: _Form, result: Value) -> bool:
    codes, scale = _codes(ctx, form), known(ctx, form.root.operands[2])
    if codes is None or scale is None:
        return False
    scale = scale.reshape(len(codes), -1)
    if not kernels.fits(codes.shape[1], scale.shape[1], form.bits):
        return False
    _emit(ctx, form, result, codes, scale)
    return True


def _match(ctx: Lowering, body: Function) -> tuple[_Form, Value] | None:
    ops = [op for op in body.ops if not isinstance(op.kind, (Constant, Full))]
    unpacked = {op.result: op for op in ops if isinstance(op.kind, UnpackInt4)}
    ops = [op for op in ops if op.result not in unpacked] if len(unpacked) <= 1 else []
    if not ops or not isinstance(ops[0].kind, IntLinear):
        return None
    root = ops[0]
    x, w, _, *bias = root.operands
    if ops[0].kind.x_zero or x.type.dtype is not DType.I8:
        return None
    held = unpacked[w].operands[0] if w in unpacked else w
    if ctx.array(held) is None or (unpacked and w not in unpacked):
        return None
    form = _Form(root, held, 4 if unpacked else 8, bias=bias[0] if bias else None)
    value = root.result
    for op in ops[1:]:
        if body.use_count[value] != 1 or value not in op.operands:
            return None
        grown = _grown(ctx, form, value, op)
        if grown is None:
            return None
        form, value = grown, op.result
    return (form, value) if body.returns == (value,) else None


def _grown(ctx: Lowering, form: _Form, value: Value, op: Op) -> _Form | None:
    if op.result.type.shape != value.type.shape or form.act[0] is not Act.NONE:
        return None
    act = activation(op.kind)
    if act is not None:
        return replace(form, act=act)
    if not isinstance(op.kind, (Add, Mul)):
        return None
    other = op.operands[1] if op.operands[0] is value else op.operands[0]
    if isinstance(op.kind, Mul):
        free = form.row_scale is None and form.bias is None
        rows = (*value.type.shape[:-1], 1)
        return replace(form, row_scale=other) if free and other.type.shape == rows else None
    vector = known(ctx, other)
    fits = vector is not None and vector.shape == value.type.shape[-1:]
    return replace(form, bias=other) if fits and form.bias is None else None


def _codes(ctx: Lowering, form: _Form) -> np.ndarray | None:
    """Return the codes of the weight, ``i8[n,k]``."""
    held = ctx.array(form.codes)
    if held is None or form.bits == 8:
        return held
    return _unpacked(held)


def _unpacked(held: np.ndarray) -> np.ndarray:
    both = np.stack([held & 15, held >> 4], -1).reshape(len(held), -1)
    return both.astype(np.int8) - np.int8(8)


def _emit(ctx: Lowering, form: _Form, result: Value, codes: np.ndarray, scale: np.ndarray) -> None:
    x = _dense_rows(ctx, ctx.view(form.root.operands[0]))
    out = ctx.out(result)
    made = out if out.is_contiguous else ctx.temp(DType.F32, out.shape)
    n, k = codes.shape
    rows, groups = math.prod(out.shape[:-1]), scale.shape[1]
    const = ctx.constant(form.codes)
    assert const is not None
    keys = (id(const.payload), groups, form.bits)
    scratch, stride = ctx.scratch(kernels.scratch_bytes(groups))
    reads = [x]
    row_scale: Slot = 0
    if form.row_scale is not None:
        view = ctx.view(form.row_scale)
        view = view if view.is_contiguous else contiguous(ctx, view)
        reads.append(view)
        row_scale = view.ref
    code, p0, p1 = form.act
    wide: Slot = 0
    if form.bits == 8:
        wide = ctx.packed(
            ("codes excess", *keys), lambda: kernels.pack_columns(kernels.excess(codes, groups)),
            const,
        )  # fmt: skip
    values: dict[str, Any] = {
        "rows": rows, "columns": n, "depth": k, "bits": form.bits, "groups": groups, "x": x.ref,
        "x_row": k,
        "w": ctx.packed(("codes", *keys), lambda: kernels.pack(codes, groups, form.bits), const),
        "scale": ctx.packed(
            ("codes scale", *keys, id(form.root)),
            lambda: kernels.pack_columns(np.ascontiguousarray(scale, np.float32)), const,
        ),
        "excess": wide, "row_scale": row_scale, "bias": _bias(ctx, form.bias), "out": made.ref,
        "out_row": n, "act": int(code), "act_p0": float(p0), "act_p1": float(p1),
        "scratch": scratch, "scratch_bytes": stride,
    }  # fmt: skip
    if made.numel:
        small = rows * n * k < SERIAL_WORK
        ctx.step(kernels.code_rows, list(values.values()), reads, [made], serial=small)
    if made is not out:
        copy_view(ctx, made, out)


def _bias(ctx: Lowering, value: Value | None) -> Slot:
    """Return the address of a bias; whole vectors may be read behind its end."""
    if value is None:
        return 0
    array = known(ctx, value)
    assert array is not None
    number, const = ctx.splat(value), ctx.constant(value)
    key = (repr(number), array.size) if const is None else (id(const.payload),)
    return ctx.packed(("codes bias", *key), lambda: array.astype(np.float32), const)


def _dense_rows(ctx: Lowering, x: View) -> View:
    return x if x.is_contiguous else contiguous(ctx, x)


def _lower_rows(ctx: Lowering, op: Op) -> None:
    """Lower ``quantize_rows``."""
    x = _dense_rows(ctx, ctx.view(op.operands[0]))
    targets = [ctx.out(r) for r in op.results]
    made = [t if t.is_contiguous else ctx.temp(t.dtype, t.shape) for t in targets]
    rows, depth = math.prod(x.shape[:-1]), x.shape[-1]
    slots: list[Slot] = [rows, depth, x.ref, depth, made[0].ref, made[1].ref]
    if rows:
        ctx.step(quantize_rows, slots, [x], made, serial=x.numel < SERIAL_WORK)
    for a, b in zip(made, targets, strict=True):
        if a is not b:
            copy_view(ctx, a, b)


def _lower_unpack(ctx: Lowering, op: Op) -> None:
    """Lower ``unpack_int4`` of a constant, once. Raises ClaimError."""
    held, const = ctx.array(op.operands[0]), ctx.constant(op.operands[0])
    if held is None or const is None:
        raise ClaimError("unpack_int4 has no kernel for codes that are computed")
    ref = ctx.packed(("unpacked", id(const.payload)), lambda: _unpacked(held), const)
    shape = tuple(int(d) for d in op.result.type.shape)
    ctx.alias(op.result, View(ref.buffer, DType.I8, shape, row_major(shape)))


def _always(op: Op) -> Claim:
    del op
    return YES


LOWER: dict[type[Kind], tuple[ClaimFn, Callable[[Lowering, Op], None]]] = {
    QuantizeRows: (_always, _lower_rows),
    UnpackInt4: (_always, _lower_unpack),
}
