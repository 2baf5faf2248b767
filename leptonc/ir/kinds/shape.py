"""Kinds that move or rename elements and compute none."""

from __future__ import annotations

from typing import ClassVar

from leptonc.errors import InferError
from leptonc.ir.core import Kind, Trait, Types, kind
from leptonc.ir.dims import Dim, as_dim, ceildiv, product, same_dim
from leptonc.ir.kinds.base import arity, broadcast, check_axis, need, same_dtype
from leptonc.ir.types import TensorType

_VIEW = Trait.PURE | Trait.VIEW


@kind
class Reshape(Kind):
    """The same elements in row-major order under another shape (no -1)."""

    shape: tuple[Dim, ...]
    NAME: ClassVar[str] = "reshape"
    TRAITS: ClassVar[Trait] = _VIEW

    def infer(self, args: Types) -> Types:
        """Return ``T[shape]``. Raises InferError when the element counts differ."""
        (x,) = arity(self, args, 1)
        to = product(self.shape)
        if not same_dim(x.numel, to) and isinstance(x.numel, int) and isinstance(to, int):
            raise InferError(f"reshape: {x} has {x.numel} elements, {list(self.shape)} has {to}")
        return (x.with_shape(self.shape),)


@kind
class Transpose(Kind):
    """Permute axes: result axis ``i`` is axis ``perm[i]`` of ``x``."""

    perm: tuple[int, ...]
    NAME: ClassVar[str] = "transpose"
    TRAITS: ClassVar[Trait] = _VIEW

    def infer(self, args: Types) -> Types:
        """Return the permuted type. Raises InferError."""
        (x,) = arity(self, args, 1)
        need(sorted(self.perm) == list(range(x.rank)), self, f"perm {self.perm} does not fit {x}")
        return (x.with_shape(tuple(x.shape[p] for p in self.perm)),)


@kind
class Expand(Kind):
    """Broadcast to ``shape`` (all sizes given)."""

    shape: tuple[Dim, ...]
    NAME: ClassVar[str] = "expand"
    TRAITS: ClassVar[Trait] = _VIEW

    def infer(self, args: Types) -> Types:
        """Return ``T[shape]``. Raises InferError."""
        (x,) = arity(self, args, 1)
        need(broadcast(self, x.shape, self.shape) == self.shape, self, f"{x} to {self.shape}")
        return (x.with_shape(self.shape),)


@kind
class Slice(Kind):
    """Elements ``start, start+step, ...`` below ``stop`` of one axis, ``0 <= start <= stop``."""

    axis: int
    start: Dim
    stop: Dim
    step: int = 1
    NAME: ClassVar[str] = "slice"
    TRAITS: ClassVar[Trait] = _VIEW

    def infer(self, args: Types) -> Types:
        """Return the shortened type. Raises InferError."""
        (x,) = arity(self, args, 1)
        need(x.rank >= 1 and self.step >= 1, self, f"step {self.step} of {x}")
        check_axis(self, self.axis, x.rank)
        size = x.shape[self.axis]
        if isinstance(self.start, int) and isinstance(self.stop, int):
            top = self.stop if not isinstance(size, int) else size
            need(0 <= self.start <= self.stop <= top, self, f"{self.start}:{self.stop} of {x}")
        n = ceildiv(as_dim(self.stop - self.start), self.step)
        return (x.with_shape((*x.shape[: self.axis], n, *x.shape[self.axis + 1 :])),)


@kind
class Flip(Kind):
    """Reverse ``axes``."""

    axes: tuple[int, ...]
    NAME: ClassVar[str] = "flip"
    TRAITS: ClassVar[Trait] = _VIEW

    def infer(self, args: Types) -> Types:
        """Return the type of ``x``. Raises InferError."""
        (x,) = arity(self, args, 1)
        for a in self.axes:
            check_axis(self, a, x.rank)
        return (x,)


@kind
class Roll(Kind):
    """Shift ``axes`` cyclically: element ``i`` goes to ``(i + shift) mod n``."""

    shifts: tuple[int, ...]
    axes: tuple[int, ...]
    NAME: ClassVar[str] = "roll"

    def infer(self, args: Types) -> Types:
        """Return the type of ``x``. Raises InferError."""
        (x,) = arity(self, args, 1)
        need(len(self.shifts) == len(self.axes), self, "shifts and axes differ in number")
        for a in self.axes:
            check_axis(self, a, x.rank)
        return (x,)


@kind
class Concat(Kind):
    """Join one or more operands along ``axis``."""

    axis: int
    NAME: ClassVar[str] = "concat"

    def infer(self, args: Types) -> Types:
        """Return the joined type. Raises InferError."""
        need(len(args) >= 1, self, "needs an operand")
        x, *rest = arity(self, args, len(args))
        need(x.rank >= 1, self, "scalars have no axis to join along")
        dtype = same_dtype(self, args)
        check_axis(self, self.axis, x.rank)
        total = x.shape[self.axis]
        for r in rest:
            ok = r.rank == x.rank and all(
                same_dim(a, b)
                for i, (a, b) in enumerate(zip(r.shape, x.shape, strict=True))
                if i != self.axis
            )
            need(ok, self, f"{r} does not fit {x} along axis {self.axis}")
            total = as_dim(total + r.shape[self.axis])
        shape = (*x.shape[: self.axis], total, *x.shape[self.axis + 1 :])
        return (TensorType(dtype, shape),)


_PAD_MODES = ("constant", "reflect", "replicate", "circular")


@kind
class Pad(Kind):
    """Add ``low``/``high`` elements per axis; negative counts crop.

    ``mode``: ``"constant"`` (``value``), ``"reflect"``, ``"replicate"``, ``"circular"``.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    mode: str = "constant"
    value: float | int | bool = 0.0
    NAME: ClassVar[str] = "pad"

    def infer(self, args: Types) -> Types:
        """Return the padded type. Raises InferError."""
        (x,) = arity(self, args, 1)
        need(len(self.low) == len(self.high) == x.rank, self, f"pads of {x}")
        need(self.mode in _PAD_MODES, self, f"mode must be one of {', '.join(_PAD_MODES)}")
        shape = tuple(
            as_dim(d + lo + hi) for d, lo, hi in zip(x.shape, self.low, self.high, strict=True)
        )
        need(all(not isinstance(d, int) or d >= 0 for d in shape), self, f"crops more than {x}")
        return (x.with_shape(shape),)


@kind
class Relayout(Kind):
    """The same tensor stored with physical axis order ``order``, outermost first."""

    order: tuple[int, ...]
    NAME: ClassVar[str] = "relayout"

    def infer(self, args: Types) -> Types:
        """Return the type with its layout. Raises InferError."""
        (x,) = arity(self, args, 1)
        need(sorted(self.order) == list(range(x.rank)), self, f"order {self.order} of {x}")
        plain = self.order == tuple(range(x.rank))
        return (TensorType(x.dtype, x.shape, None if plain else self.order),)


KINDS: tuple[type[Kind], ...] = (
    Reshape, Transpose, Expand, Slice, Flip, Roll, Concat, Pad, Relayout,
)  # fmt: skip
