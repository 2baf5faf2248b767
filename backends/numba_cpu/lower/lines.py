"""numba_cpu > lower > lines: convolutions of few channels on lines padded with zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from leptonc.backends.numba_cpu.kernels import fold
from leptonc.backends.numba_cpu.kernels import lines as kernel
from leptonc.backends.numba_cpu.kernels.activation import Act
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.pack import pad_image
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.kernels.winograd_points import Form
from leptonc.backends.numba_cpu.lower.conv_choice import ConvShape
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.epilogue import Activation, Epilogue, zeros
from leptonc.backends.numba_cpu.lower.product import SERIAL_WORK, Finish
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View
from leptonc.ir.types import DType
from leptonc.passes.fusing.policy import FEW_CHANNELS

MOST_WEIGHTS = 128 * 1024  # bytes that every line reads again: they shall stay in a near cache


def few_channels(s: ConvShape) -> bool:
    """Return whether the image of a convolution is copied to padded lines."""
    plane = len(s.size) == 2 and s.dilation[-1] == 1
    return plane and s.channels <= FEW_CHANNELS and s.groups == 1 and s.kernel[-1] > 1


def fits(s: ConvShape, epilogue: Epilogue) -> bool:
    """Return whether the kernel of lines can compute a convolution, and soon enough."""
    wide = -(-s.out_channels // PANEL) * PANEL
    small = 4 * wide * s.channels * math.prod(s.kernel) <= MOST_WEIGHTS
    return few_channels(s) and small and only_clamps(epilogue)


def only_clamps(epilogue: Epilogue) -> bool:
    """Return whether sums are at most clamped: such an epilogue keeps their order."""
    return epilogue.res is None and epilogue.act[0] in (Act.NONE, Act.RELU, Act.RELU6, Act.CLAMP)


def _bounds(act: Activation) -> tuple[float, float]:
    code, low, high = act
    known = {Act.NONE: (-math.inf, math.inf), Act.RELU: (0.0, math.inf), Act.RELU6: (0.0, 6.0)}
    return known.get(code, (low, high))


def padded_lines(ctx: Lowering, s: ConvShape, x: View) -> View:
    """Append the copy of an image to padded lines: ``f32[batch * height, width + padding, c]``."""
    return _copied(ctx, s, x, s.size[1] + s.padding[1] + (s.after or s.padding)[1])


def _copied(ctx: Lowering, s: ConvShape, x: View, wide: int) -> View:
    """Append the copy of an image to lines of ``wide`` pixels."""
    (height, width), c, left = s.size, s.channels, s.padding[-1]
    lines = ctx.temp(DType.F32, (s.batch * height, wide, c))
    n, ch, h, w = x.strides
    slots: list[Slot] = [
        s.batch * height, width, c, x.ref, n, h, height, w, ch, lines.ref, left, wide,
    ]  # fmt: skip
    ctx.step(pad_image, slots, [x], [lines])
    return lines


def lines_of_tiles(ctx: Lowering, s: ConvShape, form: Form, x: View) -> View:
    """Append the copy of an image to lines that whole tiles of ``form`` read, zeros around it.

    Returns:
        ``f32[batch, c, height, width]``, channels innermost.
    """
    wide = (-(-s.out[1] // form.x.m) + 1) * form.x.m
    lines = _copied(ctx, s, x, max(wide, s.size[1] + s.padding[1]))
    height, line = s.size[0], lines.strides[0]
    shape = (s.batch, s.channels, height, lines.shape[1])
    return View(lines.buffer, DType.F32, shape, (height * line, 1, line, s.channels))


def folded_image(ctx: Lowering, s: ConvShape, folded: ConvShape, x: View) -> View:
    """Append the copy of an image whose squares of pixels are channels.

    Args:
        ctx: the lowering.
        s: the convolution of ``x``.
        folded: the one with stride 1 that it becomes.
        x: the image.

    Returns:
        ``f32[batch, channels, *folded.size]``, channels innermost and whole vectors, which overlap.
    """
    (down, across), pitch = folded.size, fold.pitch(s.channels, s.stride[0])
    vectors = -(-folded.channels // LANES) * LANES
    out = ctx.temp(DType.F32, (s.batch * down * across * pitch + vectors - pitch,))
    n, c, h, w = x.strides
    values: dict[str, Slot] = {
        "lines": s.batch * down, "down": down, "width": across, "pitch": pitch,
        "stride": s.stride[0], "channels": s.channels, "x": x.ref, "x_b": n, "x_y": h, "x_x": w,
        "x_c": c, "in_h": s.size[0], "in_w": s.size[1], "pad_y": s.padding[0],
        "pad_x": s.padding[1], "out": out.ref,
    }  # fmt: skip
    ctx.step(fold.fold, [values[name] for name in fold.NAMES], [x], [out])
    line = across * pitch
    shape = (s.batch, vectors, down, across)
    return View(out.buffer, DType.F32, shape, (down * line, 1, line, pitch))


def lower_lines(
    ctx: Lowering, s: ConvShape, x: View, weights: Slot, out: View, end: Finish, pool: int,
    reads: Sequence[View],
) -> None:  # fmt: skip
    """Append a convolution that :func:`fits`, on a copy of ``x`` to padded lines.

    Args:
        ctx: the lowering.
        s: the convolution; with ``pool`` its output has even sizes.
        x: the image.
        weights: the packed weight.
        out: the result, after the pool; unit stride between channels.
        end: bias and activation.
        pool: 2 to write the largest of each two by two outputs only, else 1.
        reads: further buffers that the step reads.
    """
    lines = padded_lines(ctx, s, x)
    width = lines.strides[0]
    scratch, stride = ctx.scratch(kernel.scratch_bytes(s.kernel[0]))
    low, high = _bounds(end.act)
    values: dict[str, Any] = {
        "x": lines.ref, "line": width, "step": s.stride[1] * s.channels, "batch": s.batch,
        "in_h": s.size[0], "zeros": zeros(ctx, width), "taps": s.kernel[0],
        "depth": s.kernel[1] * s.channels, "step_y": s.stride[0], "pad_y": s.padding[0],
        "dilation_y": s.dilation[0], "out_h": s.out[0], "out_w": s.out[1],
        "columns": s.out_channels, "out": out.ref, "out_b": out.strides[0], "out_y": out.strides[2],
        "out_x": out.strides[3], "weights": weights,
        "bias": zeros(ctx, s.out_channels) if end.bias == 0 else end.bias,
        "low": low, "high": high, "pool": pool, "scratch": scratch, "scratch_bytes": stride,
    }  # fmt: skip
    slots: list[Slot] = [values[name] for name in kernel.NAMES]
    work = s.batch * math.prod(s.out) * s.out_channels * s.channels * math.prod(s.kernel)
    ctx.step(kernel.lines, slots, [lines, *reads, *end.reads], [out], serial=work < SERIAL_WORK)
