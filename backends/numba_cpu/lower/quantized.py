"""numba_cpu > lower > quantized: products of codes with their epilogue, and conversions to codes.

All of a unit of pattern ``int8`` (:mod:`int8_unit`) is one step: codes in, codes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from leptonc.backends.numba_cpu.kernels import int8_plan
from leptonc.backends.numba_cpu.kernels.int8_finish import dequantize_cells, quantize_cells
from leptonc.backends.numba_cpu.legal import YES, Claim, ClaimFn, No
from leptonc.backends.numba_cpu.lower.code_rows import lower_alone
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.int8_job import SERIAL_CELLS
from leptonc.backends.numba_cpu.lower.int8_product import lower_conv, lower_linear
from leptonc.backends.numba_cpu.lower.int8_unit import Finish, match, scale_of
from leptonc.backends.numba_cpu.lower.shape import contiguous
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View
from leptonc.errors import ClaimError
from leptonc.ir.core import Function, Kind, Op, Value
from leptonc.ir.kinds.quantize import Dequantize, IntConv, IntLinear, Quantize
from leptonc.ir.types import DType

# ----- conversions --------------------------------------------------------------------------------


def _one_scale(op: Op) -> Claim:
    code = op.result.type if isinstance(op.kind, Quantize) else op.operands[0].type
    if code.dtype not in (DType.U8, DType.I8):
        return No(f"{op.kind.NAME} has no kernel for {code.dtype.value}")
    if any(v.type.rank for v in op.operands[1:]):
        return No(f"{op.kind.NAME} has no kernel for more than one scale")
    return YES


def _lower_quantize(ctx: Lowering, op: Op) -> None:
    assert isinstance(op.kind, Quantize)
    x, out = _alike(ctx, op)
    known = scale_of(ctx, op.operands[1:])
    if known is None:
        raise ClaimError(f"{op.kind.NAME} has no kernel for a scale that is computed")
    k = op.kind
    slots: list[Slot] = [
        x.numel, x.ref, out.ref, known.zero, 0, known.inverse, float(k.low - known.zero),
        float(k.high - known.zero),
    ]  # fmt: skip
    if x.numel:
        ctx.step(quantize_cells, slots, [x], [out], serial=x.numel < SERIAL_CELLS)


def _lower_dequantize(ctx: Lowering, op: Op) -> None:
    x, out = _alike(ctx, op)
    known = scale_of(ctx, op.operands[1:])
    if known is None:
        raise ClaimError(f"{op.kind.NAME} has no kernel for a scale that is computed")
    slots: list[Slot] = [
        x.numel, x.ref, out.ref, known.zero, int(x.dtype is DType.I8), known.scale, 0.0, 0.0,
    ]  # fmt: skip
    if x.numel:
        ctx.step(dequantize_cells, slots, [x], [out], serial=x.numel < SERIAL_CELLS)


def _alike(ctx: Lowering, op: Op) -> tuple[View, View]:
    """Return operand and result of one order without gaps, the operand copied if need be."""
    out, x = ctx.out(op.result), ctx.view(op.operands[0])
    if x.is_dense(out.order) and out.is_dense(out.order):
        return x, out
    return contiguous(ctx, x, out.order), out


# ----- products -----------------------------------------------------------------------------------


def claim_product(op: Op) -> Claim:
    """Claim a product of codes whose zero point a byte holds and whose sums int32 does."""
    x, w = op.operands[0].type, op.operands[1].type
    if any(not isinstance(d, int) for d in w.shape):
        return No(f"{op.kind.NAME} has no kernel for weights of dynamic size")
    if not int8_plan.fits(math.prod(int(d) for d in w.shape[1:])):
        return No(f"{op.kind.NAME}: int32 cannot hold sums of {w}")
    if op.operands[2].type.rank != 1:
        fits = isinstance(op.kind, IntLinear) and not op.kind.x_zero and x.dtype is DType.I8
        return YES if fits else No(f"{op.kind.NAME} has no kernel for groups of u8 codes")
    assert isinstance(op.kind, (IntConv, IntLinear))
    low, high = (-128, 127) if x.dtype is DType.I8 else (0, 255)
    inside = low <= op.kind.x_zero <= high
    return YES if inside else No(f"{op.kind.NAME}: zero point {op.kind.x_zero} is no {x.dtype}")


def lower_int_unit(ctx: Lowering, body: Function) -> bool:
    """Lower a unit of a product of codes and its epilogue; False if the body is another."""
    found = match(ctx, body)
    if found is None:
        return False
    root, result, end = found
    _ROOTS[type(root.kind)](ctx, root, result, end)
    return True


_ROOTS: dict[type[Kind], Callable[[Lowering, Op, Value, Finish], None]] = {
    IntConv: lower_conv,
    IntLinear: lower_linear,
}


def _alone(ctx: Lowering, op: Op) -> None:
    if op.operands[2].type.rank == 2:
        lower_alone(ctx, op)
        return
    _ROOTS[type(op.kind)](ctx, op, op.result, Finish())


LOWER: dict[type[Kind], tuple[ClaimFn, Callable[[Lowering, Op], None]]] = {
    Quantize: (_one_scale, _lower_quantize),
    Dequantize: (_one_scale, _lower_dequantize),
    IntConv: (claim_product, _alone),
    IntLinear: (claim_product, _alone),
}
