"""numba_cpu > lower > int8_unit: the form of a unit of a product of codes.

A unit of pattern ``int8`` is ``int_conv`` or ``int_linear``, then in any order at most one
activation and one residual (float32, or codes with one scale), then at most one ``quantize`` with
one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from leptonc.backends.numba_cpu.kernels.activation import Act
from leptonc.backends.numba_cpu.kernels.igemm_record import Res
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.epilogue import activation
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.quantize import Dequantize, IntConv, IntLinear, Quantize
from leptonc.ir.types import DType


@dataclass(frozen=True)
class Scale:
    """One scale and zero point, known at compile time."""

    scale: float
    zero: int

    @property
    def inverse(self) -> float:
        """``1 / scale`` as float32 has it."""
        return float(np.float32(1.0) / np.float32(self.scale))


@dataclass(frozen=True)
class Finish:
    """What follows the sums of a unit."""

    act: tuple[Act, float, float] = (Act.NONE, 0.0, 0.0)
    res: Value | None = None
    res_scale: Scale | None = None  # None: the residual is float32
    mode: Res = Res.BEFORE
    codes: Quantize | None = None
    out_scale: Scale | None = None

    @property
    def late(self) -> bool:
        """Whether the residual comes after the activation, or multiplies."""
        return self.res is not None and self.mode is not Res.BEFORE


def known(ctx: Lowering, value: Value) -> np.ndarray | None:
    """Return what ``value`` is where that is known: a constant, or one number all over."""
    number = ctx.splat(value)
    if number is None:
        return ctx.array(value)
    shape = tuple(int(d) for d in value.type.shape)
    return np.full(shape, number, np.int32 if value.type.dtype is DType.I32 else np.float32)


def scale_of(ctx: Lowering, operands: Sequence[Value]) -> Scale | None:
    """Return the scale and zero point in ``operands`` if they are one constant number each."""
    arrays = [known(ctx, v) for v in operands]
    if any(a is None or a.size != 1 or a.ndim != 0 for a in arrays):
        return None
    scale, *zero = [a.reshape(()).item() for a in arrays if a is not None]
    return Scale(float(scale), int(zero[0]) if zero else 0)


def match(ctx: Lowering, body: Function) -> tuple[Op, Value, Finish] | None:
    """Return root, final value and epilogue of a body; None if it is not of that form."""
    ops = [op for op in body.ops if not isinstance(op.kind, (Constant, Full))]
    apart = {op.result: op for op in ops if isinstance(op.kind, Dequantize)}
    ops = [op for op in ops if not isinstance(op.kind, Dequantize)]
    if not ops or not isinstance(ops[0].kind, (IntConv, IntLinear)) or not _constant(ctx, ops[0]):
        return None
    root, value, end = ops[0], ops[0].result, Finish()
    for op in ops[1:]:
        if body.use_count[value] != 1 or value not in op.operands or end.codes is not None:
            return None
        grown = _grown(ctx, end, value, op, apart)
        if grown is None:
            return None
        end, value = grown, op.result
    used = {end.res} if end.res_scale is not None else set()
    all_used = all(op.operands[0] in used for op in apart.values())
    return (root, value, end) if body.returns == (value,) and all_used else None


def _constant(ctx: Lowering, root: Op) -> bool:
    return ctx.array(root.operands[1]) is not None and all(
        known(ctx, v) is not None for v in root.operands[2:]
    )


def _grown(
    ctx: Lowering, end: Finish, value: Value, op: Op, apart: dict[Value, Op]
) -> Finish | None:
    if op.result.type.shape != value.type.shape:
        return None
    if isinstance(op.kind, Quantize):
        known = scale_of(ctx, op.operands[1:])
        fits = known is not None and op.kind.dtype in (DType.U8, DType.I8)
        return replace(end, codes=op.kind, out_scale=known) if fits else None
    act = activation(op.kind)
    if act is not None:
        free = end.act[0] is Act.NONE and not end.late
        return replace(end, act=act) if free else None
    if not isinstance(op.kind, (Add, Mul)) or end.res is not None:
        return None
    other = op.operands[1] if op.operands[0] is value else op.operands[0]
    mode = Res.TIMES if isinstance(op.kind, Mul) else Res.BEFORE
    mode = Res.AFTER if mode is Res.BEFORE and end.act[0] is not Act.NONE else mode
    if other not in apart:
        return replace(end, res=other, mode=mode)
    known = scale_of(ctx, apart[other].operands[1:])
    if known is None:
        return None
    return replace(end, res=apart[other].operands[0], res_scale=known, mode=mode)
