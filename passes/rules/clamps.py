"""Laws of clamp and relu compositions; NaN passes through both sides."""

from __future__ import annotations

import math

from leptonc.ir.core import Builder, Value
from leptonc.ir.kinds.pointwise import Clamp
from leptonc.ir.kinds.unary import Relu
from leptonc.passes.rules.build import is_float
from leptonc.rewrite.pattern import Node, Var
from leptonc.rewrite.rule import Exactness, Match, Rule

X = Var("x", is_float)
_INF = math.inf


def _bounds(c: Clamp | Relu) -> tuple[float, float] | None:
    """Return ``(lo, hi)``, or None for NaN or crossed bounds (torch then returns ``hi``)."""
    if isinstance(c, Relu):
        return 0.0, _INF
    lo = -_INF if c.lo is None else float(c.lo)
    hi = _INF if c.hi is None else float(c.hi)
    return (lo, hi) if lo <= hi else None


def _compose(m: Match, b: Builder) -> Value | None:
    """Clamp once, to where the outer clamp sends the inner's bounds."""
    inner, outer = m.ops["inner"].kind, m.ops["outer"].kind
    if not isinstance(inner, (Clamp, Relu)) or not isinstance(outer, (Clamp, Relu)):
        return None
    first, second = _bounds(inner), _bounds(outer)
    if first is None or second is None:
        return None
    lo, hi = (min(max(v, second[0]), second[1]) for v in first)
    if lo == 0 and hi == _INF:
        return b(Relu(), m["x"])
    return b(Clamp(None if lo == -_INF else lo, None if hi == _INF else hi), m["x"])


def _unbounded(m: Match, _b: Builder) -> Value | None:
    c = m.kind("outer", Clamp)
    return m["x"] if _bounds(c) == (-_INF, _INF) else None


def _is_relu(c: Clamp) -> bool:
    return c.lo is not None and c.lo == 0 and (c.hi is None or c.hi == _INF)


def _narrow(c: Clamp | Relu) -> bool:
    return _bounds(c) is not None


RULES: tuple[Rule, ...] = (
    Rule("clamp-none", "clamp[none, none](x) = x", Exactness.BITWISE,
         Node(Clamp, (X,), "outer"), _unbounded,
         hints={"x": ("f32[7]",), "outer": (Clamp(None, None),)}),
    Rule("clamp-is-relu", "clamp[0, none](x) = relu(x)", Exactness.BITWISE,
         Node(Clamp, (X,), "outer", where=_is_relu), lambda m, b: b(Relu(), m["x"]),
         hints={"x": ("f32[20]",), "outer": (Clamp(0.0, None),)}),
    Rule("clamp-clamp", "clamp[c, d](clamp[a, b](x)) = clamp[clamp(a), clamp(b)](x)",
         Exactness.BITWISE,
         Node((Clamp, Relu), (Node((Clamp, Relu), (X,), "inner", where=_narrow),), "outer",
              where=_narrow), _compose,
         hints={"x": ("f32[20]",) * 4,
                "inner": (Relu(), Clamp(-1.0, 2.0), Clamp(3.0, 4.0), Clamp(-5.0, None)),
                "outer": (Clamp(None, 6.0), Relu(), Clamp(0.0, 1.0), Clamp(None, 1.0))}),
)  # fmt: skip
