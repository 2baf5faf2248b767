"""numba_cpu > lower > pool: window pools on channels-last memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from leptonc.backends.numba_cpu.kernels.int8_pool import int8_pool
from leptonc.backends.numba_cpu.kernels.pool import NAMES, pool
from leptonc.backends.numba_cpu.legal import YES, Claim, ClaimFn, f32_only
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.epilogue import target
from leptonc.backends.numba_cpu.lower.shape import contiguous
from leptonc.backends.numba_cpu.views import View
from leptonc.ir.core import Kind, Op
from leptonc.ir.kinds.reduce import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool, Pool
from leptonc.ir.types import DType

SERIAL_ELEMENTS = 4096  # input elements below which a pool runs on one thread


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


def lower_pool(ctx: Lowering, op: Op) -> None:
    """Lower a pool; an image with channels outside is copied channels-last first."""
    kind, x = op.kind, ctx.view(op.operands[0])
    assert isinstance(kind, (Pool, AdaptiveAvgPool))
    spatial = len(kind.kernel if isinstance(kind, Pool) else kind.output)
    channel = x.rank - spatial - 1
    order = (*range(channel), *range(channel + 1, x.rank), channel)
    codes = op.result.type.dtype.value if op.result.type.dtype.is_int else ""
    out, done = target(ctx, op.result, order, op.result.type.dtype)
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
    if result.numel:
        slots = [values[name] for name in NAMES]
        small = image.numel < SERIAL_ELEMENTS
        run = int8_pool[codes] if codes else pool
        ctx.step(run, slots, [image], [result], serial=small)
    done()


def _largest(op: Op) -> Claim:
    """Claim the largest of float32, and of codes of 8 bits."""
    return YES if op.result.type.dtype in (DType.U8, DType.I8) else f32_only(op)


LOWER: dict[type[Kind], tuple[ClaimFn, Callable[[Lowering, Op], None]]] = {
    MaxPool: (_largest, lower_pool),
    **dict.fromkeys((AvgPool, AdaptiveAvgPool, AdaptiveMaxPool), (f32_only, lower_pool)),
}
