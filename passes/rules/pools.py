"""Laws of windows and reductions that do nothing or less than they say."""

from __future__ import annotations

from collections.abc import Sequence

from leptonc.ir.core import Builder, Value
from leptonc.ir.dims import same_dim, same_shape
from leptonc.ir.kinds.data import Interpolate
from leptonc.ir.kinds.reduce import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    Amax,
    Amin,
    AvgPool,
    MaxPool,
    Mean,
    Prod,
    Reduction,
    Sum,
)
from leptonc.ir.kinds.shape import Reshape
from leptonc.rewrite.pattern import Node, Var
from leptonc.rewrite.rule import Exactness, Hint, Match, Rule

BITWISE = Exactness.BITWISE
X = Var("x")
_IMAGE = "f32[2,3,4,6]"


def _is_one_by_one(p: MaxPool | AvgPool) -> bool:
    once = set(p.kernel) == {1} and set(p.stride) == {1} and not any(p.padding)
    return once and (not isinstance(p, AvgPool) or p.divisor in (None, 1))


def _unchanged(m: Match, _b: Builder) -> Value | None:
    return m["x"] if same_shape(m["x"].type.shape, m.root.result.type.shape) else None


def _even_windows(m: Match, b: Builder) -> Value | None:
    """Adaptive windows of equal size, without overlap, are a plain pool's."""
    pool = m.kind("outer", AdaptiveAvgPool)
    sizes = m["x"].type.shape[-len(pool.output) :]
    window: list[int] = []
    for size, out in zip(sizes, pool.output, strict=True):
        if not isinstance(size, int) or not isinstance(out, int) or out <= 1 or size % out:
            return None
        window.append(size // out)
    k = tuple(window)
    none = (0,) * len(k)
    plain = MaxPool(k, k, none) if isinstance(pool, AdaptiveMaxPool) else AvgPool(k, k, none)
    return b(plain, m["x"])


def _same_pixels(m: Match, _b: Builder) -> Value | None:
    i = m.kind("outer", Interpolate)
    same = all(same_dim(a, c) for a, c in zip(i.size, m["x"].type.shape[2:], strict=True))
    return m["x"] if same and all(s in (None, 1.0) for s in i.scales) else None


def _over_ones(m: Match, b: Builder) -> Value | None:
    """Reducing axes of size 1 only renames the elements."""
    r, shape = m.kind("outer", Reduction), m["x"].type.shape
    if not r.axes or not all(same_dim(shape[a], 1) for a in r.axes):
        return None
    if m.root.result.type.dtype is not m["x"].type.dtype:
        return None
    return b(Reshape(m.root.result.type.shape), m["x"])


def _nearest(i: Interpolate) -> bool:
    return i.mode in ("nearest", "nearest-exact")


def _ones_hints(*cls: type[Reduction]) -> dict[str, Sequence[Hint]]:
    return {"x": ("f32[2,1,3]",) * len(cls), "outer": tuple(c((1,), True) for c in cls)}


RULES: tuple[Rule, ...] = (
    Rule("max-pool-one", "max_pool[1x1, stride 1](x) = x", BITWISE,
         Node(MaxPool, (X,), "outer", where=_is_one_by_one), _unchanged,
         hints={"x": (_IMAGE,), "outer": (MaxPool((1, 1), (1, 1), (0, 0)),)}),
    Rule("adaptive-max-pool-same", "adaptive_max_pool[size of x](x) = x", BITWISE,
         Node(AdaptiveMaxPool, (X,), "outer"), _unchanged,
         hints={"x": (_IMAGE,), "outer": (AdaptiveMaxPool((4, 6)),)}),
    Rule("adaptive-pool-even", "adaptive_pool[n](x) = pool[size/n, stride size/n](x)",
         Exactness.REASSOC, Node((AdaptiveAvgPool, AdaptiveMaxPool), (X,), "outer"), _even_windows,
         hints={"x": (_IMAGE,) * 2,
                "outer": (AdaptiveAvgPool((2, 3)), AdaptiveMaxPool((2, 2)))}),
    Rule("interpolate-same", "interpolate[nearest, size of x](x) = x", BITWISE,
         Node(Interpolate, (X,), "outer", where=_nearest), _same_pixels,
         hints={"x": (_IMAGE,), "outer": (Interpolate((4, 6), "nearest"),)}),
    Rule("extreme-of-one", "amax, amin over axes of size 1 = reshape", BITWISE,
         Node((Amax, Amin), (X,), "outer"), _over_ones, hints=_ones_hints(Amax, Amin)),
)  # fmt: skip

# A sum of one element starts from 0.0 in torch, which turns -0.0 into 0.0.
SIGNED_ZERO: tuple[Rule, ...] = (
    Rule("avg-pool-one", "avg_pool[1x1, stride 1](x) = x", Exactness.VALUE,
         Node(AvgPool, (X,), "outer", where=_is_one_by_one), _unchanged,
         hints={"x": (_IMAGE,), "outer": (AvgPool((1, 1), (1, 1), (0, 0)),)}),
    Rule("adaptive-avg-pool-same", "adaptive_avg_pool[size of x](x) = x", Exactness.VALUE,
         Node(AdaptiveAvgPool, (X,), "outer"), _unchanged,
         hints={"x": (_IMAGE,), "outer": (AdaptiveAvgPool((4, 6)),)}),
    Rule("sum-of-one", "sum, mean, prod over axes of size 1 = reshape", Exactness.VALUE,
         Node((Sum, Mean, Prod), (X,), "outer"), _over_ones, hints=_ones_hints(Sum, Mean, Prod)),
)  # fmt: skip
