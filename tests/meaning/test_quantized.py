"""Quantized kinds: bit for bit what integer arithmetic gives, and what rounding may cost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies.arrays import arrays
from strategies.kinds import applications
from torch import Tensor

from leptonc.ir.kinds import quantize as q
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import apply

F32 = np.float32


def one(kind: q.Kind, *operands: Tensor) -> Tensor:
    (made,) = apply(kind, *operands)
    return made


@st.composite
def codes(draw: st.DrawFn, types: tuple[TensorType, ...]) -> list[np.ndarray]:
    """Draw operands of a product of codes: any codes, ordinary scales and biases."""
    seed = draw(st.integers(0, 2**16))
    g = np.random.default_rng(seed)
    made: list[np.ndarray] = []
    for t in types:
        if t.dtype.is_int:
            low, high = (0, 256) if t.dtype is DType.U8 else (-128, 128)
            dtype = np.uint8 if t.dtype is DType.U8 else np.int8
            made.append(g.integers(low, high, t.shape).astype(dtype))
        else:
            made.append(g.uniform(-2, 2, t.shape).astype(F32))
    return made


def finished(total: np.ndarray, scale: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """``f32(total) * scale + bias``: channels last, a rounding each."""
    y = total.astype(F32) * scale
    return y if bias is None else y + bias


@given(data=st.data())
def test_int_linear_is_integer_arithmetic(data: st.DataObject) -> None:
    kind, types = data.draw(applications(q.IntLinear))
    x, w, scale, *bias = data.draw(codes(types))
    wide = x.astype(np.int64) - kind.x_zero
    if scale.ndim == 1:
        want = finished(wide @ w.astype(np.int64).T, scale, bias[0] if bias else None)
    else:
        size = w.shape[1] // scale.shape[1]
        want = None
        for i in range(scale.shape[1]):
            at = slice(i * size, (i + 1) * size)
            part = (wide[..., at] @ w[:, at].astype(np.int64).T).astype(F32) * scale[:, i]
            want = part if want is None else want + part
        want = want + bias[0] if bias else want
    got = one(kind, *map(torch.from_numpy, (x, w, scale, *bias))).numpy()
    assert got.dtype == F32 and np.array_equal(got, want)


def integer_conv(k: q.IntConv, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The sums of a convolution tap by tap, in int64: what lies outside adds nothing."""
    pads = [(0, 0), (0, 0), *zip(k.padding, k.plain.after, strict=True)]
    wide = np.pad(x.astype(np.int64) - k.x_zero, pads)
    taps = w.shape[2:]
    sizes = [
        (n - d * (t - 1) - 1) // s + 1
        for n, d, t, s in zip(wide.shape[2:], k.dilation, taps, k.stride, strict=True)
    ]
    per_in, per_out = w.shape[1], w.shape[0] // k.groups
    out = np.zeros((x.shape[0], w.shape[0], *sizes), np.int64)
    for n, tap in itertools.product(range(w.shape[0]), itertools.product(*map(range, taps))):
        first = n // per_out * per_in
        at = [
            slice(t * d, t * d + (m - 1) * s + 1, s)
            for t, d, m, s in zip(tap, k.dilation, sizes, k.stride, strict=True)
        ]
        for c in range(per_in):
            out[:, n] += wide[(slice(None), first + c, *at)] * int(w[(n, c, *tap)])
    return out


@given(data=st.data())
def test_int_conv_is_integer_arithmetic(data: st.DataObject) -> None:
    kind, types = data.draw(applications(q.IntConv))
    x, w, scale, *bias = data.draw(codes(types))
    total = np.moveaxis(integer_conv(kind, x, w), 1, -1)
    want = np.moveaxis(finished(total, scale, bias[0] if bias else None), -1, 1)
    got = one(kind, *map(torch.from_numpy, (x, w, scale, *bias))).numpy()
    assert got.dtype == F32 and np.array_equal(got, want)


def test_depthwise_convolution_of_codes() -> None:
    g = np.random.default_rng(0)
    x, w = g.integers(0, 256, (2, 8, 9, 9), np.uint8), g.integers(-128, 128, (8, 1, 3, 3), np.int8)
    kind = q.IntConv((2, 2), (1, 1), (1, 1), 8, (), 130)
    got = one(kind, torch.from_numpy(x), torch.from_numpy(w), torch.ones(8)).numpy()
    assert np.array_equal(got, integer_conv(kind, x, w).astype(F32))


@given(data=st.data())
def test_quantize_is_the_formula_of_its_docstring(data: st.DataObject) -> None:
    kind, types = data.draw(applications(q.Quantize))
    x = data.draw(arrays(types[0]))
    g = np.random.default_rng(data.draw(st.integers(0, 99)))
    scale = g.uniform(0.01, 2, types[1].shape).astype(F32)
    zero = [g.integers(-5, 6, t.shape).astype(np.int32) for t in types[2:]]

    def spread(a: np.ndarray) -> np.ndarray:
        if a.ndim == 1:
            return a.reshape([-1 if i == kind.axis else 1 for i in range(x.dim())])
        return np.repeat(a, x.shape[1] // a.shape[1], 1) if a.ndim == 2 else a

    with np.errstate(over="ignore", invalid="ignore"):
        want = np.rint(x.numpy() * spread(F32(1) / scale)).astype(np.float64)
    want = np.where(np.isnan(want), 0, want) + (spread(zero[0]) if zero else 0)
    want = np.clip(want, kind.low, kind.high)
    got = one(kind, x, torch.from_numpy(scale), *map(torch.from_numpy, zero))
    assert np.array_equal(got.numpy(), want)


@given(data=st.data())
def test_quantization_costs_half_a_step_in_range_and_saturates_outside(
    data: st.DataObject,
) -> None:
    low, high = data.draw(st.sampled_from([(0, 255), (-128, 127), (-8, 7), (-127, 127)]))
    dtype = DType.U8 if low == 0 else DType.I8
    scale = torch.tensor(data.draw(st.floats(2.0**-10, 10, width=32)))
    zero = torch.tensor(data.draw(st.integers(low, high)), dtype=torch.int32)
    x = data.draw(arrays(TensorType(DType.F32, (64,)), special=False)) * scale * 40
    x = x * torch.linspace(0.1, 1.9, 64)
    got = one(q.Quantize(low, high, dtype), x, scale, zero)
    back = one(q.Dequantize(), got, scale, zero)
    inside = (x >= (low - zero) * scale) & (x <= (high - zero) * scale)
    # the quotient is rounded twice (inverse, product): as much may a code be off, in steps
    slack = (x.abs().double() + scale) * 2.0**-22
    assert bool(((back - x).double().abs() <= scale.double() / 2 + slack)[inside].all())
    outside = got[~inside].int()
    assert bool(((outside == low) | (outside == high)).all())
    fake = one(q.FakeQuantize(low, high), x, scale, zero)
    assert torch.equal(fake, back)


def test_rows_have_scales_of_their_own() -> None:
    x = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]])
    codes, scale = apply(q.QuantizeRows(), x)
    assert codes.tolist() == [[64, -127, 32], [0, 0, 0]]
    assert scale.tolist() == [[pytest.approx(2 / 127)], [0.0]]


def test_nibbles_come_low_first_less_eight() -> None:
    got = one(q.UnpackInt4(), torch.tensor([[0x8F, 0x70]], dtype=torch.uint8))
    assert got.dtype is torch.int8 and got.tolist() == [[7, 0, -8, -1]]


def test_gradients_pass_straight_through_inside_the_range() -> None:
    x = torch.tensor([-3.0, -0.9, 0.2, 0.8, float("nan"), 9.0], requires_grad=True)
    y = one(q.FakeQuantize(-8, 7), x, torch.tensor(0.125), torch.tensor(0, dtype=torch.int32))
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 0, 0]


def count_of(size: int, start: int, k: q.IntAvgPool, axis: int) -> tuple[list[int], int]:
    """Return the places of a window that exist, and how many of it count with the padding."""
    end = min(start + k.kernel[axis], size + k.padding[axis])
    return [i for i in range(start, end) if 0 <= i < size], end - start


@given(data=st.data())
def test_int_avg_pool_is_integer_arithmetic(data: st.DataObject) -> None:
    kind, types = data.draw(applications(q.IntAvgPool))
    (x, scale) = data.draw(codes(types))
    got = one(kind, torch.from_numpy(x), torch.tensor(scale)).numpy()
    n = len(kind.kernel)
    for at in np.ndindex(*got.shape[-n:]):
        axes = [
            count_of(x.shape[i - n], at[i] * kind.stride[i] - kind.padding[i], kind, i)
            for i in range(n)
        ]
        inside = x.astype(np.int64)[(..., *np.ix_(*(places for places, _ in axes)))]
        total = (inside - kind.x_zero).sum(tuple(range(-n, 0)))
        count = np.prod([c if kind.include_pad else len(places) for places, c in axes])
        count = kind.divisor or count
        want = total.astype(F32) * F32(np.float64(scale) / count)
        assert np.array_equal(got[(..., *at)], want)
