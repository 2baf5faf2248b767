"""Linear and convolution layers written as products and sums, raised to their kinds."""

from __future__ import annotations

from leptonc.ir.core import Builder, Value
from leptonc.ir.dims import same_dim
from leptonc.ir.kinds.binary import Add
from leptonc.ir.kinds.contract import Conv, ConvTranspose, Linear, Matmul
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.reduce import AvgPool
from leptonc.ir.kinds.shape import Pad, Reshape, Transpose
from leptonc.passes.rules.build import is_float
from leptonc.rewrite.pattern import Node, Opt, Var
from leptonc.rewrite.rule import Exactness, Match, Rule, Skip

REASSOC = Exactness.REASSOC
X, W, B = Var("x", is_float), Var("w"), Var("b")


def _is_matrix(t: Transpose) -> bool:
    return t.perm == (1, 0)


def _linear(m: Match, b: Builder) -> Value:
    return b(Linear(), m["x"], m["w"])


def _linear_of_constant(m: Match, b: Builder) -> Value | None:
    """Store the matrix the way a linear reads it; fold-constants does the transposition."""
    if m["w"].type.rank != 2:
        return None
    return b(Linear(), m["x"], b(Transpose((1, 0)), m["w"]))


def _linear_bias(m: Match, b: Builder) -> Value | None:
    if m["b"].type.shape != (m["w"].type.shape[0],):
        return None
    return b(Linear(), m["x"], m["w"], m["b"])


def _conv_bias(m: Match, b: Builder) -> Value | None:
    """Take an addend that varies along the channels alone as the bias."""
    out, shape = m["conv"].type.shape, m["b"].type.shape
    spatial = len(out) - 2
    if len(shape) not in (spatial + 1, spatial + 2) or not same_dim(shape[-spatial - 1], out[1]):
        return None
    others = (*shape[-spatial:], *shape[: len(shape) - spatial - 1])
    if not all(same_dim(d, 1) for d in others):
        return None
    kind = m.ops["conv"].kind
    return b(kind, m["x"], m["w"], b(Reshape((out[1],)), m["b"]))


def _conv_pad(m: Match, b: Builder) -> Value | Skip | None:
    """Let the convolution supply the zeros."""
    pad, conv = m.kind("pad", Pad), m.kind("conv", Conv)
    if pad.mode != "constant" or pad.value != 0:
        return Skip("the padding is not zero")
    if any((*pad.low[:2], *pad.high[:2])) or min((*pad.low, *pad.high)) < 0:
        return Skip("the padding is not around the image alone")
    low = tuple(p + q for p, q in zip(conv.padding, pad.low[2:], strict=True))
    high = tuple(p + q for p, q in zip(conv.after, pad.high[2:], strict=True))
    kind = Conv(conv.stride, low, conv.dilation, conv.groups, high if high != low else ())
    bias = m.get("b")
    return b(kind, m["x"], m["w"], *(() if bias is None else (bias,)))


def _pool_first(m: Match, b: Builder) -> Value | None:
    """Mix the channels of the means: both are linear, and the means are fewer than the pixels.

    Each window must be whole, or the bias would be averaged with zeros.
    """
    pool, conv = m.kind("pool", AvgPool), m.kind("conv", Conv)
    pixelwise = all(same_dim(d, 1) for d in m["w"].type.shape[2:]) and set(conv.stride) == {1}
    over_image = len(pool.kernel) == len(conv.stride)
    whole = not conv.padded and not any(pool.padding) and pool.divisor is None
    if not (pixelwise and over_image and whole) or max(pool.stride) == 1:
        return None
    bias = m.get("b")
    return b(conv, b(pool, m["x"]), m["w"], *(() if bias is None else (bias,)))


_WEIGHT = Node(Constant, (), "w")
RULES: tuple[Rule, ...] = (
    Rule("linear-transposed", "matmul(x, w^T) = linear(x, w)", REASSOC,
         Node(Matmul, (X, Node(Transpose, (W,), "t", where=_is_matrix))), _linear,
         hints={"x": ("f32[2,3,4]", "f32[3,4]"), "w": ("f32[5,4]",) * 2,
                "t": (Transpose((1, 0)),) * 2}),
    Rule("linear-bias", "linear(x, w) + b = linear(x, w, b)", REASSOC,
         Node(Add, (Node(Linear, (X, W), once=True), B)), _linear_bias,
         hints={"x": ("f32[2,3,4]",), "w": ("f32[5,4]",), "b": ("f32[5]",)}),
    Rule("conv-bias", "conv(x, w) + b[c,1,1] = conv(x, w, b)", REASSOC,
         Node(Add, (Node((Conv, ConvTranspose), (X, W), "conv", once=True), B)), _conv_bias,
         hints={"x": ("f32[2,3,5,5]", "f32[2,3,5,5]"), "w": ("f32[4,3,2,2]", "f32[3,4,2,2]"),
                "b": ("f32[4,1,1]", "f32[1,4,1,1]"),
                "conv": (Conv((1, 1), (0, 0), (1, 1)),
                         ConvTranspose((1, 1), (0, 0), (0, 0), (1, 1)))}),
    Rule("conv-pad", "conv(pad(x), w, b) = conv{padding + pad}(x, w, b)", REASSOC,
         Node(Conv, (Node(Pad, (X,), "pad", once=True), W, Opt(B)), "conv"), _conv_pad,
         hints={"x": ("f32[2,3,5,5]",) * 2, "w": ("f32[4,3,2,2]",) * 2, "b": ("f32[4]",) * 2,
                "pad": (Pad((0, 0, 1, 0), (0, 0, 0, 2)), Pad((0, 0, 1, 1), (0, 0, 1, 1)),
                        Pad((0, 0, 1, 1), (0, 0, 1, 1), value=1.0)),
                "conv": (Conv((2, 1), (0, 0), (1, 1)), Conv((1, 1), (1, 0), (1, 1)))}),
    Rule("pool-before-conv", "avg_pool(conv[1x1](x, w, b)) = conv[1x1](avg_pool(x), w, b)", REASSOC,
         Node(AvgPool, (Node(Conv, (X, W, Opt(B)), "conv", once=True),), "pool"), _pool_first,
         hints={"x": ("f32[2,3,5,6]", "f32[2,4,8]") * 2, "w": ("f32[4,3,1,1]", "f32[6,2,1]") * 2,
                "b": ("f32[4]", "f32[6]") * 2,
                "conv": (Conv((1, 1), (0, 0), (1, 1)), Conv((1,), (0,), (1,), 2)) * 2,
                "pool": (AvgPool((2, 3), (2, 1), (0, 0)), AvgPool((3,), (2,), (0,), True),
                         AvgPool((2, 3), (2, 1), (1, 1)), AvgPool((3,), (2,), (0,), divisor=2))}),
)  # fmt: skip

# Its instances need a constant, which the text form names by hash only: tested by hand.
LINEAR_OF_CONSTANT = Rule(
    "linear-constant", "matmul(x, w) = linear(x, w^T) for a constant matrix w", REASSOC,
    Node(Matmul, (X, _WEIGHT)), _linear_of_constant,
)  # fmt: skip
