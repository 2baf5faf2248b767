"""Laws of casts. Bitwise: only casts that lose nothing are merged."""

from __future__ import annotations

import struct

from leptonc.ir.core import Builder, Value
from leptonc.ir.kinds.data import Full
from leptonc.ir.kinds.pointwise import Cast
from leptonc.ir.types import DType
from leptonc.rewrite.pattern import Node, Var
from leptonc.rewrite.rule import Exactness, Match, Rule

BITWISE = Exactness.BITWISE
X = Var("x")
_D = DType
# The types that hold every value of a type exactly.
_HOLDS: dict[DType, frozenset[DType]] = {
    _D.BOOL: frozenset({_D.U8, _D.I8, _D.I16, _D.I32, _D.I64, _D.F16, _D.BF16, _D.F32, _D.F64}),
    _D.U8: frozenset({_D.I16, _D.I32, _D.I64, _D.F16, _D.BF16, _D.F32, _D.F64}),
    _D.I8: frozenset({_D.I16, _D.I32, _D.I64, _D.F16, _D.BF16, _D.F32, _D.F64}),
    _D.I16: frozenset({_D.I32, _D.I64, _D.F32, _D.F64}),
    _D.I32: frozenset({_D.I64, _D.F64}),
    _D.F16: frozenset({_D.F32, _D.F64}),
    _D.BF16: frozenset({_D.F32, _D.F64}),
    _D.F32: frozenset({_D.F64}),
}


def _cast_same(m: Match, _b: Builder) -> Value | None:
    return m["x"] if m["x"].type.dtype is m.kind("outer", Cast).dtype else None


def _cast_cast(m: Match, b: Builder) -> Value | None:
    """Skip an intermediate type that holds every value of the source exactly."""
    source, middle = m["x"].type.dtype, m.kind("inner", Cast).dtype
    target = m.kind("outer", Cast).dtype
    if middle not in _HOLDS.get(source, frozenset()):
        return None
    if source.is_float and not target.is_float and target is not DType.BOOL:
        return None  # out-of-range float -> int is undefined, and may differ by source type
    return m["x"] if target is source else b(Cast(target), m["x"])


def _cast_full(m: Match, b: Builder) -> Value | None:
    """Cast the number itself, where that is exact."""
    full, to = m.kind("full", Full), m.kind("outer", Cast).dtype
    v = full.value
    if not isinstance(v, (bool, int, float)) or not _exact(v, full.dtype):
        return None
    if to is DType.BOOL:
        return b(Full(full.shape, bool(v), to))
    if to in (DType.F64, DType.F32) and _exact(v, to):
        return b(Full(full.shape, float(v), to))
    small = isinstance(v, (bool, int)) or v.is_integer()
    if to in (DType.I64, DType.I32) and small and abs(v) < 2**31:
        return b(Full(full.shape, int(v), to))
    return None


def _exact(value: bool | float, dtype: DType) -> bool:
    """Whether ``dtype`` holds ``value`` as it is."""
    if not dtype.is_float:
        return isinstance(value, (bool, int))
    if value != value or value in (float("inf"), float("-inf")):
        return True
    if dtype is DType.F64:
        return float(value) == value
    if dtype is not DType.F32 or abs(value) > 3e38:
        return False
    return struct.unpack("<f", struct.pack("<f", value))[0] == value


RULES: tuple[Rule, ...] = (
    Rule("cast-same", "cast[dtype of x](x) = x", BITWISE, Node(Cast, (X,), "outer"), _cast_same,
         hints={"x": ("f32[2,3]",), "outer": (Cast(DType.F32),)}),
    Rule("cast-cast", "cast[t](cast[s](x)) = cast[t](x) if s holds all values of x's type", BITWISE,
         Node(Cast, (Node(Cast, (X,), "inner"),), "outer"), _cast_cast,
         hints={"x": ("f16[2,3]", "f32[2,3]", "bool[3]", "f32[9]"),
                "inner": (Cast(DType.F32), Cast(DType.F64), Cast(DType.I64), Cast(DType.I32)),
                "outer": (Cast(DType.F16), *(Cast(DType.F32),) * 3)}),
    Rule("cast-full", "cast[t](full(v)) = full(t(v)) if t holds v", BITWISE,
         Node(Cast, (Node(Full, (), "full"),), "outer"), _cast_full,
         hints={"full": (Full((2,), 1, DType.I64), Full((), -0.0, DType.F32)),
                "outer": (Cast(DType.F32), Cast(DType.F64))}),
)  # fmt: skip
