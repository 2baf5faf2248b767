"""Elementwise kinds as torch expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # the field's name for it
from torch import Tensor

from leptonc.ir.core import Kind
from leptonc.ir.kinds import binary, pointwise, unary
from leptonc.meaning.constants import TORCH_DTYPES

Expression = Callable[..., Any]


def _plain(function: Callable[..., Tensor]) -> Expression:
    """Return the expression of a kind without attributes: ``function`` of the operands."""
    return lambda kind, *operands: function(*operands)


def _clamp(k: pointwise.Clamp, x: Tensor) -> Tensor:
    return x if k.lo is None and k.hi is None else torch.clamp(x, k.lo, k.hi)


def _integers_as_they_are(function: Callable[[Tensor], Tensor]) -> Expression:
    return lambda kind, x: function(x) if x.is_floating_point() else x


ELEMENTWISE: Mapping[type[Kind], Expression] = {
    unary.Relu: _plain(torch.relu),
    unary.Silu: _plain(F.silu),
    unary.HardSwish: _plain(F.hardswish),
    unary.HardSigmoid: _plain(F.hardsigmoid),
    unary.Sigmoid: _plain(torch.sigmoid),
    unary.LogSigmoid: _plain(F.logsigmoid),
    unary.Tanh: _plain(torch.tanh),
    unary.Mish: _plain(F.mish),
    unary.Exp: _plain(torch.exp),
    unary.Expm1: _plain(torch.expm1),
    unary.Exp2: _plain(torch.exp2),
    unary.Log: _plain(torch.log),
    unary.Log1p: _plain(torch.log1p),
    unary.Log2: _plain(torch.log2),
    unary.Log10: _plain(torch.log10),
    unary.Sqrt: _plain(torch.sqrt),
    unary.Rsqrt: _plain(torch.rsqrt),
    unary.Reciprocal: _plain(torch.reciprocal),
    unary.Neg: _plain(torch.neg),
    unary.Abs: _plain(torch.abs),
    unary.Sign: _plain(torch.sign),
    unary.Floor: _integers_as_they_are(torch.floor),
    unary.Ceil: _integers_as_they_are(torch.ceil),
    unary.Round: _integers_as_they_are(torch.round),
    unary.Trunc: _integers_as_they_are(torch.trunc),
    unary.Sin: _plain(torch.sin),
    unary.Cos: _plain(torch.cos),
    unary.Tan: _plain(torch.tan),
    unary.Asin: _plain(torch.asin),
    unary.Acos: _plain(torch.acos),
    unary.Atan: _plain(torch.atan),
    unary.Sinh: _plain(torch.sinh),
    unary.Cosh: _plain(torch.cosh),
    unary.Asinh: _plain(torch.asinh),
    unary.Acosh: _plain(torch.acosh),
    unary.Atanh: _plain(torch.atanh),
    unary.Erf: _plain(torch.erf),
    unary.Erfc: _plain(torch.erfc),
    unary.LogicalNot: _plain(torch.logical_not),
    unary.IsNan: _plain(torch.isnan),
    unary.IsInf: _plain(torch.isinf),
    unary.IsFinite: _plain(torch.isfinite),
    unary.BitwiseNot: _plain(torch.bitwise_not),
    binary.Add: _plain(torch.add),
    binary.Sub: _plain(torch.sub),
    binary.Mul: _plain(torch.mul),
    binary.Div: _plain(torch.div),
    binary.FloorDiv: _plain(torch.floor_divide),
    binary.TruncDiv: lambda k, x, y: torch.div(x, y, rounding_mode="trunc"),
    binary.Remainder: _plain(torch.remainder),
    binary.Fmod: _plain(torch.fmod),
    binary.Pow: _plain(torch.pow),
    binary.Maximum: _plain(torch.maximum),
    binary.Minimum: _plain(torch.minimum),
    binary.Atan2: _plain(torch.atan2),
    binary.BitwiseAnd: _plain(torch.bitwise_and),
    binary.BitwiseOr: _plain(torch.bitwise_or),
    binary.BitwiseXor: _plain(torch.bitwise_xor),
    binary.LogicalAnd: _plain(torch.logical_and),
    binary.LogicalOr: _plain(torch.logical_or),
    binary.LogicalXor: _plain(torch.logical_xor),
    binary.Eq: _plain(torch.eq),
    binary.Ne: _plain(torch.ne),
    binary.Lt: _plain(torch.lt),
    binary.Le: _plain(torch.le),
    binary.Gt: _plain(torch.gt),
    binary.Ge: _plain(torch.ge),
    pointwise.Gelu: lambda k, x: F.gelu(x, approximate="tanh" if k.tanh else "none"),
    pointwise.LeakyRelu: lambda k, x: F.leaky_relu(x, k.slope),
    pointwise.Elu: lambda k, x: torch.ops.aten.elu.default(x, k.alpha, k.scale, k.input_scale),
    pointwise.Softplus: lambda k, x: F.softplus(x, k.beta, k.threshold),
    pointwise.Clamp: _clamp,
    pointwise.Cast: lambda k, x: x.to(TORCH_DTYPES[k.dtype]),
    pointwise.Where: _plain(torch.where),
}
