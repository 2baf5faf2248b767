"""numba_cpu > lower > contract: linear, matmul, and units of a contraction with its epilogue."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from leptonc.backends.numba_cpu.kernels import igemm_plan
from leptonc.backends.numba_cpu.kernels.pack import pack_linear, pack_matrix
from leptonc.backends.numba_cpu.legal import YES, Claim, ClaimFn, No
from leptonc.backends.numba_cpu.lower import conv, questions, shape, transposed
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.dots import dots, fits
from leptonc.backends.numba_cpu.lower.epilogue import (
    NOTHING,
    Epilogue,
    finish,
    match,
    target,
)
from leptonc.backends.numba_cpu.lower.fixed import fixed
from leptonc.backends.numba_cpu.lower.product import (
    Finish,
    emit,
    merged,
    pack_at_run_time,
    padded,
    rows_product,
)
from leptonc.backends.numba_cpu.lower.shape import as_dtype, contiguous, copy_view
from leptonc.backends.numba_cpu.lower.sparse import sparse_product, wins
from leptonc.backends.numba_cpu.lower.strassen import possible, strassen_product
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View, row_major, static_shape
from leptonc.ir.constants import Const
from leptonc.ir.core import Function, Kind, Op, Value
from leptonc.ir.kinds.contract import Conv, ConvTranspose, Linear, Matmul
from leptonc.ir.types import DType
from leptonc.meaning import elements_of
from leptonc.passes.fusing.units import SOURCES, VIEWS

FLOATS = (DType.F32, DType.BF16, DType.F16)
Root = Callable[[Lowering, Op, Value, Epilogue], None]


def claim(op: Op) -> Claim:
    """Claim a contraction of float32, or of bf16/f16 (computed in float32)."""
    dtype = op.result.type.dtype
    return YES if dtype in FLOATS else No(f"{op.kind.NAME} has no kernel for {dtype.value}")


def lower_linear(ctx: Lowering, op: Op, result: Value, epilogue: Epilogue) -> None:
    """Lower a linear layer: rows are all leading axes; a constant weight is packed once."""
    x = as_dtype(ctx, ctx.view(op.operands[0]), DType.F32)
    order = tuple(range(x.rank))
    out, done = target(ctx, result, order)
    end = finish(ctx, op, epilogue, out, order)
    const, fetch = ctx.constant(op.operands[1]), ctx.pool.fetch
    if const is not None and wins(ctx, op):
        sparse_product(ctx, op, x, out, end)
    elif const is not None and fits(x, out, end):
        dots(ctx, x, const, out, end)
    elif const is not None and _in_24_bits(ctx, op, const):
        fixed(ctx, x, const, out, end)
    elif const is not None:
        key = ("linear", id(const.payload))
        b = ctx.packed(key, lambda: pack_linear(elements_of(const), fetch), const)
        question = questions.linear(op, const, ctx.precision, ctx.threads)
        way = questions.PLAIN if question is None else ctx.decide(question)
        if way == questions.STRASSEN and possible(x, out, end):
            strassen_product(ctx, x, b, out, end)
        else:
            rows_product(ctx, x, b, out, end, by_parts=way == questions.BF16X3)
    else:
        weight = as_dtype(ctx, ctx.view(op.operands[1]), DType.F32)
        packed = pack_at_run_time(ctx, weight.transpose((1, 0)))
        rows_product(ctx, x, packed.ref, out, end, [packed])
    done()


def _in_24_bits(ctx: Lowering, op: Op, weight: Const) -> bool:
    question = questions.few_rows(op, weight, ctx.precision, ctx.reuse)
    return question is not None and ctx.decide(question) == questions.FIXED


def _panels(ctx: Lowering, value: Value) -> tuple[Slot, View]:
    """Return the address of packed ``value: [..., k, n]`` and its panels as ``[..., floats]``."""
    const, fetch = ctx.constant(value), ctx.pool.fetch
    if const is None:
        packed = pack_at_run_time(ctx, as_dtype(ctx, ctx.view(value), DType.F32))
        return packed.ref, packed
    key = ("matmul", id(const.payload))
    ref = ctx.packed(key, lambda: pack_matrix(elements_of(const), fetch=fetch), const)
    *batch, k, n = static_shape(const.type)
    sizes = (*batch, igemm_plan.packed_matmul_b(n, k))
    return ref, View(ref.buffer, DType.F32, sizes, row_major(sizes))


def lower_matmul(ctx: Lowering, op: Op, result: Value, epilogue: Epilogue) -> None:
    """Lower a batched product; one right operand for the whole batch makes the batch rows."""
    x = as_dtype(ctx, ctx.view(op.operands[0]), DType.F32)
    if 1 not in (x.strides[-1], x.shape[-1]):
        x = contiguous(ctx, x)
    order = tuple(range(len(op.result.type.shape)))
    out, done = target(ctx, result, order)
    end = finish(ctx, op, epilogue, out, order)
    b, panels = _panels(ctx, op.operands[1])
    batch = out.shape[:-2]
    x = x.expand((*batch, *x.shape[-2:]))
    panels = panels.expand((*batch, panels.shape[-1]))
    if not any(s for s, n in zip(panels.strides[:-1], batch, strict=True) if n != 1):
        rows_product(ctx, x, b, out, end, [panels])
    else:
        _batched(ctx, x, b, panels, out, end)
    done()


def _batched(ctx: Lowering, x: View, b: Slot, panels: View, out: View, end: Finish) -> None:
    """Append the product of batches; more than two independent batch axes are copied together."""
    views = [x.strides[:-2], panels.strides[:-1], out.strides[:-2]]
    views += [] if end.res is None else [end.res.strides[:-2]]
    axes = merged(out.shape[:-2], views)
    if len(axes) > 2:
        made = ctx.temp(DType.F32, out.shape) if not out.is_contiguous else out
        res = None if end.res is None else contiguous(ctx, end.res)
        same = contiguous(ctx, panels)
        _batched(ctx, contiguous(ctx, x), same.ref, same, made, replace(end, res=res))
        if made is not out:
            copy_view(ctx, made, out)
        return
    sizes, (a_s, b_s, out_s, *res_s) = padded(axes, 2, len(views))
    m, k, n = *x.shape[-2:], out.shape[-1]
    call = igemm_plan.linear(m, k, n, a_row=x.strides[-2], out_row=out.strides[-2])
    call = replace(
        call, outer0=sizes[0], outer1=sizes[1], a_o0=a_s[0], a_o1=a_s[1], b_o0=b_s[0], b_o1=b_s[1],
        out_o0=out_s[0], out_o1=out_s[1],
    )  # fmt: skip
    if end.res is not None:
        call = replace(call, res_x=end.res.strides[-2], res_o0=res_s[0][0], res_o1=res_s[0][1])
    if math.prod(out.shape[:-2]) == 0:
        call = replace(call, outer0=0)
    emit(ctx, igemm_plan.large_blocks(call), x, b, out, end, [panels])


ROOTS: dict[type[Kind], Root] = {
    Linear: lower_linear,
    Matmul: lower_matmul,
    Conv: conv.lower_conv,
    ConvTranspose: transposed.lower_transposed,
}


def function_of(body: Function, ops: Sequence[Op]) -> Function:
    """Return ``ops`` as a function of whatever they read, the constants of ``body`` included."""
    made = {r for op in ops for r in op.results}
    read = dict.fromkeys(v for op in ops for v in op.operands if v not in made)
    return Function(body.name, tuple(read), tuple(ops), (ops[-1].result,), body.dims)


def lower_contract(ctx: Lowering, body: Function) -> bool:
    """Lower a body of one contraction, views of what it reads and its epilogue as one unit.

    Returns:
        False if the body is of another form; nothing has been lowered then.
    """
    views, ops = _views_in_front(body)
    work = function_of(body, ops) if views else body
    found = match(ctx, work) if work.returns == body.returns else None
    if found is None or isinstance(claim(found[0]), No):
        return False
    for view in views:
        shape.LOWER[type(view.kind)][1](ctx, view)
    root, result, epilogue = found
    ROOTS[type(root.kind)](ctx, root, result, epilogue)
    return True


def _views_in_front(body: Function) -> tuple[list[Op], list[Op]]:
    """Return the views that need nothing which ``body`` computes, and all other ops.

    The heads that an attention returns are moved together by two of them before they are
    projected; an epilogue that such a body lost would cost a pass over the result.
    """
    views: list[Op] = []
    others: list[Op] = []
    computed: set[Value] = set()
    for op in body.ops:
        if isinstance(op.kind, SOURCES):
            continue
        if isinstance(op.kind, VIEWS) and computed.isdisjoint(op.operands):
            views.append(op)
        else:
            others.append(op)
            computed.update(op.results)
    return views, others


def _alone(lower: Root) -> Callable[[Lowering, Op], None]:
    return lambda ctx, op: lower(ctx, op, op.result, NOTHING)


LOWER: dict[type[Kind], tuple[ClaimFn, Callable[[Lowering, Op], None]]] = {
    kind: (claim, _alone(lower)) for kind, lower in ROOTS.items()
}
