"""numba_cpu > lower > quantized: products of bytes with their epilogue, and conversions to codes.

A unit of pattern ``int8`` is ``int_conv`` or ``int_linear``, then in any order at most one
activation and one residual (float32, or codes with one scale), then at most one ``quantize`` with
one scale. All of it is one step: codes in, codes out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from leptonc.backends.numba_cpu.kernels import igemm_plan, int8_depthwise, int8_plan
from leptonc.backends.numba_cpu.kernels.activation import Act
from leptonc.backends.numba_cpu.kernels.igemm import Res
from leptonc.backends.numba_cpu.kernels.int8_finish import dequantize_cells, quantize_cells
from leptonc.backends.numba_cpu.kernels.int8_gemm import REALS, Int8Gemm, int8_gemm
from leptonc.backends.numba_cpu.kernels.int8_tile import (
    CODES,
    FLOAT_RES,
    I8_RES,
    NO_RES,
    U8_RES,
)
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.legal import YES, Claim, ClaimFn, No
from leptonc.backends.numba_cpu.lower.conv import channels_last, spatial
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.epilogue import activation, zeros
from leptonc.backends.numba_cpu.lower.product import SERIAL_WORK, merged, padded
from leptonc.backends.numba_cpu.lower.shape import contiguous, copy_view, fill
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View, ordered
from leptonc.errors import ClaimError
from leptonc.ir.core import Function, Kind, Op, Value
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.quantize import Dequantize, IntConv, IntLinear, Quantize
from leptonc.ir.types import DType
from leptonc.passes.fusing.policy import FEW_CHANNELS

SERIAL_CELLS = 16 * 1024  # elements below which a conversion runs on one thread


@dataclass(frozen=True)
class Scale:
    """One scale and zero point, known at compile time."""

    scale: float
    zero: int

    @property
    def inverse(self) -> float:
        """``1 / scale`` as float32 has it."""
        return float(np.float32(1.0) / np.float32(self.scale))


@dataclass(frozen=True)
class _Finish:
    """What follows the sums of a unit."""

    act: tuple[Act, float, float] = (Act.NONE, 0.0, 0.0)
    res: Value | None = None
    res_scale: Scale | None = None  # None: the residual is float32
    mode: Res = Res.BEFORE
    codes: Quantize | None = None
    out_scale: Scale | None = None

    @property
    def late(self) -> bool:
        """Whether the residual comes after the activation, or multiplies."""
        return self.res is not None and self.mode is not Res.BEFORE


def scale_of(ctx: Lowering, operands: Sequence[Value]) -> Scale | None:
    """Return the scale and zero point in ``operands`` if they are one constant number each."""
    arrays = [ctx.array(v) for v in operands]
    if any(a is None or a.size != 1 or a.ndim != 0 for a in arrays):
        return None
    scale, *zero = [a.reshape(()).item() for a in arrays if a is not None]
    return Scale(float(scale), int(zero[0]) if zero else 0)


# ----- conversions --------------------------------------------------------------------------------


def _one_scale(op: Op) -> Claim:
    code = op.result.type if isinstance(op.kind, Quantize) else op.operands[0].type
    if code.dtype not in (DType.U8, DType.I8):
        return No(f"{op.kind.NAME} has no kernel for {code.dtype.value}")
    if any(v.type.rank for v in op.operands[1:]):
        return No(f"{op.kind.NAME} has no kernel for more than one scale")
    return YES


def _lower_quantize(ctx: Lowering, op: Op) -> None:
    assert isinstance(op.kind, Quantize)
    x, out = _alike(ctx, op)
    known = scale_of(ctx, op.operands[1:])
    if known is None:
        raise ClaimError(f"{op.kind.NAME} has no kernel for a scale that is computed")
    k = op.kind
    slots: list[Slot] = [
        x.numel, x.ref, out.ref, known.zero, 0, known.inverse, float(k.low - known.zero),
        float(k.high - known.zero),
    ]  # fmt: skip
    if x.numel:
        ctx.step(quantize_cells, slots, [x], [out], serial=x.numel < SERIAL_CELLS)


def _lower_dequantize(ctx: Lowering, op: Op) -> None:
    x, out = _alike(ctx, op)
    known = scale_of(ctx, op.operands[1:])
    if known is None:
        raise ClaimError(f"{op.kind.NAME} has no kernel for a scale that is computed")
    slots: list[Slot] = [
        x.numel, x.ref, out.ref, known.zero, int(x.dtype is DType.I8), known.scale, 0.0, 0.0,
    ]  # fmt: skip
    if x.numel:
        ctx.step(dequantize_cells, slots, [x], [out], serial=x.numel < SERIAL_CELLS)


def _alike(ctx: Lowering, op: Op) -> tuple[View, View]:
    """Return operand and result of one order without gaps, the operand copied if need be."""
    out, x = ctx.out(op.result), ctx.view(op.operands[0])
    if x.is_dense(out.order) and out.is_dense(out.order):
        return x, out
    return contiguous(ctx, x, out.order), out


# ----- products -----------------------------------------------------------------------------------


def claim_product(op: Op) -> Claim:
    """Claim a product of codes whose zero point a byte holds and whose sums int32 does."""
    x, w = op.operands[0].type, op.operands[1].type
    if any(not isinstance(d, int) for d in w.shape):
        return No(f"{op.kind.NAME} has no kernel for weights of dynamic size")
    if not int8_plan.fits(math.prod(int(d) for d in w.shape[1:])):
        return No(f"{op.kind.NAME}: int32 cannot hold sums of {w}")
    if op.operands[2].type.rank != 1:
        return No(f"{op.kind.NAME} has no kernel for scales of groups")
    assert isinstance(op.kind, (IntConv, IntLinear))
    low, high = (-128, 127) if x.dtype is DType.I8 else (0, 255)
    inside = low <= op.kind.x_zero <= high
    return YES if inside else No(f"{op.kind.NAME}: zero point {op.kind.x_zero} is no {x.dtype}")


def lower_int_unit(ctx: Lowering, body: Function) -> bool:
    """Lower a unit of a product of codes and its epilogue; False if the body is another."""
    found = _match(ctx, body)
    if found is None:
        return False
    root, result, end = found
    _ROOTS[type(root.kind)](ctx, root, result, end)
    return True


def _match(ctx: Lowering, body: Function) -> tuple[Op, Value, _Finish] | None:
    """Return root, final value and epilogue of a body; None if it is not of that form."""
    ops = [op for op in body.ops if not isinstance(op.kind, (Constant, Full))]
    apart = {op.result: op for op in ops if isinstance(op.kind, Dequantize)}
    ops = [op for op in ops if not isinstance(op.kind, Dequantize)]
    if not ops or not isinstance(ops[0].kind, (IntConv, IntLinear)) or not _constant(ctx, ops[0]):
        return None
    root, value, end = ops[0], ops[0].result, _Finish()
    for op in ops[1:]:
        if body.use_count[value] != 1 or value not in op.operands or end.codes is not None:
            return None
        grown = _grown(ctx, end, value, op, apart)
        if grown is None:
            return None
        end, value = grown, op.result
    used = {end.res} if end.res_scale is not None else set()
    all_used = all(op.operands[0] in used for op in apart.values())
    return (root, value, end) if body.returns == (value,) and all_used else None


def _constant(ctx: Lowering, root: Op) -> bool:
    return all(ctx.array(v) is not None for v in root.operands[1:])


def _grown(
    ctx: Lowering, end: _Finish, value: Value, op: Op, apart: dict[Value, Op]
) -> _Finish | None:
    if op.result.type.shape != value.type.shape:
        return None
    if isinstance(op.kind, Quantize):
        known = scale_of(ctx, op.operands[1:])
        fits = known is not None and op.kind.dtype in (DType.U8, DType.I8)
        return replace(end, codes=op.kind, out_scale=known) if fits else None
    act = activation(op.kind)
    if act is not None:
        free = end.act[0] is Act.NONE and not end.late
        return replace(end, act=act) if free else None
    if not isinstance(op.kind, (Add, Mul)) or end.res is not None:
        return None
    other = op.operands[1] if op.operands[0] is value else op.operands[0]
    mode = Res.TIMES if isinstance(op.kind, Mul) else Res.BEFORE
    mode = Res.AFTER if mode is Res.BEFORE and end.act[0] is not Act.NONE else mode
    if other not in apart:
        return replace(end, res=other, mode=mode)
    known = scale_of(ctx, apart[other].operands[1:])
    if known is None:
        return None
    return replace(end, res=apart[other].operands[0], res_scale=known, mode=mode)


@dataclass(frozen=True)
class _Job:
    """One product being lowered: its operands as views and constants, and what follows."""

    ctx: Lowering
    op: Op
    x: View
    out: View
    end: _Finish
    res: View | None
    zero: int  # of x, as unsigned codes

    @property
    def weight(self) -> np.ndarray:
        """The codes of the weight."""
        array = self.ctx.array(self.op.operands[1])
        assert array is not None
        return array

    def packed(self, what: str, make: Callable[[], np.ndarray], *more: Any) -> Slot:
        """Return the address of a constant made of the weight."""
        const = self.ctx.constant(self.op.operands[1])
        assert const is not None
        return self.ctx.packed((what, id(const.payload), *more), make, const)


def _job(
    ctx: Lowering, op: Op, result: Value, end: _Finish, order: Sequence[int]
) -> tuple[_Job, Callable[[], None]]:
    """Return the job and what copies its result to where it belongs."""
    x = _unsigned(ctx, ctx.view(op.operands[0]))
    assert isinstance(op.kind, (IntConv, IntLinear))
    zero = op.kind.x_zero + (128 if op.operands[0].type.dtype is DType.I8 else 0)
    out, inner = ctx.out(result), order[-1]
    made = out
    if not (out.strides[inner] == 1 or out.shape[inner] == 1):
        made = ctx.temp(out.dtype, out.shape, ordered(out.shape, order))
    res = None if end.res is None else _residual(ctx, end, made, order)
    if end.late and end.res_scale is not None:
        end = replace(end, res_scale=None)

    def done() -> None:
        if made is not out:
            copy_view(ctx, made, out)

    return _Job(ctx, op, x, made, end, res, zero), done


def _unsigned(ctx: Lowering, x: View) -> View:
    """Return codes as unsigned ones: signed ones are moved by 128."""
    if x.dtype is DType.U8:
        return x
    out = ctx.temp(DType.U8, x.shape, ordered(x.shape, x.order))
    flat = x if x.is_dense(x.order) else contiguous(ctx, x, x.order)
    as_floats = ctx.temp(DType.F32, x.shape, ordered(x.shape, x.order))
    count = x.numel
    serial = count < SERIAL_CELLS
    slots: list[Slot] = [count, flat.ref, as_floats.ref, 0, 1, 1.0, 0.0, 0.0]
    ctx.step(dequantize_cells, slots, [flat], [as_floats], serial=serial)
    slots = [count, as_floats.ref, out.ref, 128, 0, 1.0, -128.0, 127.0]
    ctx.step(quantize_cells, slots, [as_floats], [out], serial=serial)
    return out


def _residual(ctx: Lowering, end: _Finish, out: View, order: Sequence[int]) -> View:
    """Return the residual, of unit stride along the last of ``order``, broadcast to the result."""
    assert end.res is not None
    view, inner = ctx.view(end.res), order[-1]
    if end.late and end.res_scale is not None:  # what comes after the activation is float32
        known = end.res_scale
        flat = view if view.is_dense(view.order) else contiguous(ctx, view, view.order)
        made = ctx.temp(DType.F32, view.shape, ordered(view.shape, view.order))
        slots: list[Slot] = [
            view.numel, flat.ref, made.ref, known.zero, int(view.dtype is DType.I8), known.scale,
            0.0, 0.0,
        ]  # fmt: skip
        ctx.step(dequantize_cells, slots, [flat], [made], serial=view.numel < SERIAL_CELLS)
        view = made
    view = view.expand(out.shape)
    if view.strides[inner] == 1 or view.shape[inner] == 1:
        return view
    return contiguous(ctx, view, order)


_KINDS = {DType.F32: FLOAT_RES, DType.U8: U8_RES, DType.I8: I8_RES}


def _emit(job: _Job, call: Int8Gemm, x: View, b: Slot, groups: int) -> None:
    """Append the step of ``call``, whose extents and strides are set."""
    ctx, end = job.ctx, job.end
    scratch, stride = ctx.scratch(int(call.scratch_bytes))
    code, p0, p1 = end.act
    values: dict[str, Any] = dict(vars(call))
    values |= {"a": x.ref, "b": b, "out": job.out.ref, "act": int(code), "act_p0": p0}
    values |= {"act_p1": p1, "res_mode": int(end.mode), "scratch": scratch, "scratch_bytes": stride}
    values |= _per_column(job, groups)
    values["res"] = 0 if job.res is None else job.res.ref
    values |= _codes(end, job.res)
    slots = [float(v) if name in REALS else v for name, v in values.items()]
    reads = [x, *([] if job.res is None else [job.res])]
    rows = call.outer0 * call.outer1 * call.rows_z * call.rows_y * call.rows_x
    if rows * call.columns > 0:
        work = rows * call.columns * call.taps * call.depth
        ctx.step(int8_gemm, slots, reads, [job.out], serial=work < SERIAL_WORK)


def _codes(end: _Finish, res: View | None) -> dict[str, Any]:
    """Return how residual and result are quantized."""
    values: dict[str, Any] = {"res_kind": NO_RES if res is None else _KINDS[res.dtype]}
    if end.res_scale is not None:
        values |= {"res_zero": end.res_scale.zero, "res_scale": end.res_scale.scale}
    if end.codes is not None and end.out_scale is not None:
        zero = end.out_scale.zero
        values |= {"out_kind": CODES, "zero": zero, "inverse": end.out_scale.inverse}
        values |= {"code_low": end.codes.low - zero, "code_high": end.codes.high - zero}
    return values


def _per_column(job: _Job, groups: int) -> dict[str, Slot]:
    """Return the addresses of corrections, scales and biases."""
    ctx, zero = job.ctx, job.zero
    scale, *bias = (ctx.array(v) for v in job.op.operands[2:])
    assert scale is not None
    of_bias = bias[0] if bias and bias[0] is not None else np.zeros(len(scale), np.float32)
    scale_id = id(ctx.constant(job.op.operands[2]).payload)  # type: ignore[union-attr]
    bias_id = id(ctx.constant(job.op.operands[3]).payload) if bias else 0  # type: ignore[union-attr]

    def corrected() -> np.ndarray:
        return int8_plan.per_panel(int8_plan.corrections(job.weight, zero), groups)

    return {
        "sums": job.packed("corrections", corrected, zero, groups),
        "scale": job.packed(
            "scales", lambda: int8_plan.per_panel(scale, groups), scale_id, groups
        ),
        "bias": job.packed(
            "biases", lambda: int8_plan.per_panel(of_bias, groups), bias_id, groups
        ),
    }


# ----- linear -------------------------------------------------------------------------------------


def _lower_linear(ctx: Lowering, op: Op, result: Value, end: _Finish) -> None:
    """Lower a linear layer: rows are all leading axes."""
    order = tuple(range(len(op.result.type.shape)))
    job, done = _job(ctx, op, result, end, order)
    x, out, res = job.x, job.out, job.res
    if 1 not in (x.strides[-1], x.shape[-1]):
        x = contiguous(ctx, x)
    lead = out.shape[:-1]
    views = [x, out, *([] if res is None else [res])]
    axes = merged(lead, [v.strides[:-1] for v in views])
    if len(axes) > 3:
        x = contiguous(ctx, x)
        axes = merged(lead, [v.strides[:-1] for v in [x, *views[1:]]])
    if len(axes) > 3:
        raise ClaimError(f"{op.kind.NAME} has no kernel for rows along {len(axes)} axes")
    sizes, (x_s, out_s, *res_s) = padded(axes, 3, len(views))
    (res_z, res_y, res_x) = res_s[0] if res_s else (0, 0, 0)
    k, n = job.weight.shape[1], job.weight.shape[0]
    call = igemm_plan.linear(math.prod(lead), k, n)
    call = replace(
        call, rows_z=sizes[0], rows_y=sizes[1], rows_x=sizes[2],
        in_d=sizes[0], in_h=sizes[1], in_w=sizes[2], a_z=x_s[0], a_y=x_s[1], a_x=x_s[2],
        out_z=out_s[0], out_y=out_s[1], out_x=out_s[2], res_z=res_z, res_y=res_y, res_x=res_x,
    )  # fmt: skip
    if math.prod(lead) == 0:
        call = replace(call, rows_x=0)
    b = job.packed("int_linear", lambda: int8_plan.pack_bytes(job.weight[:, None, :]))
    _emit(job, int8_plan.as_bytes(call, k), x, b, 1)
    done()


# ----- convolution --------------------------------------------------------------------------------


def _lower_conv(ctx: Lowering, op: Op, result: Value, end: _Finish) -> None:
    """Lower a convolution on channels-last codes; an image of few channels to padded lines."""
    k = op.kind
    assert isinstance(k, IntConv)
    rank = len(op.result.type.shape)
    order = channels_last(rank)
    job, done = _job(ctx, op, result, end, order)
    x, w = job.x, job.weight
    if is_depthwise(op):
        lower_depthwise(job)
        done()
        return
    kernel, pads = w.shape[2:], list(zip(k.padding, k.plain.after, strict=True))
    plan = igemm_plan.conv(
        x.shape[0], x.shape[1], x.shape[2:], w.shape[0], kernel, stride=k.stride, padding=pads,
        dilation=k.dilation, groups=k.groups,
    )  # fmt: skip
    few = x.shape[1] <= FEW_CHANNELS and rank == 4 and k.groups == 1 and k.dilation[-1] == 1
    if few and kernel[-1] > 1:
        wide = x.shape[3] + sum(pads[-1])
        x = _padded_lines(job, pads[-1][0], wide)
        plan = igemm_plan.merged_conv(plan, kernel[-1], wide, pads[-1][0])
        taps = w.transpose(0, 2, 3, 1).reshape(w.shape[0], kernel[0], -1)
    else:
        if not (x.strides[1] == 1 or x.shape[1] == 1):
            x = contiguous(ctx, x, order)
        a_z, a_y, a_x = spatial(x, 3)
        a_z = a_z if rank == 5 else x.strides[0]
        call = replace(plan.call, a_o0=x.strides[0], a_z=a_z, a_y=a_y, a_x=a_x)
        plan = replace(plan, call=call)
        taps = w.reshape(w.shape[0], w.shape[1], -1).transpose(0, 2, 1)
    plan = int8_plan.as_byte_plan(plan)
    b = job.packed("int_conv", lambda: int8_plan.pack_bytes(taps, k.groups), k.groups, few)
    _emit(job, _placed(job, plan, rank == 5), x, b, k.groups)
    done()


def _placed(job: _Job, plan: igemm_plan.ConvPlan, volume: bool) -> Int8Gemm:
    """Return the record with the strides of output and residual, and the tables' addresses."""
    ctx, out, res, call = job.ctx, job.out, job.res, plan.call
    assert isinstance(call, Int8Gemm)
    out_z, out_y, out_x = spatial(out, 3)
    fields: dict[str, Any] = {
        "out_o0": out.strides[0], "out_z": out_z if volume else out.strides[0],
        "out_y": out_y, "out_x": out_x,
    }  # fmt: skip
    if res is not None:
        z, y, x = spatial(res, 3)
        fields |= {
            "res_o0": res.strides[0], "res_z": z if volume else res.strides[0], "res_y": y,
            "res_x": x, "res_o1": call.res_o1 if res.shape[1] == out.shape[1] else 0,
        }  # fmt: skip
    table = plan.tap_table
    if table.any():
        fields["tap_table"] = ctx.packed(("taps", table.tobytes()), lambda: table)
    if plan.zero_floats:
        count = int8_plan.steps(plan.zero_floats) * int8_plan.FOUR
        fields["zero_row"] = ctx.packed(
            ("zero codes", count, job.zero), lambda: np.full(count, job.zero, np.uint8)
        )
    return dataclasses.replace(call, **fields)


def _padded_lines(job: _Job, left: int, wide: int) -> View:
    """Append the copy of an image to lines with the zero point left and right; return the lines."""
    ctx, x = job.ctx, job.x
    batch, channels, height, width = x.shape
    lines = ctx.temp(DType.U8, (batch, height, wide, channels))
    for start, stop in ((0, left), (left + width, wide)):
        if stop > start:
            fill(ctx, lines.slice(2, start, stop), job.zero)
    copy_view(ctx, x.transpose((0, 2, 3, 1)), lines.slice(2, left, left + width))
    return lines


# ----- depthwise convolution ----------------------------------------------------------------------


def is_depthwise(op: Op) -> bool:
    """Return whether the convolution has one filter a channel, over at most two axes."""
    k, x, w = op.kind, op.operands[0].type, op.operands[1].type
    if not isinstance(k, IntConv) or x.rank > 4 or k.groups != x.shape[1]:
        return False
    taps = math.prod(int(d) for d in w.shape[2:])
    return k.groups == w.shape[0] and k.groups >= LANES // 2 and int8_depthwise.fits(taps)


def lower_depthwise(job: _Job) -> None:
    """Append the step of a depthwise convolution."""
    ctx, op, out, res, end = job.ctx, job.op, job.out, job.res, job.end
    k = op.kind
    assert isinstance(k, IntConv)
    x = job.x
    if not (x.strides[1] == 1 or x.shape[1] == 1):
        x = contiguous(ctx, x, channels_last(x.rank))
    channels = x.shape[1]
    (ky, kx), (in_h, in_w), (out_h, out_w), (dy, dx) = (
        _two(v, fill) for v, fill in (
            (job.weight.shape[2:], 1), (x.shape[2:], 1), (out.shape[2:], 1), (k.dilation, 1),
        )
    )  # fmt: skip
    ring = int8_depthwise.ring_lines(ky, dy)
    block = int8_depthwise.block_channels(channels, in_w, out_w, ring)
    scratch, stride = ctx.scratch(int8_depthwise.scratch_bytes(block, in_w, out_w, ring, ky))
    weights = job.packed("int_depthwise", lambda: int8_depthwise.pack_weights(job.weight))
    (sy, sx), (py, px) = _two(k.stride, 1), _two(k.padding, 0)
    code, p0, p1 = end.act
    values: dict[str, Any] = dict.fromkeys(int8_depthwise.NAMES, 0) | {
        "x": x.ref, "x_x": block, "batch": x.shape[0], "in_d": 1, "in_h": in_h, "in_w": in_w,
        "channels": channels, "kernel_z": 1, "kernel_y": ky, "kernel_x": kx, "stride_z": 1,
        "stride_y": sy, "stride_x": sx, "pad_y": py, "pad_x": px, "dilation_z": 1,
        "dilation_y": dy, "dilation_x": dx, "out_x": block, "out_d": 1, "out_h": out_h,
        "out_w": out_w, "weights": weights, "bias": zeros(ctx, channels), "scratch": scratch,
        "scratch_bytes": stride, "act": int(code), "act_p0": p0, "act_p1": p1,
        "res_mode": int(end.mode), "from_b": x.strides[0], "from_y": _line(x), "from_x":
        x.strides[-1], "from_zero": job.zero, "block": block, "ring": ring, "to": out.ref,
        "to_b": out.strides[0], "to_y": _line(out), "to_x": out.strides[-1], **_codes(end, res),
    }  # fmt: skip
    if res is not None:
        values |= {"res": res.ref, "res_b": res.strides[0], "res_y": _line(res)}
        values |= {"res_x": res.strides[-1]}
    columns = _per_column(job, 1)
    values |= {"scale": columns["scale"], "column_bias": columns["bias"]}
    slots = [float(v) if name in int8_depthwise.REALS else v for name, v in values.items()]
    reads = [x, *([] if res is None else [res])]
    if out.numel:
        small = out.numel * ky * kx < SERIAL_WORK
        ctx.step(int8_depthwise.int8_depthwise, slots, reads, [out], serial=small)


def _two(values: Sequence[int], filled: int) -> tuple[int, int]:
    """Return the last two of ``values``, ``filled`` in front where there is one."""
    return (filled, *values)[-2:]  # type: ignore[return-value]


def _line(view: View) -> int:
    """Return the elements from line to line of an image."""
    return view.strides[2] if view.rank == 4 else 0


_ROOTS: dict[type[Kind], Callable[[Lowering, Op, Value, _Finish], None]] = {
    IntConv: _lower_conv,
    IntLinear: _lower_linear,
}


def _alone(ctx: Lowering, op: Op) -> None:
    _ROOTS[type(op.kind)](ctx, op, op.result, _Finish())


LOWER: dict[type[Kind], tuple[ClaimFn, Callable[[Lowering, Op], None]]] = {
    Quantize: (_one_scale, _lower_quantize),
    Dequantize: (_one_scale, _lower_dequantize),
    IntConv: (claim_product, _alone),
    IntLinear: (claim_product, _alone),
}
