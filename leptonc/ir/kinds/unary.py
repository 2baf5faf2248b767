"""Elementwise kinds of one operand without attributes."""

from __future__ import annotations

from typing import ClassVar

from leptonc.ir.core import Kind, Trait, kind
from leptonc.ir.kinds.base import BITS, NUMBERS, ORDERED, FloatUnary, Predicate, Unary
from leptonc.ir.types import DType

_EW = Trait.PURE | Trait.ELEMENTWISE


@kind
class Relu(Unary):
    """``max(x, 0)``, NaN kept."""

    NAME: ClassVar[str] = "relu"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Silu(FloatUnary):
    """``x * sigmoid(x)``."""

    NAME: ClassVar[str] = "silu"
    TRAITS: ClassVar[Trait] = _EW


@kind
class HardSwish(FloatUnary):
    """``x * min(max(x + 3, 0), 6) / 6``."""

    NAME: ClassVar[str] = "hard_swish"
    TRAITS: ClassVar[Trait] = _EW


@kind
class HardSigmoid(FloatUnary):
    """``min(max(x + 3, 0), 6) / 6``."""

    NAME: ClassVar[str] = "hard_sigmoid"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Sigmoid(FloatUnary):
    """``1 / (1 + e**-x)``."""

    NAME: ClassVar[str] = "sigmoid"
    TRAITS: ClassVar[Trait] = _EW


@kind
class LogSigmoid(FloatUnary):
    """``log(sigmoid(x))``."""

    NAME: ClassVar[str] = "log_sigmoid"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Tanh(FloatUnary):
    """Hyperbolic tangent."""

    NAME: ClassVar[str] = "tanh"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Mish(FloatUnary):
    """``x * tanh(softplus(x))``."""

    NAME: ClassVar[str] = "mish"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Exp(FloatUnary):
    """``e**x``."""

    NAME: ClassVar[str] = "exp"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Expm1(FloatUnary):
    """``e**x - 1``."""

    NAME: ClassVar[str] = "expm1"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Exp2(FloatUnary):
    """``2**x``."""

    NAME: ClassVar[str] = "exp2"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Log(FloatUnary):
    """Natural logarithm."""

    NAME: ClassVar[str] = "log"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Log1p(FloatUnary):
    """``log(1 + x)``."""

    NAME: ClassVar[str] = "log1p"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Log2(FloatUnary):
    """Logarithm to base 2."""

    NAME: ClassVar[str] = "log2"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Log10(FloatUnary):
    """Logarithm to base 10."""

    NAME: ClassVar[str] = "log10"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Sqrt(FloatUnary):
    """Square root."""

    NAME: ClassVar[str] = "sqrt"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Rsqrt(FloatUnary):
    """``1 / sqrt(x)``."""

    NAME: ClassVar[str] = "rsqrt"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Reciprocal(FloatUnary):
    """``1 / x``."""

    NAME: ClassVar[str] = "reciprocal"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Neg(Unary):
    """``-x``."""

    NAME: ClassVar[str] = "neg"
    ACCEPTS: ClassVar[frozenset[DType]] = NUMBERS
    TRAITS: ClassVar[Trait] = _EW


@kind
class Abs(Unary):
    """Absolute value."""

    NAME: ClassVar[str] = "abs"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Sign(Unary):
    """-1, 0 or 1 (0 for NaN, as torch)."""

    NAME: ClassVar[str] = "sign"
    ACCEPTS: ClassVar[frozenset[DType]] = ORDERED
    TRAITS: ClassVar[Trait] = _EW


@kind
class Floor(Unary):
    """Round towards minus infinity."""

    NAME: ClassVar[str] = "floor"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Ceil(Unary):
    """Round towards plus infinity."""

    NAME: ClassVar[str] = "ceil"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Round(Unary):
    """Round half to even."""

    NAME: ClassVar[str] = "round"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Trunc(Unary):
    """Round towards zero."""

    NAME: ClassVar[str] = "trunc"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Sin(FloatUnary):
    """Sine."""

    NAME: ClassVar[str] = "sin"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Cos(FloatUnary):
    """Cosine."""

    NAME: ClassVar[str] = "cos"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Tan(FloatUnary):
    """Tangent."""

    NAME: ClassVar[str] = "tan"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Asin(FloatUnary):
    """Arc sine."""

    NAME: ClassVar[str] = "asin"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Acos(FloatUnary):
    """Arc cosine."""

    NAME: ClassVar[str] = "acos"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Atan(FloatUnary):
    """Arc tangent."""

    NAME: ClassVar[str] = "atan"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Sinh(FloatUnary):
    """Hyperbolic sine."""

    NAME: ClassVar[str] = "sinh"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Cosh(FloatUnary):
    """Hyperbolic cosine."""

    NAME: ClassVar[str] = "cosh"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Asinh(FloatUnary):
    """Inverse hyperbolic sine."""

    NAME: ClassVar[str] = "asinh"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Acosh(FloatUnary):
    """Inverse hyperbolic cosine."""

    NAME: ClassVar[str] = "acosh"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Atanh(FloatUnary):
    """Inverse hyperbolic tangent."""

    NAME: ClassVar[str] = "atanh"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Erf(FloatUnary):
    """Error function."""

    NAME: ClassVar[str] = "erf"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Erfc(FloatUnary):
    """Complementary error function."""

    NAME: ClassVar[str] = "erfc"
    TRAITS: ClassVar[Trait] = _EW


@kind
class LogicalNot(Predicate):
    """``x == 0``."""

    NAME: ClassVar[str] = "logical_not"
    TRAITS: ClassVar[Trait] = _EW


@kind
class IsNan(Predicate):
    """Whether x is NaN."""

    NAME: ClassVar[str] = "is_nan"
    TRAITS: ClassVar[Trait] = _EW


@kind
class IsInf(Predicate):
    """Whether x is an infinity."""

    NAME: ClassVar[str] = "is_inf"
    TRAITS: ClassVar[Trait] = _EW


@kind
class IsFinite(Predicate):
    """Whether x is neither NaN nor infinite."""

    NAME: ClassVar[str] = "is_finite"
    TRAITS: ClassVar[Trait] = _EW


@kind
class BitwiseNot(Unary):
    """Bitwise complement (logical for bool)."""

    NAME: ClassVar[str] = "bitwise_not"
    ACCEPTS: ClassVar[frozenset[DType]] = BITS
    TRAITS: ClassVar[Trait] = _EW


KINDS: tuple[type[Kind], ...] = (
    Relu, Silu, HardSwish, HardSigmoid, Sigmoid, LogSigmoid, Tanh, Mish, Exp, Expm1, Exp2, Log,
    Log1p, Log2, Log10, Sqrt, Rsqrt, Reciprocal, Neg, Abs, Sign, Floor, Ceil, Round, Trunc, Sin,
    Cos, Tan, Asin, Acos, Atan, Sinh, Cosh, Asinh, Acosh, Atanh, Erf, Erfc, LogicalNot, IsNan,
    IsInf, IsFinite, BitwiseNot,
)  # fmt: skip
