"""Lowering of attention: one kernel call over all batches, heads and query blocks."""

from __future__ import annotations


from leptonc.backends.numba_cpu.kernels import attention as kernels
from leptonc.backends.numba_cpu.legal import YES, Claim, No
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.shape import contiguous
from leptonc.backends.numba_cpu.views import View
from leptonc.errors import ClaimError
from leptonc.ir.core import Op
from leptonc.ir.kinds.contract import Attention
from leptonc.ir.types import DType


def claim(op: Op) -> Claim:
    """Claim float32 attention of rank 2 to 4 with a bool or float32 mask."""
    for v in (*op.operands[:3], *op.results):
        if v.type.dtype is not DType.F32:
            return No(f"attention has no kernel for {v.type.dtype.value}")
        if v.type.rank > 4:
            return No(f"attention has no kernel for rank {v.type.rank}")
    return YES


def lower(ctx: Lowering, op: Op) -> None:
    """Add the attention step."""
    assert isinstance(op.kind, Attention)
    out = ctx.out(op.result)
    batch, heads, queries, width = (1,) * (4 - out.rank) + out.shape
    q = _unit_stride(ctx, _to_rank4(ctx.view(op.operands[0]), (batch, heads)))
    k, v = (_unit_stride(ctx, _keys(ctx.view(x), op.kind, (batch, heads))) for x in op.operands[1:3])
    o = _to_rank4(out, (batch, heads))
    if o.strides[3] != 1 and o.shape[3] != 1:
        raise ClaimError(f"attention: the result lies with stride {o.strides[3]} along its last axis")
    keys, depth = k.shape[2], k.shape[3]
    nbytes = kernels.scratch_bytes(queries, keys, depth, width)
    mask_slots, reads = _mask(ctx, op, (batch, heads, queries, keys))
    ctx.step(
        kernels.attention,
        (
            batch, heads, queries, keys, depth, width, heads // k.shape[1],
            q.ref, *q.strides[:3], k.ref, *k.strides[:3], v.ref, *v.strides[:3],
            o.ref, *o.strides[:3], *mask_slots,
            float(op.kind.scale), int(op.kind.causal), *ctx.scratch(nbytes),
        ),
        reads=(q, k, v, *reads),
        writes=(out,),
    )  # fmt: skip


def _to_rank4(view: View, lead: tuple[int, int]) -> View:
    """Return ``view`` as ``[batch, heads, rows, columns]``."""
    return view.expand((*lead, *view.shape[-2:]))


def _keys(view: View, kind: Attention, lead: tuple[int, int]) -> View:
    """Return keys or values as rank 4; with grouped queries they keep their own number of heads."""
    if kind.gqa and view.rank >= 3:
        return _to_rank4(view, (lead[0], view.shape[-3]))
    return _to_rank4(view, lead)


def _unit_stride(ctx: Lowering, view: View) -> View:
    return view if view.strides[3] == 1 or view.shape[3] == 1 else contiguous(ctx, view)


def _mask(
    ctx: Lowering, op: Op, shape: tuple[int, ...]
) -> tuple[tuple[object, ...], tuple[View, ...]]:
    """Return the record's mask slots and the views it reads."""
    if len(op.operands) == 3:
        return (0, kernels.NO_MASK, 0, 0, 0, 0), ()
    view = ctx.view(op.operands[3]).expand(shape)
    if view.dtype is DType.BOOL:
        return (view.ref, kernels.BOOL_MASK, *view.strides), (view,)
    if view.dtype is not DType.F32:
        raise ClaimError(f"attention: no kernel for a mask of {view.dtype.value}")
    return (view.ref, kernels.FLOAT_MASK, *view.strides), (view,)


LOWER = {Attention: (claim, lower)}
