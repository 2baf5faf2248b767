"""Lowering of attention, on floats and on codes: one kernel call over all blocks of queries."""

from __future__ import annotations

import math

from leptonc.backends.numba_cpu.kernels import attention as kernels
from leptonc.backends.numba_cpu.kernels import int8_attention as coded
from leptonc.backends.numba_cpu.legal import YES, Claim, No
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.int8_unit import scale_of
from leptonc.backends.numba_cpu.lower.shape import contiguous, fill
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View
from leptonc.errors import ClaimError
from leptonc.ir.core import Op, Value
from leptonc.ir.kinds.contract import Attention
from leptonc.ir.kinds.quantize import IntAttention
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
    q, k, v, out, o = _operands(ctx, op)
    nbytes = kernels.scratch_bytes(q.shape[2], k.shape[2], q.shape[3], v.shape[3])
    given = op.operands[3] if len(op.operands) > 3 else None
    slots, reads = _record(ctx, op.kind, (q, k, v, o), out, given, float(op.kind.scale))
    ctx.step(kernels.attention, (*slots, *ctx.scratch(nbytes)), (q, k, v, *reads), (out,))


def _operands(ctx: Lowering, op: Op) -> tuple[View, View, View, View, View]:
    """Return queries, keys, values as ``[batch, heads, rows, columns]``, the result, and as such.

    Raises ClaimError.
    """
    kind = op.kind
    assert isinstance(kind, (Attention, IntAttention))
    out = ctx.out(op.result)
    lead = out.shape[:-2]
    batch, heads = math.prod(lead[:-1]), (lead or (1,))[-1]
    queries, width = out.shape[-2:]
    q = _unit_stride(ctx, _to_rank4(ctx, ctx.view(op.operands[0]), lead))
    k, v = (_unit_stride(ctx, _keys(ctx, ctx.view(x), kind.gqa, lead)) for x in op.operands[1:3])
    o = out.reshape((batch, heads, queries, width))
    if o is None or (o.strides[3] != 1 and o.shape[3] != 1):
        raise ClaimError("attention: the result's last axis does not lie contiguous")
    return q, k, v, out, o


def _record(
    ctx: Lowering, kind: Attention | IntAttention, views: tuple[View, View, View, View], out: View,
    mask: Value | None, scale: float,
) -> tuple[tuple[Slot, ...], tuple[View, ...]]:  # fmt: skip
    """Return the record's slots before the scratch, and the views that the mask reads."""
    q, k, v, o = views
    mask_slots, reads = _mask(ctx, mask, out.shape[:-2], (q.shape[2], k.shape[2]))
    batch, heads, queries, depth = q.shape
    slots: tuple[Slot, ...] = (
        batch, heads, queries, k.shape[2], depth, v.shape[3], heads // k.shape[1],
        q.ref, *q.strides[:3], k.ref, *k.strides[:3], v.ref, *v.strides[:3],
        o.ref, *o.strides[:3], *mask_slots, scale, int(kind.causal), int(kind.nan_rows),
    )  # fmt: skip
    return slots, reads


def _claim_codes(op: Op) -> Claim:
    """Claim a depth of whole words."""
    (depth, keys), mask = op.operands[1].type.shape[-1:-3:-1], op.operands[5:]
    if not isinstance(depth, int) or depth % 4 or depth == 0:
        return No(f"int_attention has no kernel for a depth of {depth}: no multiple of 4")
    if isinstance(keys, int) and keys > coded.MOST_KEYS:
        return No(f"int_attention: int32 cannot hold sums over {keys} keys")
    if mask and mask[0].type.dtype not in (DType.BOOL, DType.F32):
        return No(f"int_attention has no kernel for a mask of {mask[0].type.dtype.value}")
    return YES


def _lower_codes(ctx: Lowering, op: Op) -> None:
    """Add the step of attention on codes. Raises ClaimError."""
    assert isinstance(op.kind, IntAttention)
    slope, v_scale = (scale_of(ctx, (v,)) for v in op.operands[3:5])
    if slope is None or v_scale is None:
        raise ClaimError("int_attention has no kernel for a scale that is computed")
    q, k, v, out, o = _operands(ctx, op)
    q, k = (_words(ctx, view) for view in (q, k))
    if not out.numel:
        return
    if not k.shape[2]:
        fill(ctx, out, 0.0)
        return
    given = op.operands[5] if len(op.operands) > 5 else None
    slots, reads = _record(ctx, op.kind, (q, k, v, o), out, given, slope.scale)
    nbytes = coded.scratch_bytes(k.shape[2], k.shape[3], v.shape[3])
    slots = (*slots, *ctx.scratch(nbytes), v_scale.scale)
    ctx.step(coded.int8_attention, slots, (q, k, v, *reads), (out,))


def _words(ctx: Lowering, view: View) -> View:
    """Return codes that can be read four at a time, copied if need be."""
    whole = view.strides[3] == 1 and not any(s % 4 for s in view.strides[:3])
    return view if whole and view.offset % 4 == 0 else contiguous(ctx, view)


def _to_rank4(ctx: Lowering, view: View, lead: tuple[int, ...]) -> View:
    """Return ``view`` with leading axes ``lead`` as ``[batch, heads, rows, columns]``."""
    wide = view.expand((*lead, *view.shape[-2:]))
    shape = (math.prod(lead[:-1]), (lead or (1,))[-1], *view.shape[-2:])
    if len(lead) <= 2:
        return wide.expand(shape)
    found = wide.reshape(shape) or contiguous(ctx, wide).reshape(shape)
    assert found is not None  # a dense tensor takes any shape
    return found


def _keys(ctx: Lowering, view: View, gqa: bool, lead: tuple[int, ...]) -> View:
    """Return keys or values as rank 4; with grouped queries they keep their own number of heads."""
    if gqa and view.rank >= 3:
        return _to_rank4(ctx, view, (*lead[:-1], view.shape[-3]))
    return _to_rank4(ctx, view, lead)


def _unit_stride(ctx: Lowering, view: View) -> View:
    return view if view.strides[3] == 1 or view.shape[3] == 1 else contiguous(ctx, view)


def _mask(
    ctx: Lowering, mask: Value | None, lead: tuple[int, ...], rows: tuple[int, int]
) -> tuple[tuple[Slot, ...], tuple[View, ...]]:
    """Return the record's mask slots and the views it reads."""
    if mask is None:
        return (0, kernels.NO_MASK, 0, 0, 0, 0), ()
    view = ctx.view(mask)
    view = _to_rank4(ctx, view.expand((*view.shape[:-2], *rows)[-max(view.rank, 2) :]), lead)
    if view.dtype is DType.BOOL:
        return (view.ref, kernels.BOOL_MASK, *view.strides), (view,)
    if view.dtype is not DType.F32:
        raise ClaimError(f"attention: no kernel for a mask of {view.dtype.value}")
    return (view.ref, kernels.FLOAT_MASK, *view.strides), (view,)


LOWER = {Attention: (claim, lower), IntAttention: (_claim_codes, _lower_codes)}
