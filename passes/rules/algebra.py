"""Laws of arithmetic. What floats forbid (``x*0``, ``x/x``, ``x-x``) is stated for ints only."""

from __future__ import annotations

import math

from leptonc.ir.core import Builder, Kind, Value
from leptonc.ir.kinds import binary as bi
from leptonc.ir.kinds import unary as un
from leptonc.ir.kinds.data import scalar
from leptonc.ir.kinds.norm import Softmax
from leptonc.ir.kinds.pointwise import LeakyRelu
from leptonc.passes.rules.build import emit, filled, is_bool, is_float, is_int, keep
from leptonc.rewrite.pattern import Lit, Node, Var
from leptonc.rewrite.rule import Build, Exactness, Match, Rule

BITWISE, VALUE, REASSOC = Exactness.BITWISE, Exactness.VALUE, Exactness.REASSOC
X, Y = Var("x"), Var("y")
_I64_TOP = 2**63


_I, _P, _F = Var("x", is_int), Var("x", is_bool), Var("x", is_float)


def _power(m: Match, b: Builder) -> Value | None:
    """Write a small whole power as products, a reciprocal or a constant."""
    x, e = m["x"], m.lit("e")
    if e == 2:
        return b(bi.Mul(), x, x)
    if e == 3:
        return b(bi.Mul(), b(bi.Mul(), x, x), x)
    if e == 4:
        square = b(bi.Mul(), x, x)
        return b(bi.Mul(), square, square)
    return b(un.Reciprocal(), x) if e == -1 else None


def _divide_by_power_of_two(m: Match, b: Builder) -> Value | None:
    c = float(m.lit("c"))
    if c == 0 or not math.isfinite(c) or abs(math.frexp(c)[0]) != 0.5:
        return None
    inverse = 1.0 / c
    if not 2.0**-14 <= abs(inverse) <= 2.0**15:  # normal in every float type
        return None
    return b(bi.Mul(), m["x"], scalar(b, inverse, m["x"].type.dtype))


def _merge_ints(kind: bi.Add | bi.Mul) -> Build:
    def build(m: Match, b: Builder) -> Value | None:
        p, q = int(m.lit("c")), int(m.lit("d"))
        total = p + q if isinstance(kind, bi.Add) else p * q
        if not -_I64_TOP <= total < _I64_TOP:
            return None  # would wrap around
        return b(kind, m["x"], scalar(b, total, m["x"].type.dtype))

    return build


def _merge_floats(kind: bi.Add | bi.Mul) -> Build:
    def build(m: Match, b: Builder) -> Value | None:
        p, q = float(m.lit("c")), float(m.lit("d"))
        total = p + q if isinstance(kind, bi.Add) else p * q
        small = abs(total) < 1e-30 if isinstance(kind, bi.Mul) else False
        if not math.isfinite(total) or small or abs(total) > 1e30:
            return None  # the merged constant would over- or underflow where the two did not
        return b(kind, m["x"], scalar(b, total, m["x"].type.dtype))

    return build


_SELF_KINDS: tuple[type[Kind], ...] = (bi.Maximum, bi.Minimum, bi.BitwiseAnd, bi.BitwiseOr)
_NON_NEGATIVE: tuple[type[Kind], ...] = (
    un.Sigmoid, un.Exp, un.Exp2, Softmax, un.HardSigmoid, un.Abs,
)  # fmt: skip
_IDEMPOTENT: tuple[type[Kind], ...] = (
    un.Relu, un.Abs, un.Floor, un.Ceil, un.Trunc, un.Round, un.Sign,
)  # fmt: skip


def _idempotent(kind: type[Kind]) -> Rule:
    name = kind.NAME
    return Rule(
        f"{name}-idempotent", f"{name}({name}(x)) = {name}(x)", BITWISE,
        Node(kind, (Node(kind, (X,), "inner"),)), keep("inner"),
    )  # fmt: skip


RULES: tuple[Rule, ...] = (
    Rule("mul-one", "x * 1 = x", BITWISE, Node(bi.Mul, (X, Lit(1))), keep("x")),
    Rule("div-one", "x / 1 = x", BITWISE, Node(bi.Div, (X, Lit(1))), keep("x")),
    Rule("sub-zero", "x - 0.0 = x", BITWISE, Node(bi.Sub, (X, Lit(0.0))), keep("x")),
    Rule("add-negative-zero", "x + -0.0 = x", BITWISE, Node(bi.Add, (X, Lit(-0.0))), keep("x")),
    Rule("add-zero-int", "x + 0 = x on ints", BITWISE, Node(bi.Add, (_I, Lit(0))), keep("x")),
    Rule("mul-zero-int", "x * 0 = 0 on ints", BITWISE, Node(bi.Mul, (_I, Lit(0))), filled(0)),
    Rule("sub-self-int", "x - x = 0 on ints", BITWISE, Node(bi.Sub, (_I, _I)), filled(0)),
    Rule("mul-minus-one", "x * -1 = -x", BITWISE, Node(bi.Mul, (X, Lit(-1))), emit(un.Neg(), "x")),
    Rule("pow-one", "x ** 1 = x", BITWISE, Node(bi.Pow, (X, Lit(1))), keep("x")),
    Rule("pow-zero", "x ** 0 = 1, NaN ** 0 too", BITWISE, Node(bi.Pow, (X, Lit(0))), filled(1)),
    Rule(
        "pow-small", "x ** 2 = x*x; x ** 3 = x*x*x; x ** 4 = (x*x)*(x*x); x ** -1 = 1/x",
        Exactness.bounded(1e-6), Node(bi.Pow, (_F, Lit(name="e"))), _power,
        hints={"e": (2.0, 3.0, 4.0, -1.0)},
    ),
    Rule("neg-neg", "-(-x) = x", BITWISE, Node(un.Neg, (Node(un.Neg, (X,)),)), keep("x")),
    Rule("sub-neg", "x - (-y) = x + y", BITWISE,
         Node(bi.Sub, (X, Node(un.Neg, (Y,)))), emit(bi.Add(), "x", "y")),
    Rule("add-neg", "x + (-y) = x - y", BITWISE,
         Node(bi.Add, (X, Node(un.Neg, (Y,)))), emit(bi.Sub(), "x", "y")),
    Rule("mul-neg-neg", "(-x) * (-y) = x * y", BITWISE,
         Node(bi.Mul, (Node(un.Neg, (X,)), Node(un.Neg, (Y,)))), emit(bi.Mul(), "x", "y")),
    Rule("abs-neg", "|-x| = |x|", BITWISE,
         Node(un.Abs, (Node(un.Neg, (X,)),)), emit(un.Abs(), "x")),
    Rule("self-min-max", "op(x, x) = x for maximum, minimum, and, or", BITWISE,
         Node(_SELF_KINDS, (X, X)), keep("x")),
    Rule("one-over", "1 / x = reciprocal(x)", BITWISE,
         Node(bi.Div, (Lit(1), _F)), emit(un.Reciprocal(), "x")),
    Rule("div-power-of-two", "x / 2**n = x * 2**-n", BITWISE,
         Node(bi.Div, (_F, Lit(name="c"))), _divide_by_power_of_two,
         hints={"c": (8.0, 0.5, -2.0, 3.0)}),
    Rule("reciprocal-sqrt", "1 / sqrt(x) = rsqrt(x)", Exactness.bounded(1e-6),
         Node(un.Reciprocal, (Node(un.Sqrt, (X,), once=True),)), emit(un.Rsqrt(), "x")),
    Rule("not-not", "not not x = x on bools", BITWISE,
         Node((un.LogicalNot, un.BitwiseNot), (Node((un.LogicalNot, un.BitwiseNot), (_P,)),)),
         keep("x")),
    Rule("not-eq", "not (x == y) = (x != y)", BITWISE,
         Node(un.LogicalNot, (Node(bi.Eq, (X, Y)),)), emit(bi.Ne(), "x", "y")),
    Rule("not-ne", "not (x != y) = (x == y)", BITWISE,
         Node(un.LogicalNot, (Node(bi.Ne, (X, Y)),)), emit(bi.Eq(), "x", "y")),
    Rule("add-consts-int", "(x + c) + d = x + (c + d) on ints", BITWISE,
         Node(bi.Add, (Node(bi.Add, (_I, Lit(name="c"))), Lit(name="d"))), _merge_ints(bi.Add())),
    Rule("mul-consts-int", "(x * c) * d = x * (c * d) on ints", BITWISE,
         Node(bi.Mul, (Node(bi.Mul, (_I, Lit(name="c"))), Lit(name="d"))), _merge_ints(bi.Mul())),
    Rule("relu-of-non-negative", "relu(f(x)) = f(x) where f >= 0 or NaN", BITWISE,
         Node(un.Relu, (Node(_NON_NEGATIVE, (_F,), "inner"),)), keep("inner")),
    Rule("leaky-relu-one", "leaky_relu[1](x) = x", BITWISE,
         Node(LeakyRelu, (X,), "f", where=lambda f: f.slope == 1), keep("x"),
         hints={"f": (LeakyRelu(1.0),)}),
    *(_idempotent(kind) for kind in _IDEMPOTENT),
)  # fmt: skip

# Only where the sign of a zero is declared not to matter.
SIGNED_ZERO: tuple[Rule, ...] = (
    Rule("add-zero", "x + 0.0 = x", VALUE, Node(bi.Add, (_F, Lit(0.0))), keep("x")),
    Rule("zero-minus", "0.0 - x = -x", VALUE, Node(bi.Sub, (Lit(0.0), _F)), emit(un.Neg(), "x")),
)

# Only where sums and products of floats may be reordered.
REASSOCIATION: tuple[Rule, ...] = (
    Rule("add-consts", "(x + c) + d = x + (c + d)", REASSOC,
         Node(bi.Add, (Node(bi.Add, (_F, Lit(name="c")), once=True), Lit(name="d"))),
         _merge_floats(bi.Add())),
    Rule("mul-consts", "(x * c) * d = x * (c * d)", REASSOC,
         Node(bi.Mul, (Node(bi.Mul, (_F, Lit(name="c")), once=True), Lit(name="d"))),
         _merge_floats(bi.Mul())),
    Rule("mul-reciprocal", "x * (1 / y) = x / y", REASSOC,
         Node(bi.Mul, (X, Node(un.Reciprocal, (Y,), once=True))), emit(bi.Div(), "x", "y")),
)  # fmt: skip
