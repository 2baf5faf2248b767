"""numba_cpu > lower > data: look-ups, ranges, triangles, resampling, constants."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from leptonc.backends.numba_cpu.kernels.gather import (
    ELEMENTS,
    TRIANGLE,
    gather_rows,
    iota_float,
    iota_int,
)
from leptonc.backends.numba_cpu.kernels.resample import TAPS, Mode, resample, resample_table
from leptonc.backends.numba_cpu.legal import YES, Claim, ClaimFn, No, stored
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.shape import as_dtype, contiguous, copy_view
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View, ordered
from leptonc.ir.core import Kind, Op, Value
from leptonc.ir.kinds import data as d
from leptonc.ir.types import DType

_SERIAL = 4096  # elements from which other threads are worth waking
_FLOATS = (DType.F32, DType.BF16, DType.F16)


def _constant(ctx: Lowering, op: Op) -> None:
    """Place a constant where the caller wants it; otherwise whoever reads it finds it."""
    if op.result in ctx.outputs:
        source = ctx.view(op.result)
        if source.buffer is not ctx.outputs[op.result].buffer:
            copy_view(ctx, source, ctx.out(op.result))


# --- by index -------------------------------------------------------------------------------------
def _indices(ctx: Lowering, value: Value) -> View:
    """Return integer indices as a dense int64 view."""
    return contiguous(ctx, as_dtype(ctx, ctx.view(value), DType.I64))


def _embedding(ctx: Lowering, op: Op) -> None:
    _pick(ctx, op, 0, wrap=False)


def _index_select(ctx: Lowering, op: Op) -> None:
    assert isinstance(op.kind, d.IndexSelect)
    _pick(ctx, op, op.kind.axis, op.kind.wrap)


def _runs(view: View, shape: tuple[int, int, int]) -> View | None:
    """Return the view as ``[outer, axis, inner]``, ``inner`` contiguous; None if it is not."""
    flat = view.reshape(shape)
    return flat if flat is not None and (flat.strides[2] == 1 or shape[2] == 1) else None


def _pick(ctx: Lowering, op: Op, axis: int, wrap: bool) -> None:
    x, out, index = ctx.view(op.operands[0]), ctx.out(op.result), _indices(ctx, op.operands[1])
    if out.numel == 0:
        return
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    whole = (outer, x.shape[axis], inner)
    source = _runs(x, whole) or _runs(contiguous(ctx, x), whole)
    wanted = (outer, index.numel, inner)
    target = _runs(out, wanted)
    made = target or ctx.temp(out.dtype, wanted)
    assert source is not None  # row-major
    size = x.dtype.nbytes
    slots: list[Slot] = [source.ref, index.ref, made.ref, ctx.status("index out of range in self")]
    slots += [outer, index.numel, x.shape[axis], inner * size]
    slots += [
        source.strides[0] * size,
        source.strides[1] * size,
        made.strides[0] * size,
        made.strides[1] * size,
    ]
    slots += [int(wrap)]
    ctx.step(gather_rows, slots, [source, index], [made], serial=out.numel <= _SERIAL)
    if target is None:
        same = made.reshape(out.shape)
        assert same is not None
        copy_view(ctx, same, out)


def _gather(ctx: Lowering, op: Op) -> None:
    k, x, out = op.kind, ctx.view(op.operands[0]), ctx.out(op.result)
    assert isinstance(k, d.Gather)
    index = as_dtype(ctx, ctx.view(op.operands[1]), DType.I64)
    if out.numel == 0:
        return
    status = ctx.status(
        f"index is out of bounds for dimension {k.axis} with size {(x.shape or (1,))[k.axis]}"
    )
    if x.rank == 0:
        x, out, index = x.expand((1,)), out.expand((1,)), index.expand((1,))
    size, n_axis = x.dtype.nbytes, x.shape[k.axis]
    along = [0 if a == k.axis else s * size for a, s in enumerate(x.strides)]
    columns = (along, [s * 8 for s in index.strides], [s * size for s in out.strides])
    outer = out.shape[:-1]
    slots: list[Slot] = [
        x.ref,
        index.ref,
        out.ref,
        status,
        len(outer),
        math.prod(outer),
        out.shape[-1],
    ]
    slots += [n_axis, x.strides[k.axis] * size, *(c[-1] for c in columns), *outer]
    for c in columns:
        slots += c[:-1]
    ctx.step(ELEMENTS[size], slots, [x, index], [out], serial=out.numel <= _SERIAL)


# --- made from nothing ----------------------------------------------------------------------------
def _claim_iota(op: Op) -> Claim:
    k = op.kind
    assert isinstance(k, d.Iota)
    if not k.dtype.is_float and any(isinstance(v, float) for v in (k.start, k.step)):
        return No("iota of integers has no kernel for fractional steps")
    return stored(op)


def _iota(ctx: Lowering, op: Op) -> None:
    k, out = op.kind, ctx.out(op.result)
    assert isinstance(k, d.Iota)
    if out.numel == 0:
        return
    floats = k.dtype.is_float
    dtype = DType.F32 if floats else DType.I64
    made = out if out.dtype is dtype and out.strides == (1,) else ctx.temp(dtype, out.shape)
    ends: list[Slot] = [float(v) if floats else int(v) for v in (k.start, k.step)]
    kernel = iota_float if floats else iota_int
    ctx.step(kernel, [made.ref, out.numel, *ends], [], [made], serial=out.numel <= _SERIAL)
    if made is not out:
        copy_view(ctx, made, out)


def _triangle(ctx: Lowering, op: Op) -> None:
    k, x, out = op.kind, ctx.view(op.operands[0]), ctx.out(op.result)
    assert isinstance(k, d.Triangle)
    if out.numel == 0:
        return
    size, outer = x.dtype.nbytes, x.shape[:-2]
    steps = [[s * size for s in v.strides] for v in (x, out)]
    slots: list[Slot] = [x.ref, out.ref, len(outer), math.prod(outer), *x.shape[-2:]]
    slots += [*steps[0][-2:], *steps[1][-2:], k.diagonal, int(k.lower), *outer]
    slots += [*steps[0][:-2], *steps[1][:-2]]
    ctx.step(TRIANGLE[size], slots, [x], [out], serial=out.numel <= _SERIAL)


# --- resampling -----------------------------------------------------------------------------------
_MODES = {
    "nearest": Mode.NEAREST, "nearest-exact": Mode.NEAREST_EXACT, "linear": Mode.LINEAR,
    "bicubic": Mode.CUBIC,
}  # fmt: skip


def _claim_interpolate(op: Op) -> Claim:
    k, dtype = op.kind, op.result.type.dtype
    assert isinstance(k, d.Interpolate)
    if dtype not in _FLOATS:
        return No(f"interpolate has no kernel for {dtype.value}")
    if k.mode not in _MODES or not 1 <= len(k.size) <= 3:
        return No(f"interpolate has no kernel for {k.mode} over {len(k.size)} axes")
    return YES


def axis_scale(n_in: int, n_out: int, scale: float | None, corners: bool) -> float:
    """Return input positions per output position as torch computes it in float32."""
    if corners:
        return float(np.float32(n_in - 1) / np.float32(n_out - 1)) if n_out > 1 else 0.0
    if scale is not None and scale > 0:
        return float(np.float32(1.0 / scale))
    return float(np.float32(n_in) / np.float32(n_out))


def _table(
    ctx: Lowering, mode: Mode, n_in: int, n_out: int, scale: float, corners: bool
) -> tuple[View, View]:
    taps = TAPS[mode]
    at, weight = (ctx.temp(t, (n_out * taps,)) for t in (DType.I64, DType.F32))
    slots: list[Slot] = [at.ref, weight.ref, int(mode), n_in, n_out, scale, int(corners)]
    ctx.step(resample_table, slots, [], [at, weight], serial=True)
    return at, weight


def _channels_last(view: View) -> bool:
    return view.strides[1] == 1 or view.shape[1] == 1


def _interpolate(ctx: Lowering, op: Op) -> None:
    k, out = op.kind, ctx.out(op.result)
    assert isinstance(k, d.Interpolate)
    if out.numel == 0:
        return
    x = as_dtype(ctx, ctx.view(op.operands[0]), DType.F32)
    order = (0, *range(2, x.rank), 1)
    x = x if _channels_last(x) else contiguous(ctx, x, order)
    direct = out.dtype is DType.F32 and _channels_last(out)
    made = out if direct else ctx.temp(DType.F32, out.shape, ordered(out.shape, order))
    mode, lead = _MODES[k.mode], 3 - len(k.size)
    scales = k.scales or (None,) * len(k.size)
    tables = [_table(ctx, Mode.NEAREST, 1, 1, 1.0, False) for _ in range(lead)]
    for a, scale in enumerate(scales):
        n_in, n_out = x.shape[2 + a], out.shape[2 + a]
        factor = axis_scale(n_in, n_out, scale, k.align_corners)
        tables.append(_table(ctx, mode, n_in, n_out, factor, k.align_corners))
    taps = [1] * lead + [TAPS[mode]] * len(k.size)
    ones, still = [1] * lead, [0] * lead
    slots: list[Slot] = [x.ref, made.ref, *x.shape[:2], *ones, *out.shape[2:]]
    for v in (x, made):
        slots += [s * 4 for s in (v.strides[0], *still, *v.strides[2:])]
    slots += [*taps, *(t[0].ref for t in tables), *(t[1].ref for t in tables)]
    reads = [x, *(v for t in tables for v in t)]
    ctx.step(resample, slots, reads, [made], serial=out.numel <= _SERIAL)
    if not direct:
        copy_view(ctx, made, out)


LOWER: dict[type[Kind], tuple[ClaimFn, Callable[[Lowering, Op], None]]] = {
    d.Constant: (stored, _constant),
    d.Full: (stored, _constant),
    d.Embedding: (stored, _embedding),
    d.IndexSelect: (stored, _index_select),
    d.Gather: (stored, _gather),
    d.Iota: (_claim_iota, _iota),
    d.Triangle: (stored, _triangle),
    d.Interpolate: (_claim_interpolate, _interpolate),
}
