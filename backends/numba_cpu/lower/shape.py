"""numba_cpu > lower > shape: ops that move or rename elements: views, else copies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels.base import Kernel
from leptonc.backends.numba_cpu.kernels.copy import STRIDED, TILES, copy_rows
from leptonc.backends.numba_cpu.legal import ClaimFn, stored
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.machine import Machine, collapse
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View, ordered
from leptonc.ir.core import Kind, Op
from leptonc.ir.kinds import shape as s
from leptonc.ir.kinds.data import Full
from leptonc.ir.types import DType

_RUN = 32  # bytes from which a run is worth a call to memcpy
_TILE = 64  # rows and columns of a block of tiles
_BLOCK_BYTES = 32 * 1024
_SERIAL_BYTES = 8 * 1024  # copies too small to wake other threads for


# --- copies ---------------------------------------------------------------------------------------
def copy_view(ctx: Lowering, src: View, dst: View) -> None:
    """Copy ``src``, broadcast to the shape of ``dst``, into it; converts where dtypes differ."""
    src = src.expand(dst.shape)
    if dst.numel == 0:
        return
    if src.dtype is not dst.dtype:
        convert(ctx, src, dst)
        return
    src, dst = collapse([src, dst])
    kernel, src, dst = _choose(src, dst)
    slots, blocks = _record(kernel, src, dst, ctx.threads)
    small = dst.numel * dst.dtype.nbytes <= _SERIAL_BYTES
    ctx.step(kernel, slots, [src], [dst], serial=small or blocks == 1)


def convert(ctx: Lowering, src: View, dst: View) -> None:
    """Write ``src`` to ``dst`` in the other's dtype, as torch's ``to`` does."""
    m = Machine(ctx, dst.shape)
    x = m.load(src)
    to = "f32" if dst.dtype.is_float else dst.dtype.value
    m.store(x if x.kind == to else m.op(f"to_{to}", x), dst)
    m.emit()


def contiguous(ctx: Lowering, view: View, order: Sequence[int] | None = None) -> View:
    """Return ``view`` if it is dense in the axis order (row-major), else a copy that is."""
    order = tuple(range(view.rank)) if order is None else tuple(order)
    if view.is_dense(order):
        return view
    made = ctx.temp(view.dtype, view.shape, ordered(view.shape, order))
    copy_view(ctx, view, made)
    return made


def as_dtype(ctx: Lowering, view: View, dtype: DType) -> View:
    """Return ``view`` if it holds ``dtype``, else a dense converted copy in its order."""
    if view.dtype is dtype:
        return view
    made = ctx.temp(dtype, view.shape, ordered(view.shape, view.order))
    copy_view(ctx, view, made)
    return made


def fill(ctx: Lowering, view: View, value: bool | float) -> None:
    """Set every element of ``view``."""
    one = Full((1,), value, view.dtype)
    key = ("full", view.dtype, repr(value))
    buffer = ctx.pool.get(key, lambda: meaning.raw_filled(one))
    copy_view(ctx, View(buffer, view.dtype, view.shape, (0,) * view.rank), view)


def _choose(src: View, dst: View) -> tuple[Kernel, View, View]:
    """Return the kernel for collapsed views, which may be reordered for it."""
    size = dst.dtype.nbytes
    cols = dst.shape[-1]
    if src.strides[-1] == dst.strides[-1] == 1 and cols * size >= _RUN:
        return copy_rows, src, dst
    if dst.strides[-1] == 1:
        fast = [a for a in range(dst.rank - 1) if src.strides[a] == 1 and dst.shape[a] > 1]
        if fast:
            order = [a for a in range(dst.rank - 1) if a != fast[-1]] + [fast[-1], dst.rank - 1]
            return TILES[size], src.transpose(order), dst.transpose(order)
    return STRIDED[size], src, dst


def _record(kernel: Kernel, src: View, dst: View, threads: int) -> tuple[list[Slot], int]:
    """Return the record of a copy and its number of blocks."""
    size = dst.dtype.nbytes
    rows, cols = dst.shape[-2:]
    src_steps, dst_steps = ([n * size for n in v.strides] for v in (src, dst))
    if kernel is copy_rows:
        cols *= size
        width = 1
    else:
        width = size
    if kernel in TILES.values():
        # blocks of a few rows or columns are the longer the other way
        share = max(_TILE, math.prod(dst.shape) // (4 * threads) // max(min(rows, cols), 1))
        block_rows, block_cols = (
            min(max(_TILE, _TILE * _TILE // max(n, 1) // _TILE * _TILE), share // _TILE * _TILE)
            for n in (cols, rows)
        )
    else:
        total = math.prod(dst.shape) * size
        want = max(1024, min(_BLOCK_BYTES, total // (4 * threads)))
        block_cols = min(cols, max(1, want // width))
        block_rows = max(1, want // (block_cols * width))
    counts = (-(-rows // block_rows), -(-cols // block_cols))
    outer = dst.shape[:-2]
    blocks = math.prod(outer) * math.prod(counts)
    slots: list[Slot] = [len(outer), rows, cols, src.ref, dst.ref, *src_steps[-2:], *dst_steps[-2:]]
    slots += [block_rows, block_cols, *counts, blocks]
    slots += [*outer, *src_steps[:-2], *dst_steps[:-2]]
    return slots, blocks


# --- views ----------------------------------------------------------------------------------------
def _reshape(ctx: Lowering, op: Op) -> None:
    x = ctx.view(op.operands[0])
    shape = tuple(int(d) for d in op.result.type.shape)
    view = x.reshape(shape)
    if view is None:
        view = contiguous(ctx, x).reshape(shape)
    assert view is not None  # row-major storage takes any shape
    _give(ctx, op, view)


def _give(ctx: Lowering, op: Op, view: View) -> None:
    """Make ``view`` the result: no data moves unless the caller's own memory must hold it."""
    if op.result in ctx.outputs:
        copy_view(ctx, view, ctx.out(op.result))
    else:
        ctx.alias(op.result, view)


def _transpose(ctx: Lowering, op: Op) -> None:
    assert isinstance(op.kind, s.Transpose)
    _give(ctx, op, ctx.view(op.operands[0]).transpose(op.kind.perm))


def _expand(ctx: Lowering, op: Op) -> None:
    assert isinstance(op.kind, s.Expand)
    _give(ctx, op, ctx.view(op.operands[0]).expand([int(d) for d in op.kind.shape]))


def _slice(ctx: Lowering, op: Op) -> None:
    k = op.kind
    assert isinstance(k, s.Slice)
    _give(ctx, op, ctx.view(op.operands[0]).slice(k.axis, int(k.start), int(k.stop), k.step))


def _flip(ctx: Lowering, op: Op) -> None:
    assert isinstance(op.kind, s.Flip)
    _give(ctx, op, ctx.view(op.operands[0]).flip(op.kind.axes))


# --- ops that copy --------------------------------------------------------------------------------
def _relayout(ctx: Lowering, op: Op) -> None:
    x = ctx.view(op.operands[0])
    assert isinstance(op.kind, s.Relayout)
    if op.result not in ctx.outputs and x.is_dense(op.kind.order):
        ctx.alias(op.result, x)
    else:
        copy_view(ctx, x, ctx.out(op.result))


def _concat(ctx: Lowering, op: Op) -> None:
    assert isinstance(op.kind, s.Concat)
    out, axis, at = ctx.out(op.result), op.kind.axis, 0
    for v in op.operands:
        x = ctx.view(v)
        part = out.slice(axis, at, at + x.shape[axis])
        if not x.is_same(part):  # written in place by its maker, see ``joined``
            copy_view(ctx, x, part)
        at += x.shape[axis]


def _roll(ctx: Lowering, op: Op) -> None:
    k, x = op.kind, ctx.view(op.operands[0])
    assert isinstance(k, s.Roll)
    total = dict.fromkeys(k.axes, 0)
    for shift, axis in zip(k.shifts, k.axes, strict=True):
        total[axis] += shift
    pairs = [(x, ctx.out(op.result))]
    for axis, shift in total.items():
        n = x.shape[axis]
        cut = shift % n if n else 0
        pairs = [
            (a.slice(axis, *there), b.slice(axis, *here))
            for a, b in pairs
            for there, here in (((0, n - cut), (cut, n)), ((n - cut, n), (0, cut)))
        ]
    for a, b in pairs:
        copy_view(ctx, a, b)


def _pad(ctx: Lowering, op: Op) -> None:
    k, x, out = op.kind, ctx.view(op.operands[0]), ctx.out(op.result)
    assert isinstance(k, s.Pad)
    if k.mode == "constant":
        _pad_constant(ctx, k, x, out)
        return
    pairs = [(x, out)]
    for axis, (low, high) in enumerate(zip(k.low, k.high, strict=True)):
        runs = list(_runs(x.shape[axis], low, high, k.mode))
        pairs = [
            (_run_of(a, axis, start, n, step), b.slice(axis, at, at + n))
            for a, b in pairs
            for at, start, n, step in runs
        ]
    for a, b in pairs:
        copy_view(ctx, a, b)


def _pad_constant(ctx: Lowering, k: s.Pad, x: View, out: View) -> None:
    """Fill the frame (axis by axis, what is left inside), then copy the middle."""
    inside = out
    for axis, (low, high) in enumerate(zip(k.low, k.high, strict=True)):
        low, high = max(low, 0), max(high, 0)
        n = inside.shape[axis]
        if low:
            fill(ctx, inside.slice(axis, 0, min(low, n)), k.value)
        if high:
            fill(ctx, inside.slice(axis, max(n - high, 0), n), k.value)
        inside = inside.slice(axis, min(low, n), max(n - high, min(low, n)))
        cut_low, cut_high = max(-k.low[axis], 0), max(-k.high[axis], 0)
        size = x.shape[axis]
        x = x.slice(axis, min(cut_low, size), max(size - cut_high, min(cut_low, size)))
    copy_view(ctx, x, inside)


def _runs(n: int, low: int, high: int, mode: str):
    """Yield ``(position, source start, length, source step)`` covering the padded axis."""
    where = {
        "reflect": lambda i: (p - m if (m := i % p) > p // 2 else m) if (p := 2 * (n - 1)) else 0,
        "replicate": lambda i: min(max(i, 0), n - 1),
        "circular": lambda i: i % n,
    }[mode]
    sources = [where(i) for i in range(-low, n + high)]
    at = 0
    while at < len(sources):
        step = sources[at + 1] - sources[at] if at + 1 < len(sources) else 1
        step = step if step in (-1, 0, 1) else 1
        end = at + 1
        while end < len(sources) and sources[end] - sources[end - 1] == step:
            end += 1
        yield at, sources[at], end - at, step
        at = end


def _run_of(view: View, axis: int, start: int, n: int, step: int) -> View:
    """Return ``n`` elements of an axis from ``start`` by ``step`` (-1, 0 or 1)."""
    shape = (*view.shape[:axis], n, *view.shape[axis + 1 :])
    strides = (*view.strides[:axis], view.strides[axis] * step, *view.strides[axis + 1 :])
    return replace(
        view, shape=shape, strides=strides, offset=view.offset + start * view.strides[axis]
    )


LOWER: dict[type[Kind], tuple[ClaimFn, Callable[[Lowering, Op], None]]] = {
    s.Reshape: (stored, _reshape),
    s.Transpose: (stored, _transpose),
    s.Expand: (stored, _expand),
    s.Slice: (stored, _slice),
    s.Flip: (stored, _flip),
    s.Roll: (stored, _roll),
    s.Concat: (stored, _concat),
    s.Pad: (stored, _pad),
    s.Relayout: (stored, _relayout),
}
__all__ = ["LOWER", "as_dtype", "contiguous", "convert", "copy_view", "fill"]
