"""numba_cpu > lower > int8_product: linear layers and convolutions of codes as steps."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from typing import Any

import numpy as np

from leptonc.backends.numba_cpu.kernels import igemm_plan, int8_gather, int8_plan, int8_strip
from leptonc.backends.numba_cpu.kernels.int8_gemm import Int8Gemm
from leptonc.backends.numba_cpu.lower import questions
from leptonc.backends.numba_cpu.lower.conv import channels_last, spatial
from leptonc.backends.numba_cpu.lower.conv_choice import Algorithm
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.int8_choice import CODE_FORMS
from leptonc.backends.numba_cpu.lower.int8_depthwise import is_depthwise, lower_depthwise
from leptonc.backends.numba_cpu.lower.int8_job import (
    Job,
    emit,
    make_job,
    pack_panels,
)
from leptonc.backends.numba_cpu.lower.int8_unit import Finish
from leptonc.backends.numba_cpu.lower.int8_winograd import emit_winograd
from leptonc.backends.numba_cpu.lower.product import merged, padded
from leptonc.backends.numba_cpu.lower.shape import contiguous, copy_view, fill
from leptonc.backends.numba_cpu.views import View
from leptonc.errors import ClaimError
from leptonc.ir.core import Op, Value
from leptonc.ir.kinds.quantize import IntConv
from leptonc.ir.types import DType
from leptonc.passes.fusing.policy import FEW_CHANNELS

# ----- linear -------------------------------------------------------------------------------------


def lower_linear(ctx: Lowering, op: Op, result: Value, end: Finish) -> None:
    """Lower a linear layer: rows are all leading axes."""
    order = tuple(range(len(op.result.type.shape)))
    job, done = make_job(ctx, op, result, end, order)
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
    panels = pack_panels(job, "int_linear", job.weight[:, None, :])
    emit(job, int8_plan.as_bytes(call, k), x, panels, 1)
    done()


# ----- convolution --------------------------------------------------------------------------------


def lower_conv(ctx: Lowering, op: Op, result: Value, end: Finish) -> None:
    """Lower a convolution on channels-last codes; an image of few channels to padded lines."""
    job, done = make_job(ctx, op, result, end, channels_last(len(op.result.type.shape)))
    if is_depthwise(op):
        lower_depthwise(job)
    else:
        _lower_dense(job)
    done()


def _lower_dense(job: Job) -> None:
    """Append the step of a convolution that is not depthwise."""
    ctx, x, w, k = job.ctx, job.x, job.weight, job.op.kind
    assert isinstance(k, IntConv)
    rank = x.rank
    kernel, pads = w.shape[2:], list(zip(k.padding, k.plain.after, strict=True))
    plan = igemm_plan.conv(
        x.shape[0], x.shape[1], x.shape[2:], w.shape[0], kernel, stride=k.stride, padding=pads,
        dilation=k.dilation, groups=k.groups,
    )  # fmt: skip
    few = x.shape[1] <= FEW_CHANNELS and rank == 4 and k.groups == 1 and k.dilation[-1] == 1
    in_lines = few and kernel[-1] > 1
    if in_lines:
        wide = x.shape[3] + sum(pads[-1])
        x = _padded_lines(job, pads[-1][0], wide)
        plan = igemm_plan.merged_conv(plan, kernel[-1], wide, pads[-1][0])
        taps = w.transpose(0, 2, 3, 1).reshape(w.shape[0], kernel[0], -1)
    else:
        if not (x.strides[1] == 1 or x.shape[1] == 1):
            x = contiguous(ctx, x, channels_last(rank))
        a_z, a_y, a_x = spatial(x, 3)
        a_z = a_z if rank == 5 else x.strides[0]
        call = replace(plan.call, a_o0=x.strides[0], a_z=a_z, a_y=a_y, a_x=a_x)
        plan = replace(plan, call=call)
        taps = w.reshape(w.shape[0], w.shape[1], -1).transpose(0, 2, 1)
    side_by_side = in_lines and int8_gather.serves(plan.call.taps, plan.call.depth)
    if side_by_side and int8_strip.STRIPS:
        taps, plan = taps.reshape(len(taps), 1, -1), int8_plan.gathered(plan)
    else:
        plan = int8_plan.as_byte_plan(plan)
    form = CODE_FORMS.get(_algorithm(ctx, job.op))
    if form is not None:
        plan = replace(plan, zero_floats=x.shape[1])  # tiles reach beyond any image
        emit_winograd(job, form, _placed(job, plan, False), x, (k.padding[0], k.padding[1]))
        return
    panels = pack_panels(job, "int_conv lines" if few else "int_conv", taps, k.groups)
    emit(job, _placed(job, plan, rank == 5), x, panels, k.groups)


def _algorithm(ctx: Lowering, op: Op) -> Algorithm:
    weight = ctx.constant(op.operands[1])
    assert weight is not None
    question = questions.int_conv(op, weight, ctx.precision)
    return Algorithm.IGEMM if question is None else Algorithm(ctx.decide(question))


def _placed(job: Job, plan: igemm_plan.ConvPlan, volume: bool) -> Int8Gemm:
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


def _padded_lines(job: Job, left: int, wide: int) -> View:
    """Append the copy of an image to lines with the zero point left and right; return the lines."""
    ctx, x = job.ctx, job.x
    batch, channels, height, width = x.shape
    lines = ctx.temp(DType.U8, (batch, height, wide, channels))
    for start, stop in ((0, left), (left + width, wide)):
        if stop > start:
            fill(ctx, lines.slice(2, start, stop), job.zero)
    copy_view(ctx, x.transpose((0, 2, 3, 1)), lines.slice(2, left, left + width))
    return lines
