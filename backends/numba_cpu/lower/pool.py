"""numba_cpu > lower > pool: window pools on channels-last memory.

A unit of pattern ``pooled`` is ``int_avg_pool``, then ``quantize`` with one scale: one step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leptonc.backends.numba_cpu.kernels import int8_mean as means
from leptonc.backends.numba_cpu.kernels.base import Kernel
from leptonc.backends.numba_cpu.kernels.int8_pool import int8_pool
from leptonc.backends.numba_cpu.kernels.pool import NAMES, pool
from leptonc.backends.numba_cpu.legal import YES, Claim, ClaimFn, No, f32_only
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.epilogue import target
from leptonc.backends.numba_cpu.lower.int8_unit import scale_of
from leptonc.backends.numba_cpu.lower.shape import contiguous
from leptonc.backends.numba_cpu.views import View
from leptonc.errors import ClaimError
from leptonc.ir.core import Function, Kind, Op, Value
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.quantize import IntAvgPool, Quantize
from leptonc.ir.kinds.reduce import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool, Pool
from leptonc.ir.types import DType

SERIAL_ELEMENTS = 4096  # input elements below which a pool runs on one thread
#: Input elements from which on the mean of an image is that of the means of its bands of lines,
#: at most so many: threads find the lines that they wrote in their own caches.
BAND_ELEMENTS, MOST_BANDS = 1 << 16, 16


def _three(values: Sequence[int], fill: int) -> tuple[int, ...]:
    return (fill,) * (3 - len(values)) + tuple(int(v) for v in values)


def _axes(prefix: str, values: Sequence[int]) -> dict[str, int]:
    return {f"{prefix}_{axis}": int(v) for axis, v in zip("zyx", values, strict=True)}


def _as_image(view: View, spatial: int) -> View | None:
    """Return ``view: [..., c, *spatial]`` as ``[b, c, d, h, w]``; None if that needs a copy."""
    lead, size = view.shape[:-spatial], view.shape[-spatial:]
    batch = 1
    for n in lead[:-1]:
        batch *= n
    return view.reshape((batch, lead[-1], *(1,) * (3 - spatial), *size))


def _windows(kind: Kind, spatial: int) -> dict[str, int]:
    """Return the record values that describe the windows."""
    kernel: Sequence[int] = (0,) * 3
    stride: Sequence[int] = (1,) * 3
    dilation: Sequence[int] = (1,) * 3
    padding: Sequence[int] = (0,) * 3
    if isinstance(kind, Pool):
        kernel, stride = _three(kind.kernel, 1), _three(kind.stride, 1)
        padding = _three(kind.padding, 0)
        dilation = _three(getattr(kind, "dilation", ()) or (1,) * spatial, 1)
    mean = isinstance(kind, AvgPool)
    return {
        **_axes("kernel", kernel), **_axes("stride", stride), **_axes("pad", padding),
        **_axes("dilation", dilation), "include_pad": int(mean and kind.include_pad),
        "divisor": int(kind.divisor or 0) if mean else 0,
    }  # fmt: skip


@dataclass(frozen=True)
class _Job:
    """A pool being lowered: its images as ``[b,c,d,h,w]``, its record, what ends it."""

    image: View
    result: View
    values: dict[str, Any]
    done: Callable[[], None]

    def step(self, ctx: Lowering, run: Kernel, names: Sequence[str], **more: Any) -> None:
        """Emit the call of ``run`` with the slots that ``names`` lists."""
        image, result, values = self.image, self.result, self.values | more
        if result.numel:
            slots = [values[name] for name in names]
            small = image.numel < SERIAL_ELEMENTS
            ctx.step(run, slots, [image], [result], serial=small)
        self.done()

    def bands(self) -> int:
        """Return into how many equal bands of lines to cut an image whose mean is asked for."""
        batch, channels, depth, lines, _ = self.image.shape
        whole = self.values["mean"] and self.result.numel == batch * channels
        if not whole or depth != 1 or self.image.numel < BAND_ELEMENTS * batch:
            return 1
        return max(n for n in range(1, MOST_BANDS + 1) if lines % n == 0)

    def step_in_bands(self, ctx: Lowering, bands: int) -> None:
        """Emit the means of ``bands`` bands of lines, then their mean."""
        batch, channels = self.image.shape[:2]
        shape, strides = (batch, channels, 1, bands, 1), (bands * channels, 1, 0, channels, 0)
        means = ctx.temp(DType.F32, shape, strides)
        to = {"out": means.ref, "out_b": strides[0], "out_y": channels, "out_h": bands}
        of = {"x": means.ref, "x_b": strides[0], "x_y": channels, "in_h": bands, "in_w": 1}
        replace(self, result=means, done=lambda: None).step(ctx, pool, NAMES, **to)
        replace(self, image=means).step(ctx, pool, NAMES, **of)


def _job(ctx: Lowering, op: Op, made: Value) -> _Job:
    """Return what makes ``made``; an image with channels outside is copied channels-last first."""
    kind, x = op.kind, ctx.view(op.operands[0])
    assert isinstance(kind, (Pool, AdaptiveAvgPool))
    spatial = len(kind.kernel if isinstance(kind, Pool) else kind.output)
    channel = x.rank - spatial - 1
    order = (*range(channel), *range(channel + 1, x.rank), channel)
    out, done = target(ctx, made, order, made.type.dtype)
    image = _as_image(x, spatial) if 1 in (x.strides[channel], x.shape[channel]) else None
    if image is None:
        image = _as_image(contiguous(ctx, x, order), spatial)
    result = _as_image(out, spatial)
    assert image is not None and result is not None
    values: dict[str, Any] = {
        "x": image.ref, "x_b": image.strides[0], **_axes("x", image.strides[2:]),
        "batch": image.shape[0], "in_d": image.shape[2], "in_h": image.shape[3],
        "in_w": image.shape[4], "channels": image.shape[1],
        "out": result.ref, "out_b": result.strides[0], **_axes("out", result.strides[2:]),
        "out_d": result.shape[2], "out_h": result.shape[3], "out_w": result.shape[4],
        "mean": int(not isinstance(kind, (MaxPool, AdaptiveMaxPool))), **_windows(kind, spatial),
    }  # fmt: skip
    return _Job(image, result, values, done)


def lower_pool(ctx: Lowering, op: Op) -> None:
    """Lower a pool of floats, or the largest of codes."""
    codes = op.result.type.dtype.value if op.result.type.dtype.is_int else ""
    job = _job(ctx, op, op.result)
    if isinstance(op.kind, AdaptiveAvgPool) and (bands := job.bands()) > 1:
        job.step_in_bands(ctx, bands)
    else:
        job.step(ctx, int8_pool[codes] if codes else pool, NAMES)


def _lower_mean(ctx: Lowering, op: Op, codes: Op | None = None) -> None:
    """Lower a mean of codes, to floats or to the ``codes`` of them. Raises ClaimError."""
    kind, known = op.kind, scale_of(ctx, op.operands[1:])
    assert isinstance(kind, IntAvgPool)
    end = None if codes is None else scale_of(ctx, codes.operands[1:])
    if known is None or (codes is not None and end is None):
        raise ClaimError(f"{kind.NAME} has no kernel for a scale that is computed")
    more: dict[str, Any] = {
        "zero": kind.x_zero, "scale": known.scale, "coded": int(end is not None), "out_zero": 0,
        "inverse": 1.0, "low": 0.0, "high": 0.0,
    }  # fmt: skip
    if codes is not None and end is not None:
        assert isinstance(codes.kind, Quantize)
        low, high = float(codes.kind.low - end.zero), float(codes.kind.high - end.zero)
        more |= {"out_zero": end.zero, "inverse": end.inverse, "low": low, "high": high}
    run = means.int8_mean[op.operands[0].type.dtype.value]
    _job(ctx, op, (codes or op).result).step(ctx, run, means.NAMES, **more)


def lower_pooled(ctx: Lowering, body: Function) -> bool:
    """Lower a mean of codes and the conversion after it; False if the body is another."""
    ops = [op for op in body.ops if not isinstance(op.kind, (Constant, Full))]
    if [type(op.kind) for op in ops] != [IntAvgPool, Quantize]:
        return False
    pooled, codes = ops
    one = body.use_count[pooled.result] == 1 and codes.operands[0] is pooled.result
    bytes_ = codes.result.type.dtype in (DType.U8, DType.I8)
    if not (one and bytes_) or scale_of(ctx, codes.operands[1:]) is None:
        return False
    _lower_mean(ctx, pooled, codes)
    return True


def _mean(op: Op) -> Claim:
    """Claim a mean of codes whose sums int32 holds."""
    kind = op.kind
    assert isinstance(kind, IntAvgPool)
    count = math.prod(kind.kernel)
    fits = count <= means.MOST_COUNT
    return YES if fits else No(f"{kind.NAME}: int32 cannot hold sums of {count} codes")


def _largest(op: Op) -> Claim:
    """Claim the largest of float32, and of codes of 8 bits."""
    return YES if op.result.type.dtype in (DType.U8, DType.I8) else f32_only(op)


LOWER: dict[type[Kind], tuple[ClaimFn, Callable[[Lowering, Op], None]]] = {
    MaxPool: (_largest, lower_pool),
    IntAvgPool: (_mean, _lower_mean),
    **dict.fromkeys((AvgPool, AdaptiveAvgPool, AdaptiveMaxPool), (f32_only, lower_pool)),
}
