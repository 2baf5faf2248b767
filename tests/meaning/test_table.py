"""The meaning table: complete, and right where torch's own habits differ from the kinds'."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from leptonc.ir.kinds import ALL, binary, contract, data, norm, pointwise, reduce, shape, unary
from leptonc.ir.types import DType
from leptonc.meaning import MEANING, apply


def one(kind, *operands: Tensor) -> Tensor:
    (made,) = apply(kind, *operands)
    return made


def test_every_kind_has_a_meaning() -> None:
    assert set(MEANING) == set(ALL)


NAN, INF = math.nan, math.inf


def test_elementwise_keeps_nan_as_documented() -> None:
    x = torch.tensor([NAN, -1.0, -0.0, 2.0])
    assert one(unary.Relu(), x)[0].isnan()
    assert one(pointwise.Clamp(0.0, 1.0), x)[0].isnan()
    assert one(unary.Sign(), x).tolist()[0] == 0
    assert one(binary.Maximum(), x, torch.zeros(()))[0].isnan()
    assert one(pointwise.Clamp(), x) is x


def test_remainders_and_divisions() -> None:
    x, y = torch.tensor([7, -7]), torch.tensor([2, 2])
    assert one(binary.FloorDiv(), x, y).tolist() == [3, -4]
    assert one(binary.TruncDiv(), x, y).tolist() == [3, -3]
    assert one(binary.Remainder(), x, y).tolist() == [1, 1]
    assert one(binary.Fmod(), x, y).tolist() == [1, -1]


def test_rounding_leaves_integers_alone() -> None:
    x = torch.tensor([1, 2])
    for k in (unary.Floor, unary.Ceil, unary.Round, unary.Trunc):
        assert one(k(), x).dtype is torch.int64
    assert one(unary.Round(), torch.tensor([0.5, 1.5])).tolist() == [0.0, 2.0]


def test_no_axes_reduce_nothing() -> None:
    x = torch.tensor([[1.0, 2.0]])
    kinds = (reduce.Sum, reduce.Mean, reduce.Prod, reduce.Amax, reduce.Amin)
    assert all(torch.equal(one(k(()), x), x) for k in kinds)
    assert torch.equal(one(reduce.Any(()), x), torch.ones(1, 2, dtype=torch.bool))
    assert torch.equal(one(reduce.Var((), correction=0.0), x), torch.zeros(1, 2))


def test_integer_sums_stay_in_their_type() -> None:
    x = torch.full((3,), 100, dtype=torch.int8)
    assert one(reduce.Sum((0,)), x).dtype is torch.int8
    assert one(reduce.CumSum(0), x).dtype is torch.int8
    assert one(reduce.Prod((0,)), x).dtype is torch.int8


def test_prod_takes_many_axes() -> None:
    x = torch.rand(2, 3, 4)
    want = x.reshape(-1, 4).prod(0)
    torch.testing.assert_close(one(reduce.Prod((0, 1)), x), want)
    assert one(reduce.Prod((0, 2), True), x).shape == (1, 3, 1)


@given(st.sampled_from(["reflect", "replicate", "circular"]), st.integers(0, 3), st.integers(0, 3))
def test_padding_modes_are_torchs(mode: str, lo: int, hi: int) -> None:
    x = torch.randn(2, 3, 4, 5)
    got = one(shape.Pad((0, 0, lo, hi), (0, 0, hi, lo), mode), x)
    assert torch.equal(got, F.pad(x, (hi, lo, lo, hi), mode))


def test_padding_crops_and_fills() -> None:
    x = torch.arange(5)
    assert one(shape.Pad((-1,), (2,), "constant", 7), x).tolist() == [1, 2, 3, 4, 7, 7]
    flags = torch.tensor([True])
    assert one(shape.Pad((1,), (0,), "constant", True), flags).tolist() == [True, True]


def test_pools_take_any_leading_axes() -> None:
    x = torch.randn(2, 3, 4, 6, 6)
    k = ((2, 2), (2, 2), (0, 0))
    assert torch.equal(one(reduce.MaxPool(*k), x)[1], F.max_pool2d(x[1], 2))
    assert torch.equal(one(reduce.AvgPool(*k), x)[1], F.avg_pool2d(x[1], 2))
    assert torch.equal(one(reduce.AdaptiveAvgPool((1, 1)), x)[0], F.adaptive_avg_pool2d(x[0], 1))


def test_average_pool_of_one_axis_takes_a_divisor() -> None:
    x = torch.randn(2, 3, 6)
    plain = one(reduce.AvgPool((2,), (2,), (1,), False, False), x)
    assert torch.equal(plain, F.avg_pool1d(x, 2, 2, 1, count_include_pad=False))
    torch.testing.assert_close(
        one(reduce.AvgPool((2,), (2,), (0,), divisor=1), x), 2 * F.avg_pool1d(x, 2)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_causal_attention_with_a_mask(dtype: torch.dtype) -> None:
    q, k, v = torch.randn(3, 1, 2, 4, 8)
    mask = torch.rand(4, 4) if dtype.is_floating_point else torch.eye(4) > 0
    low = torch.ones(4, 4).tril() > 0
    both = torch.where(low, mask, -INF) if dtype.is_floating_point else mask & low
    want = F.scaled_dot_product_attention(q, k, v, both, scale=0.3)
    torch.testing.assert_close(one(contract.Attention(0.3, causal=True), q, k, v, mask), want)


def test_attention_of_a_wholly_masked_row_is_zero() -> None:
    q = torch.randn(1, 2, 4)
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    assert one(contract.Attention(1.0), q, q, q, nothing).abs().max() == 0


def test_grouped_query_attention() -> None:
    q, k = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 3, 8)
    want = F.scaled_dot_product_attention(q, *(k.repeat_interleave(2, 1),) * 2, scale=1.0)
    torch.testing.assert_close(one(contract.Attention(1.0, gqa=True), q, k, k), want)


def test_norms_with_some_parameters() -> None:
    x, w = torch.randn(2, 4, 3), torch.rand(4)
    got = one(norm.GroupNorm(2, 1e-5, "weight"), x, w)
    torch.testing.assert_close(got, F.group_norm(x, 2, w, None))
    assert one(norm.GroupNorm(4, 1e-5, "none"), torch.ones(1, 4)).abs().max() == 0
    stats = (torch.randn(4), torch.rand(4))
    got = one(norm.BatchNorm(1e-5, "none"), x, *stats)
    torch.testing.assert_close(got, F.batch_norm(x, *stats))


def test_iota_and_full() -> None:
    assert one(data.Iota(3, 5, -2)).tolist() == [5, 3, 1]
    floats = one(data.Iota(3, 0.5, 0.25, DType.F32))
    assert floats.dtype is torch.float32
    assert floats.tolist() == [0.5, 0.75, 1.0]
    assert one(data.Full((2,), -0.0, DType.F32)).signbit().all()


def test_lookups_wrap_only_when_asked() -> None:
    x, i = torch.arange(6.0).reshape(2, 3), torch.tensor([[-1, 0]], dtype=torch.int32)
    assert one(data.IndexSelect(1, wrap=True), x, i).shape == (2, 1, 2)
    assert one(data.IndexSelect(1, wrap=True), x, i)[0].tolist() == [[2.0, 0.0]]
    with pytest.raises(IndexError):
        one(data.IndexSelect(1), x, i)
    with pytest.raises(IndexError):
        one(data.Embedding(), x, torch.tensor([2]))


def test_relayout_changes_strides_only() -> None:
    x = torch.randn(2, 3, 4, 5)
    y = one(shape.Relayout((0, 2, 3, 1)), x)
    assert torch.equal(x, y)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("mode", "name"), [("linear", "bilinear"), ("bicubic", "bicubic")])
@pytest.mark.parametrize("corners", [False, True])
def test_interpolation_is_torchs(mode: str, name: str, corners: bool) -> None:
    x = torch.randn(1, 2, 5, 7)
    got = one(data.Interpolate((9, 4), mode, corners), x)
    assert torch.equal(got, F.interpolate(x, (9, 4), mode=name, align_corners=corners))
    scaled = one(data.Interpolate((6, 8), mode, corners, (1.3, 1.2)), x)
    assert torch.equal(
        scaled, F.interpolate(x, scale_factor=(1.3, 1.2), mode=name, align_corners=corners)
    )


@pytest.mark.parametrize("cell", ["lstm", "gru", "tanh", "relu"])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent_is_the_module(cell: str, both: bool) -> None:
    args = {"num_layers": 2, "bidirectional": both}
    if cell in ("lstm", "gru"):
        net = getattr(torch.nn, cell.upper())(3, 4, **args)
    else:
        net = torch.nn.RNN(3, 4, nonlinearity=cell, **args)
    x, h = torch.randn(5, 2, 3), torch.randn(4 if both else 2, 2, 4)
    states = (h, h + 1) if cell == "lstm" else (h,)
    kind = data.Recurrent(cell, 2, both)
    with torch.no_grad():
        got = apply(kind, x, *states, *net._flat_weights)
        out, last = net(x, states if cell == "lstm" else h)
    want = (out, *last) if cell == "lstm" else (out, last)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_concat_and_where_and_expand() -> None:
    x = torch.ones(1, 2)
    assert one(shape.Concat(1), x, x, x).shape == (1, 6)
    assert one(shape.Expand((3, 2)), x).shape == (3, 2)
    cond = torch.tensor([True, False])
    assert one(pointwise.Where(), cond, x, torch.zeros(())).tolist() == [[1.0, 0.0]]
