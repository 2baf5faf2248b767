"""numba_cpu > lower > scaled: a 1x1 convolution of gated images as a product with gated weights."""

from __future__ import annotations

from dataclasses import replace

from leptonc.backends.numba_cpu.kernels import igemm_plan
from leptonc.backends.numba_cpu.kernels.pack import pack_conv, packed_size, panel_count
from leptonc.backends.numba_cpu.kernels.scale import NAMES, scale_panels
from leptonc.backends.numba_cpu.lower.contract import function_of, lower_contract
from leptonc.backends.numba_cpu.lower.conv import channels_last
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.elementwise import lower_op
from leptonc.backends.numba_cpu.lower.epilogue import Epilogue, finish, match, target
from leptonc.backends.numba_cpu.lower.product import SERIAL_WORK, emit
from leptonc.backends.numba_cpu.lower.shape import contiguous
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View, static_shape
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.binary import Mul
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.types import DType
from leptonc.meaning import elements_of
from leptonc.passes.fusing.bands import is_pointwise
from leptonc.passes.fusing.scaled import image_and_gate

_LAST = channels_last(4)


def lower_scaled(ctx: Lowering, body: Function) -> bool:
    """Lower ``conv(image * gate)`` and its epilogue; with ``precision="strict"`` as it is written.

    Returns:
        False if the body is of another form; nothing has been lowered then.
    """
    scaling, *ops = (op for op in body.ops if not isinstance(op.kind, (Constant, Full)))
    parts = image_and_gate(scaling) if isinstance(scaling.kind, Mul) else None
    if parts is None or not ops:
        return False
    rest = function_of(body, ops)
    found = match(ctx, rest)
    if found is None or not is_pointwise(found[0]):
        return False
    root, result, epilogue = found
    values = (*parts, *root.operands, root.result)
    if ctx.constant(root.operands[1]) is None or any(v.type.dtype is not DType.F32 for v in values):
        return False
    if ctx.precision == "strict":
        lower_op(ctx, scaling)
        return lower_contract(ctx, rest)
    _product(ctx, *parts, root, result, epilogue)
    return True


def _product(
    ctx: Lowering, image: Value, gate: Value, root: Op, result: Value, epilogue: Epilogue
) -> None:
    x = ctx.view(image)
    x = x if 1 in (x.strides[1], x.shape[1]) else contiguous(ctx, x, _LAST)
    out, done = target(ctx, result, _LAST)
    end = finish(ctx, root, epilogue, out, _LAST)
    if out.numel:
        panels = _gated_weight(ctx, ctx.view(gate), root.operands[1])
        batch, depth, height, width = x.shape
        call = igemm_plan.linear(height * width, depth, out.shape[1])
        call = replace(
            call, outer0=batch, rows_y=height, rows_x=width, in_h=height, in_w=width,
            a_o0=x.strides[0], a_y=x.strides[2], a_x=x.strides[3], b_o0=panels.strides[0],
            out_o0=out.strides[0], out_y=out.strides[2], out_x=out.strides[3],
        )  # fmt: skip
        if end.res is not None:
            res_o0, _, res_y, res_x = end.res.strides
            call = replace(call, res_o0=res_o0, res_y=res_y, res_x=res_x)
        emit(ctx, call, x, panels.ref, out, end, [panels])
    done()


def _gated_weight(ctx: Lowering, gate: View, weight: Value) -> View:
    """Append the step that makes ``f32[batch, floats]``: packed weights, a set for each image."""
    const, fetch = ctx.constant(weight), ctx.pool.fetch
    assert const is not None
    key = ("conv", id(const.payload), 1)
    packed = ctx.packed(key, lambda: pack_conv(elements_of(const), 1, fetch), const)
    if 1 not in (gate.strides[1], gate.shape[1]):
        gate = contiguous(ctx, gate)
    columns, depth = static_shape(const.type)[:2]
    out = ctx.temp(DType.F32, (gate.shape[0], packed_size(columns, depth)))
    values: dict[str, Slot] = {
        "batch": gate.shape[0], "panels": panel_count(columns), "depth": depth,
        "factors": gate.ref, "factors_b": gate.strides[0], "weight": packed, "out": out.ref,
    }  # fmt: skip
    slots = [values[name] for name in NAMES]
    if out.numel:
        ctx.step(scale_panels, slots, [gate], [out], serial=out.numel < SERIAL_WORK // 4)
    return out
