"""compress > quantize > edits: conversions put around a product, so that it computes with codes.

The result is a standard Q/DQ graph: ``dequantize(quantize(x))`` on activations, ``dequantize`` of
constant codes for weights. It means what it says in float32, trains, and becomes a product of codes
by the pass ``fold-quant``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leptonc.compress.quantize.ranges import Codes
from leptonc.compress.quantize.sharing import merged
from leptonc.compress.quantize.units import Unit
from leptonc.compress.quantize.weights import RANGES, packed
from leptonc.ir.core import Builder, Function, Op, Value
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.data import Constant, Embedding, Full
from leptonc.ir.kinds.pointwise import Cast
from leptonc.ir.kinds.quantize import (
    Dequantize,
    FakeQuantize,
    Quantize,
    QuantizeRows,
    UnpackInt4,
)
from leptonc.ir.kinds.reduce import Amax, AvgPool
from leptonc.ir.kinds.shape import Reshape, Slice
from leptonc.ir.kinds.unary import Abs
from leptonc.ir.types import DType
from leptonc.meaning import const_of, tensor_of
from leptonc.passes.rules.quants import MEANS, windows_of
from leptonc.rewrite.driver import drop_dead


@dataclass(frozen=True)
class Input:
    """How the activation of a unit is quantized: by one scale, or each row by its own."""

    codes: Codes | None = None  # None: by rows
    scale: float = 1.0
    zero: int = 0
    residual: bool = False  # sums that read the activation, too, read it as codes


@dataclass(frozen=True)
class Weight:
    """The weight of a unit: codes ``i8[n,k]`` and scales ``f32[n,g]``, or how it is trained."""

    bits: int
    groups: int = 1
    codes: Tensor | None = None  # None: a fake quantization of the float weight
    scale: Tensor | None = None
    shift: Tensor | None = None  # f32[n], added to the bias: what rounding takes off the mean


def quantized(fn: Function, unit: Unit, weight: Weight, x: Input | None, train: bool) -> Function:
    """Return ``fn`` with conversions around ``unit``."""
    made = _Splice(fn, unit)
    operand = unit.x
    if x is not None:
        operand = made.activation(x, train)
    w, bias = made.weight(weight), made.bias(weight.shift)
    return made.finish((operand, w, *bias), x is not None and x.residual)


class _Splice:
    """Ops to be put behind the activation, behind a weight that others read, before the unit."""

    def __init__(self, fn: Function, unit: Unit) -> None:
        self.fn, self.unit = fn, unit
        self.early = Builder(fn.name, origin=unit.op.origin)
        self.held = Builder(fn.name, origin=unit.op.origin)
        self.late = Builder(fn.name, origin=unit.op.origin)

    def activation(self, x: Input, train: bool) -> Value:
        """Emit the conversions of the activation and return what stands for it."""
        return converted(self.early, self.unit.x, x, self.unit.owned, train)

    def weight(self, weight: Weight) -> Value:
        """Emit the weight and return it."""
        if weight.codes is None or weight.scale is None:
            return fake_weight(self.held, self.unit.weight, weight.bits, weight.groups)
        shape = tuple(int(d) for d in self.unit.weight.type.shape)
        name = self.unit.weight.hint
        return dequantized(self.held, name, weight.codes, weight.scale, weight.bits, shape)

    def bias(self, shift: Tensor | None) -> tuple[Value, ...]:
        """Emit the bias and ``shift`` in one, and return it; what there is if it is not known."""
        given = self.unit.op.operands[2:]
        made = self.fn.producer.get(given[0]) if given else None
        if shift is None or (given and not (made and isinstance(made.kind, Constant))):
            return given
        if made is None or not isinstance(made.kind, Constant):
            return (constant(self.late, shift, self.unit.owned("bias")),)
        return (constant(self.late, tensor_of(made.kind.const) + shift, given[0].hint),)

    def finish(self, operands: tuple[Value, ...], residual: bool) -> Function:
        """Return the Function with the unit on ``operands``.

        Lookups of rows of the weight read the codes, too, so that they alone are kept.
        """
        fn, op, (x, w, *_) = self.fn, self.unit.op, operands
        old, table, shared = self.unit.x, self.unit.weight, self.unit.shared
        ops = list[Op]() if old in fn.producer else list(self.early.ops)
        for at in fn.ops:
            if at is op:
                ops += self.late.ops if shared else (*self.held.ops, *self.late.ops)
                at = Op(op.kind, operands, op.results, op.origin)
            elif residual and old in at.operands and _reads_codes(at):
                operands_ = tuple(x if v is old else v for v in at.operands)
                at = Op(at.kind, operands_, at.results, at.origin)
            elif isinstance(at.kind, Embedding) and at.operands[0] is table:
                at = Op(at.kind, (w, at.operands[1]), at.results, at.origin)
            ops.append(at)
            if old in at.results:
                ops += self.early.ops
            if shared and table in at.results:
                ops += self.held.ops
        made = drop_dead(Function(fn.name, fn.params, tuple(ops), fn.returns, fn.dims))
        return merged(made, table.hint) if shared else made


def _reads_codes(op: Op) -> bool:
    """Return whether ``op`` is a sum, or a mean of windows of an image."""
    mean = isinstance(op.kind, MEANS) and isinstance(windows_of(op), AvgPool)
    return isinstance(op.kind, Add) or mean


def converted(
    b: Builder, value: Value, x: Input, owned: Callable[[str], str], train: bool
) -> Value:
    """Emit the conversions of an activation and return what stands for it.

    ``owned`` gives the names of its constants. With ``train`` the conversions have gradients.
    """
    if x.codes is None:
        codes, scale = b.emit(QuantizeRows(), value)
        return b(Mul(), b(Cast(DType.F32), codes), scale)
    params = [constant(b, torch.tensor(x.scale), owned("input_scale"))]
    if x.codes.affine:
        zero = torch.tensor(x.zero, dtype=torch.int32)
        params.append(constant(b, zero, owned("input_zero")))
    c = x.codes
    if train:
        return b(FakeQuantize(c.low, c.high), value, *params)
    return b(Dequantize(), b(Quantize(c.low, c.high, c.dtype), value, *params), *params)


def constant(b: Builder, tensor: Tensor, hint: str) -> Value:
    """Emit a constant of this name."""
    return b(Constant(const_of(tensor.contiguous())), hint=hint)


def dequantized(
    b: Builder, name: str, codes: Tensor, scale: Tensor, bits: int, shape: tuple[int, ...]
) -> Value:
    """Emit constant codes ``i8[n,k]`` with scales ``f32[n,g]`` and what makes the weight of them.

    Codes of 4 bits are stored two a byte. Constants are named ``name`` and ``name_scale``.
    """
    if bits == 4:
        value = b(UnpackInt4(), constant(b, packed(codes), name))
        if codes.shape[1] % 2:
            value = b(Slice(1, 0, codes.shape[1], 1), value)
        value = value if value.type.shape == shape else b(Reshape(shape), value)
    else:
        value = constant(b, codes.reshape(shape), name)
    scale = scale[:, 0] if scale.shape[1] == 1 else scale
    return b(Dequantize(), value, constant(b, scale, f"{name}_scale"))


def fake_weight(b: Builder, w: Value, bits: int, groups: int) -> Value:
    """Emit the fake quantization of a trained weight; its scales follow the weight as it trains."""
    shape = tuple(int(d) for d in w.type.shape)
    n, low, high = shape[0], *RANGES[bits]
    blocks = (n, groups, math.prod(shape[1:]) // groups)
    most = b(Amax((2,)), b(Abs(), b(Reshape(blocks), w)))
    scale = b(Mul(), most, b(Full((), 1.0 / high, DType.F32)))
    scale = b(Reshape((n,)), scale) if groups == 1 else scale
    return b(FakeQuantize(low, high), w, scale)


def keeps_residuals(unit: Unit) -> bool:
    """Return whether sums around a unit shall read codes: they do around convolutions."""
    return isinstance(unit.op.kind, Conv)
