"""numba_cpu > lower > norm: softmax, layer, rms, group, batch norm; residual sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from leptonc.backends.numba_cpu.kernels.norm import group_scale, norm_rows
from leptonc.backends.numba_cpu.kernels.softmax import softmax_cols, softmax_rows
from leptonc.backends.numba_cpu.legal import YES, Claim, ClaimFn, No
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.machine import Machine, Node, collapse
from leptonc.backends.numba_cpu.lower.reduce import column_unit, reduce_view
from leptonc.backends.numba_cpu.lower.shape import as_dtype, contiguous, copy_view
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View
from leptonc.ir.core import Function, Kind, Op, Value
from leptonc.ir.kinds import norm as n
from leptonc.ir.kinds.binary import Add
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.types import DType

_FLOATS = (DType.F32, DType.BF16, DType.F16)
_SERIAL = 2048  # elements from which other threads are worth waking


def _claim(op: Op) -> Claim:
    """Claim a norm of floats that kernels can hold."""
    for v in (*op.operands, *op.results):
        if v.type.dtype not in _FLOATS:
            return No(f"{op.kind.NAME} has no kernel for {v.type.dtype.value}")
    return YES


def _f32(ctx: Lowering, value: Value) -> View:
    return as_dtype(ctx, ctx.view(value), DType.F32)


def _target(ctx: Lowering, out: View) -> View:
    """Return where float32 results go: ``out``, or what :func:`_finish` converts."""
    return out if out.dtype is DType.F32 else ctx.temp(DType.F32, out.shape, out.strides)


def _finish(ctx: Lowering, made: View, out: View) -> None:
    if made is not out:
        copy_view(ctx, made, out)


# --- softmax --------------------------------------------------------------------------------------
def _softmax(ctx: Lowering, op: Op) -> None:
    k, out = op.kind, ctx.out(op.result)
    assert isinstance(k, (n.Softmax, n.LogSoftmax))
    if out.numel == 0:
        return
    x, made = _f32(ctx, op.operands[0]), _target(ctx, out)
    softmax_view(ctx, x, made, k.axis, isinstance(k, n.LogSoftmax))
    _finish(ctx, made, out)


def softmax_view(ctx: Lowering, x: View, out: View, axis: int, log: bool = False) -> None:
    """Write the softmax of ``x`` along ``axis`` to ``out``: float32, any strides."""
    if x.rank == 0:
        x, out = x.expand((1,)), out.expand((1,))
    order = [a for a in range(x.rank) if a != axis] + [axis]
    a, b = x.transpose(order), out.transpose(order)
    rows = _one(a, -1) and _one(b, -1)
    fast = [i for i in range(a.rank - 1) if a.strides[i] == 1 == b.strides[i] and a.shape[i] > 1]
    if not rows and not fast:
        moved = ctx.temp(DType.F32, a.shape)
        softmax_view(ctx, contiguous(ctx, a), moved, a.rank - 1, log)
        copy_view(ctx, moved, b)
        return
    size, cols, width = 4, 1, 1
    outer = list(range(a.rank - 1))
    if not rows:
        outer.remove(fast[0])
        cols = a.shape[fast[0]]
        width = column_unit(cols, math.prod(a.shape[i] for i in outer), ctx.threads)
    shape = [a.shape[i] for i in outer]
    slots: list[Slot] = [a.ref, b.ref, len(outer), math.prod(shape), a.shape[-1]]
    slots += [a.strides[-1] * size, b.strides[-1] * size, int(log), cols, width, *shape]
    slots += [v.strides[i] * size for v in (a, b) for i in outer]
    kernel = softmax_rows if rows else softmax_cols
    ctx.step(kernel, slots, [x], [out], serial=x.numel <= _SERIAL)


def _one(view: View, axis: int) -> bool:
    return view.strides[axis] == 1 or view.shape[axis] == 1


# --- layer and rms norm ---------------------------------------------------------------------------
@dataclass(frozen=True)
class _Rows:
    """A layer or rms norm: its operands and where its results go."""

    x: View
    out: View
    axes: int
    eps: float
    rms: bool
    weight: View | None = None
    bias: View | None = None
    residual: View | None = None
    total: View | None = None


def _flat(view: View, axes: int) -> View | None:
    """Return the view with its last ``axes`` as one contiguous axis; None if they are not."""
    flat = view.reshape(
        (*view.shape[: view.rank - axes], math.prod(view.shape[view.rank - axes :]))
    )
    return flat if flat is not None and _one(flat, -1) else None


def _operand(ctx: Lowering, view: View, axes: int) -> View:
    flat = _flat(view, axes) or _flat(contiguous(ctx, view), axes)
    assert flat is not None  # row-major
    return flat


def _merged_rows(views: Sequence[View]) -> list[View]:
    """Return the views' rows as elements of as few axes as possible: finding a row divides."""
    heads = [replace(v, shape=v.shape[:-1], strides=v.strides[:-1]) for v in views]
    heads = collapse(heads)
    wide = [a for a, n in enumerate(heads[0].shape) if n != 1]
    return [
        replace(v, shape=tuple(v.shape[a] for a in wide), strides=tuple(v.strides[a] for a in wide))
        for v in heads
    ]


def _rows(ctx: Lowering, r: _Rows) -> None:
    """Emit the step of a norm over rows."""
    flat_out = _flat(r.out, r.axes)
    out = flat_out or _flat(ctx.temp(DType.F32, r.out.shape), r.axes)
    flat_total = None if r.total is None else _flat(r.total, r.axes)
    total = flat_total
    if r.total is not None and total is None:
        total = _flat(ctx.temp(DType.F32, r.total.shape), r.axes)
    assert out is not None
    x = _operand(ctx, r.x, r.axes)
    residual = None if r.residual is None else _operand(ctx, r.residual, r.axes)
    affine = [None if w is None else contiguous(ctx, w) for w in (r.weight, r.bias)]
    rows = _merged_rows([v for v in (x, residual, total, out) if v is not None])
    outer = rows[0].shape
    refs: list[Slot] = [0 if v is None else v.ref for v in (x, residual, total, out, *affine)]
    slots: list[Slot] = [
        *refs,
        float(r.eps),
        int(r.rms),
        x.shape[-1],
        len(outer),
        math.prod(outer),
        *outer,
    ]
    for v in (x, residual, total, out):
        slots += [0] * len(outer) if v is None else [s * 4 for s in rows.pop(0).strides]
    reads = [v for v in (x, residual, *affine) if v is not None]
    writes = [v for v in (total, out) if v is not None]
    ctx.step(norm_rows, slots, reads, writes, serial=x.numel <= _SERIAL)
    if flat_out is None:
        copy_view(ctx, out.reshape(r.out.shape) or out, r.out)
    if r.total is not None and flat_total is None and total is not None:
        copy_view(ctx, total.reshape(r.total.shape) or total, r.total)


def _row_norm(ctx: Lowering, op: Op) -> None:
    k, out = op.kind, ctx.out(op.result)
    assert isinstance(k, (n.LayerNorm, n.RmsNorm))
    if out.numel == 0:
        return
    x, *affine = (_f32(ctx, v) for v in op.operands)
    made = _target(ctx, out)
    weight, bias = (*affine, None, None)[:2]
    _rows(ctx, _Rows(x, made, k.axes, k.eps, isinstance(k, n.RmsNorm), weight, bias))
    _finish(ctx, made, out)


def lower_norm_unit(ctx: Lowering, body: Function) -> bool:
    """Lower ``add`` followed by a layer or rms norm into one step.

    Returns:
        False if the body is anything else; nothing has been lowered then.
    """
    ops = [op for op in body.ops if not isinstance(op.kind, (Constant, Full))]
    if len(ops) != 2 or not isinstance(ops[0].kind, Add):
        return False
    add, norm = ops
    k = norm.kind
    if not isinstance(k, (n.LayerNorm, n.RmsNorm)) or norm.operands[0] is not add.result:
        return False
    values = (*add.operands, *norm.operands, *norm.results)
    if any(v.type.dtype is not DType.F32 for v in values) or add.result in norm.operands[1:]:
        return False
    if norm.result.type.numel == 0:
        return False
    shape = ctx_shape(add.result)
    x, residual = (ctx.view(v).expand(shape) for v in add.operands)
    total = ctx.out(add.result) if add.result in body.returns else None
    weight, bias = (*(ctx.view(v) for v in norm.operands[1:]), None, None)[:2]
    out = ctx.out(norm.result)
    _rows(
        ctx, _Rows(x, out, k.axes, k.eps, isinstance(k, n.RmsNorm), weight, bias, residual, total)
    )
    return True


def ctx_shape(value: Value) -> tuple[int, ...]:
    """Return a value's shape as ints."""
    return tuple(int(d) for d in value.type.shape)


# --- group and batch norm -------------------------------------------------------------------------
def _channels(view: View, rank: int) -> View:
    """Return values per channel, ``[c]`` or ``[b, c]``, broadcast along spatial axes."""
    ones, still = (1,) * (rank - 2), (0,) * (rank - 2)
    return replace(view, shape=view.shape + ones, strides=view.strides + still)


def _group_norm(ctx: Lowering, op: Op) -> None:
    k, out = op.kind, ctx.out(op.result)
    assert isinstance(k, n.GroupNorm)
    if out.numel == 0:
        return
    x, *affine = (_f32(ctx, v) for v in op.operands)
    made = _target(ctx, out)
    batch, channels, *space = x.shape
    moments = [ctx.temp(DType.F32, (batch, channels)) for _ in range(4)]
    mean, var, scale, shift = moments
    axes, count = tuple(range(2, x.rank)), math.prod(space)
    reduce_view(ctx, "var", x, var, axes, 1.0 / count, mean)
    weight, bias = (*(contiguous(ctx, v) for v in affine), None, None)[:2]
    slots: list[Slot] = [
        v.ref if v is not None else 0 for v in (mean, var, weight, bias, scale, shift)
    ]
    slots += [float(k.eps), batch, channels, k.groups]
    reads = [v for v in (mean, var, weight, bias) if v is not None]
    ctx.step(group_scale, slots, reads, [scale, shift], serial=True)
    m = Machine(ctx, x.shape)
    factors = (m.load(_channels(v, x.rank)) for v in (scale, shift))
    m.store(m.op("fma", m.load(x), *factors), made)
    m.emit()
    _finish(ctx, made, out)


def _batch_norm(ctx: Lowering, op: Op) -> None:
    """Emit ``x * scale + shift`` with scale and shift computed per channel in the same step."""
    k, out = op.kind, ctx.out(op.result)
    assert isinstance(k, n.BatchNorm)
    if out.numel == 0:
        return
    x, mean, var, *affine = (ctx.view(v) for v in op.operands)
    channels = x.shape[1]
    stats = [ctx.temp(DType.F32, (channels,)) for _ in range(2)]
    m = Machine(ctx, (channels,))
    eps = m.number(float(k.eps))
    scale: Node = m.op("rsqrt", m.op("add", m.load(var), eps))
    if affine:
        scale = m.op("mul", scale, m.load(affine[0]))
    shift = m.op("neg", m.op("mul", m.load(mean), scale))
    if len(affine) > 1:
        shift = m.op("add", shift, m.load(affine[1]))
    m.store(scale, stats[0])
    m.store(shift, stats[1])
    m.emit()
    m = Machine(ctx, x.shape)
    factors = (m.load(_channels(v, x.rank)) for v in stats)
    m.store(m.op("fma", m.load(x), *factors), out)
    m.emit()


LOWER: dict[type[Kind], tuple[ClaimFn, Callable[[Lowering, Op], None]]] = {
    n.Softmax: (_claim, _softmax),
    n.LogSoftmax: (_claim, _softmax),
    n.LayerNorm: (_claim, _row_norm),
    n.RmsNorm: (_claim, _row_norm),
    n.GroupNorm: (_claim, _group_norm),
    n.BatchNorm: (_claim, _batch_norm),
}
