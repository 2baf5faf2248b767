"""One op or several of every kind with a sharding rule, of sizes that eight ranks can share."""

from __future__ import annotations

from collections.abc import Iterator

from leptonc.ir.constants import Const
from leptonc.ir.core import Kind
from leptonc.ir.kinds import (
    binary,
    contract,
    data,
    norm,
    pointwise,
    quantize,
    reduce,
    shape,
    unary,
)
from leptonc.ir.types import DType, parse_type
from leptonc.meaning import const_of

from .sharding import Case, whole_numbers

_LSTM = "f32[8,3] f32[8,2] f32[8] f32[8]"
_GRU = "f32[6,3] f32[6,2]"


def _table() -> Const:
    return const_of(whole_numbers(parse_type("f32[10,16]"), 3))


_PLAIN: tuple[tuple[Kind, str], ...] = (
    (contract.Linear(), "f32[8,9,16] f32[12,16] f32[12]"),
    (contract.Linear(), "f32[9,16] f32[12,16]"),
    (contract.Linear(), "f32[16] f32[12,16]"),
    (contract.Matmul(), "f32[8,9,16] f32[8,16,12]"),
    (contract.Matmul(), "f32[2,8,9,16] f32[16,12]"),
    (contract.Matmul(), "f64[8,1,9,16] f64[10,16,12]"),
    (contract.Conv((1, 1), (1, 1), (1, 1)), "f32[8,16,5,5] f32[12,16,3,3] f32[12]"),
    (contract.Conv((2, 2), (3, 3), (1, 1)), "f32[1,3,48,32] f32[2,3,7,7] f32[2]"),
    (contract.Conv((1, 1), (2, 2), (2, 2), 4), "f32[1,4,16,9] f32[4,1,3,3]"),
    (contract.Conv((2, 2), (0, 0), (1, 1)), "f32[1,3,16,16] f32[2,3,1,1]"),
    (contract.Conv((2,), (0,), (1,), 1, (2,)), "f32[1,3,32] f32[2,3,4]"),
    (contract.Conv((2,), (1,), (2,), 1, (2,)), "f32[9,8,11] f32[8,8,3]"),
    (contract.Conv((1, 1), (0, 0), (1, 1), 8), "f32[2,16,5,5] f32[24,2,3,3] f32[24]"),
    (contract.Conv((1,), (1,), (1,), 10), "f32[8,10,12] f32[10,1,3]"),
    (contract.Conv((1,), (1,), (1,), 2), "f32[8,16,12] f32[8,8,3]"),
    (contract.ConvTranspose((2, 2), (1, 1), (1, 1), (1, 1)),
     "f32[8,16,4,4] f32[16,12,3,3] f32[12]"),
    (contract.ConvTranspose((1,), (0,), (0,), (1,), 8), "f32[9,16,5] f32[16,3,2] f32[24]"),
    (contract.Attention(0.5), "f32[9,8,10,4] f32[9,8,12,4] f32[9,8,12,8]"),
    (contract.Attention(0.5), "f32[9,8,10,4] f32[9,8,12,4] f32[9,8,12,8] bool[10,12]"),
    (contract.Attention(0.5), "f32[9,8,10,4] f32[9,8,12,4] f32[9,8,12,8] f32[9,1,10,12]"),
    (contract.Attention(0.5), "f32[9,8,10,4] f32[9,8,12,4] f32[9,8,12,8] f32[8,1,12]"),
    (contract.Attention(1.0, causal=True), "f32[9,8,10,4] f32[9,8,10,4] f32[9,8,10,8]"),
    (contract.Attention(1.0, gqa=True), "f32[2,16,5,4] f32[2,8,5,4] f32[2,8,5,4]"),
    (contract.Attention(1.0, gqa=True), "f32[16,5,4] f32[8,5,4] f32[8,5,4] bool[16,5,5]"),
    (contract.Attention(1.0, causal=True, gqa=True), "f32[2,10,5,4] f32[2,1,5,4] f32[2,1,5,4]"),
    (contract.Attention(1.0, gqa=True), "f32[8,12,5,4] f32[8,2,6,4] f32[8,2,6,4] f32[8,12,5,6]"),
    (norm.BatchNorm(1e-5), "f32[8,9,10] f32[9] f32[9] f32[9] f32[9]"),
    (norm.BatchNorm(1e-5, "none"), "f32[8,9] f32[9] f32[9]"),
    (norm.LayerNorm(1, 1e-5), "f32[8,9,16] f32[16] f32[16]"),
    (norm.LayerNorm(2, 1e-5, "none"), "f32[8,9,16]"),
    (norm.RmsNorm(1, 1e-5), "f32[8,9,16] f32[16]"),
    (norm.GroupNorm(8, 1e-5), "f32[9,16,4] f32[16] f32[16]"),
    (norm.GroupNorm(12, 1e-5, "none"), "f32[2,12,8]"),
    (norm.GroupNorm(2, 1e-5, "weight"), "f32[8,8,4] f32[8]"),
    (norm.GroupNorm(1, 1e-5), "f32[2,16,3] f32[16] f32[16]"),
    (norm.LayerNorm(1, 1e-3, "weight"), "bf16[3,16] bf16[16]"),
    (norm.Softmax(1), "f32[8,9,10]"),
    (norm.LogSoftmax(2), "f32[8,9,10]"),
    (reduce.CumSum(1), "f32[8,9,10]"),
    (reduce.Sum((1,)), "f32[8,16,9]"),
    (reduce.Sum((0, 2), keepdim=True), "i32[8,16,9]"),
    (reduce.Mean((1,)), "f32[8,16,9]"),
    (reduce.Mean((1, 2), keepdim=True), "f64[3,8,16]"),
    (reduce.Prod((1,)), "f32[8,9,10]"),
    (reduce.Amax((1,)), "f32[8,9,10]"),
    (reduce.Amin((0, 1), keepdim=True), "i64[8,9,10]"),
    (reduce.All((1,)), "bool[8,9,10]"),
    (reduce.All((1,)), "f32[8,9,10]"),
    (reduce.Any((0, 1)), "i32[8,9,10]"),
    (reduce.Any((1,), keepdim=True), "bool[8,9,10]"),
    (reduce.Var((1,)), "f32[8,9,10]"),
    (reduce.Var((0, 2), True, 0.0), "f64[8,9,10]"),
    (reduce.ArgMax(1), "f32[8,9,10]"),
    (reduce.ArgMin(0, keepdim=True), "i32[8,9,10]"),
    (reduce.MaxPool((2, 2), (2, 2), (0, 0)), "f32[8,9,6,6]"),
    (reduce.MaxPool((3, 3), (2, 2), (1, 1)), "f32[1,2,32,6]"),
    (reduce.MaxPool((3,), (1,), (0,), False, (3,)), "f32[2,8,16]"),
    (reduce.AvgPool((3, 2), (1, 2), (1, 0)), "f32[1,2,16,32]"),
    (reduce.AvgPool((3,), (2,), (1,), False, False), "f32[2,8,16]"),
    (reduce.AvgPool((2,), (2,), (1,)), "f32[8,9,6]"),
    (reduce.AdaptiveAvgPool((2, 1)), "f32[8,9,6,6]"),
    (reduce.AdaptiveMaxPool((3,)), "f32[8,9,6]"),
    (shape.Reshape((8, 3, 12)), "f32[8,36]"),
    (shape.Reshape((24, 8)), "f32[3,8,8]"),
    (shape.Reshape((2, 1, 8, 8)), "f32[16,8]"),
    (shape.Reshape((64, 9)), "f32[4,16,9]"),
    (shape.Transpose((2, 0, 1)), "f32[8,9,10]"),
    (shape.Expand((8, 9, 10)), "f32[9,1]"),
    (shape.Slice(1, 0, 8), "f32[9,24]"),
    (shape.Slice(1, 16, 24), "f32[9,24]"),
    (shape.Slice(0, 1, 9, 2), "f32[10,8]"),
    (shape.Concat(1), "f32[8,9] f32[8,9] f32[8,9]"),
    (shape.Concat(0), "f32[8,9] f32[3,9]"),
    (shape.Concat(0), "bool[8,9] bool[8,9]"),
    (shape.Flip((1,)), "f32[8,9,10]"),
    (shape.Roll((3,), (0,)), "f32[8,9]"),
    (shape.Pad((0, 1), (0, 2), "constant", 3.0), "f32[8,9]"),
    (shape.Pad((0, 1, 0), (0, 1, 0), "reflect"), "f32[8,9,10]"),
    (data.Full((8, 9), 2.0, DType.F32), ""),
    (data.Iota(12, 3, -2), ""),
    (data.Iota(9, 0.5, 0.25, DType.F32), ""),
    (data.Constant(_table()), ""),
    (data.Embedding(), "f32[12,16] i64[8,9]"),
    (data.Embedding(), "f64[9,8] i32[10]"),
    (data.Embedding(), "i64[12,8] i64[8]"),
    (data.IndexSelect(1), "f32[8,9,10] i64[8]"),
    (data.IndexSelect(0), "f32[8,9] i64[8,9]"),
    (data.IndexSelect(1, wrap=True), "f32[8,9,10] i64[]"),
    (data.Gather(1), "f32[8,9,10] i64[8,12,10]"),
    (data.Gather(0), "f32[8,9] i64[8,8]"),
    (data.Triangle(True, 1), "f32[8,9,9]"),
    (data.Interpolate((8, 8), "nearest"), "f32[8,9,4,4]"),
    (data.Recurrent("lstm", 1), f"f32[4,8,3] f32[1,8,2] f32[1,8,2] {_LSTM}"),
    (data.Recurrent("gru", 1, True, False), f"f32[4,9,3] f32[2,9,2] {_GRU} {_GRU}"),
    (pointwise.Where(), "bool[8,9] f32[8,9] f32[8,9]"),
    (pointwise.Where(), "bool[8,1] f32[9] f32[]"),
    (pointwise.Clamp(-1.0, 2.0), "f32[8,9]"),
    (pointwise.Cast(DType.F16), "f32[8,9]"),
    (quantize.Quantize(-8, 7, DType.I8, 1), "f32[8,9] f32[9] i32[9]"),
    (quantize.Quantize(0, 255, DType.U8), "f32[8,9] f32[]"),
    (quantize.Quantize(-8, 7), "f32[9,16] f32[9,8]"),
    (quantize.Dequantize(0), "i8[8,9] f32[8]"),
    (quantize.Dequantize(), "i8[9,32] f32[9,16] i32[9,16]"),
    (quantize.FakeQuantize(-8, 7, 1), "f32[8,9,10] f32[9]"),
    (quantize.QuantizeRows(), "f32[8,9,10]"),
    (quantize.UnpackInt4(), "u8[8,9]"),
    (quantize.IntLinear(3), "u8[8,9,16] i8[12,16] f32[12] f32[12]"),
    (quantize.IntLinear(), "i8[8,16] i8[12,16] f32[12,2]"),
    (quantize.IntConv((1, 1), (1, 1), (1, 1), 1, (), 2),
     "u8[8,6,5,5] i8[12,6,3,3] f32[12] f32[12]"),
    (quantize.IntConv((2, 1), (1, 1), (1, 1), 1, (), 3),
     "u8[1,6,32,5] i8[4,6,3,3] f32[4] f32[4]"),
    (quantize.IntConv((1,), (1,), (1,), 10), "i8[8,10,9] i8[10,1,3] f32[10]"),
    (quantize.IntAvgPool((2, 2), (1, 1), (1, 1), False, True, None, 3), "u8[8,9,5,5] f32[]"),
    (reduce.Any((0, 1)), "bool[8,9]"),
    (reduce.Amin((1,)), "bool[8,9]"),
    (reduce.Sum((1,)), "bool[8,9]"),
    (reduce.Mean((0,)), "bf16[8,16]"),
    (reduce.Mean((0,)), "f16[8,16]"),
)  # fmt: skip


def plain() -> Iterator[Case]:
    """Yield ops of the kinds that are not elementwise, and of some that are."""
    for kind, types in _PLAIN:
        yield Case(kind, tuple(map(parse_type, types.split())))


_WHOLE = (binary.BitwiseAnd, binary.BitwiseOr, binary.BitwiseXor)
_LOGIC = (binary.LogicalAnd, binary.LogicalOr, binary.LogicalXor)


def elementwise() -> Iterator[Case]:
    """Yield unary and binary ops, with and without an operand that is broadcast."""
    for cls in unary.KINDS:
        yield Case(cls(), (parse_type(_first(cls)),))
    for cls in (pointwise.Gelu, pointwise.Softplus):
        yield Case(cls(), (parse_type("f32[8,9]"),))
    yield Case(pointwise.LeakyRelu(0.5), (parse_type("f32[8,9]"),))
    yield Case(pointwise.Elu(1.0, 1.0, 1.0), (parse_type("f32[8,9]"),))
    for cls in binary.KINDS:
        dtype = "i32" if cls in _WHOLE else "bool" if cls in _LOGIC else "f32"
        for x, y in (("[8,9]", "[8,9]"), ("[8,9]", "[9]"), ("[1,9]", "[8,1]")):
            yield Case(cls(), (parse_type(dtype + x), parse_type(dtype + y)))


def _first(cls: type[Kind]) -> str:
    return {unary.LogicalNot: "bool[8,9]", unary.BitwiseNot: "i32[8,9]"}.get(cls, "f32[8,9]")
