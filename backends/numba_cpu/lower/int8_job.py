"""numba_cpu > lower > int8_job: operands, constants and epilogue of one product of codes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from leptonc.backends.numba_cpu.kernels import int8_plan, int8_strip
from leptonc.backends.numba_cpu.kernels.base import Kernel
from leptonc.backends.numba_cpu.kernels.int8_dot import PROVEN
from leptonc.backends.numba_cpu.kernels.int8_finish import dequantize_cells, quantize_cells
from leptonc.backends.numba_cpu.kernels.int8_gemm import REALS, Int8Gemm, int8_gemm
from leptonc.backends.numba_cpu.kernels.int8_pairs import (
    Apart,
    Range,
    entries_in,
    taken_apart,
)
from leptonc.backends.numba_cpu.kernels.int8_tile import CODES, FLOAT_RES, I8_RES, NO_RES, U8_RES
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.lower.code_ranges import codes_of
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.int8_unit import Finish, known
from leptonc.backends.numba_cpu.lower.product import SERIAL_WORK
from leptonc.backends.numba_cpu.lower.shape import contiguous, copy_view
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import Ref, View, ordered
from leptonc.ir.core import Op, Value
from leptonc.ir.kinds.quantize import IntConv, IntLinear
from leptonc.ir.types import DType

MOST_RESULT = 2.0**30  # half of int32: what is rounded on the way is far less than the other half
SERIAL_CELLS = 16 * 1024  # elements below which a conversion runs on one thread


@dataclass(frozen=True)
class Job:
    """One product being lowered: its operands as views and constants, and what follows."""

    ctx: Lowering
    op: Op
    x: View
    out: View
    end: Finish
    res: View | None
    zero: int  # of x, as unsigned codes
    codes: Range  # of x, as unsigned codes, with the zero point of padding

    @property
    def weight(self) -> np.ndarray:
        """The codes of the weight."""
        array = self.ctx.array(self.op.operands[1])
        assert array is not None
        return array

    def packed(
        self, what: str, make: Callable[[], np.ndarray], *more: Any, now: bool = False
    ) -> Ref:
        """Return the address of a constant made of the weight."""
        const = self.ctx.constant(self.op.operands[1])
        assert const is not None
        return self.ctx.packed((what, id(const.payload), *more), make, const, now=now)


def make_job(
    ctx: Lowering, op: Op, result: Value, end: Finish, order: Sequence[int]
) -> tuple[Job, Callable[[], None]]:
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

    codes = codes_of(op.operands[0], ctx.ranges).moved(zero - op.kind.x_zero)
    return Job(ctx, op, x, made, end, res, zero, codes.joined(Range(zero, zero))), done


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


def _residual(ctx: Lowering, end: Finish, out: View, order: Sequence[int]) -> View:
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


def pack_panels(job: Job, what: str, taps: np.ndarray, groups: int = 1) -> dict[str, Slot]:
    """Return the addresses of the panels of ``taps: i8[out, taps, k]``, and of what is apart.

    ``what`` tells apart the forms that one weight has.
    """
    make = functools.partial(int8_plan.pack_bytes, taps, groups)
    if PROVEN != "pairs":
        return {"b": job.packed(what, make, groups)}
    found: list[Apart] = []

    def apart() -> Apart:
        found.extend([] if found else [taken_apart(make(), job.codes)])
        return found[0]

    key = (groups, job.codes)
    b = job.packed(what, lambda: apart().panels, *key)
    extra = job.packed(f"{what} apart", lambda: apart().extra, *key, now=True)
    count = groups * -(-len(taps) // groups // PANEL)
    entries = entries_in(extra.buffer.nbytes, count)
    steps = count * taps.shape[1] * int8_plan.steps(taps.shape[2])
    job.ctx.note_way("vpmaddubsw", _why_exact(entries, steps))
    return {"b": b, "extra": extra}


def _why_exact(entries: int, steps: int) -> str:
    """Return why the form ``pairs`` is exact: ``entries`` of so many steps stand apart."""
    if not entries:
        return "proven exact: no pair of products leaves int16"
    share = 100.0 * entries / steps
    return f"exact: pairs of products that could leave int16 are apart, {share:.0f} % of the steps"


def emit(
    job: Job,
    call: Int8Gemm,
    x: View,
    panels: Mapping[str, Slot],
    groups: int,
    kernel: Kernel = int8_gemm,
) -> None:
    """Append the step of ``call``, whose extents and strides are set."""
    ctx, end = job.ctx, job.end
    scratch, stride = ctx.scratch(int(call.scratch_bytes))
    code, p0, p1 = end.act
    values: dict[str, Any] = dict(vars(call))
    values |= {**panels, "a": x.ref, "out": job.out.ref, "act": int(code), "act_p0": p0}
    values |= {"act_p1": p1, "res_mode": int(end.mode), "scratch": scratch, "scratch_bytes": stride}
    values |= per_column(job, groups)
    values["res"] = 0 if job.res is None else job.res.ref
    values |= code_values(end, job.res)
    values["strip"] = int(_fits_strips(job, call) and _stays_small(job))
    slots = [float(v) if name in REALS else v for name, v in values.items()]
    reads = [x, *([] if job.res is None else [job.res])]
    rows = call.outer0 * call.outer1 * call.rows_z * call.rows_y * call.rows_x
    if rows * call.columns > 0:
        work = rows * call.columns * call.taps * call.depth
        ctx.step(kernel, slots, reads, [job.out], serial=work < SERIAL_WORK)


def _fits_strips(job: Job, call: Int8Gemm) -> bool:
    """Return whether a product is one that :mod:`int8_strip` serves, and serves better."""
    weights = int8_plan.FOUR * call.taps * call.depth * call.columns
    kinds = job.res is None or job.res.dtype is DType.U8
    return (
        int8_strip.STRIPS and kinds and job.out.dtype is DType.U8 and call.columns > LANES
        and call.depth >= int8_strip.FEWEST_STEPS and weights <= int8_strip.MOST_WEIGHTS
    )  # fmt: skip


def _stays_small(job: Job) -> bool:
    """Return whether each result, over its scale, is proven to stay inside int32."""
    end, (scale, *bias) = job.end, [known(job.ctx, v) for v in job.op.operands[2:]]
    assert scale is not None and end.out_scale is not None
    weight = np.abs(job.weight.reshape(len(job.weight), -1).astype(np.float64))
    most = 255.0 * weight.sum(1) * np.abs(scale)
    if bias and bias[0] is not None:
        most = most + np.abs(bias[0])
    if end.res_scale is not None:
        most = most + 255.0 * abs(end.res_scale.scale)
    return bool((most * end.out_scale.inverse < MOST_RESULT).all())


def code_values(end: Finish, res: View | None) -> dict[str, Any]:
    """Return how residual and result are quantized."""
    values: dict[str, Any] = {"res_kind": NO_RES if res is None else _KINDS[res.dtype]}
    if end.res_scale is not None:
        values |= {"res_zero": end.res_scale.zero, "res_scale": end.res_scale.scale}
    if end.codes is not None and end.out_scale is not None:
        zero = end.out_scale.zero
        values |= {"out_kind": CODES, "zero": zero, "inverse": end.out_scale.inverse}
        values |= {"code_low": end.codes.low - zero, "code_high": end.codes.high - zero}
    return values


def per_column(job: Job, groups: int) -> dict[str, Slot]:
    """Return the addresses of corrections, scales and biases."""
    ctx, zero = job.ctx, job.zero
    scale, bias = scale_and_bias(job)
    ids = [identity(ctx, v) for v in job.op.operands[2:]]

    def corrected() -> np.ndarray:
        return int8_plan.per_panel(int8_plan.corrections(job.weight, zero), groups)

    return {
        "sums": job.packed("corrections", corrected, zero, groups),
        "scale": job.packed("scales", lambda: int8_plan.per_panel(scale, groups), ids[0], groups),
        "bias": job.packed("biases", lambda: int8_plan.per_panel(bias, groups), *ids[1:], groups),
    }


def scale_and_bias(job: Job) -> tuple[np.ndarray, np.ndarray]:
    """Return the scales and the biases of the outputs, ``f32[out]`` each."""
    scale, *bias = (known(job.ctx, v) for v in job.op.operands[2:])
    assert scale is not None
    return scale, bias[0] if bias and bias[0] is not None else np.zeros_like(scale)


def identity(ctx: Lowering, value: Value) -> object:
    """Return what tells constants apart."""
    number, const = ctx.splat(value), ctx.constant(value)
    return repr(number) if const is None else id(const.payload)
