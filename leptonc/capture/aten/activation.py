"""Importers of elementwise functions of one operand: activations and mathematics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from leptonc.capture.aten.base import Importer, named
from leptonc.capture.context import Args, Context, want
from leptonc.ir.core import Kind, Value
from leptonc.ir.dims import floordiv
from leptonc.ir.kinds import binary, pointwise, unary
from leptonc.meaning import TORCH_DTYPES

_SAME: Mapping[str, type[Kind]] = {
    "relu": unary.Relu, "silu": unary.Silu, "hardswish": unary.HardSwish,
    "hardsigmoid": unary.HardSigmoid, "sigmoid": unary.Sigmoid, "special_expit": unary.Sigmoid,
    "log_sigmoid": unary.LogSigmoid, "tanh": unary.Tanh, "mish": unary.Mish, "exp": unary.Exp,
    "expm1": unary.Expm1, "special_expm1": unary.Expm1, "exp2": unary.Exp2,
    "special_exp2": unary.Exp2, "log": unary.Log, "log1p": unary.Log1p,
    "special_log1p": unary.Log1p, "log2": unary.Log2, "log10": unary.Log10, "sqrt": unary.Sqrt,
    "rsqrt": unary.Rsqrt, "reciprocal": unary.Reciprocal, "neg": unary.Neg,
    "negative": unary.Neg, "abs": unary.Abs, "absolute": unary.Abs, "sign": unary.Sign,
    "sgn": unary.Sign, "floor": unary.Floor, "ceil": unary.Ceil, "trunc": unary.Trunc,
    "fix": unary.Trunc, "round": unary.Round, "sin": unary.Sin, "cos": unary.Cos,
    "tan": unary.Tan, "asin": unary.Asin, "arcsin": unary.Asin, "acos": unary.Acos,
    "arccos": unary.Acos, "atan": unary.Atan, "arctan": unary.Atan, "sinh": unary.Sinh,
    "cosh": unary.Cosh, "asinh": unary.Asinh, "arcsinh": unary.Asinh, "acosh": unary.Acosh,
    "arccosh": unary.Acosh, "atanh": unary.Atanh, "arctanh": unary.Atanh, "erf": unary.Erf,
    "special_erf": unary.Erf, "erfc": unary.Erfc, "special_erfc": unary.Erfc,
    "bitwise_not": unary.BitwiseNot, "special_round": unary.Round,
}  # fmt: skip
_TEST: Mapping[str, type[Kind]] = {
    "logical_not": unary.LogicalNot, "isnan": unary.IsNan, "isinf": unary.IsInf,
    "isfinite": unary.IsFinite,
}  # fmt: skip


def _same(kind: type[Kind]) -> Importer:
    """Return the importer of a kind that computes in the dtype of its result."""

    def build(c: Context, a: Args) -> Value:
        want(not a.get("decimals"), "rounding to decimals has no kind")
        return c(kind(), c.cast(a.self, c.dtype))

    return build


def _test(kind: type[Kind]) -> Importer:
    def build(c: Context, a: Args) -> Value:
        return c(kind(), a.self)

    return build


def _gelu(c: Context, a: Args) -> Value:
    return c(pointwise.Gelu(a.approximate == "tanh"), a.self)


def _leaky_relu(c: Context, a: Args) -> Value:
    return c(pointwise.LeakyRelu(float(a.negative_slope)), a.self)


def _elu(c: Context, a: Args) -> Value:
    return c(pointwise.Elu(float(a.alpha), float(a.scale), float(a.input_scale)), a.self)


def _celu(c: Context, a: Args) -> Value:
    alpha = float(a.alpha)
    return c(pointwise.Elu(alpha, 1.0, 1.0 / alpha), a.self)


# Klambauer et al., Self-Normalizing Neural Networks (2017): the fixed point's two constants.
_SELU = pointwise.Elu(1.6732632423543772, 1.0507009873554805, 1.0)


def _selu(c: Context, a: Args) -> Value:
    return c(_SELU, a.self)


def _softplus(c: Context, a: Args) -> Value:
    return c(pointwise.Softplus(float(a.beta), float(a.threshold)), a.self)


def clamped(c: Context, x: Value, lo: Any, hi: Any) -> Value:
    """Return ``x`` held within number bounds, in the dtype of the node's result."""
    number = float if c.dtype.is_float else int
    bounds = [None if v is None else number(v) for v in (lo, hi)]
    want(all(b is None or b == b for b in bounds), "a NaN bound has no kind")
    return c(pointwise.Clamp(*bounds), c.cast(x, c.dtype))


def _clamp(c: Context, a: Args) -> Value:
    return clamped(c, a.self, a.get("min"), a.get("max"))


def _clamp_tensor(c: Context, a: Args) -> Value:
    x = c.cast(a.self, c.dtype)
    for bound, kind in ((a.get("min"), binary.Maximum()), (a.get("max"), binary.Minimum())):
        x = x if bound is None else c(kind, x, c.lift(bound, c.dtype))
    return x


def _hardtanh(c: Context, a: Args) -> Value:
    return clamped(c, a.self, a.min_val, a.max_val)


def _relu6(c: Context, a: Args) -> Value:
    return clamped(c, a.self, 0, 6)


def _threshold(c: Context, a: Args) -> Value:
    small = c(binary.Le(), a.self, c.full(a.threshold, c.dtype))
    return c(pointwise.Where(), small, c.full(a.value, c.dtype), a.self)


def _hardshrink(c: Context, a: Args) -> Value:
    lam = float(a.lambd)
    inside = c(
        binary.LogicalAnd(),
        c(binary.Ge(), a.self, c.full(-lam, c.dtype)),
        c(binary.Le(), a.self, c.full(lam, c.dtype)),
    )
    return c(pointwise.Where(), inside, c.full(0, c.dtype), a.self)


def _prelu(c: Context, a: Args) -> Value:
    x, w = a.self, a.weight
    if w.type.rank == 1 and x.type.rank >= 2:
        w = c.reshape(w, (w.type.shape[0], *(1,) * (x.type.rank - 2)))
    elif w.type.rank == 1:
        w = c.reshape(w, ())
    above = c(binary.Gt(), x, c.full(0, c.dtype))
    return c(pointwise.Where(), above, x, c(binary.Mul(), w, x))


def _glu(c: Context, a: Args) -> Value:
    axis = a.dim % a.self.type.rank
    half = floordiv(a.self.type.shape[axis], 2)
    gate = c(unary.Sigmoid(), c.slice(a.self, axis, half, half))
    return c(binary.Mul(), c.slice(a.self, axis, 0, half), gate)


def _logit(c: Context, a: Args) -> Value:
    x = c.cast(a.self, c.dtype)
    if a.eps is not None:
        x = clamped(c, x, a.eps, 1 - a.eps)
    return c(unary.Log(), c(binary.Div(), x, c(binary.Sub(), c.full(1, c.dtype), x)))


def _square(c: Context, a: Args) -> Value:
    x = c.cast(a.self, c.dtype)
    return c(binary.Mul(), x, x)


def _nan_to_num(c: Context, a: Args) -> Value:
    x = a.self
    if not c.dtype.is_float:
        return x
    info = torch.finfo(TORCH_DTYPES[c.dtype])
    high = info.max if a.posinf is None else a.posinf
    low = info.min if a.neginf is None else a.neginf
    for test, value in (
        (c(unary.IsNan(), x), a.nan or 0.0),
        (c(binary.Eq(), x, c.full(math.inf, c.dtype)), high),
        (c(binary.Eq(), x, c.full(-math.inf, c.dtype)), low),
    ):
        x = c(pointwise.Where(), test, c.full(value, c.dtype), x)
    return x


IMPORTERS: Mapping[str, Importer] = {
    **{f"aten.{name}.default": _same(kind) for name, kind in _SAME.items()},
    **{f"aten.{name}.default": _test(kind) for name, kind in _TEST.items()},
    **named(_same(unary.Round), "round.decimals"),
    **named(_gelu, "gelu.default"),
    **named(_leaky_relu, "leaky_relu.default"),
    **named(_elu, "elu.default"),
    **named(_celu, "celu.default"),
    **named(_selu, "selu.default"),
    **named(_softplus, "softplus.default"),
    **named(_clamp, "clamp.default", "clip.default", "clamp_min.default", "clamp_max.default"),
    **named(_clamp_tensor, "clamp.Tensor", "clip.Tensor", "clamp_min.Tensor", "clamp_max.Tensor"),
    **named(_hardtanh, "hardtanh.default"),
    **named(_relu6, "relu6.default"),
    **named(_threshold, "threshold.default"),
    **named(_hardshrink, "hardshrink.default"),
    **named(_prelu, "prelu.default", "_prelu_kernel.default"),
    **named(_glu, "glu.default"),
    **named(_logit, "logit.default", "special_logit.default"),
    **named(_square, "square.default"),
    **named(_nan_to_num, "nan_to_num.default"),
}
