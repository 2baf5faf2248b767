"""``fold-quant``: Q/DQ graphs become products of codes, within rounding, and nothing else."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leptonc import meaning
from leptonc.ir.core import Builder, Function, Value
from leptonc.ir.kinds.binary import Add
from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.quantize import (
    Dequantize,
    FakeQuantize,
    IntLinear,
    Quantize,
    UnpackInt4,
)
from leptonc.ir.kinds.reduce import MaxPool
from leptonc.ir.kinds.shape import Reshape
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.types import DType, TensorType
from leptonc.ir.verify import verify
from leptonc.passes import pipeline
from leptonc.passes.fold_constants import FoldConstants
from leptonc.passes.fold_quant import FoldQuant
from leptonc.rewrite.trace import RemarkKind, Trace

FEW = settings(max_examples=max(10, settings.default.max_examples // 4))  # type: ignore[union-attr]


class Graph(Builder):
    """Builds quantized graphs by hand."""

    def const(self, value: object, dtype: torch.dtype = torch.float32) -> Value:
        tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=dtype)
        return self(Constant(meaning.const_of(tensor)))

    def pair(self, scale: float, zero: int) -> tuple[Value, Value]:
        return self.const(scale), self.const(zero, torch.int32)

    def qdq(self, x: Value, scale: float, zero: int = 0) -> Value:
        params = self.pair(scale, zero)
        return self(Dequantize(), self(Quantize(0, 255, DType.U8), x, *params), *params)


def kinds(fn: Function) -> list[str]:
    return [op.kind.NAME for op in fn.ops if op.kind.NAME not in ("constant", "full")]


@st.composite
def nets(draw: st.DrawFn) -> tuple[Function, Tensor]:
    """Draw conv, relu, pool, conv, flatten, linear in codes of drawn scales, and an input."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    b = Graph("net")
    c, groups = draw(st.sampled_from([(2, 1), (4, 2), (4, 4)]))
    x = b.param(TensorType(DType.F32, (2, c, 8, 8)))
    scale = draw(st.sampled_from([0.01, 0.05, 0.3]))
    y = b.qdq(x, scale, draw(st.integers(0, 255)))

    def weight(*shape: int) -> Value:
        codes = torch.randint(-127, 128, shape, generator=g).to(torch.int8)
        scales = torch.rand(shape[0], generator=g) * 0.02 + 1e-3
        return b(Dequantize(), b.const(codes), b.const(scales))

    def bias(n: int) -> list[Value]:
        return [b.const(torch.randn(n, generator=g))] if draw(st.booleans()) else []

    first = Conv((1, 1), (1, 1), (1, 1), groups)
    y = b(Relu(), b(first, y, weight(8, c // groups, 3, 3), *bias(8)))
    y = b(MaxPool((2, 2), (2, 2), (0, 0)), b.qdq(y, 0.1) if draw(st.booleans()) else y)
    y = b(Conv((2, 2), (1, 0), (1, 1), 1, (0, 1)), b.qdq(y, 0.1), weight(6, 8, 3, 3), *bias(6))
    y = b(Reshape((2, 24)), b(Relu(), y))
    y = b(Linear(), b.qdq(y, 0.2), weight(5, 24), *bias(5))
    return b.finish(y), torch.randn(2, c, 8, 8, generator=g) * 40 * scale


def interpreted(
    fn: Function, x: Tensor, precision: Literal["f64"] | None = None
) -> tuple[list[Tensor], Tensor]:
    """Return the codes that ``quantize`` makes, in order, and the result."""
    codes: list[Tensor] = []

    def keep(op, results) -> None:
        if isinstance(op.kind, Quantize):
            codes.append(results[0])

    (y,) = meaning.run(fn, x, observe=keep, precision=precision)
    return codes, y


@FEW
@given(drawn=nets())
def test_a_net_becomes_products_of_codes(drawn: tuple[Function, Tensor]) -> None:
    """No product of floats is left, and no float between the first conversion and the last sum.

    A sum that lies within rounding of the middle between two codes may become either: one step of
    the codes in between, which the next weights carry on. Elsewhere results agree to rounding.
    """
    fn, x = drawn
    after = FoldQuant()(fn)
    verify(after)
    assert FoldQuant()(after) is after
    found = kinds(after)
    assert found.count("int_conv") == 2 and found.count("int_linear") == 1
    assert not {"conv", "linear", "dequantize", "relu"} & set(found)
    assert found.count("quantize") == 3
    want, got = meaning.run(fn, x)[0], meaning.run(after, x)[0]
    before_codes, after_codes = interpreted(fn, x)[0], interpreted(after, x)[0]
    assert torch.equal(before_codes[0], after_codes[0])
    moved = before_codes[-1].reshape(-1).int() - after_codes[-1].reshape(-1).int()
    exact_codes, exact = interpreted(after, x, "f64")
    moved_too = exact_codes[-1].reshape(-1).int() - after_codes[-1].reshape(-1).int()
    if not moved.any() and not moved_too.any():
        size = float(exact.abs().max()) + 1.0
        assert float((want - exact).abs().max()) <= 24 * 64 * 2.0**-24 * size
        assert float((got - exact).abs().max()) <= 8 * 2.0**-24 * size


@FEW
@given(seed=st.integers(0, 2**16), scale=st.sampled_from([0.02, 0.3]), zero=st.integers(0, 255))
def test_codes_after_a_product_are_the_nearest(seed: int, scale: float, zero: int) -> None:
    """Of the exact sum, codes are at most half a step off, but for rounding; so are the Q/DQ's."""
    g = torch.Generator().manual_seed(seed)
    b = Graph("f")
    x = b.param(TensorType(DType.F32, (2, 4, 6, 6)))
    codes = torch.randint(-127, 128, (5, 4, 3, 3), generator=g).to(torch.int8)
    w = b(Dequantize(), b.const(codes), b.const(torch.rand(5, generator=g) * 0.01))
    y = b(
        Conv((1, 1), (1, 1), (1, 1)), b.qdq(x, 0.05, 128), w, b.const(torch.randn(5, generator=g))
    )
    params = b.pair(scale, zero)
    out = b(Quantize(0, 255, DType.U8), b(Relu(), y), *params)
    fn = b.finish(out, y)
    given_ = torch.randn(2, 4, 6, 6, generator=g) * 3
    after = FoldQuant()(Function(fn.name, fn.params, fn.ops, (out,)))
    exact = meaning.run(fn, given_, precision="f64")[1].clamp_min(0)
    wanted = exact / float(torch.tensor(scale)) + zero
    size = 36 * 127 * 0.01 * 255 * 0.05 / scale  # the largest sum there can be, in steps
    slack = 0.5 + 40 * 2.0**-24 * (size + 256)
    for made in (fn, after):
        got = meaning.run(made, given_)[0].double()
        assert bool(((got - wanted.clamp(0, 255)).abs() <= slack).all())


@pytest.mark.parametrize("pipe", ["O1", "O2", "O3"])
def test_pipelines_keep_codes(pipe: str) -> None:
    b = Graph("f")
    x = b.param(TensorType(DType.F32, (3, 8)))
    codes = torch.randint(0, 256, (4, 4), dtype=torch.uint8)
    w = b(Dequantize(), b(UnpackInt4(), b.const(codes)), b.const(torch.ones(4, 2)))
    fn = b.finish(b(Linear(), b.qdq(x, 0.1, 128), w))
    for p in pipeline(pipe)[:-1]:
        fn = p(fn)
        verify(fn)
    text = str([op.kind.body for op in fn.ops if hasattr(op.kind, "body")] or fn.ops)
    inner = [o.kind for op in fn.ops for o in getattr(op.kind, "body", fn).ops]
    assert any(isinstance(k, IntLinear) for k in inner), text
    assert not any(isinstance(k, Linear) for k in inner)


def test_constants_of_codes_stay_codes() -> None:
    b = Graph("f")
    x = b.param(TensorType(DType.F32, (3, 8)))
    w = b(Dequantize(), b.const(torch.ones(4, 8, dtype=torch.int8)), b.const(torch.ones(4)))
    fn = b.finish(b(Linear(), x, w))
    assert FoldConstants()(fn) is fn


@pytest.mark.parametrize("groups", [1, 2])
def test_codes_of_4_bits_stay_packed_in_groups_alone(groups: int) -> None:
    b = Graph("f")
    x = b.param(TensorType(DType.F32, (3, 8)))
    packed = torch.randint(0, 256, (4, 4), dtype=torch.uint8)
    scale = torch.ones((4, groups) if groups > 1 else (4,))
    w = b(Dequantize(), b(UnpackInt4(), b.const(packed)), b.const(scale))
    fn = b.finish(b(Linear(), b.qdq(x, 0.1, 128), w))
    after = FoldQuant()(fn)
    assert ("unpack_int4" in kinds(after)) == (groups == 2)
    assert FoldQuant()(after) is after
    given_ = torch.randn(3, 8)
    torch.testing.assert_close(meaning.run(after, given_), meaning.run(fn, given_))


def test_a_trained_fake_quantization_becomes_codes() -> None:
    b = Graph("f")
    x = b.param(TensorType(DType.F32, (3, 8)))
    w = torch.randn(4, 8)
    fake = b(FakeQuantize(-127, 127), b.const(w), b.const(w.abs().amax(1) / 127))
    fake_x = b(FakeQuantize(0, 255), x, *b.pair(0.02, 128))
    fn = b.finish(b(Linear(), fake_x, fake))
    after = FoldQuant()(fn)
    assert kinds(after) == ["quantize", "int_linear"]
    given_ = torch.randn(3, 8)
    torch.testing.assert_close(meaning.run(after, given_), meaning.run(fn, given_))


def test_a_value_that_others_read_is_not_moved() -> None:
    b = Graph("f")
    x = b.param(TensorType(DType.F32, (2, 3, 4, 4)))
    pooled = b(MaxPool((2, 2), (2, 2), (0, 0)), x)
    fn = b.finish(b(Add(), pooled, b.qdq(pooled, 0.1)))
    trace = Trace("fold-quant")
    after = FoldQuant().run(fn, trace)
    assert kinds(after) == ["max_pool", "quantize", "dequantize", "add"]
    assert any("also read by" in r.reason for r in trace.remarks)


def test_equal_conversions_cancel_and_others_do_not() -> None:
    for second, zero, wanted in (
        (0.1, 7, ["quantize", "dequantize"]),
        (0.2, 7, ["quantize", "dequantize"] * 2),
        (0.1, 8, ["quantize", "dequantize"] * 2),
    ):
        b = Graph("f")
        x = b.param(TensorType(DType.F32, (4,)))
        after = FoldQuant()(b.finish(b.qdq(b.qdq(x, 0.1, 7), second, zero)))
        assert kinds(after) == wanted


@pytest.mark.parametrize(
    ("dtype", "zero", "reason"),
    [(torch.int8, 3, "zero point"), (torch.uint8, 0, "u8 codes"), (torch.int16, 0, "i16 codes")],
)
def test_what_has_no_product_of_codes_says_why(dtype, zero: int, reason: str) -> None:
    b = Graph("f")
    x = b.param(TensorType(DType.F32, (3, 8)))
    zeros = torch.full((4,), zero, dtype=torch.int32)
    w = b(Dequantize(), b.const(torch.ones(4, 8, dtype=dtype)), b.const(torch.ones(4)),
          b.const(zeros))  # fmt: skip
    trace = Trace("fold-quant")
    after = FoldQuant().run(b.finish(b(Linear(), b.qdq(x, 0.1), w)), trace)
    assert "linear" in kinds(after)
    missed = [r.reason for r in trace.remarks if r.kind is RemarkKind.MISSED]
    assert any(reason in m for m in missed), missed


@FEW
@given(
    seed=st.integers(0, 2**16), groups=st.sampled_from([1, 2, 4]), bits=st.sampled_from([4, 8]),
    bias=st.booleans(), lead=st.sampled_from([(3,), (2, 3)]),
)  # fmt: skip
def test_weight_only_takes_rows_of_codes_when_asked(seed, groups, bits, bias, lead) -> None:
    """Half a code of each input, times what the weights of an output add up to."""
    g = torch.Generator().manual_seed(seed)
    b = Graph("f")
    x = b.param(TensorType(DType.F32, (*lead, 16)))
    if bits == 4:
        codes = b(UnpackInt4(), b.const(torch.randint(0, 256, (5, 8), generator=g).byte()))
    else:
        codes = b.const(torch.randint(-127, 128, (5, 16), generator=g).to(torch.int8))
    scale = torch.rand((5, groups) if groups > 1 else (5,), generator=g)
    w = b(Dequantize(), codes, b.const(scale))
    extra = [b.const(torch.randn(5, generator=g))] if bias else []
    fn = b.finish(b(Linear(), x, w, *extra))
    trace = Trace("fold-quant")
    assert kinds(FoldQuant().run(fn, trace)) == kinds(fn)
    assert any("not quantized" in r.reason for r in trace.remarks)
    after = FoldQuant(dynamic=True)(fn)
    verify(after)
    assert "int_linear" in kinds(after) and "linear" not in kinds(after)
    given_ = torch.randn(*lead, 16, generator=g)
    exact = meaning.run(fn, given_, precision="f64")[0]
    (got,) = meaning.run(after, given_)
    weights = meaning.run(Function("w", (), fn.ops[: fn.ops.index(fn.producer[w]) + 1], (w,)))[0]
    step = given_.double().abs().amax(-1, keepdim=True) / 127
    bound = step / 2 * weights.double().abs().sum(1)
    rounding = 16 * 2.0**-23 * (weights.double().abs().sum(1) * given_.abs().max() + 4)
    assert bool(((got - exact).abs() <= bound + rounding).all())


def test_nothing_quantized_is_the_same_object() -> None:
    b = Graph("f")
    x = b.param(TensorType(DType.F32, (3, 8)))
    fn = b.finish(b(Linear(), x, b.const(torch.ones(4, 8))))
    assert FoldQuant()(fn) is fn
