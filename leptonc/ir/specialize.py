"""Fix the symbolic sizes of a function: types, kind attributes, unit bodies."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Mapping
from typing import Any, cast

import sympy  # pyright: ignore[reportMissingTypeStubs]

from leptonc.errors import InputError
from leptonc.ir.core import Function, Kind, Op, Value
from leptonc.ir.dims import Dim, DimRange, as_dim, evaluate, free_symbols, symbol
from leptonc.ir.types import TensorType


def specialize(fn: Function, sizes: Mapping[str, int]) -> Function:
    """Return ``fn`` with every symbolic size replaced; ``fn`` itself when it declares none.

    Args:
        fn: a function; its ``dims`` name the sizes.
        sizes: the value of each declared size.

    Raises:
        InputError: a size is missing or outside its declared range.
    """
    if not fn.dims:
        return fn
    check_sizes(fn.name, fn.dims, sizes)
    return Specializer(sizes).function(fn)


def check_sizes(where: str, dims: Iterable[DimRange], sizes: Mapping[str, int]) -> None:
    """Raise InputError, named ``where``, unless each of ``dims`` has a value in its range."""
    for d in dims:
        if d.name not in sizes:
            raise InputError(f"{where}: no value for size {d.name} (needs {d})")
        n = sizes[d.name]
        if n < d.min or (d.max is not None and n > d.max):
            raise InputError(f"{where}: size {d.name} = {n} is outside its range, {d}")


class Specializer:
    """Replaces sizes under one binding; remembers expressions and types it has seen.

    Sizes without a value raise KeyError, or stay what they are when it is ``partial``.
    """

    def __init__(self, sizes: Mapping[str, int], partial: bool = False) -> None:
        self.sizes = sizes
        self.partial = partial
        self._dims: dict[sympy.Expr, Dim] = {}
        self._types: dict[TensorType, TensorType] = {}

    def dim(self, d: Dim) -> Dim:
        """Return the value of ``d``; where it is partial, maybe an expression of other sizes."""
        if isinstance(d, int):
            return d
        found = self._dims.get(d)
        if found is None:
            found = self._dims[d] = self._value_of(d)
        return found

    def _value_of(self, d: sympy.Expr) -> Dim:
        if self.partial and not free_symbols((d,)) <= self.sizes.keys():
            known: Any = {symbol(name): value for name, value in self.sizes.items()}
            return as_dim(d.subs(known))
        return evaluate(d, self.sizes)

    def type(self, t: TensorType) -> TensorType:
        """Return ``t`` with concrete sizes; ``t`` itself when it is static."""
        for d in t.shape:
            if not isinstance(d, int):
                break
        else:
            return t
        found = self._types.get(t)
        if found is None:
            shape = tuple(self.dim(d) for d in t.shape)
            found = self._types[t] = TensorType(t.dtype, shape, t.layout)
        return found

    def attribute(self, value: Any) -> Any:
        """Return an attribute value with concrete sizes; the same object when nothing changed."""
        if isinstance(value, tuple):
            old = cast("tuple[Any, ...]", value)
            new = tuple([self.attribute(v) for v in old])
            return old if all(map(operator.is_, new, old)) else new
        if isinstance(value, (bool, int, float, str)) or value is None:
            return value
        if isinstance(value, sympy.Expr):
            return self.dim(value)
        if isinstance(value, TensorType):
            return self.type(value)
        if isinstance(value, Function):
            return self.function(value) if value.dims else value
        return value

    def kind(self, kind: Kind) -> Kind:
        """Return ``kind`` with concrete attributes; the same object when nothing changed."""
        changed = {
            name: made
            for name, value in kind.attributes.items()
            if (made := self.attribute(value)) is not value
        }
        return dataclasses.replace(kind, **changed) if changed else kind  # type: ignore[type-var]

    def function(self, fn: Function) -> Function:
        """Return ``fn`` with concrete types and kinds; untouched ops are shared."""
        values: dict[Value, Value] = {}
        params = tuple(self._value(v, values) for v in fn.params)
        ops = tuple(self._op(op, values) for op in fn.ops)
        dims = tuple(d for d in fn.dims if d.name not in self.sizes)
        return Function(fn.name, params, ops, tuple(values.get(v, v) for v in fn.returns), dims)

    def _value(self, v: Value, values: dict[Value, Value]) -> Value:
        t = self.type(v.type)
        if t is v.type:
            return v
        values[v] = made = Value(t, v.hint)
        return made

    def _op(self, op: Op, values: dict[Value, Value]) -> Op:
        kind = self.kind(op.kind)
        operands = tuple(values.get(v, v) for v in op.operands)
        results = tuple(self._value(r, values) for r in op.results)
        if kind is op.kind and operands == op.operands and results == op.results:
            return op
        return Op(kind, operands, results, op.origin)
