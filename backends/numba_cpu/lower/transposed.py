"""numba_cpu > lower > transposed: transposed convolutions on channels-last memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from leptonc.backends.numba_cpu.kernels import igemm_plan
from leptonc.backends.numba_cpu.kernels.igemm_plan import ConvPlan
from leptonc.backends.numba_cpu.kernels.pack import pack_conv_taps
from leptonc.backends.numba_cpu.lower.conv import channels_last, inner_channels, spatial, tables
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.epilogue import Epilogue, finish, target
from leptonc.backends.numba_cpu.lower.product import emit
from leptonc.backends.numba_cpu.lower.shape import as_dtype
from leptonc.backends.numba_cpu.views import View, static_shape
from leptonc.errors import ClaimError
from leptonc.ir.constants import Const
from leptonc.ir.core import Op, Value
from leptonc.ir.kinds.contract import ConvTranspose
from leptonc.ir.types import DType
from leptonc.meaning import elements_of


def lower_transposed(ctx: Lowering, op: Op, result: Value, epilogue: Epilogue) -> None:
    """Lower a transposed convolution: one product per phase of the output. Raises ClaimError."""
    k = op.kind
    assert isinstance(k, ConvTranspose)
    const = ctx.constant(op.operands[1])
    if const is None:
        raise ClaimError("a transposed convolution with computed weights has no kernel")
    x = as_dtype(ctx, ctx.view(op.operands[0]), DType.F32)
    order = channels_last(x.rank)
    x = inner_channels(ctx, x)
    out, done = target(ctx, result, order)
    end = finish(ctx, op, epilogue, out, order)
    plans = igemm_plan.transposed_conv(
        x.shape[0], x.shape[1], x.shape[2:], out.shape[1], _kernel(const), stride=k.stride,
        padding=k.padding, dilation=k.dilation, output_padding=k.output_padding, groups=k.groups,
    )  # fmt: skip
    phases = [_phase(p, out, k.stride) for p in plans]
    for plan, phase in zip(plans, phases, strict=True):
        key = ("transposed", id(const.payload), k.groups, plan.kernel_taps)
        taps = list(plan.kernel_taps)
        b = ctx.packed(key, partial(_pack_taps, const, taps, k.groups), const)
        here, call = _part(out, phase, k.stride), plan.call
        a_z, a_y, a_x = spatial(x, 3)
        out_z, out_y, out_x = spatial(here, 3)
        volume = x.rank == 5
        call = replace(
            call, a_o0=x.strides[0], a_z=a_z if volume else x.strides[0], a_y=a_y, a_x=a_x,
            out_o0=out.strides[0], out_z=out_z if volume else out.strides[0],
            out_y=out_y, out_x=out_x,
        )  # fmt: skip
        local = end
        if end.res is not None:
            res = _part(end.res, phase, k.stride)
            local, (z, y, x_) = replace(end, res=res), spatial(res, 3)
            call = replace(
                call, res_o0=end.res.strides[0], res_z=z if volume else end.res.strides[0],
                res_y=y, res_x=x_,
            )  # fmt: skip
        emit(ctx, tables(ctx, plan, call), x, b, here, local)
    done()


def _kernel(weight: Const) -> tuple[int, ...]:
    return static_shape(weight.type)[2:]


def _pack_taps(weight: Const, taps: list[tuple[int, ...]], groups: int) -> np.ndarray:
    return pack_conv_taps(elements_of(weight), taps, groups)


def _phase(plan: ConvPlan, out: View, stride: Sequence[int]) -> tuple[int, ...]:
    """Return the output position at which a phase starts, from its offset in a dense output."""
    left, phase = plan.out_offset // out.shape[1], []
    for n in reversed(out.shape[2:]):
        phase.append(left % n)
        left //= n
    return tuple(reversed(phase))


def _part(view: View, phase: Sequence[int], stride: Sequence[int]) -> View:
    """Return every ``stride``-th pixel from ``phase``."""
    for axis, (start, step) in enumerate(zip(phase, stride, strict=True), start=2):
        view = view.slice(axis, start, view.shape[axis], step)
    return view
