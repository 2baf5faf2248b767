"""Dimensions: plain ints, or sympy expressions over named sizes with a declared range.

Static sizes stay ints: sympy is slow, so only an expression that holds a symbol touches it.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, cast

import sympy  # pyright: ignore[reportMissingTypeStubs]

from leptonc.errors import ParseError

Dim: TypeAlias = "int | sympy.Expr"
Shape: TypeAlias = "tuple[Dim, ...]"


@dataclass(frozen=True, slots=True)
class DimRange:
    """A named size and the closed range of values it may take (``max=None``: unbounded)."""

    name: str
    min: int = 0
    max: int | None = None

    def __str__(self) -> str:
        return f"{self.name} in [{self.min}, {'inf' if self.max is None else self.max}]"


@lru_cache(maxsize=4096)
def symbol(name: str) -> sympy.Symbol:
    """Return the one symbol of this name (a non-negative integer)."""
    return sympy.Symbol(name, integer=True, nonnegative=True)


def as_dim(value: Any) -> Dim:
    """Return ``value`` as an int where it is one, else as the expression it is."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, sympy.Integer) or (isinstance(value, sympy.Expr) and value.is_Integer):
        return int(value)
    if isinstance(value, sympy.Expr):
        return value
    raise TypeError(f"not a dimension: {value!r}")


def is_static(dims: Iterable[Dim]) -> bool:
    """Return whether every dimension is a plain int."""
    return all(isinstance(d, int) for d in dims)


def product(dims: Iterable[Dim]) -> Dim:
    """Return the product of ``dims`` (1 for none)."""
    total: Any = 1
    for d in dims:
        total = total * d
    return as_dim(total)


def floordiv(a: Dim, b: Dim) -> Dim:
    """Return ``a // b`` rounded towards minus infinity."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if isinstance(b, int) and b == 1:
        return a
    return as_dim(sympy.floor(cast(Any, a) / cast(Any, b)))


def ceildiv(a: Dim, b: Dim) -> Dim:
    """Return ``a / b`` rounded towards plus infinity."""
    return as_dim(-cast(Any, floordiv(as_dim(-cast(Any, a)), b)))


def free_symbols(dims: Iterable[Dim]) -> frozenset[str]:
    """Return the names that occur in ``dims``."""
    found = [_names(d) for d in dims if not isinstance(d, int)]
    return found[0] if len(found) == 1 else frozenset[str]().union(*found)


@lru_cache(maxsize=4096)
def _names(expr: sympy.Expr) -> frozenset[str]:
    return frozenset(str(s) for s in expr.free_symbols)


def same_dim(a: Dim, b: Dim) -> bool:
    """Return whether the two are equal for every value of their symbols, as far as is provable."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if a == b:
        return True
    if isinstance(a, int) or isinstance(b, int):
        return False
    return _expands_to_zero(a, b)


def divides(a: Dim, b: Dim) -> bool:
    """Return whether ``a`` divides ``b``, as far as plain numbers can tell."""
    return not isinstance(a, int) or not isinstance(b, int) or b % a == 0


def same_shape(a: Shape, b: Shape) -> bool:
    """Return whether two shapes are provably equal."""
    return len(a) == len(b) and (a == b or all(map(same_dim, a, b)))


@lru_cache(maxsize=4096)
def _expands_to_zero(a: sympy.Expr, b: sympy.Expr) -> bool:
    difference: Any = a - b
    return difference.expand() == 0


_OPS: Mapping[Any, Any] = {
    sympy.Add: sum,
    sympy.Mul: math.prod,
    sympy.Max: max,
    sympy.Min: min,
}


def evaluate(dim: Dim, sizes: Mapping[str, int]) -> int:
    """Return the value of ``dim`` under ``sizes``. Raises KeyError for an unknown name."""
    if isinstance(dim, int):
        return dim
    value = _eval(dim, sizes)
    if value != int(value):
        raise ValueError(f"{dim} is not a whole number under {dict(sizes)}")
    return int(value)


def _eval(e: sympy.Expr, sizes: Mapping[str, int]) -> Any:
    if e.is_Symbol:
        return sizes[str(e)]
    if e.is_Integer:
        return int(cast(Any, e))
    if e.is_Rational:
        return cast(Any, e)
    args = [_eval(cast(sympy.Expr, a), sizes) for a in e.args]
    fold = _OPS.get(e.func)
    if fold is not None:
        return fold(args)
    if e.func is sympy.Pow:
        return sympy.Rational(args[0]) ** args[1] if args[1] < 0 else args[0] ** args[1]
    if e.func is sympy.floor:
        return int(sympy.floor(args[0])) if not isinstance(args[0], int) else args[0]
    if e.func is sympy.ceiling:
        return int(sympy.ceiling(args[0])) if not isinstance(args[0], int) else args[0]
    if e.func is sympy.Mod:
        return args[0] % args[1]
    return e.subs({s: sizes[str(s)] for s in e.free_symbols})


def dim_text(dim: Dim) -> str:
    """Return the text form of a dimension; ``parse_dim`` reads it back."""
    return str(dim) if isinstance(dim, int) else _expr_text(dim)


@lru_cache(maxsize=4096)
def _expr_text(expr: sympy.Expr) -> str:
    return str(expr).replace(" ", "")


_CALLS: Mapping[str, Any] = {
    "floor": sympy.floor,
    "ceiling": sympy.ceiling,
    "Mod": sympy.Mod,
    "Max": sympy.Max,
    "Min": sympy.Min,
}


def _divide(a: Any, b: Any) -> Any:
    return sympy.Integer(a) / b if isinstance(a, int) else a / b


_BINARY: Mapping[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Pow: sympy.Pow,
    ast.FloorDiv: floordiv,
    ast.Mod: operator.mod,
    ast.Div: _divide,
}


@lru_cache(maxsize=4096)
def parse_dim(text: str) -> Dim:
    """Read a dimension such as ``s0*4+1`` or ``floor(s0/2)``. Raises ParseError."""
    try:
        return as_dim(_read(ast.parse(text, mode="eval").body))
    except (SyntaxError, TypeError, KeyError, ArithmeticError) as e:
        raise ParseError(f"not a dimension: {text!r} ({e})") from e


def _read(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return symbol(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_read(node.operand)
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_read(node.left), _read(node.right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _CALLS[node.func.id](*(_read(a) for a in node.args))
    raise TypeError(f"{type(node).__name__} is not allowed here")
