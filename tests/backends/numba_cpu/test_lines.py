"""Convolutions of few channels on padded lines, and convolutions that run with their pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels import lines, lines_tile
from leptonc.backends.numba_cpu.lower.contract import lower_contract
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.peaks import lower_peaks
from leptonc.ir.core import Builder, Function, Kind
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.pointwise import Clamp
from leptonc.ir.kinds.reduce import MaxPool
from leptonc.ir.kinds.unary import Relu, Sigmoid
from leptonc.ir.types import DType, TensorType
from tests.backends.numba_cpu.harness import Run

pytestmark = pytest.mark.numba

POOL = MaxPool((2, 2), (2, 2), (0, 0))
LAST = (0, 2, 3, 1)
EPS = float(np.finfo(np.float32).eps) / 2


def values(*shape: int) -> torch.Tensor:
    """Return normal floats that depend on the shape alone."""
    seed = sum(i * d for i, d in enumerate(shape, 3))
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def function(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, conv: Conv, *rest: Kind,
    order: tuple[int, ...] = LAST,
) -> Function:  # fmt: skip
    """Return ``rest(conv(x, w, bias))`` of an image in physical ``order``."""
    b = Builder("conv")
    image = b.param(TensorType(DType.F32, tuple(x.shape), order), "x")
    operands = [b(Constant(meaning.const_of(t))) for t in (w, bias) if t is not None]
    value = b(conv, image, *operands)
    for kind in rest:
        value = b(kind, value)
    return b.finish(value)


def strictly(lower: Callable) -> Callable:
    """Return ``lower`` without Winograd."""

    def lowered(ctx: Lowering, fn: Function) -> bool | None:
        ctx.precision = "strict"
        return lower(ctx, fn)

    return lowered


def kernels(run: Run) -> list[str]:
    return [step.kernel.name for step in run.steps]


@st.composite
def convolutions(draw) -> dict[str, Any]:
    """Draw a convolution of an image of few channels."""
    kernel = (draw(st.integers(1, 4)), draw(st.integers(2, 5)))
    padding = tuple(draw(st.integers(0, k - 1)) for k in kernel)
    dilation = (draw(st.integers(1, 2)), 1)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    least = [max(r - 2 * p, 1) for r, p in zip(reach, padding, strict=True)]
    size = [draw(st.integers(n, n + 37)) for n in least]
    stride = tuple(draw(st.integers(1, 3)) for _ in kernel)
    channels, columns = draw(st.integers(1, 8)), draw(st.integers(1, 70))
    return {
        "x": values(draw(st.integers(1, 2)), channels, *size),
        "w": values(columns, channels, *kernel),
        "bias": values(columns) if draw(st.booleans()) else None,
        "conv": Conv(stride, padding, dilation, 1),
    }


@given(convolutions(), st.sampled_from([LAST, (0, 1, 2, 3)]), st.integers(1, 3))
def test_lines_are_near_float64(case: dict[str, Any], order: tuple[int, ...], nt: int) -> None:
    x, w, bias, conv = case["x"], case["w"], case["bias"], case["conv"]
    run = Run(function(x, w, bias, conv, order=order), nt, strictly(lower_contract))
    assert kernels(run)[0] == "pad_image" and "lines" in kernels(run)
    (got,) = run(x)
    options = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
    shift = torch.zeros(w.shape[0]).double() if bias is None else bias.double()
    exact = F.conv2d(x.double(), w.double(), shift, **options)
    size = F.conv2d(x.double().abs(), w.double().abs(), shift.abs(), **options)
    # A sum of n + 1 terms, one of them the bias, each product fused or rounded once.
    terms = w[0].numel() + 2
    bound = terms * EPS / (1 - terms * EPS) * size
    assert bool(((got.double() - exact).abs() <= bound).all())


@given(
    convolutions(),
    st.sampled_from([None, Relu(), Clamp(-0.5, 0.5), Clamp(0.0, 6.0)]),
    st.dictionaries(
        st.integers(0, 2**20), st.sampled_from([np.nan, np.inf, -np.inf, -0.0]), max_size=4
    ),
    st.integers(1, 3),
)
def test_a_pool_in_registers_has_the_bits_of_one_behind(
    case: dict[str, Any], act: Kind | None, odd: dict[int, float], nt: int
) -> None:
    x, w, bias, conv = case["x"].clone(), case["w"], case["bias"], case["conv"]
    for place, value in odd.items():
        x.view(-1)[place % x.numel()] = value
    ends = [] if act is None else [act]
    plain = function(x, w, bias, conv, *ends)
    if min(int(d) for d in plain.returns[0].type.shape[2:]) < 2:
        return
    (large,) = Run(plain, 1, strictly(lower_contract))(x)
    run = Run(function(x, w, bias, conv, *ends, POOL), nt, strictly(lower_peaks))
    assert "pool" not in kernels(run)
    torch.testing.assert_close(run(x)[0], F.max_pool2d(large, 2), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("nt", [1, 2])
def test_a_result_whose_lines_are_asked_for_has_the_bits_of_its_parts(nt: int) -> None:
    x, w, bias = values(1, 3, 131, 150), values(70, 3, 3, 3), values(70)
    conv = Conv((1, 1), (0, 0), (1, 1), 1)
    (whole,) = Run(function(x, w, bias, conv, Relu()), nt, strictly(lower_contract))(x)
    part = x[:, :, :40]
    (near,) = Run(function(part, w, bias, conv, Relu()), nt, strictly(lower_contract))(part)
    assert 4 * near.numel() <= lines.FAR < 4 * whole.numel()
    assert torch.equal(whole[:, :, :38], near)
    exact = F.conv2d(x.double(), w.double(), bias.double()).relu()
    size = F.conv2d(x.double().abs(), w.double().abs(), bias.double().abs())
    terms = w[0].numel() + 2
    assert bool(((whole.double() - exact).abs() <= terms * EPS / (1 - terms * EPS) * size).all())


@pytest.mark.parametrize(
    ("channels", "size", "act", "last"),
    [
        (32, (9, 12), Relu(), "winograd"),
        (32, (9, 12), Sigmoid(), "pool"),  # its largest are found behind the function
        (12, (7, 6), Relu(), "pool"),  # too few channels for tiles, too many for lines
        (3, (6, 7), Sigmoid(), "pool"),
    ],
)
def test_what_no_kernel_does_at_once_takes_two_steps(
    channels: int, size: tuple[int, int], act: Kind, last: str
) -> None:
    x, w, bias = values(2, channels, *size), values(40, channels, 3, 3), values(40)
    conv = Conv((1, 1), (1, 1), (1, 1), 1)
    if channels == 12 and lines.PANEL < 32:
        x, w = values(2, channels, *size), values(5, channels, 3, 3)  # fewer columns than lanes
        bias = values(5)
    run = Run(function(x, w, bias, conv, act, POOL), 2, lower_peaks)
    assert last in kernels(run) and (last == "pool") == ("pool" in kernels(run))
    function_of = {Relu: torch.relu, Sigmoid: torch.sigmoid}[type(act)]
    sums = F.conv2d(x.double(), w.double(), bias.double(), padding=1)
    exact = F.max_pool2d(function_of(sums), 2)
    # The bound of Winograd's F(4x4) in its docstring, of the largest sum: neither function spreads
    # numbers further apart.
    assert float((run(x)[0] - exact).abs().max()) < 2e-5 * float(sums.abs().max())


@given(st.integers(1, 300), st.booleans())
def test_tiles_cover_a_line_once(wide: int, pooled: bool) -> None:
    sizes = lines_tile.POOLED_PIXELS if pooled else lines_tile.PIXELS
    wide, x, done, tiles = wide * 2 if pooled else wide, 0, 0, 0
    while done < wide:
        count = lines.pixels_of.py_func(wide - done, wide, sizes)
        assert count in sizes
        x = min(done, wide - count)
        assert 0 <= x <= done < x + count
        done, tiles = x + count, tiles + 1
    assert tiles <= -(-wide // sizes[0]) + 2  # narrower ones only for what is left of a short line
