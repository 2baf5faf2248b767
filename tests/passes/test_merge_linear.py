"""``merge-linear``: parallel layers become one, consecutive ones where that saves work."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc import meaning
from leptonc.ir.core import Function
from leptonc.ir.kinds.binary import Mul
from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.norm import Softmax
from leptonc.ir.kinds.unary import Relu, Silu
from leptonc.ir.verify import verify
from leptonc.passes.fuse import Fuse
from leptonc.passes.layout import Layout
from leptonc.passes.merge_linear import MergeLinear
from leptonc.passes.partition import Partition
from leptonc.rewrite.trace import RemarkKind, Trace

from .nets import Net, assert_same_bits, inputs, transformer, units

MERGE = MergeLinear()


def merged(fn: Function) -> tuple[Function, list[str]]:
    trace = Trace("merge-linear")
    after = MERGE.run(fn, trace)
    verify(after)
    return after, [r.reason for r in trace.remarks if r.kind is RemarkKind.MISSED]


def names(fn: Function) -> list[str]:
    return [op.kind.NAME for op in fn.ops if not isinstance(op.kind, Constant)]


@given(
    widths=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    biases=st.lists(st.booleans(), min_size=4, max_size=4),
    batch=st.sampled_from(["n", 1, 3]),
)
def test_parallel_layers_keep_their_bits(widths: list[int], biases: list[bool], batch) -> None:
    b = Net()
    x = b.input(batch, 2, 4)
    outs = [b.linear(x, n, bias=bias) for n, bias in zip(widths, biases, strict=False)]
    before = b.finish(*(b(Softmax(2), y) for y in outs))
    after, _ = merged(before)
    assert names(after) == ["linear", *["slice"] * len(widths), *["softmax"] * len(widths)]
    assert_same_bits(before, after)
    assert MERGE(after) is after


def test_attention_reads_one_product() -> None:
    before = transformer()
    after = Partition()(Fuse()(Layout()(MERGE(before))))
    assert [p for p, _ in units(after)] == [
        "norm", "contract", "attention", "contract", "norm", "contract", "contract",
    ]  # fmt: skip
    want, got = meaning.run(before, *inputs(before)), meaning.run(after, *inputs(after))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_gated_layers_merge() -> None:
    b = Net()
    x = b.input(2, 4)
    before = b.finish(b(Mul(), b(Silu(), b.linear(x, 6, bias=False)), b.linear(x, 6, bias=False)))
    after, _ = merged(before)
    assert names(after).count("linear") == 1
    assert [p for p, _ in units(Partition()(Fuse()(after)))] == ["contract", "chain"]


def test_layers_that_all_have_an_epilogue_stay() -> None:
    b = Net()
    x = b.input(2, 4)
    before = b.finish(b(Relu(), b.linear(x, 3)), b(Relu(), b.linear(x, 3)))
    after, missed = merged(before)
    assert after is before and "activation or add" in missed[0]


def test_weight_that_is_no_constant_stays_out() -> None:
    b = Net()
    x = b.input(2, 4)
    y = b(Linear(), x, b.input(3, 4, hint="w"))
    before = b.finish(y, b.linear(x, 3))
    assert merged(before)[0] is before


def test_shared_weight_stays_for_its_other_user() -> None:
    b = Net()
    x, z, w = b.input(2, 4), b.input(2, 4, hint="z"), b.weight(3, 4)
    before = b.finish(b(Linear(), x, w), b.linear(x, 3), b(Linear(), z, w))
    after, _ = merged(before)
    assert names(after) == ["linear", "slice", "slice", "linear"]
    assert_same_bits(before, after)


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("two", [True, False])
def test_consecutive_layers_compose(one: bool, two: bool) -> None:
    b = Net()
    before = b.finish(b.linear(b.linear(b.input("n", 4), 6, bias=one), 3, bias=two))
    after, _ = merged(before)
    assert names(after) == ["linear"]
    assert_same_bits(before, after)


def test_bottleneck_is_kept() -> None:
    b = Net()
    before = b.finish(b.linear(b.linear(b.input(2, 16), 2), 16))
    after, missed = merged(before)
    assert after is before and "would save nothing" in missed[0]


def test_read_twice_is_kept() -> None:
    b = Net()
    y = b.linear(b.input(2, 4), 6)
    before = b.finish(b.linear(y, 3), y)
    after, missed = merged(before)
    assert after is before and "the caller" in missed[0]


@given(
    k=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    second=st.integers(1, 3),
    rank=st.integers(1, 2),
)
def test_conv_then_pointwise_composes(k: int, stride: int, second: int, rank: int) -> None:
    b = Net()
    x = b.input(2, 2, *(9, 8)[:rank])
    y = b.conv(b.conv(x, 6, k, stride=stride), 3, 1, stride=second, pad=0)
    before = b.finish(y)
    after, _ = merged(before)
    assert names(after) == ["conv"]
    assert_same_bits(before, after)


@pytest.mark.parametrize("stride", [1, 2])
def test_zeros_on_one_side_of_a_conv_stay(stride: int) -> None:
    b = Net()
    x = b.input(1, 2, 6, 6)
    first = Conv((stride, stride), (1, 0), (1, 1), 1, (2, 1))
    before = b.finish(b.conv(b(first, x, b.weight(8, 2, 3, 3)), 3, 1))
    after, _ = merged(before)
    assert names(after) == ["conv"]
    assert_same_bits(before, after)


def test_three_in_a_row_compose() -> None:
    b = Net()
    y = b.conv(b.conv(b.conv(b.input(1, 3, 6, 6), 8), 6, 1), 4, 1)
    before = b.finish(y)
    after, _ = merged(before)
    assert names(after) == ["conv"]
    assert_same_bits(before, after)


def test_depthwise_and_wide_seconds_are_kept() -> None:
    b = Net()
    x = b.input(1, 4, 6, 6)
    before = b.finish(b.conv(b.conv(x, 4, groups=4), 4, 1), b.conv(b.conv(x, 4, 1), 4, 3))
    after, missed = merged(before)
    assert sum(isinstance(op.kind, Conv) for op in after.ops) == 4
    assert [m.partition(": ")[2] for m in missed] == [
        "the first has groups",
        "the second is no 1x1 convolution",
    ]
