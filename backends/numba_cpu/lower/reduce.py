"""numba_cpu > lower > reduce: reductions over any axes, arg-extremes, running sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from leptonc.backends.numba_cpu.kernels.base import Kernel
from leptonc.backends.numba_cpu.kernels.reduce import COLS, ROWS
from leptonc.backends.numba_cpu.kernels.scan import ARG, CUMSUM, INT_ROWS
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.legal import YES, Claim, ClaimFn, No, stored
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.machine import Machine
from leptonc.backends.numba_cpu.lower.shape import as_dtype, contiguous, copy_view, fill
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View
from leptonc.errors import ClaimError
from leptonc.ir.core import Kind, Op
from leptonc.ir.kinds import reduce as r
from leptonc.ir.types import DType

_SERIAL = 4096  # elements from which other threads are worth waking
_EMPTY = {"sum": 0, "prod": 1, "all": True, "any": False}  # of nothing; the others are NaN
_OP = {"mean": "sum", "all": "amin", "any": "amax"}
_MOMENTS = ("mean", "var")


# --- axes -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Axes:
    """A reduction's merged axes: (size, x stride[, out stride]) in elements."""

    kept: tuple[tuple[int, ...], ...]
    reduced: tuple[tuple[int, ...], ...]


def split(x: View, out: View, axes: Sequence[int]) -> Axes:
    """Return the axes of reducing ``x`` over ``axes`` into ``out`` (the kept axes)."""
    kept_axes = [a for a in range(x.rank) if a not in axes]
    kept = [
        (x.shape[a], x.strides[a], o)
        for a, o in zip(kept_axes, out.strides, strict=True)
        if x.shape[a] != 1
    ]
    kept.sort(key=lambda t: (-abs(t[1]), -abs(t[2])))
    reduced = [(x.shape[a], x.strides[a]) for a in axes if x.shape[a] != 1]
    reduced.sort(key=lambda t: -abs(t[1]))
    return Axes(tuple(_merged(kept)), tuple(_merged(reduced)))


def _merged(axes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return axes (size, strides...) with neighbours merged that are one run in all strides."""
    made: list[tuple[int, ...]] = []
    for axis in axes:
        n, steps = axis[0], axis[1:]
        if made and all(b == n * s for b, s in zip(made[-1][1:], steps, strict=True)):
            made[-1] = (made[-1][0] * n, *steps)
        else:
            made.append(axis)
    return made


def squeezed(view: View, axes: Sequence[int], keepdim: bool) -> View:
    """Return a reduction's result view without the reduced axes."""
    if not keepdim:
        return view
    keep = [a for a in range(view.rank) if a not in axes]
    return replace(
        view, shape=tuple(view.shape[a] for a in keep), strides=tuple(view.strides[a] for a in keep)
    )


def reduce_view(
    ctx: Lowering,
    name: str,
    x: View,
    out: View,
    axes: Sequence[int],
    p: float = 1.0,
    mean: View | None = None,
) -> None:
    """Reduce ``x`` (f32 or i64) over ``axes`` into ``out`` of the same dtype.

    Args:
        ctx: where the steps go.
        name: ``sum``, ``prod``, ``amax``, ``amin``, and for f32 ``var`` (squares).
        x: the operand; not empty.
        out: the result, without the reduced axes.
        axes: what to reduce.
        p: factor of a sum or of a variance's sum of squares.
        mean: where a variance also writes the mean, laid out as ``out``.
    """
    floats = x.dtype is DType.F32
    parts = split(x, out, axes)
    rows = any(s == 1 for _, s in parts.reduced) or not parts.kept
    cols = floats and not rows and any(s == 1 for _, s, _ in parts.kept)
    room = 3
    if not (rows or cols) or len(parts.reduced) > room or (rows and not _unit_last(parts)):
        order = [a for a in range(x.rank) if a not in axes] + list(axes)
        moved = contiguous(ctx, x.transpose(order))
        if moved.buffer is x.buffer:  # a scalar, or nothing but axes of size 1
            moved = replace(
                moved,
                strides=tuple(
                    1 if n == 1 else s for n, s in zip(moved.shape, moved.strides, strict=True)
                ),
            )
        x = moved.transpose([order.index(a) for a in range(x.rank)])
        parts, rows = split(x, out, axes), True
    table = (ROWS if rows else COLS) if floats else INT_ROWS
    slots = _record(ctx, parts, x, out, p, rows, mean)
    writes = [out] if mean is None else [out, mean]
    ctx.step(table[name], slots, [x], writes, serial=x.numel <= _SERIAL)


def _unit_last(parts: Axes) -> bool:
    return not parts.reduced or parts.reduced[-1][1] == 1


def _record(
    ctx: Lowering, parts: Axes, x: View, out: View, p: float, rows: bool, mean: View | None
) -> list[Slot]:
    size = x.dtype.nbytes
    kept = list(parts.kept)
    cols, out_step = 1, 1
    if not rows:
        at = next(i for i, (_, s, _) in enumerate(kept) if s == 1)
        cols, _, out_step = kept.pop(at)
    reduced = [(1, 0)] * (3 - len(parts.reduced)) + list(parts.reduced)
    if not parts.reduced:
        reduced[-1] = (1, 1)
    count = math.prod(n for n, *_ in kept)
    width = column_unit(cols, count, ctx.threads)
    sizes, steps = [n for n, _ in reduced], [s * size for _, s in reduced]
    slots: list[Slot] = [x.ref, out.ref, len(kept), count, *sizes, *steps]
    slots += [cols, width, out_step * size, float(p), 0 if mean is None else mean.ref]
    slots += (
        [n for n, _, _ in kept] + [s * size for _, s, _ in kept] + [o * size for _, _, o in kept]
    )
    return slots


def column_unit(cols: int, count: int, threads: int) -> int:
    """Return how many columns a unit of work takes: enough units for all threads."""
    width = 4 * LANES
    while width > LANES and -(-cols // width) * count < 2 * threads:
        width //= 2
    return width


# --- ops ------------------------------------------------------------------------------------------
def _claim(op: Op) -> Claim:
    answer = stored(op)
    if isinstance(answer, No):
        return answer
    dtype = op.operands[0].type.dtype
    if op.kind.NAME in _MOMENTS and not dtype.is_float:
        return No(f"{op.kind.NAME} has no kernel for {dtype.value}")
    return YES


def _lower(ctx: Lowering, op: Op) -> None:
    k, x = op.kind, ctx.view(op.operands[0])
    assert isinstance(k, r.Reduction)
    out = ctx.out(op.result)
    if out.numel == 0:
        return
    bare = squeezed(out, k.axes, k.keepdim)
    n = math.prod(x.shape[a] for a in k.axes)
    if n == 0:
        if k.NAME in ("amax", "amin"):
            raise ClaimError(f"{k.NAME} of nothing")
        fill(ctx, out, _EMPTY.get(k.NAME, math.nan))
        return
    truth = k.NAME in ("all", "any")
    x = _truths(ctx, x) if truth else as_dtype(ctx, x, DType.F32 if x.dtype.is_float else DType.I64)
    p = 1.0
    if isinstance(k, r.Mean):
        p = 1.0 / n
    elif isinstance(k, r.Var):
        left = max(n - k.correction, 0.0)
        p = 1.0 / left if left else math.inf
    target = bare if bare.dtype is x.dtype else ctx.temp(x.dtype, bare.shape)
    reduce_view(ctx, _OP.get(k.NAME, k.NAME), x, target, k.axes, p)
    if target is not bare:
        copy_view(ctx, target, bare)


def _truths(ctx: Lowering, x: View) -> View:
    """Return 1.0 where ``x`` is not 0, else 0.0."""
    made = ctx.temp(DType.F32, x.shape)
    m = Machine(ctx, x.shape)
    v = m.load(x)
    v = v if v.kind == "bool" else m.op("to_bool", v)
    m.store(m.op("to_f32", v), made)
    m.emit()
    return made


def _lower_arg(ctx: Lowering, op: Op) -> None:
    k, x = op.kind, ctx.view(op.operands[0])
    assert isinstance(k, r.ArgReduction)
    out = ctx.out(op.result)
    if out.numel == 0:
        return
    if x.numel == 0:
        raise ClaimError(f"{k.NAME} of nothing")
    x = as_dtype(ctx, x, DType.F32 if x.dtype.is_float else DType.I64)
    if x.rank == 0:
        fill(ctx, out, 0)
        return
    order = [a for a in range(x.rank) if a != k.axis] + [k.axis]
    moved = x.transpose(order)
    if moved.strides[-1] != 1:
        moved = contiguous(ctx, moved)
    bare = squeezed(out, (k.axis,), k.keepdim)
    kernel = ARG[k.NAME, x.dtype.nbytes]
    _lines(ctx, kernel, moved, bare.strides, 0, out)


def _lines(
    ctx: Lowering, kernel: Kernel, x: View, out_outer: Sequence[int], out_step: int, out: View
) -> None:
    """Run a kernel over the lines of the last axis of ``x``."""
    size, outer = x.dtype.nbytes, x.shape[:-1]
    slots: list[Slot] = [x.ref, out.ref, len(outer), math.prod(outer), 1, 1, x.shape[-1], 0, 0]
    slots += [x.strides[-1] * size, 1, 1, out_step * out.dtype.nbytes, 1.0, 0, *outer]
    slots += [s * size for s in x.strides[:-1]] + [s * out.dtype.nbytes for s in out_outer]
    ctx.step(kernel, slots, [x], [out], serial=x.numel <= _SERIAL)


def _lower_cumsum(ctx: Lowering, op: Op) -> None:
    k, x = op.kind, ctx.view(op.operands[0])
    assert isinstance(k, r.CumSum)
    out = ctx.out(op.result)
    if out.numel == 0:
        return
    dtype = DType.F32 if x.dtype.is_float else DType.I64
    x = as_dtype(ctx, x, dtype)
    target = out if out.dtype is dtype else ctx.temp(dtype, out.shape)
    if x.rank == 0:
        copy_view(ctx, x, target)
    else:
        order = [a for a in range(x.rank) if a != k.axis] + [k.axis]
        a, b = x.transpose(order), target.transpose(order)
        _lines(ctx, CUMSUM[dtype.nbytes], a, b.strides[:-1], b.strides[-1], b)
    if target is not out:
        copy_view(ctx, target, out)


LOWER: dict[type[Kind], tuple[ClaimFn, Callable[[Lowering, Op], None]]] = {
    **{k: (_claim, _lower) for k in (r.Sum, r.Mean, r.Prod, r.Amax, r.Amin, r.All, r.Any, r.Var)},
    r.ArgMax: (stored, _lower_arg),
    r.ArgMin: (stored, _lower_arg),
    r.CumSum: (stored, _lower_cumsum),
}
