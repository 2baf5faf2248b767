"""What an importer of one ATen op sees: its arguments by name, its result types, emit helpers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sympy
import torch
from torch.fx import Node

from leptonc.capture.sizes import Sizes
from leptonc.errors import CaptureError
from leptonc.ir.core import Builder, Kind, Value
from leptonc.ir.dims import Dim, same_dim
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.pointwise import Cast
from leptonc.ir.kinds.shape import Expand, Reshape, Slice, Transpose
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import IR_DTYPES, TORCH_DTYPES


class Unclaimed(Exception):
    """A call without kinds of its own: it becomes a ``torch_op``; the text is the reason."""


class Args:
    """Arguments of an ATen call by schema name: values, sizes, numbers, lists, dtypes, None."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given

    def __getattr__(self, name: str) -> Any:
        return self.given[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return the argument, or ``default`` where the schema has none of that name."""
        return self.given.get(name, default)


def want(ok: bool, reason: str) -> None:
    """Raise Unclaimed unless ``ok``."""
    if not ok:
        raise Unclaimed(reason)


def tensor_type(fake: torch.Tensor, sizes: Sizes) -> TensorType:
    """Return the IR type of a (fake) tensor. Raises CaptureError: leptonc cannot store it."""
    if fake.layout is not torch.strided:
        raise CaptureError(f"the model makes a {fake.layout} tensor; leptonc takes dense ones")
    if fake.dtype not in IR_DTYPES:
        raise CaptureError(f"the model uses {fake.dtype}, which leptonc has no type for")
    return TensorType(IR_DTYPES[fake.dtype], sizes.shape(fake.shape))


@lru_cache(maxsize=4096)
def _result_type(*parts: tuple[DType, bool] | type) -> DType:
    """Return torch's promotion of (dtype, has axes) pairs and Python number types."""
    operands = [
        torch.empty((1,) * p[1], dtype=TORCH_DTYPES[p[0]], device="meta")
        if isinstance(p, tuple)
        else p(1)
        for p in parts
    ]
    return IR_DTYPES[torch.result_type(*operands)]  # type: ignore[arg-type]


def promoted(x: Any, y: Any) -> DType:
    """Return the dtype in which torch computes an op of ``x`` and ``y`` (values or numbers)."""
    return _result_type(_part(x), _part(y))


def _part(x: Any) -> Any:
    if isinstance(x, Value):
        return x.type.dtype, x.type.rank > 0
    return int if isinstance(x, sympy.Expr) and x.is_integer else _number_type(x)


def _number_type(x: Any) -> type:
    return float if isinstance(x, sympy.Expr) else type(x)


def axis_of(axis: int, rank: int) -> int:
    """Return ``axis`` counted from the front."""
    return axis + max(rank, 1) if axis < 0 else axis


def axes_of(axes: Any, rank: int) -> tuple[int, ...]:
    """Return the reduced axes counted from the front; None and [] mean all."""
    if axes is None or (isinstance(axes, Sequence) and not axes):
        return tuple(range(rank))
    if rank == 0:
        return ()
    return tuple(axis_of(a, rank) for a in ([axes] if isinstance(axes, int) else axes))


@dataclass
class Context:
    """The builder, the node at hand and its result types; helpers that emit kinds."""

    b: Builder
    sizes: Sizes
    node: Node
    outs: tuple[TensorType | None, ...]  # types of the results, in torch's order

    @property
    def out(self) -> TensorType:
        """The type of the first result."""
        want(bool(self.outs) and self.outs[0] is not None, "it returns no tensor")
        return self.outs[0]  # type: ignore[return-value]

    @property
    def dtype(self) -> DType:
        """The dtype of the first result."""
        return self.out.dtype

    def __call__(self, kind: Kind, *operands: Value) -> Value:
        """Emit an op of one result, hinted with the node's name."""
        return self.b(kind, *operands, hint=self.node.name)

    def emit(self, kind: Kind, *operands: Value) -> tuple[Value, ...]:
        """Emit an op of any number of results."""
        return self.b.emit(kind, *operands, hint=self.node.name)

    def used(self, index: int) -> bool:
        """Whether result ``index`` of a multi-result node is read."""
        return any(
            u.args[1] == index and bool(u.users)
            if getattr(u.target, "__name__", "") == "getitem"
            else True
            for u in self.node.users
        )

    def is_const(self, v: Value) -> bool:
        """Whether ``v`` is a constant, looked at through transposes."""
        op = self.b.producer.get(v)
        while op is not None and isinstance(op.kind, Transpose):
            op = self.b.producer.get(op.operands[0])
        return op is not None and isinstance(op.kind, Constant)

    def cast(self, v: Value, dtype: DType) -> Value:
        """Return ``v`` in ``dtype``."""
        return v if v.type.dtype is dtype else self(Cast(dtype), v)

    def full(self, value: Any, dtype: DType, shape: tuple[Dim, ...] = ()) -> Value:
        """Return a tensor filled with ``value``, 0-d by default."""
        if dtype is DType.BOOL and not isinstance(value, sympy.Expr):
            value = bool(value)
        elif dtype.is_float and isinstance(value, (bool, int)):
            value = float(value)
        elif dtype.is_int and not isinstance(value, sympy.Expr):
            value = int(value)
        want(not isinstance(value, complex), "complex numbers have no kind")
        return self(Full(shape, value, dtype))

    def lift(self, x: Any, dtype: DType) -> Value:
        """Return a value or number as a value of ``dtype``."""
        return self.cast(x, dtype) if isinstance(x, Value) else self.full(x, dtype)

    def reshape(self, v: Value, shape: tuple[Dim, ...]) -> Value:
        """Return ``v`` under another shape."""
        return v if v.type.shape == tuple(shape) else self(Reshape(tuple(shape)), v)

    def transpose(self, v: Value, perm: Sequence[int]) -> Value:
        """Return ``v`` with its axes permuted."""
        return v if list(perm) == list(range(v.type.rank)) else self(Transpose(tuple(perm)), v)

    def swap(self, v: Value, i: int, j: int) -> Value:
        """Return ``v`` with two axes exchanged."""
        perm = list(range(v.type.rank))
        perm[i], perm[j] = perm[j], perm[i]
        return self.transpose(v, perm)

    def expand(self, v: Value, shape: tuple[Dim, ...]) -> Value:
        """Return ``v`` broadcast to ``shape``."""
        return v if v.type.shape == tuple(shape) else self(Expand(tuple(shape)), v)

    def slice(self, v: Value, axis: int, start: Dim, length: Dim, step: int = 1) -> Value:
        """Return ``length`` elements of ``axis`` from ``start`` on, every ``step``-th."""
        whole = isinstance(start, int) and start == 0 and step == 1
        if whole and same_dim(length, v.type.shape[axis]):
            return v
        stop = start + length if step == 1 else start + (length - 1) * step + 1
        if isinstance(length, int) and length == 0:
            stop = start
        return self(Slice(axis, start, stop, step), v)
