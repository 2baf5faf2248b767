"""Softmax and norms that models write out by hand, raised to their kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leptonc.ir.core import Builder, Value
from leptonc.ir.kinds.binary import Add, Div, Mul, Pow, Sub
from leptonc.ir.kinds.norm import LayerNorm, LogSoftmax, RmsNorm, Softmax
from leptonc.ir.kinds.reduce import Amax, Mean, Reduction, Sum
from leptonc.ir.kinds.reduce import Var as Variance
from leptonc.ir.kinds.unary import Exp, Log, Rsqrt, Sqrt
from leptonc.passes.rules.build import is_float
from leptonc.rewrite.pattern import Either, Lit, Node, Pattern, Var
from leptonc.rewrite.rule import Build, Exactness, Hint, Match, Rule, Skip

REASSOC = Exactness.REASSOC
X, W = Var("x", is_float), Var("w")
_NO_AXIS = Skip("its maximum and its sum do not run along one axis, the same of both")
EPS = Lit(name="eps")


def _keeps(r: Reduction) -> bool:
    return r.keepdim


def _keeps_population(v: Variance) -> bool:
    return v.keepdim and v.correction == 0


_SHIFTED = Node(Sub, (X, Node(Amax, (X,), "max", where=_keeps)), "shifted")
_EXP = Node(Exp, (_SHIFTED,), "e")
_TOTAL = Node(Sum, (Var("e"),), "sum", where=_keeps)
_SHIFTED_TOTAL = Node(Sum, (Node(Exp, (Var("shifted"),)),), "sum", where=_keeps)

_CENTRED = Node(Sub, (X, Node(Mean, (X,), "mean", where=_keeps)), "d")
_D = Var("d")
_VARIANCE = Either((
    Node(Mean, (Either((Node(Mul, (_D, _D)), Node(Pow, (_D, Lit(2))))),), "var", where=_keeps),
    Node(Variance, (X,), "var", where=_keeps_population),
))  # fmt: skip
_MEAN_SQUARE = Node(
    Mean, (Either((Node(Mul, (X, X)), Node(Pow, (X, Lit(2))))),), "var", where=_keeps
)


def _divided(p: Pattern, variance: Pattern) -> tuple[Node, ...]:
    """Return ``p / sqrt(variance + eps)`` in the forms that models use."""
    inside = Node(Add, (variance, EPS))
    return (
        Node(Div, (p, Node(Sqrt, (inside,)))),
        Node(Mul, (p, Node(Rsqrt, (inside,)))),
        Node(Mul, (p, Node(Pow, (inside, Lit(-0.5))))),
    )


def _same_axis(m: Match) -> int | None:
    """Return the one axis that both reductions of a softmax run along."""
    top, total = m.kind("max", Amax).axes, m.kind("sum", Sum).axes
    return top[0] if top == total and len(top) == 1 else None


def _softmax(m: Match, b: Builder) -> Value | Skip:
    axis = _same_axis(m)
    return _NO_AXIS if axis is None else b(Softmax(axis), m["x"])


def _log_softmax(m: Match, b: Builder) -> Value | Skip:
    axis = _same_axis(m)
    return _NO_AXIS if axis is None else b(LogSoftmax(axis), m["x"])


def _last_axes(m: Match, *names: str) -> int | None:
    """Return how many last axes the named reductions all run over, or None."""
    rank = m["x"].type.rank
    counts: set[int] = set()
    for name in names:
        kind = m.ops[name].kind
        if not isinstance(kind, Reduction):
            return None
        axes = tuple(sorted(kind.axes))
        if not axes or axes != tuple(range(rank - len(axes), rank)):
            return None
        counts.add(len(axes))
    return counts.pop() if len(counts) == 1 else None


def _refusal(axes: int | None, eps: float) -> Skip:
    if axes is None:
        return Skip("its mean and variance do not both run over the last axes")
    return Skip(f"its epsilon is {eps:g}, where a norm's is above zero")


def _layer_norm(m: Match, b: Builder) -> Value | Skip:
    axes, eps = _last_axes(m, "mean", "var"), float(m.lit("eps"))
    if axes is None or eps <= 0:
        return _refusal(axes, eps)
    return b(LayerNorm(axes, eps, "none"), m["x"])


def _rms_norm(m: Match, b: Builder) -> Value | Skip:
    axes, eps = _last_axes(m, "var"), float(m.lit("eps"))
    if axes is None or eps <= 0:
        return _refusal(axes, eps)
    return b(RmsNorm(axes, eps, "none"), m["x"])


def _weight(cls: type[LayerNorm] | type[RmsNorm]) -> Build:
    def build(m: Match, b: Builder) -> Value | None:
        n, x = m.kind("n", cls), m["x"]
        if m["w"].type.shape != x.type.shape[-n.axes :]:
            return None
        return b(cls(n.axes, n.eps, "weight"), x, m["w"])

    return build


def _bias(m: Match, b: Builder) -> Value | None:
    n, x = m.kind("n", LayerNorm), m["x"]
    if m["b"].type.shape != x.type.shape[-n.axes :]:
        return None
    return b(LayerNorm(n.axes, n.eps, "both"), x, m["w"], m["b"])


def _plain(n: LayerNorm | RmsNorm) -> bool:
    return n.affine == "none"


_S = "f32[2,5,6]"
_SOFT: Mapping[str, Sequence[Hint]] = {
    "x": (_S,) * 3, "max": (Amax((2,), True), Amax((1,), True), Amax((1,), True)),
    "sum": (Sum((2,), True), Sum((1,), True), Sum((2,), True)),
}  # fmt: skip
_MEAN: Mapping[str, Sequence[Hint]] = {
    "x": (_S,) * 2, "mean": (Mean((2,), True), Mean((1, 2), True)), "eps": (1e-5, 1e-3),
}  # fmt: skip
_LN: Mapping[str, Sequence[Hint]] = {**_MEAN, "var": (Mean((2,), True), Mean((1, 2), True))}
_NORM: Mapping[str, Sequence[Hint]] = {"x": (_S,), "w": ("f32[6]",), "b": ("f32[6]",)}

RULES: tuple[Rule, ...] = (
    Rule("softmax", "e / sum(e) = softmax(x) where e = exp(x - amax(x))", REASSOC,
         Node(Div, (_EXP, _TOTAL)), _softmax, once=True, hints=_SOFT),
    Rule("log-softmax", "s - log(sum(exp(s))) = log_softmax(x) where s = x - amax(x)", REASSOC,
         Node(Sub, (_SHIFTED, Node(Log, (_SHIFTED_TOTAL,)))), _log_softmax, once=True, hints=_SOFT),
    *(Rule(f"layer-norm-{i}", "d / sqrt(mean(d*d) + eps) = layer_norm(x) where d = x - mean(x)",
           REASSOC, lhs, _layer_norm, once=True, hints=_LN)
      for i, lhs in enumerate(_divided(_CENTRED, _VARIANCE.options[0]), 1)),
    *(Rule(f"layer-norm-var-{i}", "(x - mean(x)) / sqrt(var(x) + eps) = layer_norm(x)",
           REASSOC, lhs, _layer_norm, once=True,
           hints={**_MEAN, "var": (Variance((2,), True, 0.0), Variance((1, 2), True, 0.0),
                                   Variance((2,), True, 1.0))})
      for i, lhs in enumerate(_divided(_CENTRED, _VARIANCE.options[1]), 1)),
    *(Rule(f"rms-norm-{i}", "x / sqrt(mean(x*x) + eps) = rms_norm(x)", REASSOC,
           lhs, _rms_norm, once=True, hints=_LN)
      for i, lhs in enumerate(_divided(X, _MEAN_SQUARE), 1)),
    Rule("layer-norm-weight", "layer_norm(x) * w = layer_norm(x, w)", REASSOC,
         Node(Mul, (Node(LayerNorm, (X,), "n", where=_plain, once=True), W)), _weight(LayerNorm),
         hints={**_NORM, "n": (LayerNorm(1, 1e-5, "none"),)}),
    Rule("layer-norm-bias", "layer_norm(x, w) + b = layer_norm(x, w, b)", REASSOC,
         Node(Add, (Node(LayerNorm, (X, W), "n", once=True), Var("b"))), _bias,
         hints={**_NORM, "n": (LayerNorm(1, 1e-5, "weight"),)}),
    Rule("rms-norm-weight", "rms_norm(x) * w = rms_norm(x, w)", REASSOC,
         Node(Mul, (Node(RmsNorm, (X,), "n", where=_plain, once=True), W)), _weight(RmsNorm),
         hints={**_NORM, "n": (RmsNorm(1, 1e-5, "none"),)}),
)  # fmt: skip
