"""Lowering of attention: one kernel call over all batches, heads and query blocks."""

from __future__ import annotations

import math

from leptonc.backends.numba_cpu.kernels import attention as kernels
from leptonc.backends.numba_cpu.legal import YES, Claim, No
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.shape import contiguous
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View
from leptonc.errors import ClaimError
from leptonc.ir.core import Op
from leptonc.ir.kinds.contract import Attention
from leptonc.ir.types import DType


def claim(op: Op) -> Claim:
    """Claim float32 attention with a bool or float32 mask."""
    for v in (*op.operands[:3], *op.results):
        if v.type.dtype is not DType.F32:
            return No(f"attention has no kernel for {v.type.dtype.value}")
    return YES


def lower(ctx: Lowering, op: Op) -> None:
    """Add the attention step."""
    assert isinstance(op.kind, Attention)
    out = ctx.out(op.result)
    lead = out.shape[:-2]
    batch, heads = math.prod(lead[:-1]), (lead or (1,))[-1]
    queries, width = out.shape[-2:]
    q = _unit_stride(ctx, _to_rank4(ctx, ctx.view(op.operands[0]), lead))
    k, v = (_unit_stride(ctx, _keys(ctx, ctx.view(x), op.kind, lead)) for x in op.operands[1:3])
    o = out.reshape((batch, heads, queries, width))
    if o is None or (o.strides[3] != 1 and o.shape[3] != 1):
        raise ClaimError("attention: the result's last axis does not lie contiguous")
    keys, depth = k.shape[2], k.shape[3]
    nbytes = kernels.scratch_bytes(queries, keys, depth, width)
    mask_slots, reads = _mask(ctx, op, lead, (queries, keys))
    ctx.step(
        kernels.attention,
        (
            batch, heads, queries, keys, depth, width, heads // k.shape[1],
            q.ref, *q.strides[:3], k.ref, *k.strides[:3], v.ref, *v.strides[:3],
            o.ref, *o.strides[:3], *mask_slots,
            float(op.kind.scale), int(op.kind.causal), int(op.kind.nan_rows), *ctx.scratch(nbytes),
        ),
        reads=(q, k, v, *reads),
        writes=(out,),
    )  # fmt: skip


def _to_rank4(ctx: Lowering, view: View, lead: tuple[int, ...]) -> View:
    """Return ``view`` with leading axes ``lead`` as ``[batch, heads, rows, columns]``."""
    wide = view.expand((*lead, *view.shape[-2:]))
    shape = (math.prod(lead[:-1]), (lead or (1,))[-1], *view.shape[-2:])
    if len(lead) <= 2:
        return wide.expand(shape)
    found = wide.reshape(shape) or contiguous(ctx, wide).reshape(shape)
    assert found is not None  # a dense tensor takes any shape
    return found


def _keys(ctx: Lowering, view: View, kind: Attention, lead: tuple[int, ...]) -> View:
    """Return keys or values as rank 4; with grouped queries they keep their own number of heads."""
    if kind.gqa and view.rank >= 3:
        return _to_rank4(ctx, view, (*lead[:-1], view.shape[-3]))
    return _to_rank4(ctx, view, lead)


def _unit_stride(ctx: Lowering, view: View) -> View:
    return view if view.strides[3] == 1 or view.shape[3] == 1 else contiguous(ctx, view)


def _mask(
    ctx: Lowering, op: Op, lead: tuple[int, ...], rows: tuple[int, int]
) -> tuple[tuple[Slot, ...], tuple[View, ...]]:
    """Return the record's mask slots and the views it reads."""
    if len(op.operands) == 3:
        return (0, kernels.NO_MASK, 0, 0, 0, 0), ()
    view = ctx.view(op.operands[3])
    view = _to_rank4(ctx, view.expand((*view.shape[:-2], *rows)[-max(view.rank, 2) :]), lead)
    if view.dtype is DType.BOOL:
        return (view.ref, kernels.BOOL_MASK, *view.strides), (view,)
    if view.dtype is not DType.F32:
        raise ClaimError(f"attention: no kernel for a mask of {view.dtype.value}")
    return (view.ref, kernels.FLOAT_MASK, *view.strides), (view,)


LOWER = {Attention: (claim, lower)}
