"""Activations that models write out by hand, raised to their kinds."""

from __future__ import annotations

import math

from leptonc.ir.core import Builder, Value
from leptonc.ir.kinds.binary import Add, Div, Gt, Maximum, Minimum, Mul, Pow
from leptonc.ir.kinds.pointwise import Clamp, Gelu, LeakyRelu, Softplus, Where
from leptonc.ir.kinds.unary import (
    Erf,
    Exp,
    HardSigmoid,
    HardSwish,
    Mish,
    Neg,
    Reciprocal,
    Relu,
    Sigmoid,
    Silu,
    Tanh,
)
from leptonc.passes.rules.build import emit, is_float
from leptonc.rewrite.pattern import Either, Lit, Node, Pattern, Var
from leptonc.rewrite.rule import Exactness, Match, Rule

REASSOC = Exactness.REASSOC
NEAR = Exactness.bounded(2e-6)  # other functions of the same value, and one more rounding
X = Var("x", is_float)
_DIGITS = 1e-5  # relative error allowed in a written-out constant
# A factor of the result that is off by as much. Inside of gelu's erf it moves the result by
# x * (x * phi(x)) times as much, which is at most a quarter of it, of x.
DIGITS = Exactness.bounded(1e-5 + 2e-6)


def times(p: Pattern, c: float) -> Either:
    """Return the pattern ``p * c`` or ``p / (1/c)``."""
    return Either((
        Node(Mul, (p, Lit(c, rtol=_DIGITS))), Node(Div, (p, Lit(1 / c, rtol=_DIGITS))),
    ))  # fmt: skip


def products(p: Pattern, q: Pattern, r: Pattern) -> tuple[Node, ...]:
    """Return ``p*q*r`` in each of its three groupings."""
    return tuple(Node(Mul, (Node(Mul, (a, b)), c)) for a, b, c in ((p, q, r), (p, r, q), (q, r, p)))


def square(x: Var) -> Either:
    """Return the pattern ``x * x`` or ``x ** 2``."""
    return Either((Node(Mul, (x, x)), Node(Pow, (x, Lit(2)))))


_CUBE = Either((Node(Mul, (square(X), X)), Node(Pow, (X, Lit(3)))))
_HALF, _ONE, _SIX = Lit(0.5), Lit(1), Lit(6)
_RELU6 = Node(Clamp, (Node(Add, (X, Lit(3))),), "clamp", where=lambda c: (c.lo, c.hi) == (0, 6))
_LOGISTIC = Node(Add, (Node(Exp, (Node(Neg, (X,)),)), _ONE))  # 1 + e**-x
_PHI = Node(Add, (Node(Erf, (times(X, math.sqrt(0.5)),)), _ONE))
_C = math.sqrt(2 / math.pi)
# sqrt(2/pi) * (x + 0.044715 x**3), and the grouping of HF's "gelu_fast" and GPT-J
_TANH_ARGS: tuple[Pattern, ...] = (
    times(Node(Add, (X, times(_CUBE, 0.044715))), _C),
    Node(Mul, (times(X, _C),
               Node(Add, (Node(Mul, (times(X, 0.044715), X)), _ONE)))),
)  # fmt: skip
_TANH_PHI = Node(Add, (Node(Tanh, (Either(_TANH_ARGS),)), _ONE))
_RELU6_HINT = {"x": ("f32[2,9]",), "clamp": (Clamp(0.0, 6.0),)}


def _lower(m: Match, b: Builder) -> Value | None:
    c = m.lit("c")
    if math.isnan(c):
        return None
    return b(Relu(), m["x"]) if c == 0 else b(Clamp(c, None), m["x"])


def _upper(m: Match, b: Builder) -> Value | None:
    c = m.lit("c")
    return None if math.isnan(c) else b(Clamp(None, c), m["x"])


def _leaky(m: Match, b: Builder) -> Value:
    return b(LeakyRelu(float(m.lit("slope"))), m["x"])


RULES: tuple[Rule, ...] = (
    Rule("maximum-is-clamp", "maximum(x, c) = clamp[c, none](x), relu(x) for c = 0",
         Exactness.VALUE, Node(Maximum, (Var("x"), Lit(name="c"))), _lower,
         hints={"c": (0.0, -1.5, 2.0)}),
    Rule("minimum-is-clamp", "minimum(x, c) = clamp[none, c](x)", Exactness.VALUE,
         Node(Minimum, (Var("x"), Lit(name="c"))), _upper, hints={"c": (6.0, 0.0)}),
    Rule("leaky-relu", "where(x > 0, x, x * c) = leaky_relu[c](x)", Exactness.BITWISE,
         Node(Where, (Node(Gt, (X, Lit(0))), X, Node(Mul, (X, Lit(name="slope"))))), _leaky,
         once=True, hints={"x": ("f32[9]",), "slope": (0.1, 2.0)}),
    Rule("sigmoid-reciprocal", "reciprocal(1 + exp(-x)) = sigmoid(x)", NEAR,
         Node(Reciprocal, (_LOGISTIC,)), emit(Sigmoid(), "x"), once=True),
    Rule("sigmoid-div", "1 / (1 + exp(-x)) = sigmoid(x)", NEAR,
         Node(Div, (_ONE, _LOGISTIC)), emit(Sigmoid(), "x"), once=True),
    Rule("silu", "x * sigmoid(x) = silu(x)", NEAR,
         Node(Mul, (X, Node(Sigmoid, (X,)))), emit(Silu(), "x"), once=True),
    Rule("silu-div", "x / (1 + exp(-x)) = silu(x)", NEAR,
         Node(Div, (X, _LOGISTIC)), emit(Silu(), "x"), once=True),
    Rule("mish", "x * tanh(softplus(x)) = mish(x)", NEAR,
         Node(Mul, (X, Node(Tanh, (Node(Softplus, (X,), "s",
                                        where=lambda s: s.beta == 1 and s.threshold >= 20),)))),
         emit(Mish(), "x"), once=True, hints={"s": (Softplus(),)}),
    Rule("hard-sigmoid-div", "clamp[0, 6](x + 3) / 6 = hard_sigmoid(x)", NEAR,
         Node(Div, (_RELU6, _SIX)), emit(HardSigmoid(), "x"), once=True, hints=_RELU6_HINT),
    Rule("hard-sigmoid-mul", "clamp[0, 6](x + 3) * (1/6) = hard_sigmoid(x)", DIGITS,
         Node(Mul, (_RELU6, Lit(1 / 6, rtol=_DIGITS))), emit(HardSigmoid(), "x"), once=True,
         hints=_RELU6_HINT),
    Rule("hard-swish", "x * hard_sigmoid(x) = hard_swish(x)", NEAR,
         Node(Mul, (X, Node(HardSigmoid, (X,)))), emit(HardSwish(), "x"), once=True),
    Rule("hard-swish-div", "x * clamp[0, 6](x + 3) / 6 = hard_swish(x)", NEAR,
         Node(Div, (Node(Mul, (X, _RELU6)), _SIX)), emit(HardSwish(), "x"), once=True,
         hints=_RELU6_HINT),
    *(Rule(f"gelu-erf-{i}", "x * 0.5 * (1 + erf(x / sqrt(2))) = gelu(x)", DIGITS,
           lhs, emit(Gelu(), "x"), once=True)
      for i, lhs in enumerate(products(X, _HALF, _PHI), 1)),
    *(Rule(f"gelu-tanh-{i}", "x * 0.5 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x**3))) = gelu(x)",
           DIGITS, lhs, emit(Gelu(tanh=True), "x"), once=True)
      for i, lhs in enumerate(products(X, _HALF, _TANH_PHI), 1)),
)  # fmt: skip
