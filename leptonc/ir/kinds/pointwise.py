"""Elementwise kinds with attributes, casts, and selection."""

from __future__ import annotations

from types import NoneType
from typing import ClassVar

from leptonc.ir.core import Kind, Trait, Types, kind
from leptonc.ir.kinds.base import FloatUnary, Unary, arity, broadcast, need, same_dtype
from leptonc.ir.types import DType, TensorType

_EW = Trait.PURE | Trait.ELEMENTWISE


@kind
class Gelu(FloatUnary):
    """Gaussian error linear unit: exact (erf), or with ``tanh`` the tanh approximation."""

    tanh: bool = False
    NAME: ClassVar[str] = "gelu"
    TRAITS: ClassVar[Trait] = _EW


@kind
class LeakyRelu(FloatUnary):
    """``x`` where positive, else ``slope * x``."""

    slope: float = 0.01
    NAME: ClassVar[str] = "leaky_relu"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Elu(FloatUnary):
    """``scale * x`` where positive, else ``scale * alpha * (e**(input_scale * x) - 1)``."""

    alpha: float = 1.0
    scale: float = 1.0
    input_scale: float = 1.0
    NAME: ClassVar[str] = "elu"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Softplus(FloatUnary):
    """``log(1 + e**(beta * x)) / beta``; ``x`` itself where ``beta * x > threshold``."""

    beta: float = 1.0
    threshold: float = 20.0
    NAME: ClassVar[str] = "softplus"
    TRAITS: ClassVar[Trait] = _EW


@kind
class Clamp(Unary):
    """``min(max(x, lo), hi)``, NaN kept; a bound of None is absent (integers: whole bounds)."""

    lo: float | int | None = None
    hi: float | int | None = None
    NAME: ClassVar[str] = "clamp"
    TRAITS: ClassVar[Trait] = _EW

    def infer(self, args: Types) -> Types:
        """Return ``(x,)``. Raises InferError for a fractional bound on integers."""
        (x,) = super().infer(args)
        whole = isinstance(self.lo, (int, NoneType)) and isinstance(self.hi, (int, NoneType))
        need(x.dtype.is_float or whole, self, f"bounds {self.lo}, {self.hi} of {x}")
        return (x,)


@kind
class Cast(Kind):
    """Convert to ``dtype`` (torch's ``to``)."""

    dtype: DType
    NAME: ClassVar[str] = "cast"
    TRAITS: ClassVar[Trait] = _EW

    def infer(self, args: Types) -> Types:
        """Return the type with the new dtype."""
        (x,) = arity(self, args, 1)
        return (x.with_dtype(self.dtype),)


@kind
class Where(Kind):
    """``x`` where ``cond`` else ``y``. ``cond: bool``, shapes broadcast."""

    NAME: ClassVar[str] = "where"
    TRAITS: ClassVar[Trait] = _EW

    def infer(self, args: Types) -> Types:
        """Return the broadcast type of the branches. Raises InferError."""
        c, x, y = arity(self, args, 3)
        need(c.dtype is DType.BOOL, self, f"condition must be bool, got {c}")
        shape = broadcast(self, c.shape, x.shape, y.shape)
        return (TensorType(same_dtype(self, (x, y)), shape),)


KINDS: tuple[type[Kind], ...] = (Gelu, LeakyRelu, Elu, Softplus, Clamp, Cast, Where)
