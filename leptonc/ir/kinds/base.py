"""Type rules shared by many kinds: broadcasting, axis checks, windows."""

from __future__ import annotations

from typing import ClassVar

import sympy  # pyright: ignore[reportMissingTypeStubs]

from leptonc.errors import InferError
from leptonc.ir.core import Kind, Types
from leptonc.ir.dims import Dim, Shape, as_dim, ceildiv, floordiv, same_dim
from leptonc.ir.types import DType, TensorType

FLOATS = frozenset(d for d in DType if d.is_float)
INTS = frozenset(d for d in DType if d.is_int)
BITS = INTS | {DType.BOOL}
REALS = FLOATS | INTS
ORDERED = REALS | {DType.BOOL}
NUMBERS = REALS | {DType.C64, DType.C128}
ANY = frozenset(DType)


def need(ok: bool, kind: Kind, message: str) -> None:
    """Raise InferError with the kind's name unless ``ok``."""
    if not ok:
        raise InferError(f"{kind.NAME}: {message}")


def arity(kind: Kind, args: Types, *counts: int) -> Types:
    """Return ``args`` without layouts. Raises InferError unless their number is in ``counts``."""
    if len(args) not in counts:
        takes = " or ".join(map(str, counts))
        raise InferError(f"{kind.NAME}: takes {takes} operands, got {len(args)}")
    return tuple([a if a.layout is None else a.logical() for a in args])


def accept(kind: Kind, x: TensorType, dtypes: frozenset[DType]) -> TensorType:
    """Return ``x``. Raises InferError unless its dtype is in ``dtypes``."""
    if x.dtype not in dtypes:
        names = ", ".join(sorted(d.value for d in dtypes))
        raise InferError(f"{kind.NAME}: takes {names}, got {x}; cast the operand first")
    return x


def broadcast(kind: Kind, *shapes: Shape) -> Shape:
    """Return the common shape under NumPy's rules. Raises InferError."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = [1] * rank
    for s in shapes:
        for i, d in enumerate(s, start=rank - len(s)):
            if same_dim(out[i], 1):
                out[i] = d
            elif not same_dim(d, 1) and not same_dim(d, out[i]):
                raise InferError(f"{kind.NAME}: shapes {_text(shapes)} do not broadcast")
    return tuple(out)


def same_dtype(kind: Kind, args: Types) -> DType:
    """Return the one dtype of ``args``. Raises InferError when they differ."""
    first = args[0].dtype
    for a in args:
        if a.dtype is not first:
            raise InferError(f"{kind.NAME}: operand types differ: {', '.join(map(str, args))}")
    return first


def check_axis(kind: Kind, axis: int, rank: int) -> int:
    """Return ``axis`` if it is in ``0..rank-1`` (kinds hold no negative axes)."""
    if not 0 <= axis < max(rank, 1):
        raise InferError(f"{kind.NAME}: axis {axis} is outside rank {rank}")
    return axis


def window(size: Dim, kernel: int, stride: int, pad: int, dilation: int, ceil: bool) -> Dim:
    """Return the output size of a sliding window (torch's ``pooling_output_shape``)."""
    span = dilation * (kernel - 1) + 1
    total = size + 2 * pad - span
    if not ceil:
        return floordiv(total, stride) + 1
    # the last window must start inside the input or its left padding
    out, inside = ceildiv(total, stride) + 1, ceildiv(size + pad, stride)
    if isinstance(out, int) and isinstance(inside, int):
        return min(out, inside)
    return as_dim(sympy.Min(out, inside))


def _text(shapes: tuple[Shape, ...]) -> str:
    return " and ".join(str(list(s)) for s in shapes)


class Unary(Kind):
    """Elementwise over one operand of a dtype in ``ACCEPTS``. ``x: T`` -> ``T``."""

    ACCEPTS: ClassVar[frozenset[DType]] = REALS

    def infer(self, args: Types) -> Types:
        """Return ``(x,)``. Raises InferError for another dtype."""
        (x,) = arity(self, args, 1)
        return (accept(self, x, self.ACCEPTS),)


class FloatUnary(Unary):
    """Elementwise over one floating operand (capture casts integers first)."""

    ACCEPTS: ClassVar[frozenset[DType]] = FLOATS


class Predicate(Unary):
    """Elementwise test. ``x: T`` -> ``bool``."""

    ACCEPTS: ClassVar[frozenset[DType]] = ANY - {DType.OTHER}

    def infer(self, args: Types) -> Types:
        """Return ``(bool[shape],)``. Raises InferError."""
        (x,) = super().infer(args)
        return (x.with_dtype(DType.BOOL),)


class Binary(Kind):
    """Elementwise over two operands of one dtype in ``ACCEPTS``, shapes broadcast."""

    ACCEPTS: ClassVar[frozenset[DType]] = REALS

    def infer(self, args: Types) -> Types:
        """Return the broadcast type. Raises InferError for unequal dtypes or shapes."""
        x, y = arity(self, args, 2)
        if x.dtype is not y.dtype:
            raise InferError(f"{self.NAME}: operand types differ: {x}, {y}")
        accept(self, x, self.ACCEPTS)
        if x.shape == y.shape:
            return (x,)
        return (TensorType(x.dtype, broadcast(self, x.shape, y.shape)),)


class Compare(Binary):
    """Elementwise comparison of two operands of one dtype -> ``bool``."""

    ACCEPTS: ClassVar[frozenset[DType]] = ORDERED

    def infer(self, args: Types) -> Types:
        """Return the broadcast ``bool`` type. Raises InferError."""
        (t,) = super().infer(args)
        return (t.with_dtype(DType.BOOL),)
