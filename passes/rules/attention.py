"""Attention that models write out by hand, raised to its kind, and its scale and mask tidied.

``softmax(q k^T * scale + mask) v``: the keys may come transposed in any way, the scale as a factor
or a divisor, the mask as a sum or as a ``where`` that fills with minus infinity (or near it). A
row whose scores are all minus infinity gives NaN when written out, but 0 in torch's attention op:
where a mask may do that, the attention raised has ``nan_rows``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from leptonc.ir.core import Builder, Op, Value
from leptonc.ir.dims import same_dim, same_shape
from leptonc.ir.kinds.binary import Add, Div, Mul
from leptonc.ir.kinds.contract import Attention, Matmul
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.norm import Softmax
from leptonc.ir.kinds.pointwise import Cast, Where
from leptonc.ir.kinds.shape import Expand, Reshape, Transpose
from leptonc.ir.types import DType
from leptonc.meaning import array_of
from leptonc.passes.rules.build import is_bool, is_float
from leptonc.rewrite.pattern import Either, Lit, Node, Opt, Pattern, Var, maybe
from leptonc.rewrite.rule import Exactness, Match, Rule, Skip

REASSOC = Exactness.REASSOC
V, MASK, KEEP = Var("v"), Var("mask", is_float), Var("keep", is_bool)
MORE = Var("more", is_float)
_ABSORBS = -1e30  # added to any sane score, this leaves itself: the same as filling with it
_OTHER_DTYPE = Skip("its mask has another dtype than its scores")

_SCORES = Node(Matmul, (Var("q", is_float), Var("kt")), "scores", once=True)
_SCALED = Either((
    Node(Mul, (_SCORES, Lit(name="factor")), once=True),
    Node(Div, (_SCORES, Lit(name="divisor")), once=True),
    _SCORES,
))  # fmt: skip
_FILL = Lit(name="fill")


def _attended(scores: Pattern) -> Node:
    """Return ``softmax(scores) v``; half-precision models cast around the softmax."""
    soft = Node(Softmax, (maybe(Cast, scores),), "soft", once=True)
    return Node(Matmul, (maybe(Cast, soft), V), "out")


def _scale(m: Match) -> float | None:
    """Return the factor on the scores, or None where it is no usable number."""
    if "factor" in m.ops:
        scale = float(m.lit("factor"))
    elif "divisor" in m.ops:
        divisor = float(m.lit("divisor"))
        scale = 1 / divisor if divisor else math.nan
    else:
        scale = 1.0
    return scale if math.isfinite(scale) else None


def _attend(m: Match, b: Builder, *mask: Value, nan_rows: bool = False) -> Value | Skip:
    scale, scores = _scale(m), m["scores"].type
    if scale is None:
        return Skip("its scale is no finite number")
    if m.kind("soft", Softmax).axis != scores.rank - 1:
        return Skip("its softmax does not run over the keys")
    if m["soft"].type.shape != scores.shape:
        return Skip("its mask has more axes, or longer ones, than its scores")
    kt = m["kt"]
    rank = kt.type.rank
    k = b(Transpose((*range(rank - 2), rank - 1, rank - 2)), kt)
    return b(Attention(scale, nan_rows=nan_rows), m["q"], k, m["v"], *mask)


def _plain(m: Match, b: Builder) -> Value | Skip:
    return _attend(m, b)


def _added(m: Match, b: Builder) -> Value | Skip:
    mask = m["mask"]
    if mask.type.dtype is not m["q"].type.dtype:
        return _OTHER_DTYPE
    return _attend(m, b, mask, nan_rows=not _leaves_some(b.producer.get(mask)))


def _added_twice(m: Match, b: Builder) -> Value | Skip:
    mask, more = m["mask"], m["more"]
    if {mask.type.dtype, more.type.dtype} != {m["q"].type.dtype}:
        return _OTHER_DTYPE
    return _attend(m, b, b(Add(), mask, more), nan_rows=True)


def _filled(m: Match, b: Builder, fill_where: bool) -> Value | Skip:
    fill, dtype = float(m.lit("fill")), m["scores"].type.dtype
    if not fill <= _ABSORBS:
        return Skip(f"what it fills masked scores with, {fill:g}, does not rule them out")
    more = "mask" in m.values
    kept = not more and _keeps_some(b.producer.get(m["keep"]), keeps=not fill_where)
    nan_rows = not kept if math.isinf(fill) else more
    low, zero = b(Full((), fill, dtype)), b(Full((), 0.0, dtype))
    branches = (low, zero) if fill_where else (zero, low)
    mask = b(Where(), m["keep"], *branches)
    mask = b(Add(), mask, m["mask"]) if more else mask
    return _attend(m, b, mask, nan_rows=nan_rows)


def _keeps_some(op: Op | None, keeps: bool) -> bool:
    """Whether ``op`` is a constant with a ``keeps`` in each row."""
    if op is None or not isinstance(op.kind, Constant):
        return False
    array = array_of(op.kind.const)
    return bool((array == keeps).any(axis=-1).all()) if array.ndim else False


def _leaves_some(op: Op | None) -> bool:
    """Whether ``op`` is a constant with something above minus infinity in each row."""
    if op is None or not isinstance(op.kind, Constant):
        return False
    array = array_of(op.kind.const)
    return bool(np.greater(array, -math.inf).any(axis=-1).all()) if array.ndim else False


def _scaled_query(m: Match, b: Builder) -> Value | None:
    a, c = m.kind("f", Attention), float(m.lit("c"))
    if not math.isfinite(c):
        return None
    attention = replace(a, scale=a.scale * c)
    mask = m.get("mask")
    return b(attention, m["q"], m["k"], m["v"], *(() if mask is None else (mask,)))


def _repeated(name: str) -> Node:
    """Return the pattern of heads repeated: ``[.., g, t, d]`` to ``[.., g*r, t, d]``."""
    return Node(Reshape, (Node(Expand, (Node(Reshape, (Var(name),)),), f"{name}-wide"),))


def _grouped(m: Match, b: Builder) -> Value | None:
    """Let the attention op repeat the heads of keys and values itself."""
    a = m.kind("f", Attention)
    for name in ("k", "v"):
        shape, wide = m[name].type.shape, m[f"{name}-wide"].type.shape
        if len(shape) < 3 or len(wide) != len(shape) + 1 or a.gqa:
            return None
        if not same_shape((*wide[: len(shape) - 2], *wide[len(shape) - 1 :]), shape):
            return None  # the axis put in after the heads is the one that was widened
    if m["q"].type.rank != m["k"].type.rank:
        return None
    mask = m.get("mask")
    grouped = replace(a, gqa=True)
    return b(grouped, m["q"], m["k"], m["v"], *(() if mask is None else (mask,)))


def _causal(m: Match, b: Builder) -> Value | None:
    """Drop a constant mask that keeps ``j <= i`` and nothing else."""
    const, a = m.kind("mask", Constant).const, m.kind("f", Attention)
    shape = const.type.shape
    lengths = (m["q"].type.shape[-2], m["k"].type.shape[-2])
    if a.causal or len(shape) < 2 or not all(same_dim(d, 1) for d in shape[:-2]):
        return None
    s, t = lengths
    if shape[-2:] != lengths or not isinstance(s, int) or not isinstance(t, int):
        return None
    array = array_of(const).reshape(s, t)
    boolean = const.type.dtype is DType.BOOL
    kept = array != 0 if boolean else array == 0
    dropped = array == 0 if boolean else np.less_equal(array, _ABSORBS)
    lower = np.tri(s, t, dtype=np.bool_)
    if not np.where(lower, kept, dropped).all():
        return None
    return b(replace(a, causal=True, nan_rows=False), m["q"], m["k"], m["v"])


_EXAMPLE = """
func @f(%q: f32[2,4,8], %kt: f32[2,8,5], %v: f32[2,5,6]{params}) {{
  %c = full{{shape=(), value={c}, dtype=f32}}() : f32[]
  %s = matmul(%q, %kt) : f32[2,4,5]
  %t = {scale}(%s, %c) : f32[2,4,5]
{mask}
  %p = softmax{{axis=2}}(%u) : f32[2,4,5]
  %o = matmul(%p, %v) : f32[2,4,6]
  return %o
}}"""


_GQA = """
func @f(%q: f32[2,4,5,8], %k: f32[2,2,5,8], %v: f32[2,2,5,6]{}) {{
  %a = reshape{{shape=(2,2,1,5,8)}}(%k) : f32[2,2,1,5,8]
  %b = expand{{shape=(2,2,2,5,8)}}(%a) : f32[2,2,2,5,8]
  %c = reshape{{shape=(2,4,5,8)}}(%b) : f32[2,4,5,8]
  %d = reshape{{shape=(2,2,1,5,6)}}(%v) : f32[2,2,1,5,6]
  %e = expand{{shape=(2,2,2,5,6)}}(%d) : f32[2,2,2,5,6]
  %h = reshape{{shape=(2,4,5,6)}}(%e) : f32[2,4,5,6]
  %o = attention{{scale=0.5}}(%q, %c, %h{}) : f32[2,4,5,6]
  return %o
}}"""


def _example(mask: str, params: str = "", scale: str = "mul", c: float = 0.4) -> str:
    return _EXAMPLE.format(params=params, c=c, scale=scale, mask=mask)


_WHERE = "  %z = full{{shape=(), value={}, dtype=f32}}() : f32[]\n  %u = where({}) : f32[2,4,5]"
_SUM = "  %u = add(%t, %m) : f32[2,4,5]"
_SUMS = "  %a = add(%t, %m) : f32[2,4,5]\n  %u = add(%n, %a) : f32[2,4,5]"

RULES: tuple[Rule, ...] = (
    Rule("attention", "softmax(q kt * s) v = attention[s](q, kt^T, v)", REASSOC,
         _attended(_SCALED), _plain,
         examples=(_example("").replace("%u", "%t"),
                   _example("", scale="div").replace("%u", "%t"))),
    Rule("attention-mask", "softmax(q kt * s + mask) v = attention[s](q, kt^T, v, mask)", REASSOC,
         _attended(Node(Add, (_SCALED, MASK), once=True)), _added,
         examples=(_example(_SUM, ", %m: f32[4,5]"),
                   _example(_SUM, ", %m: f32[2,1,5]", "div", 3.0))),
    Rule("attention-masks", "softmax(q kt * s + a + c) v = attention[s](q, kt^T, v, a + c)",
         REASSOC,
         _attended(Node(Add, (Node(Add, (_SCALED, MASK), once=True), MORE), once=True)),
         _added_twice,
         examples=(_example(_SUMS, ", %m: f32[4,5], %n: f32[2,1,5]"),)),
    Rule("attention-fill", "softmax(where(c, fill, q kt * s)) v = attention[s](q, kt^T, v, mask) "
         "where mask = where(c, fill, 0)", REASSOC,
         _attended(Node(Where, (KEEP, _FILL, _SCALED), once=True)),
         lambda m, b: _filled(m, b, True),
         examples=(_example(_WHERE.format("-3e+38", "%m, %z, %t"), ", %m: bool[4,5]"),)),
    Rule("attention-keep", "softmax(where(c, q kt * s, fill)) v = attention[s](q, kt^T, v, mask) "
         "where mask = where(c, 0, fill)", REASSOC,
         _attended(Node(Where, (KEEP, _SCALED, _FILL), once=True)),
         lambda m, b: _filled(m, b, False),
         examples=(_example(_WHERE.format("-3.4028234663852886e+38", "%m, %t, %z"),
                            ", %m: bool[4,5]"),)),
    Rule("attention-keep-mask", "softmax(where(c, q kt * s, fill) + a) v = "
         "attention[s](q, kt^T, v, where(c, 0, fill) + a)", REASSOC,
         _attended(Node(Add, (Node(Where, (KEEP, _SCALED, _FILL), once=True), MASK), once=True)),
         lambda m, b: _filled(m, b, False),
         examples=(_example(_WHERE.format("-3e+38", "%m, %t, %z").replace("%u", "%w")
                            + "\n  %u = add(%w, %n) : f32[2,4,5]",
                            ", %m: bool[4,5], %n: f32[4,5]"),)),
    Rule("attention-gqa", "attention(q, repeat(k), repeat(v)) = attention[gqa](q, k, v)", REASSOC,
         Node(Attention, (Var("q"), _repeated("k"), _repeated("v"), Opt(Var("mask"))), "f"),
         _grouped, examples=(_GQA.format("", ""), _GQA.format(", %m: f32[5,5]", ", %m"))),
    Rule("attention-scale-query", "attention[s](q * c, k, v) = attention[s*c](q, k, v)", REASSOC,
         Node(Attention, (Node(Mul, (Var("q"), Lit(name="c")), once=True), Var("k"), V,
                          Opt(Var("mask"))), "f"), _scaled_query,
         hints={"q": ("f32[2,4,8]",), "k": ("f32[2,5,8]",), "v": ("f32[2,5,6]",),
                "mask": ("f32[4,5]",), "c": (0.7,), "f": (Attention(0.5),)}),
    Rule("attention-scale-key", "attention[s](q, k * c, v) = attention[s*c](q, k, v)", REASSOC,
         Node(Attention, (Var("q"), Node(Mul, (Var("k"), Lit(name="c")), once=True), V,
                          Opt(Var("mask"))), "f"), _scaled_query,
         hints={"q": ("f32[2,4,8]",), "k": ("f32[2,5,8]",), "v": ("f32[2,5,6]",),
                "mask": ("f32[4,5]",), "c": (0.7,), "f": (Attention(0.5),)}),
)  # fmt: skip

# Its instances need a constant, which the text form names by hash only: tested by hand.
CAUSAL = Rule(
    "attention-causal", "attention(q, k, v, mask of j <= i) = attention[causal](q, k, v)", REASSOC,
    Node(Attention, (Var("q"), Var("k"), V, Node(Constant, (), "mask")), "f"), _causal,
)  # fmt: skip
