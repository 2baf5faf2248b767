"""Elementwise kinds of two operands, broadcast against one another."""

from __future__ import annotations

from typing import ClassVar

from leptonc.ir.core import Kind, Trait, kind
from leptonc.ir.kinds.base import BITS, FLOATS, INTS, NUMBERS, ORDERED, Binary, Compare
from leptonc.ir.types import DType

_EW = Trait.PURE | Trait.ELEMENTWISE
_COMM = _EW | Trait.COMMUTATIVE


@kind
class Add(Binary):
    """``x + y``."""

    NAME: ClassVar[str] = "add"
    ACCEPTS: ClassVar[frozenset[DType]] = NUMBERS | {DType.BOOL}
    TRAITS: ClassVar[Trait] = _COMM


@kind
class Sub(Binary):
    """``x - y``."""

    NAME: ClassVar[str] = "sub"
    ACCEPTS: ClassVar[frozenset[DType]] = NUMBERS
    TRAITS: ClassVar[Trait] = _EW


@kind
class Mul(Binary):
    """``x * y``."""

    NAME: ClassVar[str] = "mul"
    ACCEPTS: ClassVar[frozenset[DType]] = NUMBERS | {DType.BOOL}
    TRAITS: ClassVar[Trait] = _COMM


@kind
class Div(Binary):
    """True division ``x / y`` of floats."""

    NAME: ClassVar[str] = "div"
    ACCEPTS: ClassVar[frozenset[DType]] = NUMBERS - INTS
    TRAITS: ClassVar[Trait] = _EW


@kind
class FloorDiv(Binary):
    """``floor(x / y)``."""

    NAME: ClassVar[str] = "floor_div"
    TRAITS: ClassVar[Trait] = _EW


@kind
class TruncDiv(Binary):
    """``trunc(x / y)``."""

    NAME: ClassVar[str] = "trunc_div"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Remainder(Binary):
    """``x - floor(x / y) * y``, the divisor's sign."""

    NAME: ClassVar[str] = "remainder"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Fmod(Binary):
    """C's ``fmod``, the dividend's sign."""

    NAME: ClassVar[str] = "fmod"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Pow(Binary):
    """``x ** y``."""

    NAME: ClassVar[str] = "pow"
    ACCEPTS: ClassVar[frozenset[DType]] = NUMBERS
    TRAITS: ClassVar[Trait] = _EW


@kind
class Maximum(Binary):
    """The larger; NaN wins."""

    NAME: ClassVar[str] = "maximum"
    ACCEPTS: ClassVar[frozenset[DType]] = ORDERED
    TRAITS: ClassVar[Trait] = _COMM


@kind
class Minimum(Binary):
    """The smaller; NaN wins."""

    NAME: ClassVar[str] = "minimum"
    ACCEPTS: ClassVar[frozenset[DType]] = ORDERED
    TRAITS: ClassVar[Trait] = _COMM


@kind
class Atan2(Binary):
    """``atan(x / y)`` in the right quadrant."""

    NAME: ClassVar[str] = "atan2"
    ACCEPTS: ClassVar[frozenset[DType]] = FLOATS
    TRAITS: ClassVar[Trait] = _EW


@kind
class BitwiseAnd(Binary):
    """Bitwise and (logical for bool)."""

    NAME: ClassVar[str] = "bitwise_and"
    ACCEPTS: ClassVar[frozenset[DType]] = BITS
    TRAITS: ClassVar[Trait] = _COMM


@kind
class BitwiseOr(Binary):
    """Bitwise or."""

    NAME: ClassVar[str] = "bitwise_or"
    ACCEPTS: ClassVar[frozenset[DType]] = BITS
    TRAITS: ClassVar[Trait] = _COMM


@kind
class BitwiseXor(Binary):
    """Bitwise exclusive or."""

    NAME: ClassVar[str] = "bitwise_xor"
    ACCEPTS: ClassVar[frozenset[DType]] = BITS
    TRAITS: ClassVar[Trait] = _COMM


@kind
class LogicalAnd(Compare):
    """``x != 0 and y != 0``."""

    NAME: ClassVar[str] = "logical_and"
    ACCEPTS: ClassVar[frozenset[DType]] = NUMBERS | {DType.BOOL}
    TRAITS: ClassVar[Trait] = _COMM


@kind
class LogicalOr(Compare):
    """``x != 0 or y != 0``."""

    NAME: ClassVar[str] = "logical_or"
    ACCEPTS: ClassVar[frozenset[DType]] = NUMBERS | {DType.BOOL}
    TRAITS: ClassVar[Trait] = _COMM


@kind
class LogicalXor(Compare):
    """``(x != 0) != (y != 0)``."""

    NAME: ClassVar[str] = "logical_xor"
    ACCEPTS: ClassVar[frozenset[DType]] = NUMBERS | {DType.BOOL}
    TRAITS: ClassVar[Trait] = _COMM


@kind
class Eq(Compare):
    """``x == y``."""

    NAME: ClassVar[str] = "eq"
    ACCEPTS: ClassVar[frozenset[DType]] = NUMBERS | {DType.BOOL}
    TRAITS: ClassVar[Trait] = _COMM


@kind
class Ne(Compare):
    """``x != y``."""

    NAME: ClassVar[str] = "ne"
    ACCEPTS: ClassVar[frozenset[DType]] = NUMBERS | {DType.BOOL}
    TRAITS: ClassVar[Trait] = _COMM


@kind
class Lt(Compare):
    """``x < y``."""

    NAME: ClassVar[str] = "lt"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Le(Compare):
    """``x <= y``."""

    NAME: ClassVar[str] = "le"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Gt(Compare):
    """``x > y``."""

    NAME: ClassVar[str] = "gt"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Ge(Compare):
    """``x >= y``."""

    NAME: ClassVar[str] = "ge"
    TRAITS: ClassVar[Trait] = _EW


KINDS: tuple[type[Kind], ...] = (
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    TruncDiv,
    Remainder,
    Fmod,
    Pow,
    Maximum,
    Minimum,
    Atan2,
    BitwiseAnd,
    BitwiseOr,
    BitwiseXor,
    LogicalAnd,
    LogicalOr,
    LogicalXor,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
)
