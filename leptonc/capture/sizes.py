"""Symbolic sizes: torch's SymInts and their sympy functions -> dimensions of the IR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sympy
import torch

from leptonc.errors import CaptureError
from leptonc.ir.dims import Dim, DimRange, as_dim, ceildiv, floordiv, symbol

_BIG = 1 << 62  # torch writes "no bound" and "to the end" as numbers around the largest int64


def _exact(e: sympy.Expr) -> Any:
    """Return a float literal as the rational it is, so that floor() stays exact."""
    return sympy.Rational(float(e)) if e.is_Float else e


def _quotient(a: Any, b: Any) -> Any:
    return sympy.sympify(_exact(sympy.sympify(a))) / _exact(sympy.sympify(b))


# Torch's own sympy functions by class name: their classes move between releases, the names do not.
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "FloorDiv": floordiv,
    "CleanDiv": floordiv,
    "CeilDiv": ceildiv,
    "Mod": lambda a, b: sympy.Mod(a, b),
    "PythonMod": lambda a, b: sympy.Mod(a, b),
    "ModularIndexing": lambda a, b, c: sympy.Mod(floordiv(a, b), c),
    "IntTrueDiv": _quotient,
    "FloatTrueDiv": _quotient,
    "TruncToInt": lambda a: sympy.floor(a),  # sizes are never negative
    "FloorToInt": lambda a: sympy.floor(a),
    "CeilToInt": lambda a: sympy.ceiling(a),
    "TruncToFloat": lambda a: sympy.floor(a),
    "ToFloat": lambda a: a,
    "Identity": lambda a: a,
    "PowByNatural": lambda a, b: a**b,
    "FloatPow": lambda a, b: a**b,
    "Max": lambda *a: sympy.Max(*a),
    "Min": lambda *a: sympy.Min(*a),
    "Add": lambda *a: sum(a[1:], a[0]),
    "Mul": lambda *a: sympy.prod(a),
    "Pow": lambda a, b: a**b,
    "floor": sympy.floor,
    "ceiling": sympy.ceiling,
}


class Sizes:
    """Maps torch's size expressions to dimensions, renaming symbols as ``names`` says."""

    def __init__(self, names: Mapping[str, str] | None = None, floor: int = 0) -> None:
        """Start with the user's names and the least value that any size may take."""
        self.names, self.floor = dict(names or {}), floor
        self.floors: dict[str, int] = {}
        self.seen: dict[str, str] = {}  # torch's name -> the name in the IR

    def dim(self, value: Any) -> Dim:
        """Return an int, SymInt or expression as a dimension. Raises CaptureError."""
        if isinstance(value, int):
            return int(value)
        expr = value.node.expr if isinstance(value, (torch.SymInt, torch.SymFloat)) else value
        return as_dim(self.expr(sympy.sympify(expr)))

    def number(self, value: Any) -> Any:
        """Return a scalar attribute: a Python number as it is, a symbolic one as an expression."""
        if isinstance(value, (torch.SymInt, torch.SymFloat)):
            made = self.expr(value.node.expr)
            if isinstance(made, sympy.Expr) and made.is_number:
                return int(made) if isinstance(value, torch.SymInt) else float(made)
            return made
        if isinstance(value, torch.SymBool):
            return self.flag(value)
        return value

    def flag(self, value: torch.SymBool) -> bool:
        """Return a symbolic condition that holds throughout the declared ranges as a bool."""
        known = value.node.maybe_as_bool()
        if known is None:
            raise CaptureError(f"the condition {value} depends on a dynamic size")
        return bool(known)

    def shape(self, sizes: Any) -> tuple[Dim, ...]:
        """Return every size as a dimension."""
        return tuple(self.dim(s) for s in sizes)

    def expr(self, e: Any) -> Any:
        """Return a torch expression rebuilt from interned symbols and plain sympy functions."""
        if isinstance(e, int):
            return e
        if e.is_Symbol:
            return self._symbol(str(e))
        if e.is_Integer:
            return int(e)
        if e.is_number and not e.args:
            return _exact(e)
        make = _FUNCTIONS.get(type(e).__name__)
        if make is None:
            raise CaptureError(f"the size expression {e} ({type(e).__name__}) has no counterpart")
        return make(*(self.expr(a) for a in e.args))

    def _symbol(self, name: str) -> sympy.Symbol:
        if name.startswith(("u", "zuf")) and name.lstrip("uzf").isdigit():
            raise CaptureError(
                f"the size {name} depends on the values of a tensor (nonzero, item, masked_select, "
                "unique ...); compute it outside the model, or pad to a fixed size"
            )
        return symbol(self.seen.setdefault(name, self.names.get(name, name)))

    def ranges(self, constraints: Mapping[Any, Any]) -> tuple[DimRange, ...]:
        """Return the declared range of every symbol seen so far, in order of appearance."""
        bounds = {str(s): r for s, r in constraints.items()}
        made: dict[str, DimRange] = {}
        for theirs, ours in self.seen.items():
            low, high = _bounds(bounds.get(theirs))
            low = max(low, self.floor, self.floors.get(ours, 0))
            made.setdefault(ours, DimRange(ours, low, high))
        return tuple(made.values())

    def exclude_one(self, size: Dim) -> None:
        """Let the range of a size begin at 2: an op told 1 apart from all other sizes."""
        if isinstance(size, sympy.Symbol):
            self.floors[str(size)] = 2


def _bounds(r: Any) -> tuple[int, int | None]:
    if r is None:
        return 0, None
    low = int(r.lower) if r.lower.is_finite is not False and r.lower > -_BIG else 0
    finite = r.upper.is_number and r.upper < _BIG
    return max(low, 0), int(r.upper) if finite else None
