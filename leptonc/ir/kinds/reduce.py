"""Kinds that reduce axes: sums, extremes, arg-extremes, scans, pools."""

from __future__ import annotations

from typing import ClassVar

from leptonc.ir.core import Kind, Types, kind
from leptonc.ir.dims import Dim
from leptonc.ir.kinds.base import (
    ANY,
    FLOATS,
    NUMBERS,
    ORDERED,
    accept,
    arity,
    check_axis,
    need,
    window,
)
from leptonc.ir.types import DType, TensorType


def reduced(k: Kind, x: TensorType, axes: tuple[int, ...], keepdim: bool) -> tuple[Dim, ...]:
    """Return the shape of ``x`` with ``axes`` dropped, or 1 with ``keepdim``."""
    need(len(set(axes)) == len(axes), k, f"axes {axes} repeat")
    for a in axes:
        check_axis(k, a, x.rank)
    kept = [(1 if i in axes else d) for i, d in enumerate(x.shape) if keepdim or i not in axes]
    return tuple(kept)


@kind
class Reduction(Kind):
    """Base of the reductions: ``axes`` are reduced, all named explicitly."""

    axes: tuple[int, ...]
    keepdim: bool = False
    NAME: ClassVar[str] = ""
    RESULT: ClassVar[DType | None] = None
    ACCEPTS: ClassVar[frozenset[DType]] = ORDERED

    def infer(self, args: Types) -> Types:
        """Return the reduced type. Raises InferError."""
        (x,) = arity(self, args, 1)
        accept(self, x, self.ACCEPTS)
        return (TensorType(self.RESULT or x.dtype, reduced(self, x, self.axes, self.keepdim)),)


@kind
class Sum(Reduction):
    """Sum over ``axes``."""

    NAME: ClassVar[str] = "sum"
    ACCEPTS: ClassVar[frozenset[DType]] = NUMBERS | {DType.BOOL}


@kind
class Mean(Reduction):
    """Mean over ``axes``."""

    NAME: ClassVar[str] = "mean"
    ACCEPTS: ClassVar[frozenset[DType]] = FLOATS


@kind
class Prod(Reduction):
    """Product over ``axes``."""

    NAME: ClassVar[str] = "prod"
    ACCEPTS: ClassVar[frozenset[DType]] = NUMBERS | {DType.BOOL}


@kind
class Amax(Reduction):
    """Largest over ``axes``; NaN wins."""

    NAME: ClassVar[str] = "amax"


@kind
class Amin(Reduction):
    """Smallest over ``axes``; NaN wins."""

    NAME: ClassVar[str] = "amin"


@kind
class All(Reduction):
    """Whether every element over ``axes`` is non-zero."""

    NAME: ClassVar[str] = "all"
    ACCEPTS: ClassVar[frozenset[DType]] = ANY - {DType.OTHER}
    RESULT: ClassVar[DType | None] = DType.BOOL


@kind
class Any(Reduction):
    """Whether some element over ``axes`` is non-zero."""

    NAME: ClassVar[str] = "any"
    ACCEPTS: ClassVar[frozenset[DType]] = ANY - {DType.OTHER}
    RESULT: ClassVar[DType | None] = DType.BOOL


@kind
class Var(Reduction):
    """Variance over ``axes``, divided by ``max(n - correction, 0)``."""

    correction: float = 1.0
    NAME: ClassVar[str] = "var"
    ACCEPTS: ClassVar[frozenset[DType]] = FLOATS


@kind
class ArgReduction(Kind):
    """Base of arg-reductions: the index of the first extreme along one axis -> ``i64``."""

    axis: int
    keepdim: bool = False
    NAME: ClassVar[str] = ""

    def infer(self, args: Types) -> Types:
        """Return the ``i64`` type. Raises InferError."""
        (x,) = arity(self, args, 1)
        accept(self, x, ORDERED)
        return (TensorType(DType.I64, reduced(self, x, (self.axis,), self.keepdim)),)


@kind
class ArgMax(ArgReduction):
    """Index of the largest along ``axis``; the first NaN wins."""

    NAME: ClassVar[str] = "argmax"


@kind
class ArgMin(ArgReduction):
    """Index of the smallest along ``axis``; the first NaN wins."""

    NAME: ClassVar[str] = "argmin"


@kind
class CumSum(Kind):
    """Running sum along ``axis``."""

    axis: int
    NAME: ClassVar[str] = "cumsum"

    def infer(self, args: Types) -> Types:
        """Return the type of ``x``. Raises InferError."""
        (x,) = arity(self, args, 1)
        check_axis(self, self.axis, x.rank)
        return (accept(self, x, NUMBERS),)


@kind
class Pool(Kind):
    """Base of window pools over the last ``len(kernel)`` axes of ``x: T[...,*in]``."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil: bool = False
    NAME: ClassVar[str] = ""
    ACCEPTS: ClassVar[frozenset[DType]] = FLOATS

    def infer(self, args: Types) -> Types:
        """Return ``T[...,*out]``. Raises InferError."""
        (x,) = arity(self, args, 1)
        accept(self, x, self.ACCEPTS)
        n = len(self.kernel)
        need(x.rank > n, self, f"window of {n} axes on {x}")
        need(len(self.stride) == len(self.padding) == n, self, "kernel, stride and padding differ")
        fits = all(0 <= 2 * p <= k for k, p in zip(self.kernel, self.padding, strict=True))
        need(fits, self, f"padding {self.padding} exceeds half the window {self.kernel}")
        dilation = getattr(self, "dilation", ()) or (1,) * n
        out = tuple(
            window(d, k, s, p, dil, self.ceil)
            for d, k, s, p, dil in zip(
                x.shape[-n:], self.kernel, self.stride, self.padding, dilation, strict=True
            )
        )
        need(all(not isinstance(d, int) or d >= 1 for d in out), self, f"window exceeds {x}")
        return (x.with_shape((*x.shape[:-n], *out)),)


@kind
class MaxPool(Pool):
    """Largest in each window; padding never wins, NaN does. Codes of 8 bits are taken, too."""

    dilation: tuple[int, ...] = ()
    NAME: ClassVar[str] = "max_pool"
    ACCEPTS: ClassVar[frozenset[DType]] = FLOATS | {DType.I8, DType.U8}


@kind
class AvgPool(Pool):
    """Mean of each window; ``divisor`` replaces the count, ``include_pad`` counts the padding."""

    include_pad: bool = True
    divisor: int | None = None
    NAME: ClassVar[str] = "avg_pool"


@kind
class AdaptiveAvgPool(Kind):
    """Mean over windows ``floor(i*in/out) .. ceil((i+1)*in/out)`` of the last axes."""

    output: tuple[Dim, ...]
    NAME: ClassVar[str] = "adaptive_avg_pool"

    def infer(self, args: Types) -> Types:
        """Return ``T[...,*output]``. Raises InferError."""
        (x,) = arity(self, args, 1)
        accept(self, x, FLOATS)
        need(x.rank > len(self.output), self, f"output {self.output} of {x}")
        return (x.with_shape((*x.shape[: -len(self.output)], *self.output)),)


@kind
class AdaptiveMaxPool(AdaptiveAvgPool):
    """Largest over the windows of ``AdaptiveAvgPool``."""

    NAME: ClassVar[str] = "adaptive_max_pool"


KINDS: tuple[type[Kind], ...] = (
    Sum, Mean, Prod, Amax, Amin, All, Any, Var, ArgMax, ArgMin, CumSum, MaxPool, AvgPool,
    AdaptiveAvgPool, AdaptiveMaxPool,
)  # fmt: skip
