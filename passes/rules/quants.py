"""Laws of quantized programs: products of codes, and codes kept through what moves or clips them.

Scales and zero points of activations are one number, known at compile time (a ``full``). Where a
law says ``q(x)`` and ``d(c)``, all conversions in it have the same scale and zero point.
"""

from __future__ import annotations

import dataclasses
import math
import struct

from leptonc.ir.core import Builder, Kind, Op, Value
from leptonc.ir.dims import Dim, same_dim
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.ir.kinds.data import Constant, Embedding, Full
from leptonc.ir.kinds.pointwise import Cast, Clamp
from leptonc.ir.kinds.quantize import (
    BYTES,
    RANGES,
    Dequantize,
    FakeQuantize,
    IntAvgPool,
    IntConv,
    IntLinear,
    Quantize,
    QuantizeRows,
)
from leptonc.ir.kinds.reduce import AdaptiveAvgPool, AvgPool, MaxPool, Mean
from leptonc.ir.kinds.shape import Concat, Expand, Reshape, Slice, Transpose
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.types import DType, TensorType
from leptonc.passes.fusing.channels import is_zero
from leptonc.rewrite.pattern import Lit, Many, Node, Opt, Var
from leptonc.rewrite.rule import Exactness, Hint, Match, Rule, Skip

BITWISE, REASSOC = Exactness.BITWISE, Exactness.REASSOC
# Scales in this range have inverses in it, and products of two are normal numbers.
_LEAST, _MOST = 2.0**-60, 2.0**60


def _is_byte(t: TensorType) -> bool:
    return t.dtype in BYTES


def _is_i8(t: TensorType) -> bool:
    return t.dtype is DType.I8


def _is_f32(t: TensorType) -> bool:
    return t.dtype is DType.F32


def _f32(value: float) -> float:
    """Return ``value`` as float32 has it; infinite where it has none."""
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def _scale(m: Match, name: str = "s") -> float | None:
    """Return a scale that is one normal positive number, else None."""
    value = _f32(float(m.lit(name)))
    return value if _LEAST <= value <= _MOST else None


def _zero(m: Match, name: str = "z") -> int:
    return 0 if m.get(name) is None else int(m.lit(name))


def _params(m: Match) -> tuple[Value, ...]:
    """Return the operands of a conversion behind its first."""
    zero = m.get("z")
    return (m["s"],) if zero is None else (m["s"], zero)


# ----- products -----------------------------------------------------------------------------------


def _weight_misfit(m: Match, b: Builder, most: int) -> Skip | None:
    """Return why the weight is no operand of an integer product with scales of ``most`` axes."""
    w, scale, zero = m["w"].type, m["t"].type, m.get("wz")
    if not _is_i8(w):
        return Skip(f"its weight holds {w.dtype.value} codes, integer products take i8")
    if scale.rank > most:
        return Skip("its weight has groups of scales, which only a linear layer takes")
    if scale.rank == 1 and m.kind("dw", Dequantize).axis != 0:
        return Skip("the scales of its weight do not run along its outputs")
    if zero is not None and not _all_zero(b, zero):
        return Skip("its weight has a zero point other than 0")
    return None


def _all_zero(b: Builder, v: Value) -> bool:
    maker = b.producer.get(v)
    kind = None if maker is None else maker.kind
    if isinstance(kind, Full):
        return kind.value in (0, 0.0)
    return isinstance(kind, Constant) and is_zero(kind.const)


def _product_scale(m: Match, b: Builder, factor: float) -> Value:
    """Return ``factor * t`` in float64, rounded once, one for each output (and group)."""
    n, t = m["w"].type.shape[0], m["t"]
    wide = b(Cast(DType.F64), t)
    if factor != 1.0:
        wide = b(Mul(), wide, b(Full((), factor, DType.F64)))
    made = b(Cast(DType.F32), wide) if factor != 1.0 else t
    return made if t.type.rank else b(Expand((n,)), made)


def _bias(m: Match) -> tuple[Value, ...]:
    bias = m.get("b")
    return () if bias is None else (bias,)


def _int_conv(m: Match, b: Builder) -> Value | Skip | None:
    conv, scale = m.kind("root", Conv), _scale(m)
    if (misfit := _weight_misfit(m, b, 1)) or scale is None:
        return misfit
    kind = IntConv(
        conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_after, _zero(m)
    )
    return b(kind, m["q"], m["w"], _product_scale(m, b, scale), *_bias(m))


def _int_linear(m: Match, b: Builder) -> Value | Skip | None:
    scale = _scale(m)
    if (misfit := _weight_misfit(m, b, 2)) or scale is None:
        return misfit
    kind = IntLinear(_zero(m))
    return b(kind, m["q"], m["w"], _product_scale(m, b, scale), *_bias(m))


def _linear_of_rows(m: Match, b: Builder) -> Value | Skip | None:
    """Scale the rows of the product, not those of the operand; the bias comes after."""
    q, rows = m["q"].type, m["rows"].type
    if rows.rank != q.rank or not same_dim(rows.shape[-1], 1):
        return None
    if misfit := _weight_misfit(m, b, 2):
        return misfit
    made = b(IntLinear(), m["q"], m["w"], _product_scale(m, b, 1.0))
    made = b(Mul(), made, m["rows"])
    return b(Add(), made, m["b"]) if m.get("b") is not None else made


def _dynamic(m: Match, b: Builder) -> Value | Skip | None:
    """Quantize the rows of the operand as they come."""
    if misfit := _weight_misfit(m, b, 2):
        return misfit
    codes, rows = b.emit(QuantizeRows(), m["x"])
    made = b(IntLinear(), codes, m["w"], _product_scale(m, b, 1.0))
    made = b(Mul(), made, rows)
    return b(Add(), made, m["b"]) if m.get("b") is not None else made


def _looked_up(m: Match, b: Builder) -> Value | Skip | None:
    """Look up codes and their scales: the table stays codes, rows alone become floats."""
    w, t, i = m["w"], m["t"], m["i"]
    zero, groups = m.get("wz"), int(t.type.shape[1]) if t.type.rank == 2 else 1
    if zero is not None and not _all_zero(b, zero):
        return Skip("the table has a zero point other than 0")
    if t.type.rank == 1 and m.kind("dw", Dequantize).axis != 0:
        return Skip("the scales of the table do not run along its rows")
    codes = b(Embedding(), w, i)
    if not t.type.rank:
        return b(Dequantize(), codes, t)
    scales = b(Embedding(), b(Reshape((t.type.shape[0], groups)), t), i)
    codes = b(Cast(DType.F32), codes)
    if groups == 1:
        return b(Mul(), codes, scales)
    lead, k = i.type.shape, int(w.type.shape[1])
    blocks = b(Reshape((*lead, groups, k // groups)), codes)
    made = b(Mul(), blocks, b(Reshape((*lead, groups, 1)), scales))
    return b(Reshape((*lead, k)), made)


# ----- means --------------------------------------------------------------------------------------


MEANS = (AvgPool, AdaptiveAvgPool, Mean)


def windows_of(op: Op) -> AvgPool | Skip | None:
    """Return an op of ``MEANS`` as a mean of windows of one size.

    None for a mean over other axes than those of an image; Skip tells why codes have no such mean.
    """
    kind, x = op.kind, op.operands[0].type
    if isinstance(kind, AvgPool):
        return kind
    if isinstance(kind, Mean):
        inner = tuple(range(2, x.rank))
        if not inner or tuple(sorted(kind.axes)) != inner:
            return None
        output: tuple[Dim, ...] = (1,) * len(inner)
    else:
        assert isinstance(kind, AdaptiveAvgPool)
        output = kind.output
    pairs = zip(x.shape[-len(output) :], output, strict=True)
    sizes = [(d, n) for d, n in pairs if isinstance(d, int) and isinstance(n, int)]
    if len(sizes) != len(output):
        return Skip("the windows of a mean of codes have no dynamic size")
    if any(d % n for d, n in sizes):
        return Skip("the windows of a mean of codes are of one size")
    kernel = tuple(d // n for d, n in sizes)
    return AvgPool(kernel, kernel, (0,) * len(kernel))


def _int_avg_pool(m: Match, b: Builder) -> Value | Skip | None:
    kind, x = m.ops["pool"].kind, m["q"].type
    found = windows_of(m.ops["pool"])
    if not isinstance(found, AvgPool) or _scale(m) is None:
        return found if isinstance(found, Skip) else None
    made = b(IntAvgPool(**found.attributes, x_zero=_zero(m)), m["q"], m["s"])
    whole = isinstance(kind, Mean) and not kind.keepdim
    return b(Reshape(x.shape[:2]), made) if whole else made


# ----- conversions --------------------------------------------------------------------------------


def _fake(m: Match, b: Builder) -> Value | Skip | None:
    fake = m.kind("fake", FakeQuantize)
    fits = (d for d, (low, high) in RANGES.items() if low <= fake.low and fake.high <= high)
    dtype = next(fits, None)
    if dtype is None:
        return Skip(f"no type of codes holds {fake.low} to {fake.high}")
    params = (m["t"],) if m.get("z") is None else (m["t"], m["z"])
    codes = b(Quantize(fake.low, fake.high, dtype, fake.axis), m["x"], *params)
    return b(Dequantize(fake.axis), codes, *params)


def _back(m: Match, b: Builder) -> Value | None:
    """Return the codes themselves: both roundings together move a code by less than a half."""
    again, scale = m.kind("again", Quantize), _scale(m)
    q = m["q"]
    maker = b.producer.get(q)
    held = RANGES.get(q.type.dtype, (0, -1))
    if maker is not None and isinstance(maker.kind, Quantize):
        held = maker.kind.low, maker.kind.high
    inside = again.low <= held[0] <= held[1] <= again.high and again.dtype is q.type.dtype
    same = scale is not None and scale == _scale(m, "s2") and _zero(m) == _zero(m, "z2")
    return q if inside and same else None


def _same_kind(m: Match) -> Quantize:
    return dataclasses.replace(m.kind("quantize", Quantize), axis=0)  # one scale has no axis


def _up(m: Match, b: Builder) -> Value | None:
    """Convert first, then move codes."""
    is_byte = m.kind("quantize", Quantize).dtype in BYTES
    if isinstance(m.ops["move"].kind, MaxPool) and (_scale(m) is None or not is_byte):
        return None
    return b(m.ops["move"].kind, b(_same_kind(m), m["x"], *_params(m)))


def _up_concat(m: Match, b: Builder) -> Value:
    parts = [b(_same_kind(m), x, *_params(m)) for x in m.lists["xs"]]
    return b(m.ops["move"].kind, *parts)


def _down(m: Match, b: Builder) -> Value | None:
    """Move codes, then convert back."""
    if isinstance(m.ops["move"].kind, MaxPool) and (_scale(m) is None or not _is_byte(m["q"].type)):
        return None
    return b(Dequantize(), b(m.ops["move"].kind, m["q"]), *_params(m))


def _code(value: float, scale: float, zero: int) -> float:
    """Return the code of ``value`` before it is clipped."""
    scaled = _f32(_f32(value) * _f32(1.0 / scale))
    return (round(scaled) if math.isfinite(scaled) else scaled) + zero


def _clipped(m: Match, b: Builder) -> Value | None:
    """Leave out a clip that the range of the codes makes, too."""
    clip, kind, scale = m.ops["clip"].kind, m.kind("quantize", Quantize), _scale(m)
    low, high = (0.0, None) if isinstance(clip, Relu) else _bounds(m.kind("clip", Clamp))
    if scale is None or (low is not None and high is not None and low > high):
        return None
    if low is not None and _code(low, scale, _zero(m)) > kind.low:
        return None
    if high is not None and _code(high, scale, _zero(m)) < kind.high:
        return None
    return b(kind, m["x"], *_params(m))


def _bounds(clip: Clamp) -> tuple[float | None, float | None]:
    return clip.lo, clip.hi


S, Z = Lit(name="s"), Lit(name="z")
X, Q, B = Var("x", _is_f32), Var("q"), Var("b")
_CODES = Var("q", _is_byte)
_DQ = Node(Dequantize, (_CODES, S, Opt(Z)))
_DW = Node(Dequantize, (Var("w"), Var("t"), Opt(Var("wz"))), "dw")
_ROWS = Node(Mul, (Node(Cast, (Var("q", _is_i8),), where=lambda k: k.dtype is DType.F32),
                   Var("rows")))  # fmt: skip
_QUANTIZED: dict[str, tuple[Hint, ...]] = {"s": (0.25, 0.037), "z": (3, 0)}


def _moved(*kinds: type[Kind]) -> Node:
    inner = Node(kinds, (X,), "move", once=True)
    return Node(Quantize, (inner, S, Opt(Z)), "quantize")


def _moving(*kinds: type[Kind]) -> Node:
    return Node(kinds, (Node(Dequantize, (Q, S, Opt(Z)), once=True),), "move")


_U8, _I8 = Quantize(0, 255, DType.U8), Quantize(-127, 127, DType.I8)
_MOVES = {
    "x": ("f32[2,3,4]",) * 3, "q": ("i8[2,3,4]", "u8[2,3,4]", "i16[2,3,4]"), "quantize": (_U8, _I8),
    "move": (Reshape((6, 4)), Transpose((2, 0, 1)), Slice(1, 0, 2, 1)), **_QUANTIZED,
}  # fmt: skip
_POOL = {
    "x": ("f32[2,3,5,5]",) * 2, "q": ("i8[2,3,5,5]", "u8[2,3,5,5]"), "quantize": (_U8, _I8),
    "move": (MaxPool((2, 2), (2, 2), (1, 1)), MaxPool((3, 2), (1, 2), (0, 1), True)), **_QUANTIZED,
}  # fmt: skip

RULES: tuple[Rule, ...] = (
    Rule("fake-quantize", "fake_quantize(x, s, z) = dequantize(quantize(x, s, z), s, z)", BITWISE,
         Node(FakeQuantize, (X, Var("t"), Opt(Var("z"))), "fake"), _fake),
    Rule("int-conv", "conv(dequantize(q, s, z), dequantize(w, t), b) = int_conv{z}(q, w, s * t, b)",
         REASSOC, Node(Conv, (_DQ, _DW, Opt(B)), "root"), _int_conv,
         hints={"q": ("u8[2,4,5,5]", "i8[1,4,6]"), "w": ("i8[6,2,3,3]", "i8[4,1,3]"),
                "t": ("f32[6]", "f32[]"), "b": ("f32[6]", "f32[4]"), "dw": (Dequantize(),) * 2,
                "root": (Conv((2, 1), (1, 0), (1, 1), 2, (2, 1)), Conv((1,), (1,), (2,), 4)),
                **_QUANTIZED}),
    Rule("int-linear", "linear(dequantize(q, s, z), dequantize(w, t), b) = "
         "int_linear{z}(q, w, s * t, b)", REASSOC,
         Node(Linear, (_DQ, _DW, Opt(B))), _int_linear,
         hints={"q": ("u8[3,6]", "i8[2,2,6]"), "w": ("i8[4,6]",), "t": ("f32[4,2]", "f32[4]"),
                "b": ("f32[4]",), "dw": (Dequantize(),), **_QUANTIZED}),
    Rule("int-linear-rows", "linear(f32(q) * r, dequantize(w, t), b) = int_linear(q, w, t) * r + b"
         " for rows r: [..., 1]", REASSOC,
         Node(Linear, (_ROWS, _DW, Opt(B))), _linear_of_rows,
         hints={"q": ("i8[3,6]", "i8[2,2,6]"), "rows": ("f32[3,1]", "f32[2,2,1]"),
                "w": ("i8[4,6]",), "t": ("f32[4,3]", "f32[4]"), "b": ("f32[4]",),
                "dw": (Dequantize(),)}),
    Rule("int-avg-pool", "avg_pool(dequantize(q, s, z)) = int_avg_pool{z}(q, s)", REASSOC,
         Node(MEANS, (_DQ,), "pool"), _int_avg_pool,
         hints={"q": ("u8[2,3,6,5]", "i8[2,3,8,6]", "u8[2,3,4,4]", "i8[2,3,7]"),
                "pool": (AvgPool((3, 2), (2, 1), (1, 0), True, False), AdaptiveAvgPool((4, 3)),
                         Mean((2, 3)), Mean((2,), True)), **_QUANTIZED}),
    Rule("look-up-codes", "embedding(dequantize(w, t), i) = f32(embedding(w, i)) * embedding(t, i)",
         BITWISE, Node(Embedding, (_DW, Var("i"))), _looked_up,
         hints={"w": ("i8[5,6]",) * 3, "t": ("f32[5]", "f32[5,2]", "f32[]"),
                "i": ("i64[2,3]", "i64[4]", "i64[]"), "dw": (Dequantize(),) * 3}),
    Rule("quantize-back", "q(d(c)) = c for codes c in the range of q", BITWISE,
         Node(Quantize, (Node(Dequantize, (Q, S, Opt(Z))), Lit(name="s2"), Opt(Lit(name="z2"))),
              "again"), _back,
         hints={"q": ("u8[2,3]", "i8[5]"), "s2": _QUANTIZED["s"], "z2": _QUANTIZED["z"],
                "again": (_U8, Quantize(-128, 127, DType.I8)), **_QUANTIZED}),
    Rule("quantize-moved", "q(move(x)) = move(q(x)) for reshape and transpose", BITWISE,
         _moved(Reshape, Transpose), _up, hints=_MOVES | {"move": _MOVES["move"][:2]}),
    Rule("quantize-pooled", "q(max_pool(x)) = max_pool(q(x)) for numbers x", REASSOC,
         _moved(MaxPool), _up, hints=_POOL),
    Rule("quantize-joined", "q(concat(x, y)) = concat(q(x), q(y))", BITWISE,
         Node(Quantize, (Node(Concat, (Many("xs"),), "move", once=True), S, Opt(Z)), "quantize"),
         _up_concat, hints={"xs": ("f32[2,3]", "f32[2,1]"), "move": (Concat(1),),
                            "quantize": (_U8,), **_QUANTIZED}),
    Rule("quantize-clipped", "q(clamp(x)) = q(x) if the range of q is within that of the clamp",
         BITWISE, Node(Quantize, (Node((Relu, Clamp), (X,), "clip", once=True), S, Opt(Z)),
                       "quantize"), _clipped,
         hints={"x": ("f32[2,3]",) * 5,  # the last two clip what the codes hold
                "clip": (Relu(), Clamp(0.0, 6.0), Clamp(-2.0, None), Relu(), Clamp(0.0, 6.0)),
                "quantize": (_U8, _U8, Quantize(-3, 4, DType.I8), _U8, _U8),
                "s": (0.25, 6 / 255, 0.5, 0.25, 0.25), "z": (0, 0, -1, 3, 0)}),
    Rule("moved-codes", "move(d(c)) = d(move(c)) for reshape, transpose and slice", BITWISE,
         _moving(Reshape, Transpose, Slice), _down, hints=_MOVES),
    Rule("pooled-codes", "max_pool(d(c)) = d(max_pool(c))", BITWISE,
         _moving(MaxPool), _down, hints=_POOL),
)  # fmt: skip

# Its bound is no multiple of the largest operand: tested by hand.
DYNAMIC = Rule(
    "int-linear-dynamic", "linear(x, dequantize(w, t), b) = int_linear(codes, w, t) * rows + b "
    "up to half a code of x", Exactness.bounded(1.0 / 254.0),
    Node(Linear, (X, _DW, Opt(B))), _dynamic,
)  # fmt: skip
