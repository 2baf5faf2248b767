"""``fold-batchnorm``: as near to float64 as before, weights of others untouched, refusals told."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc import meaning
from leptonc.ir.core import Function, Value
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.contract import Conv, ConvTranspose, Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.norm import BatchNorm
from leptonc.ir.kinds.reduce import Mean
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.types import DType, TensorType
from leptonc.ir.verify import verify
from leptonc.passes.fold_batchnorm import FoldBatchNorm
from leptonc.pipeline import PROPERTY_CHECKS
from leptonc.rewrite.trace import RemarkKind, Trace

from .nets import Net

FOLD = FoldBatchNorm()


def folded(fn: Function) -> tuple[Function, list[str]]:
    trace = Trace("fold-batchnorm")
    after = FOLD.run(fn, trace)
    verify(after)
    assert FOLD(after) is after
    return after, [r.reason for r in trace.remarks if r.kind is RemarkKind.MISSED]


def names(fn: Function) -> list[str]:
    return [op.kind.NAME for op in fn.ops if not isinstance(op.kind, Constant)]


def assert_no_further_from_float64(before: Function, after: Function, seed: int = 0) -> None:
    g = torch.Generator().manual_seed(seed)
    args = [torch.randn([int(d) for d in p.type.shape], generator=g) for p in before.params]
    truth = meaning.run(before, *args, precision="f64")
    was, now = meaning.run(before, *args), meaning.run(after, *args)
    for t, w, n in zip(truth, was, now, strict=True):
        scale = float(t.abs().max()) + 1e-30
        allowed = 2 * float((w - t).abs().max()) + 4 * torch.finfo(torch.float32).eps * scale
        assert float((n - t).abs().max()) <= allowed


def transposed(b: Net, x: Value, n: int, groups: int = 1, bias: bool = True) -> Value:
    rank = x.type.rank - 2
    c = int(x.type.shape[1])
    kind = ConvTranspose((2,) * rank, (1,) * rank, (1,) * rank, (1,) * rank, groups)
    more = (b.real(n),) if bias else ()
    return b(kind, x, b.real(c, n // groups, *(3,) * rank), *more)


def conv(b: Net, x: Value, n: int, groups: int, bias: bool, pad: int = 1) -> Value:
    rank = x.type.rank - 2
    kind = Conv((1,) * rank, (pad,) * rank, (1,) * rank, groups)
    more = (b.real(n),) if bias else ()
    return b(kind, x, b.real(n, int(x.type.shape[1]) // groups, *(3,) * rank), *more)


def rows(b: Net, x: Value, n: int, bias: bool) -> Value:
    return b(Linear(), x, b.real(n, int(x.type.shape[1])), *((b.real(n),) if bias else ()))


@given(
    rank=st.integers(1, 3),
    groups=st.sampled_from((1, 2, 4)),
    bias=st.booleans(),
    layer=st.sampled_from(("conv", "transposed", "linear")),
    where=st.sampled_from(("after", "before", "both")),
    pad=st.booleans(),
    affine=st.sampled_from(("none", "weight", "both")),
    seed=st.integers(0, 99),
)
def test_no_further_from_float64(rank, groups, bias, layer, where, pad, affine, seed) -> None:
    b = Net("net", seed)

    def norm(x: Value) -> Value:
        c = int(x.type.shape[1])
        stats = [b.real(c), b.real(c, low=0.05, high=3.0), b.real(c), b.real(c)]
        count = {"none": 2, "weight": 3, "both": 4}[affine]
        return b(BatchNorm(1e-5, affine), x, *stats[:count])

    x = b.input(2, 4) if layer == "linear" else b.input(2, 4, *(5, 4, 3)[:rank])
    y = x if where == "after" else norm(x)
    if layer == "linear":
        y = rows(b, y, 8, bias)
    elif layer == "conv":
        y = conv(b, y, 8, groups, bias, int(pad))
    else:
        y = transposed(b, y, 8, groups, bias)
    y = y if where == "before" else norm(y)
    before = b.finish(y)
    after, _ = folded(before)
    assert not any(isinstance(op.kind, BatchNorm) for op in after.ops)
    assert PROPERTY_CHECKS["no-batchnorm"](after) is None
    assert_no_further_from_float64(before, after, seed)


def test_after_a_conv_nothing_is_left() -> None:
    b = Net()
    after, missed = folded(b.finish(b(Relu(), b.norm(b.conv(b.input(1, 3, 8, 8), 4, bias=False)))))
    assert names(after) == ["conv", "relu"] and not missed
    conv_ = next(op for op in after.ops if isinstance(op.kind, Conv))
    assert len(conv_.operands) == 3, "the missing bias is made"


def test_before_an_unpadded_conv_and_after_it() -> None:
    b = Net()
    y = b.norm(b.conv(b.norm(b.input(1, 4, 8, 8)), 4, 3, pad=0, groups=2))
    before = b.finish(y)
    after, missed = folded(before)
    assert names(after) == ["conv"] and not missed
    assert_no_further_from_float64(before, after)


def test_before_a_padded_conv_it_stays_a_multiply_and_an_add() -> None:
    b = Net()
    after, missed = folded(b.finish(b.conv(b.norm(b.input(1, 4, 8, 8)), 4)))
    assert names(after) == ["mul", "add", "conv"]
    assert len(missed) == 1 and "padding" in missed[0]


def test_before_a_padded_conv_without_shift_it_folds() -> None:
    b = Net()
    zero = b(Constant(meaning.const_of(torch.zeros(4))))
    y = b(BatchNorm(1e-5), b.input(1, 4, 8, 8), zero, b.real(4, low=0.5), b.real(4), zero)
    before = b.finish(b.conv(y, 4))
    after, missed = folded(before)
    assert names(after) == ["conv"] and not missed
    assert_no_further_from_float64(before, after)


def test_three_in_a_row_after_a_conv() -> None:
    b = Net()
    y = b.norm(b.norm(b.norm(b.conv(b.input(1, 3, 4, 4), 4))))
    before = b.finish(y)
    after, _ = folded(before)
    assert names(after) == ["conv"]
    assert_no_further_from_float64(before, after)


def test_other_reader_of_the_conv_keeps_it() -> None:
    b = Net()
    c = b.conv(b.input(1, 3, 4, 4), 4)
    before = b.finish(b.norm(c), b(Relu(), c))
    after, missed = folded(before)
    assert names(after) == ["conv", "mul", "add", "relu"]
    assert len(missed) == 1 and "also read by relu" in missed[0]
    assert_no_further_from_float64(before, after)


def test_returned_conv_keeps_it() -> None:
    b = Net()
    c = b.conv(b.input(1, 3, 4, 4), 4)
    after, missed = folded(b.finish(b.norm(c), c))
    assert names(after) == ["conv", "mul", "add"] and "the caller" in missed[0]


def test_shared_weight_folded_for_one_user_does_not_change_for_the_other() -> None:
    b = Net()
    x, w = b.input(1, 4, 4, 4), b.real(4, 4, 3, 3)
    kind = Conv((1, 1), (1, 1), (1, 1))
    normed, plain = b.norm(b(kind, x, w)), b(kind, x, w)
    before = b.finish(normed, plain)
    after, _ = folded(before)
    assert names(after) == ["conv", "conv"]
    old = next(op.kind.const for op in before.ops if isinstance(op.kind, Constant))
    kept = after.producer[after.returns[1]]
    weight = after.producer[kept.operands[1]].kind
    assert isinstance(weight, Constant) and weight.const is old
    args = (torch.randn(1, 4, 4, 4),)
    assert torch.equal(meaning.run(before, *args)[1], meaning.run(after, *args)[1])
    assert_no_further_from_float64(before, after)


def test_statistics_that_are_no_constants_are_left() -> None:
    b = Net()
    x = b.input(2, 4)
    stats = [b.input(4, hint=h) for h in ("mean", "var", "weight", "bias")]
    before = b.finish(b(BatchNorm(1e-5), x, *stats))
    after, missed = folded(before)
    assert after is before and missed == ["not folded: its statistics or weights are no constants"]


def test_weight_that_is_no_constant_is_left() -> None:
    b = Net()
    y = b.norm(b(Linear(), b.input(2, 4), b.input(3, 4, hint="w")))
    after, missed = folded(b.finish(y))
    assert names(after) == ["linear", "mul", "add"] and "no constant" in missed[0]


def test_norm_along_the_tokens_of_a_linear_layer_is_left() -> None:
    b = Net()
    y = b.norm(b.linear(b.input(2, 4, 4), 4))  # axis 1 holds tokens, not outputs
    before = b.finish(y)
    after, missed = folded(before)
    assert names(after) == ["linear", "mul", "add"] and "another axis" in missed[0]
    assert_no_further_from_float64(before, after)


def test_infinite_scale_is_left_to_run_time() -> None:
    b = Net()
    zero = b(Constant(meaning.const_of(torch.zeros(4))))
    y = b(BatchNorm(0.0), b.conv(b.input(1, 3, 4, 4), 4), zero, zero, b.real(4), b.real(4))
    after, missed = folded(b.finish(y))
    assert names(after) == ["conv", "mul", "add"] and "not be finite" in missed[0]


def test_overflowing_weight_is_left() -> None:
    b = Net()
    big = b(Constant(meaning.const_of(torch.full((4, 3, 1, 1), 1e30))))
    tiny = b(Constant(meaning.const_of(torch.full((4,), 1e-30))))
    y = b(Conv((1, 1), (0, 0), (1, 1)), b.input(1, 3, 4, 4), big)
    y = b(BatchNorm(0.0), y, tiny, tiny, b.real(4, low=0.5), b.real(4))
    after, missed = folded(b.finish(y))
    assert names(after) == ["conv", "mul", "add"] and "not be finite" in missed[0]


def test_half_precision_rounds_once() -> None:
    b = Net()
    x = b.param(TensorType(DType.F16, (2, 8)))

    def half(*shape: int, low: float = 0.1) -> Value:
        t = torch.rand(shape, generator=b.random) + low
        return b(Constant(meaning.const_of(t.half())))

    y = b(BatchNorm(1e-5), b(Linear(), x, half(4, 8), half(4)), half(4), half(4), half(4), half(4))
    after, _ = folded(b.finish(y))
    assert names(after) == ["linear"]
    linear = after.producer[after.returns[0]]
    assert {v.type.dtype for v in linear.operands} == {DType.F16}


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1)])
def test_scale_per_channel_folds(shape: tuple[int, ...]) -> None:
    b = Net()
    before = b.finish(b(Mul(), b.real(*shape), b.conv(b.input(1, 3, 4, 4), 4)))
    after, missed = folded(before)
    assert names(after) == ["conv"] and not missed
    assert_no_further_from_float64(before, after)


def test_layer_scale_after_a_linear_layer_folds() -> None:
    b = Net()
    x = b.input(2, 3, 4)
    before = b.finish(b(Add(), b(Mul(), b.linear(x, 4), b.real(4)), x))
    after, _ = folded(before)
    assert names(after) == ["linear", "add"]
    assert_no_further_from_float64(before, after)


def test_scale_along_another_axis_stays() -> None:
    b = Net()
    before = b.finish(b(Mul(), b.linear(b.input(2, 4, 4), 4), b.real(4, 1)))
    assert FOLD(before) is before


def test_without_a_norm_it_is_the_same_object() -> None:
    b = Net()
    before = b.finish(b(Mean((2, 3)), b.conv(b.input(1, 3, 4, 4), 4)))
    assert FOLD(before) is before


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 5), (2, 4, 5, 3), (2, 4, 3, 2, 2)])
def test_alone_it_scales_each_channel(shape: tuple[int, ...]) -> None:
    b = Net()
    before = b.finish(b(Relu(), b.norm(b.input(*shape))))
    after, _ = folded(before)
    assert names(after) == ["mul", "add", "relu"]
    assert isinstance(after.producer[after.ops[-1].operands[0]].kind, Add)
    assert_no_further_from_float64(before, after)
