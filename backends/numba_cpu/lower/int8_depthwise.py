"""numba_cpu > lower > int8_depthwise: a depthwise convolution of codes as a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from leptonc.backends.numba_cpu.kernels import int8_depthwise_plan as plan
from leptonc.backends.numba_cpu.kernels import int8_plan
from leptonc.backends.numba_cpu.kernels.activation import Act
from leptonc.backends.numba_cpu.kernels.int8_depthwise import NAMES, REALS, int8_depthwise
from leptonc.backends.numba_cpu.lower.conv import channels_last
from leptonc.backends.numba_cpu.lower.int8_job import Job, code_values, identity, scale_and_bias
from leptonc.backends.numba_cpu.lower.product import SERIAL_WORK
from leptonc.backends.numba_cpu.lower.shape import contiguous
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View
from leptonc.ir.core import Op
from leptonc.ir.kinds.quantize import IntConv
from leptonc.ir.types import DType

_FITS = 2.0**30  # of a number before it is rounded to int32, four roundings of 2**-24 included
_MOST_ZERO = 1 << 14  # added to int16 that saturate it leaves all that are no codes beyond them
_CLAMPS = {
    Act.NONE: lambda p0, p1: (-np.inf, np.inf),
    Act.RELU: lambda p0, p1: (0.0, np.inf),
    Act.RELU6: lambda p0, p1: (0.0, 6.0),
    Act.CLAMP: lambda p0, p1: (p0, p1),
}


def is_depthwise(op: Op) -> bool:
    """Return whether the convolution has one filter a channel, over at most two axes."""
    k, x, w = op.kind, op.operands[0].type, op.operands[1].type
    if not isinstance(k, IntConv) or x.rank > 4 or k.groups != x.shape[1]:
        return False
    return k.groups == w.shape[0] and k.groups > 1


def lower_depthwise(job: Job) -> None:
    """Append the step of a depthwise convolution."""
    ctx, k, x, out, res = job.ctx, job.op.kind, job.x, job.out, job.res
    assert isinstance(k, IntConv)
    if not (x.strides[1] == 1 or x.shape[1] == 1):
        x = contiguous(ctx, x, channels_last(x.rank))
    (ky, kx), (in_h, in_w), (out_h, out_w) = (
        _two(sizes, 1) for sizes in (job.weight.shape[2:], x.shape[2:], out.shape[2:])
    )
    (sy, sx), (py, px), (dy, dx) = _two(k.stride, 1), _two(k.padding, 0), _two(k.dilation, 1)
    w = plan.cheapest((ky, kx), (sy, sx), dy, out_h)
    scratch, stride = ctx.scratch(plan.scratch_bytes(w, out_w, kx, dx, sx))
    code, p0, p1 = job.end.act
    values: dict[str, Any] = dict.fromkeys(NAMES, 0) | {
        "x": x.ref, "x_b": x.strides[0], "x_y": _line(x), "x_x": x.strides[-1],
        "batch": x.shape[0], "in_h": in_h, "in_w": in_w, "channels": x.shape[1],
        "beside": job.zero, "stride_y": sy,
        "stride_x": sx, "pad_y": py, "pad_x": px, "dilation_x": dx, "kernel_x": kx,
        "outputs": w.outputs, "groups": w.groups, "out": job.out.ref, "out_b": out.strides[0],
        "out_y": _line(out), "out_x": out.strides[-1], "out_h": out_h, "out_w": out_w,
        "res_mode": int(job.end.mode), "act": int(code), "act_p0": p0, "act_p1": p1,
        "scratch": scratch, "scratch_bytes": stride, **_constants(job, w, sy, dy),
        **code_values(job.end, res), **_direct(job),
    }  # fmt: skip
    if res is not None:
        values |= {"res": res.ref, "res_b": res.strides[0], "res_y": _line(res)}
        values |= {"res_x": res.strides[-1]}
    slots = [float(v) if name in REALS else v for name, v in values.items()]
    if out.numel:
        small = out.numel * ky * kx < SERIAL_WORK
        reads = [x, *([] if res is None else [res])]
        ctx.step(int8_depthwise, slots, reads, [out], serial=small)


def _constants(job: Job, w: plan.Window, stride: int, dilation: int) -> dict[str, Slot]:
    """Return the addresses of what is known before the codes; ``stride``, ``dilation``: along y."""
    ctx, zero, channels = job.ctx, job.zero, len(job.weight)
    scale, bias = scale_and_bias(job)
    ids = [identity(ctx, v) for v in job.op.operands[2:]]
    lines = np.array(w.lines, np.int64)
    table = plan.block_table(channels)

    def ends() -> np.ndarray:
        return plan.pack_ends(int8_plan.corrections(job.weight, zero), scale, bias)

    def weights() -> np.ndarray:
        return plan.pack_weights(job.weight, w, stride, dilation)

    return {
        "outside": ctx.packed(("outside", zero), lambda: plan.outside(zero)),
        "lines": ctx.packed(("window lines", w.lines), lambda: lines),
        "blocks": ctx.packed(("channel blocks", channels), lambda: table),
        "block_count": len(table),
        "weights": job.packed("int_depthwise", weights, w, stride, dilation),
        "ends": job.packed("depthwise ends", ends, zero, *ids),
    }


def _direct(job: Job) -> dict[str, Slot]:
    """Return how codes are made in registers, if nothing but a clamp comes before.

    The bounds are those of the codes and of the activation times ``inverse``. They apply after
    rounding: products are rounded in order, and so are whole numbers.
    """
    end, (code, p0, p1) = job.end, job.end.act
    if end.codes is None or end.out_scale is None or end.res is not None or code not in _CLAMPS:
        return {}
    zero, inverse = end.out_scale.zero, np.float32(end.out_scale.inverse)
    if _largest(job) * float(inverse) > _FITS or abs(zero) > _MOST_ZERO:
        return {}
    flip = 128 if end.codes.dtype is DType.I8 else 0
    least, most = end.codes.low - zero, end.codes.high - zero
    low, high = (np.float32(bound) * inverse for bound in _CLAMPS[code](p0, p1))
    low = int(np.rint(min(max(low, least), most)))
    high = max(int(np.rint(min(max(high, least), most))), low)
    return {"direct": 1, "low": low + zero + flip, "high": high + zero + flip, "flip": flip}


def _largest(job: Job) -> float:
    """Return what no result of the sums exceeds, rounding left aside."""
    scale, bias = scale_and_bias(job)
    taps = np.abs(job.weight.reshape(len(scale), -1).astype(np.float64)).sum(1)
    return float((2 * 255 * taps * np.abs(scale) + np.abs(bias)).max(initial=0.0))


def _two(values: Sequence[int], filled: int) -> tuple[int, int]:
    """Return the last two of ``values``, ``filled`` in front where there is one."""
    return (filled, *values)[-2:]  # type: ignore[return-value]


def _line(view: View) -> int:
    """Return the elements from line to line of an image."""
    return view.strides[2] if view.rank == 4 else 0
