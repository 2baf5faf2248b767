"""numba_cpu > lower > conv: convolutions on channels-last memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from leptonc.backends.numba_cpu.kernels import depthwise as dw
from leptonc.backends.numba_cpu.kernels import (
    igemm_plan,
    winograd_few,
    winograd_plan,
    winograd_slots,
)
from leptonc.backends.numba_cpu.kernels import winograd as wino
from leptonc.backends.numba_cpu.kernels.base import Kernel
from leptonc.backends.numba_cpu.kernels.fold import fold_weight
from leptonc.backends.numba_cpu.kernels.igemm_plan import ConvPlan
from leptonc.backends.numba_cpu.kernels.pack import merge_groups, pack_conv
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.kernels.winograd_calls import TRANSFORMS
from leptonc.backends.numba_cpu.kernels.winograd_late import EARLY, Late, late_of
from leptonc.backends.numba_cpu.kernels.winograd_points import Form
from leptonc.backends.numba_cpu.legal import ClaimFn
from leptonc.backends.numba_cpu.lower import choices, lines, questions
from leptonc.backends.numba_cpu.lower.choices import Question
from leptonc.backends.numba_cpu.lower.conv_choice import (
    LATES,
    WINOGRAD,
    Algorithm,
    ConvShape,
    few,
    folded_shape,
    forms,
    is_late,
    tiles,
)
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.epilogue import Epilogue, finish, target, zeros
from leptonc.backends.numba_cpu.lower.product import Finish, emit, pack_at_run_time
from leptonc.backends.numba_cpu.lower.shape import as_dtype, contiguous
from leptonc.backends.numba_cpu.lower.sparse import sparse_product, wins
from leptonc.backends.numba_cpu.lower.strassen import possible, strassen_product
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View
from leptonc.ir.core import Kind, Op, Value
from leptonc.ir.types import DType
from leptonc.meaning import elements_of


@dataclass(frozen=True)
class _Job:
    """One convolution being lowered: its shape and where everything lies (float32)."""

    ctx: Lowering
    op: Op
    shape: ConvShape
    x: View
    out: View
    epilogue: Epilogue
    end: Finish
    pool: int  # 2 if only the largest of each two by two outputs is written, else 1

    @property
    def weight(self) -> Value:
        """The weight operand."""
        return self.op.operands[1]


def channels_last(rank: int) -> tuple[int, ...]:
    """Return the physical axis order with channels (axis 1) innermost."""
    return (0, *range(2, rank), 1)


def spatial(view: View, count: int) -> tuple[int, ...]:
    """Return the strides of the last ``count`` of depth, height, width; 0 where absent."""
    steps = view.strides[2:]
    return ((0,) * (3 - len(steps)) + steps)[3 - count :]


def inner_channels(ctx: Lowering, x: View) -> View:
    """Return ``x`` with unit stride between channels, copied channels-last if need be."""
    if 1 in (x.strides[1], x.shape[1]):
        return x
    return contiguous(ctx, x, channels_last(x.rank))


def lower_conv(ctx: Lowering, op: Op, result: Value, epilogue: Epilogue) -> None:
    """Lower a convolution by the algorithm that was measured or is estimated to be fastest."""
    if wins(ctx, op):
        _sparse(ctx, op, result, epilogue)
        return
    shape, algorithm = questions.conv_shape(op), Algorithm.IGEMM
    if ctx.constant(op.operands[1]) is not None:
        algorithm = Algorithm(ctx.decide(_question(ctx, op, shape)))
    _lower(ctx, op, result, epilogue, shape, algorithm, 1)


def lower_peaks(ctx: Lowering, op: Op, result: Value, epilogue: Epilogue) -> bool:
    """Lower a convolution of which ``result`` holds the largest of each two by two outputs.

    Returns:
        False if the algorithm of this convolution cannot do that; nothing has been lowered then.
    """
    shape = questions.conv_shape(op)
    if not lines.only_clamps(epilogue) or ctx.constant(op.operands[1]) is None or wins(ctx, op):
        return False
    question = _question(ctx, op, shape)
    algorithm = Algorithm(choices.answer(question, ctx.answers).chosen)
    form = forms(shape).get(algorithm)
    by_lines = algorithm is Algorithm.IGEMM and lines.fits(shape, epilogue)
    if not by_lines and (form is None or not form.pools):
        return False
    even = replace(shape, out=tuple(n - n % 2 for n in shape.out))
    _lower(ctx, op, result, epilogue, even, Algorithm(ctx.decide(question)), 2)
    return True


def _question(ctx: Lowering, op: Op, shape: ConvShape) -> Question:
    # Bands are made of products: without Winograd, as a strict program is.
    precision = "strict" if ctx.in_bands else ctx.precision
    return questions.conv(shape, precision, ctx.reuse, ctx.constant(op.operands[1]), ctx.threads)


def _lower(
    ctx: Lowering, op: Op, result: Value, epilogue: Epilogue, shape: ConvShape,
    algorithm: Algorithm, pool: int,
) -> None:  # fmt: skip
    """Append the steps of a convolution by ``algorithm``."""
    x = as_dtype(ctx, ctx.view(op.operands[0]), DType.F32)
    order = channels_last(x.rank)
    out, done = target(ctx, result, order)
    end = finish(ctx, op, epilogue, out, order)
    if out.numel:
        _LOWER[algorithm](_Job(ctx, op, shape, x, out, epilogue, end, pool))
    done()


def _sparse(ctx: Lowering, op: Op, result: Value, epilogue: Epilogue) -> None:
    """Append the product of the nonzero elements of the weight of a 1x1 convolution."""
    x = as_dtype(ctx, ctx.view(op.operands[0]), DType.F32)
    order = channels_last(x.rank)
    out, done = target(ctx, result, order)
    end = finish(ctx, op, epilogue, out, order)
    rows = replace(end, res=None if end.res is None else end.res.transpose(order))
    sparse_product(ctx, op, x.transpose(order), out.transpose(order), rows)
    done()


# --- indirect product ---------------------------------------------------------------------------


def _igemm(job: _Job, by_parts: bool = False) -> None:
    """Append the product; narrow groups of a constant weight are merged (see _wider_groups).

    ``by_parts``: by :mod:`bf16x3`.
    """
    factor = _wider_groups(job)
    job = replace(job, shape=replace(job.shape, groups=job.shape.groups // factor))
    s = job.shape
    pads = list(zip(s.padding, s.after or s.padding, strict=True))
    plan = igemm_plan.conv(
        s.batch, s.channels, s.size, s.out_channels, s.kernel, stride=s.stride, padding=pads,
        dilation=s.dilation, groups=s.groups,
    )  # fmt: skip
    b, reads = _panels(job)
    if not (by_parts or job.ctx.in_bands) and lines.fits(s, job.epilogue):
        lines.lower_lines(job.ctx, s, job.x, b, job.out, job.end, job.pool, reads)
        return
    if lines.few_channels(s):
        x = lines.padded_lines(job.ctx, s, job.x)
        plan = igemm_plan.merged_conv(plan, s.kernel[-1], x.shape[1], s.padding[-1])
    else:
        x = inner_channels(job.ctx, job.x)
        a_z, a_y, a_x = spatial(x, 3)
        a_z = a_z if len(s.size) == 3 else x.strides[0]
        call = replace(plan.call, a_o0=x.strides[0], a_z=a_z, a_y=a_y, a_x=a_x)
        plan = replace(plan, call=call)
    _emit_plan(job, plan, x, b, reads, by_parts)


def _strassen(job: _Job) -> None:
    """Append a 1x1 convolution by :mod:`strassen`, or as a plain product if rows lie otherwise."""
    x, order, end = inner_channels(job.ctx, job.x), channels_last(job.x.rank), job.end
    steps = (*x.strides[:2], *(n * s for n, s in zip(x.strides[2:], job.shape.stride, strict=True)))
    pixels = View(x.buffer, x.dtype, (*x.shape[:2], *job.shape.out), steps, x.offset)
    rows, out = pixels.transpose(order), job.out.transpose(order)
    end = replace(end, res=None if end.res is None else end.res.transpose(order))
    if possible(rows, out, end):
        strassen_product(job.ctx, rows, _panels(job)[0], out, end)
    else:
        _igemm(replace(job, x=x))


def _emit_plan(
    job: _Job, plan: ConvPlan, x: View, b: Slot, reads: Sequence[View], by_parts: bool
) -> None:
    """Append the step of a plan whose input strides are set."""
    ctx, call, out, res = job.ctx, plan.call, job.out, job.end.res
    out_z, out_y, out_x = spatial(out, 3)
    volume = len(job.shape.size) == 3
    call = replace(
        call, out_o0=out.strides[0], out_z=out_z if volume else out.strides[0],
        out_y=out_y, out_x=out_x,
    )  # fmt: skip
    if res is not None:
        z, y, x_ = spatial(res, 3)
        z = z if volume else res.strides[0]
        call = replace(call, res_o0=res.strides[0], res_z=z, res_y=y, res_x=x_)
    emit(ctx, tables(ctx, plan, call), x, b, out, job.end, reads, by_parts)


def tables(ctx: Lowering, plan: ConvPlan, call: Any) -> Any:
    """Return ``call`` with the addresses of its tap table and its zero row."""
    table = plan.tap_table
    fields: dict[str, Any] = {}
    if table.any():
        fields["tap_table"] = ctx.packed(("taps", table.tobytes()), lambda: table)
    if plan.zero_floats:
        fields["zero_row"] = zeros(ctx, plan.zero_floats)
    return replace(call, **fields)


def _wider_groups(job: _Job) -> int:
    """Return how many groups to run as one whose weight is zero between them.

    Lanes beyond a group's columns are idle anyway, and fewer groups walk the image less often. An
    inf or NaN spreads over the merged groups, hence not with ``precision="strict"``.
    """
    s = job.shape
    columns, most = s.out_channels // s.groups, LANES * s.groups // max(s.out_channels, 1)
    if job.ctx.precision == "strict" or job.ctx.constant(job.weight) is None or columns == 0:
        return 1
    return max(f for f in range(1, max(most, 1) + 1) if s.groups % f == 0)


def _panels(job: _Job) -> tuple[Slot, list[View]]:
    """Return the address of the packed weight and the views to read for it."""
    ctx, groups = job.ctx, job.shape.groups
    const, fetch, channels = ctx.constant(job.weight), ctx.pool.fetch, job.shape.channels
    if const is not None:
        key = ("conv", id(const.payload), groups)

        def pack() -> np.ndarray:
            return pack_conv(merge_groups(elements_of(const), channels, groups), groups, fetch)

        return ctx.packed(key, pack, const), []
    view = as_dtype(ctx, ctx.view(job.weight), DType.F32)
    taps_first = contiguous(ctx, view, channels_last(view.rank))
    n, k = view.shape[0] // groups, math.prod(view.shape[1:])
    matrices = View(taps_first.buffer, DType.F32, (groups, k, n), (n * k, 1, k), taps_first.offset)
    packed = pack_at_run_time(ctx, matrices)
    return packed.ref, [packed]


# --- Winograd and depthwise ---------------------------------------------------------------------


def _finish_values(end: Finish, rank: int) -> dict[str, Any]:
    """Return the record values of an epilogue."""
    code, p0, p1 = end.act
    z, y, x = (0, 0, 0) if end.res is None else spatial(end.res, 3)
    return {
        "res": 0 if end.res is None else end.res.ref,
        "res_b": 0 if end.res is None else end.res.strides[0],
        "res_z": z, "res_y": y, "res_x": x, "res_mode": int(end.mode),
        "act": int(code), "act_p0": float(p0), "act_p1": float(p1),
    }  # fmt: skip


def _reads(end: Finish) -> list[View]:
    return [*end.reads, *([] if end.res is None else [end.res])]


def _winograd_weights(job: _Job, form: Form, late: Late | None, stride: int) -> Slot:
    """Return the address of the weights, transformed unless that is done ``late``.

    ``stride``: that is folded into the channels, or 1.
    """
    const, fetch = job.ctx.constant(job.weight), job.ctx.pool.fetch
    assert const is not None
    if late is not None:
        wide = late.wide
        return job.ctx.packed(
            ("winograd late", wide, id(const.payload)),
            lambda: winograd_plan.pack_late(elements_of(const), wide, fetch),
            const,
        )

    def transformed() -> np.ndarray:
        if stride == 1:
            return winograd_plan.transform_weights(elements_of(const), form, fetch)
        return winograd_plan.transform_weights(fold_weight(fetch(elements_of(const)), stride), form)

    return job.ctx.packed(("winograd", form, stride, id(const.payload)), transformed, const)


def _winograd_image(
    job: _Job, algorithm: Algorithm, form: Form, late: Late | None
) -> tuple[Kernel, View, winograd_plan.Blocking, ConvShape]:
    """Return the kernel, the image that it reads, its blocks, the convolution of that image."""
    ctx, s = job.ctx, job.shape.plane
    if few(s, algorithm):
        blocks = winograd_few.blocking(form, -(-s.out[1] // form.x.m), s.channels)
        return winograd_few.winograd_few, lines.lines_of_tiles(ctx, s, form, job.x), blocks, s
    folded = folded_shape(s) if algorithm is Algorithm.FOLDED_4 else None
    if folded is None:
        x = inner_channels(ctx, job.x)
    else:
        x, s = lines.folded_image(ctx, s, folded, job.x), folded
    sizes = s.channels, s.out_channels, late
    share = wino.tiles_of_a_thread(form, tiles(s, form), *sizes, ctx.threads)
    blocks = winograd_plan.blocking(form, share, *sizes)
    return wino.winograd, x, blocks, s


def _winograd(algorithm: Algorithm) -> Callable[[_Job], None]:
    def lower(job: _Job) -> None:
        ctx, out, form = job.ctx, job.out, forms(job.shape)[algorithm]
        late = late_of(form, tiles(job.shape.plane, form)) if is_late(algorithm) else None
        run, x, blocks, s = _winograd_image(job, algorithm, form, late)
        transforms, stride = TRANSFORMS[form].slots(job.pool), job.shape.stride[-1] // s.stride[-1]
        if stride > 1:  # of an image of whole tiles
            transforms["edge"] = 0
        scratch, scratch_bytes = ctx.scratch(blocks.scratch_bytes)
        (x_y, x_x), (out_y, out_x) = spatial(x, 2), spatial(out, 2)
        values: dict[str, Any] = {
            **winograd_plan.slots(form, s.channels), **transforms,
            **(EARLY if late is None else late.slots()),
            "x": x.ref, "x_b": x.strides[0], "x_y": x_y, "x_x": x_x,
            "batch": s.batch, "in_h": s.size[0], "in_w": s.size[1],
            "channels": x.shape[1], "columns": s.out_channels,
            "pad_y": s.padding[0], "pad_x": s.padding[1], "out_h": s.out[0], "out_w": s.out[1],
            "out": out.ref, "out_b": out.strides[0], "out_y": out_y, "out_x": out_x,
            "weights": _winograd_weights(job, form, late, stride), "bias": job.end.bias,
            "pool": job.pool, "tile_block": blocks.tile_block, "panel_block": blocks.panel_block,
            "scratch": scratch, "scratch_bytes": scratch_bytes, **_finish_values(job.end, 2),
        }  # fmt: skip
        slots = [values[name] for name in winograd_slots.NAMES]
        ctx.step(run, slots, [x, *_reads(job.end)], [out])

    return lower


def _three(values: Sequence[int], fill: int) -> tuple[int, ...]:
    return (fill,) * (3 - len(values)) + tuple(values)


def _axes(prefix: str, values: Sequence[int]) -> dict[str, int]:
    return {f"{prefix}_{axis}": int(v) for axis, v in zip("zyx", values, strict=True)}


def _depthwise(job: _Job) -> None:
    ctx, s, out = job.ctx, job.shape, job.out
    x = inner_channels(ctx, job.x)
    const = ctx.constant(job.weight)
    assert const is not None
    key = ("depthwise", id(const.payload))
    weights = ctx.packed(key, lambda: dw.pack_weights(elements_of(const)), const)
    kernel, size, out_size = _three(s.kernel, 1), _three(s.size, 1), _three(s.out, 1)
    scratch, stride = ctx.scratch(dw.scratch_bytes(*kernel[:2]))
    bias = job.end.bias
    values: dict[str, Any] = {
        "x": x.ref, "x_b": x.strides[0], **_axes("x", spatial(x, 3)), "batch": s.batch,
        "in_d": size[0], "in_h": size[1], "in_w": size[2], "channels": s.channels,
        **_axes("kernel", kernel), **_axes("stride", _three(s.stride, 1)),
        **_axes("pad", _three(s.padding, 0)), **_axes("dilation", _three(s.dilation, 1)),
        "out": out.ref, "out_b": out.strides[0], **_axes("out", spatial(out, 3)),
        "out_d": out_size[0], "out_h": out_size[1], "out_w": out_size[2], "weights": weights,
        "bias": zeros(ctx, s.channels) if bias == 0 else bias,
        "scratch": scratch, "scratch_bytes": stride, **_finish_values(job.end, 3),
    }  # fmt: skip
    ctx.step(dw.depthwise, [values[name] for name in dw.NAMES], [x, *_reads(job.end)], [out])


_LOWER: dict[Algorithm, Callable[[_Job], None]] = {
    Algorithm.IGEMM: _igemm,
    Algorithm.BF16X3: partial(_igemm, by_parts=True),
    Algorithm.STRASSEN: _strassen,
    **{
        algorithm: _winograd(algorithm)
        for algorithm in (*WINOGRAD.values(), *LATES.values(), Algorithm.FOLDED_4)
    },
    Algorithm.DEPTHWISE: _depthwise,
}


LOWER: dict[type[Kind], tuple[ClaimFn, Callable[[Lowering, Op], None]]] = {}
