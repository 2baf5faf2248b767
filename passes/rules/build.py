"""Right sides that many rules share, and predicates on the types of variables."""

from __future__ import annotations

from leptonc.ir.core import Builder, Kind, Value
from leptonc.ir.kinds.data import Full
from leptonc.ir.types import DType, TensorType
from leptonc.rewrite.rule import Build, Match


def keep(name: str) -> Build:
    """Return a right side that is a captured value."""
    return lambda m, b: m[name]


def emit(kind: Kind, *names: str) -> Build:
    """Return a right side that is one op of captured values."""
    return lambda m, b: b(kind, *(m[n] for n in names))


def is_int(t: TensorType) -> bool:
    """Whether the type holds integers (bool is none)."""
    return t.dtype.is_int


def is_bool(t: TensorType) -> bool:
    """Whether the type is bool."""
    return t.dtype is DType.BOOL


def is_float(t: TensorType) -> bool:
    """Whether the type is a real floating-point type."""
    return t.dtype.is_float


def filled(value: float | bool) -> Build:
    """Return a right side that is the root's type filled with ``value``."""

    def build(m: Match, b: Builder) -> Value:
        t = m.root.result.type
        return b(Full(t.shape, float(value) if t.dtype.is_float else value, t.dtype))

    return build
