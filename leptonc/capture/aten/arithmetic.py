"""Importers of elementwise arithmetic, comparison, logic and selection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leptonc.capture.aten.base import Importer, named
from leptonc.capture.context import Args, Context, promoted, want
from leptonc.ir.core import Kind, Value
from leptonc.ir.kinds import binary, pointwise, unary
from leptonc.ir.types import DType


def _binary(kind: type[Kind]) -> Importer:
    """Return the importer of a kind that computes in the dtype of its result."""

    def build(c: Context, a: Args) -> Value:
        return c(kind(), *(c.lift(x, c.dtype) for x in _two(a)))

    return build


def _test(kind: type[Kind]) -> Importer:
    """Return the importer of a comparison: it computes in the operands' common dtype."""

    def build(c: Context, a: Args) -> Value:
        x, y = _two(a)
        common = promoted(x, y)
        return c(kind(), c.lift(x, common), c.lift(y, common))

    return build


def _two(a: Args) -> tuple[Any, Any]:
    x, y, *_ = a.given.values()
    return x, y


def _scaled(c: Context, y: Any, alpha: Any) -> Value:
    if alpha is None or (isinstance(alpha, (int, float)) and alpha == 1):
        return c.lift(y, c.dtype)
    if isinstance(y, (int, float)) and isinstance(alpha, (int, float)):
        return c.lift(y * alpha, c.dtype)
    return c(binary.Mul(), c.lift(y, c.dtype), c.full(alpha, c.dtype))


def _sum(kind: type[Kind]) -> Importer:
    def build(c: Context, a: Args) -> Value:
        return c(kind(), c.lift(a.self, c.dtype), _scaled(c, a.other, a.get("alpha")))

    return build


def _rsub(c: Context, a: Args) -> Value:
    return c(binary.Sub(), c.lift(a.other, c.dtype), _scaled(c, a.self, a.get("alpha")))


_ROUNDED: Mapping[str | None, type[Kind]] = {
    None: binary.Div,
    "floor": binary.FloorDiv,
    "trunc": binary.TruncDiv,
}


def _div(c: Context, a: Args) -> Value:
    kind = _ROUNDED[a.get("rounding_mode")]
    return c(kind(), *(c.lift(x, c.dtype) for x in _two(a)))


def _multiplied(c: Context, x: Value, times: int) -> Value:
    y = x
    for _ in range(times - 1):
        y = c(binary.Mul(), y, x)
    return y


def _pow_scalar(c: Context, a: Args) -> Value:
    """Import ``x ** number``, small exponents as torch's own kernel computes them."""
    x, e = c.cast(a.self, c.dtype), a.exponent
    if isinstance(e, (int, float)) and c.dtype is not DType.BOOL:
        if e == 1:
            return x
        if e in (2, 3):
            return _multiplied(c, x, int(e))
        special = {0.5: unary.Sqrt, -0.5: unary.Rsqrt, -1: unary.Reciprocal}.get(e)
        if special is not None and c.dtype.is_float:
            return c(special(), x)
        want(c.dtype.is_float or e >= 0, "an integer to a negative power has no kind")
    return c(binary.Pow(), x, c.lift(e, c.dtype))


def _where(c: Context, a: Args) -> Value:
    cond = a.condition
    if cond.type.dtype is not DType.BOOL:
        cond = c.cast(cond, DType.BOOL)
    x, y = (c.lift(v, c.dtype) for v in (a.self, a.other))
    return c(pointwise.Where(), cond, x, y)


def _masked_fill(c: Context, a: Args) -> Value:
    want(a.mask.type.dtype is DType.BOOL, "a mask that is not bool has no kind")
    return c(pointwise.Where(), a.mask, c.lift(a.value, c.dtype), c.cast(a.self, c.dtype))


def _fill(c: Context, a: Args) -> Value:
    if isinstance(a.value, Value):
        return c.expand(c.cast(a.value, c.dtype), c.out.shape)
    return c.full(a.value, c.dtype, c.out.shape)


def _zero(c: Context, a: Args) -> Value:
    return c.full(0, c.dtype, c.out.shape)


def _copy(c: Context, a: Args) -> Value:
    return c.expand(c.cast(a.src, c.dtype), c.out.shape)


def _combined(kind: type[Kind]) -> Importer:
    """Return the importer of addcmul / addcdiv: ``self + value * (t1 kind t2)``."""

    def build(c: Context, a: Args) -> Value:
        t1, t2 = (c.cast(t, c.dtype) for t in (a.tensor1, a.tensor2))
        inner = c(kind(), t1, t2)
        if a.value != 1:
            inner = c(binary.Mul(), inner, c.full(a.value, c.dtype))
        return c(binary.Add(), c.cast(a.self, c.dtype), inner)

    return build


def _lerp(c: Context, a: Args) -> Value:
    """Import ``start + w * (end - start)``, from the end where ``|w| >= 0.5`` as torch does."""
    x, y = c.cast(a.self, c.dtype), c.cast(a.end, c.dtype)
    want(not isinstance(a.weight, Value), "lerp by a tensor has no kind")
    delta, w = c(binary.Sub(), y, x), float(a.weight)
    if abs(w) < 0.5:
        return c(binary.Add(), x, c(binary.Mul(), delta, c.full(w, c.dtype)))
    return c(binary.Sub(), y, c(binary.Mul(), delta, c.full(1 - w, c.dtype)))


_KINDS: Mapping[str, type[Kind]] = {
    "mul": binary.Mul, "multiply": binary.Mul,
    "remainder": binary.Remainder, "fmod": binary.Fmod, "bitwise_and": binary.BitwiseAnd,
    "bitwise_or": binary.BitwiseOr, "bitwise_xor": binary.BitwiseXor, "__and__": binary.BitwiseAnd,
    "__or__": binary.BitwiseOr, "__xor__": binary.BitwiseXor,
}  # fmt: skip
_TESTS: Mapping[str, type[Kind]] = {
    "eq": binary.Eq, "ne": binary.Ne, "lt": binary.Lt, "le": binary.Le, "gt": binary.Gt,
    "ge": binary.Ge, "not_equal": binary.Ne, "less": binary.Lt, "less_equal": binary.Le,
    "greater": binary.Gt, "greater_equal": binary.Ge,
}  # fmt: skip
_FORMS = ("Tensor", "Scalar")
_MIXED = ("remainder", "bitwise_and", "bitwise_or", "bitwise_xor")

IMPORTERS: Mapping[str, Importer] = {
    **{f"aten.{n}.{f}": _binary(k) for n, k in _KINDS.items() for f in _FORMS},
    **{f"aten.{n}.{f}": _test(k) for n, k in _TESTS.items() for f in _FORMS},
    **{f"aten.{n}.Scalar_Tensor": _binary(_KINDS[n]) for n in _MIXED},
    **named(_binary(binary.FloorDiv), "floor_divide.default", "floor_divide.Scalar"),
    **named(_sum(binary.Add), "add.Tensor", "add.Scalar"),
    **named(_sum(binary.Sub), "sub.Tensor", "sub.Scalar", "subtract.Tensor", "subtract.Scalar"),
    **named(_rsub, "rsub.Tensor", "rsub.Scalar"),
    **named(_div, "div.Tensor", "div.Scalar", "div.Tensor_mode", "div.Scalar_mode"),
    **named(_div, "divide.Tensor", "divide.Scalar", "true_divide.Tensor", "true_divide.Scalar"),
    **named(_pow_scalar, "pow.Tensor_Scalar"),
    **named(_binary(binary.Pow), "pow.Tensor_Tensor", "pow.Scalar"),
    **named(_binary(binary.Maximum), "maximum.default", "max.other"),
    **named(_binary(binary.Minimum), "minimum.default", "min.other"),
    **named(_binary(binary.Atan2), "atan2.default", "arctan2.default"),
    **named(_test(binary.LogicalAnd), "logical_and.default"),
    **named(_test(binary.LogicalOr), "logical_or.default"),
    **named(_test(binary.LogicalXor), "logical_xor.default"),
    **named(_where, "where.self", "where.ScalarSelf", "where.ScalarOther", "where.Scalar"),
    **named(_masked_fill, "masked_fill.Scalar", "masked_fill.Tensor"),
    **named(_fill, "fill.Scalar", "fill.Tensor"),
    **named(_zero, "zero.default"),
    **named(_copy, "copy.default"),
    **named(_combined(binary.Mul), "addcmul.default"),
    **named(_combined(binary.Div), "addcdiv.default"),
    **named(_lerp, "lerp.Scalar"),
}
