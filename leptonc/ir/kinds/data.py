"""Kinds that make, look up and resample data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import ClassVar

from leptonc.ir.constants import Const
from leptonc.ir.core import Builder, Kind, Types, Value, kind
from leptonc.ir.dims import Dim, Shape, same_shape
from leptonc.ir.kinds.base import FLOATS, accept, arity, check_axis, need, same_dtype
from leptonc.ir.types import DType, TensorType


@kind
class Constant(Kind):
    """A constant array. No operands."""

    const: Const
    NAME: ClassVar[str] = "constant"

    def infer(self, args: Types) -> Types:
        """Return the constant's type."""
        arity(self, args, 0)
        return (self.const.type,)


@kind
class Full(Kind):
    """``shape`` filled with ``value`` (which may be a symbolic size). No operands."""

    shape: tuple[Dim, ...]
    value: bool | float | Dim
    dtype: DType
    NAME: ClassVar[str] = "full"

    def infer(self, args: Types) -> Types:
        """Return ``dtype[shape]``."""
        arity(self, args, 0)
        return (TensorType(self.dtype, self.shape),)


@kind
class Iota(Kind):
    """``start + step * i`` for ``i < length``. No operands."""

    length: Dim
    start: float | Dim = 0
    step: float | Dim = 1
    dtype: DType = DType.I64
    NAME: ClassVar[str] = "iota"

    def infer(self, args: Types) -> Types:
        """Return ``dtype[length]``."""
        arity(self, args, 0)
        return (TensorType(self.dtype, (self.length,)),)


@kind
class Embedding(Kind):
    """Rows of a table: ``w: T[v,d], i: int[...]`` -> ``T[...,d]``.

    Running it raises IndexError for an index out of range.
    """

    NAME: ClassVar[str] = "embedding"

    def infer(self, args: Types) -> Types:
        """Return ``T[...,d]``. Raises InferError."""
        w, i = arity(self, args, 2)
        need(w.rank == 2 and i.dtype.is_int, self, f"{w} by {i}")
        return (TensorType(w.dtype, (*i.shape, w.shape[1])),)


@kind
class IndexSelect(Kind):
    """Slices of ``x`` along ``axis`` by ``i: int[...]``, whose shape replaces the axis.

    A negative index counts from the end when ``wrap``; out of range raises IndexError.
    """

    axis: int
    wrap: bool = False
    NAME: ClassVar[str] = "index_select"

    def infer(self, args: Types) -> Types:
        """Return the type with the axis replaced. Raises InferError."""
        x, i = arity(self, args, 2)
        need(x.rank >= 1, self, f"no axis to select from in {x}")
        check_axis(self, self.axis, x.rank)
        need(i.dtype.is_int, self, f"indices must be integers, got {i}")
        return (TensorType(x.dtype, (*x.shape[: self.axis], *i.shape, *x.shape[self.axis + 1 :])),)


@kind
class Gather(Kind):
    """torch's ``gather``: ``out[..,j,..] = x[..,i[..,j,..],..]`` along ``axis``."""

    axis: int
    NAME: ClassVar[str] = "gather"

    def infer(self, args: Types) -> Types:
        """Return the type of the result: ``x``'s dtype, ``i``'s shape. Raises InferError."""
        x, i = arity(self, args, 2)
        need(x.rank == i.rank and i.dtype.is_int, self, f"{x} by {i}")
        check_axis(self, self.axis, x.rank)
        return (TensorType(x.dtype, i.shape),)


@kind
class Triangle(Kind):
    """``tril`` (``lower``) or ``triu`` of the last two axes, zero elsewhere."""

    lower: bool
    diagonal: int = 0
    NAME: ClassVar[str] = "triangle"

    def infer(self, args: Types) -> Types:
        """Return the type of ``x``. Raises InferError."""
        (x,) = arity(self, args, 1)
        need(x.rank >= 2, self, f"needs a matrix, got {x}")
        return (x,)


_MODES = ("nearest", "nearest-exact", "linear", "bicubic")
_GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}  # blocks of rows of a weight, by cell


@kind
class Interpolate(Kind):
    """Resample the last ``len(size)`` axes of ``x: T[b,c,*in]``.

    ``mode``: ``nearest``, ``nearest-exact``, ``linear`` (also bi- and trilinear), ``bicubic``.
    ``scales`` holds the user's scale factors where torch computes coordinates from them.
    """

    size: tuple[Dim, ...]
    mode: str
    align_corners: bool = False
    scales: tuple[float | None, ...] = ()
    NAME: ClassVar[str] = "interpolate"

    def infer(self, args: Types) -> Types:
        """Return ``T[b,c,*size]``. Raises InferError."""
        (x,) = arity(self, args, 1)
        accept(self, x, FLOATS)
        need(self.mode in _MODES, self, f"mode must be one of {', '.join(_MODES)}")
        need(x.rank == len(self.size) + 2 <= 5, self, f"size {self.size} of {x}")
        return (x.with_shape((*x.shape[:2], *self.size)),)


@kind
class Recurrent(Kind):
    """A whole LSTM, GRU or tanh/relu RNN, time first.

    ``x: T[t,b,k]``, states ``T[layers*directions,b,h]`` (``h0``, and ``c0`` for an LSTM), then for
    each layer and direction ``w_ih, w_hh`` and with ``bias`` ``b_ih, b_hh``
    -> ``T[t,b,h*directions]``, final states. ``cell``: ``lstm``, ``gru``, ``tanh``, ``relu``.
    """

    cell: str
    layers: int
    bidirectional: bool = False
    bias: bool = True
    NAME: ClassVar[str] = "recurrent"

    def infer(self, args: Types) -> Types:
        """Return the output's and the final states' types. Raises InferError."""
        need(self.cell in _GATES, self, f"cell must be one of {', '.join(_GATES)}")
        states = 2 if self.cell == "lstm" else 1
        directions = 2 if self.bidirectional else 1
        per = 4 if self.bias else 2
        args = arity(self, args, 1 + states + self.layers * directions * per)
        x, h0 = args[0], args[1]
        same_dtype(self, args)
        accept(self, x, FLOATS)
        need(x.rank == 3 and h0.rank == 3, self, f"needs [t,b,k] and [l,b,h], got {x} and {h0}")
        wanted = [*self._states(x, h0), *self._weights(x, h0)]
        for (name, shape), got in zip(wanted, args[1:], strict=True):
            text = ",".join(map(str, shape))
            need(same_shape(got.shape, shape), self, f"{name} must be [{text}], got {got}")
        hidden = h0.shape[2] * directions
        return (x.with_shape((*x.shape[:2], hidden)), *args[1 : 1 + states])

    def _states(self, x: TensorType, h0: TensorType) -> Iterator[tuple[str, Shape]]:
        """Yield the name and shape of each state operand."""
        directions = 2 if self.bidirectional else 1
        for name in ("h0", "c0") if self.cell == "lstm" else ("h0",):
            yield name, (self.layers * directions, x.shape[1], h0.shape[2])

    def _weights(self, x: TensorType, h0: TensorType) -> Iterator[tuple[str, Shape]]:
        """Yield the name and shape of each weight operand; gates lie one below the other."""
        directions, hidden = 2 if self.bidirectional else 1, h0.shape[2]
        rows = _GATES[self.cell] * hidden
        for layer, way in itertools.product(range(self.layers), range(directions)):
            at = f"_l{layer}{'_reverse' * way}"
            yield f"w_ih{at}", (rows, hidden * directions if layer else x.shape[2])
            yield f"w_hh{at}", (rows, hidden)
            if self.bias:
                yield f"b_ih{at}", (rows,)
                yield f"b_hh{at}", (rows,)


def scalar(b: Builder, value: bool | float | Dim, dtype: DType) -> Value:
    """Emit the 0-d constant ``value`` of ``dtype``."""
    return b(Full((), value, dtype))


KINDS: tuple[type[Kind], ...] = (
    Constant, Full, Iota, Embedding, IndexSelect, Gather, Triangle, Interpolate, Recurrent,
)  # fmt: skip
