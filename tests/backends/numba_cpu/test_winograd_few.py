"""Winograd convolutions of images of few channels, against float64 and against a pool behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from leptonc.backends.numba_cpu.kernels import winograd_few
from leptonc.backends.numba_cpu.kernels import winograd_points as points
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.kernels.winograd_points import Form
from leptonc.backends.numba_cpu.lower.choices import Answer
from leptonc.backends.numba_cpu.lower.contract import lower_contract
from leptonc.backends.numba_cpu.lower.conv_choice import NEAR, Algorithm, ConvShape, costs
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.peaks import lower_peaks
from leptonc.ir.core import Function, Kind
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.pointwise import Clamp
from leptonc.ir.kinds.unary import Relu
from tests.backends.numba_cpu.harness import Run, choose
from tests.backends.numba_cpu.test_lines import LAST, POOL, function, values
from tests.backends.numba_cpu.test_winograd import in_tiles

pytestmark = pytest.mark.numba
FOUR = Form.square(3, 4)


class Always(dict[str, Answer]):
    """Answers that name F(4x4) whatever the question."""

    def get(self, key: str, default: Any = None) -> Answer:
        """Return it."""
        del key, default
        return Answer(Algorithm.WINOGRAD_4.value, "asked for")


def by_tiles(ctx: Lowering, fn: Function) -> bool | None:
    """Lower a convolution by F(4x4)."""
    ctx.answers = Always()
    return lower_contract(ctx, fn)


def pooled_by_tiles(ctx: Lowering, fn: Function) -> bool | None:
    """Lower a convolution and its pool by F(4x4)."""
    ctx.answers = Always()
    return lower_peaks(ctx, fn)


def padded(*padding: int) -> Conv:
    return Conv((1, 1), padding, (1, 1), 1)


def kernels(run: Run) -> list[str]:
    return [step.kernel.name for step in run.steps]


CASES: dict[str, Any] = {
    "size": st.tuples(st.integers(3, 9), st.integers(3, 70)),
    "padding": st.tuples(st.integers(0, 2), st.integers(0, 2)),
    "channels": st.integers(1, winograd_few.MOST),
    "out": st.integers(LANES, 70),
    "nt": st.integers(1, 3),
}


@given(
    **CASES,
    order=st.sampled_from([LAST, (0, 1, 2, 3)]),
    seed=st.integers(0, 2**32 - 1),
    spread=st.floats(0, 6),
    mean=st.floats(-3, 3),
)
@settings(max_examples=60, deadline=None)
def test_every_output_is_within_its_bound(
    size: tuple[int, int], padding: tuple[int, int], channels: int, out: int, nt: int,
    order: tuple[int, ...], seed: int, spread: float, mean: float,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((2, channels, *size)) + mean) * 10 ** rng.uniform(-spread, 0, size)
    w = rng.standard_normal((out, channels, 3, 3)) + mean
    x, w = x.astype(np.float32), w.astype(np.float32)
    image, weight = torch.from_numpy(x), torch.from_numpy(w)
    run = Run(function(image, weight, None, padded(*padding), order=order), nt, by_tiles)
    assert kernels(run)[:2] == ["pad_image", "winograd_few"]
    exact = F.conv2d(image.double(), weight.double(), padding=padding).numpy()
    for one, want, y in zip(x, exact, run(image)[0].numpy(), strict=True):
        tiles = in_tiles(FOUR, one, [(p, p) for p in padding])
        most = points.error_bound(tiles, w, FOUR)[:, : want.shape[1], : want.shape[2]]
        assert (np.abs(y - want) <= most).all()


@given(**CASES, act=st.sampled_from([None, Relu(), Clamp(-0.5, 0.5)]), biased=st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_threads_and_a_pool_in_registers_give_the_same_bits(
    size: tuple[int, int], padding: tuple[int, int], channels: int, out: int, nt: int,
    act: Kind | None, biased: bool,
) -> None:  # fmt: skip
    x, w = values(2, channels, *size), values(out, channels, 3, 3)
    bias = values(out) if biased else None
    ends = [] if act is None else [act]
    plain = function(x, w, bias, padded(*padding), *ends)
    (large,) = Run(plain, 1, by_tiles)(x)
    assert torch.equal(Run(plain, nt, by_tiles)(x)[0], large)
    if min(large.shape[2:]) < 2:
        return
    run = Run(function(x, w, bias, padded(*padding), *ends, POOL), nt, pooled_by_tiles)
    assert "pool" not in kernels(run) and "winograd_few" in kernels(run)
    assert torch.equal(run(x)[0], F.max_pool2d(large, 2))


@pytest.mark.parametrize("width", range(5, 17))
def test_tiles_at_the_right_read_zeros_behind_the_line(width: int) -> None:
    x, w = values(1, 3, 9, width), values(20, 3, 3, 3)
    x[..., 0] = np.nan
    (got,) = Run(function(x, w, None, padded(1, 1)), 1, by_tiles)(x)
    assert bool(got[..., :4].isnan().all()) and not bool(got[..., 4:].isnan().any())


def square(channels: int, size: int, out: int, taps: int = 3) -> ConvShape:
    """Return a convolution that keeps the size of an image."""
    two, pad = (1, 1), (taps // 2,) * 2
    return ConvShape(1, channels, (size,) * 2, out, (taps,) * 2, two, pad, two, 1, (size,) * 2)


def test_it_is_thought_faster_where_sums_are_long_and_results_near() -> None:
    assert choose(square(3, 32, 32), "fp32") is Algorithm.WINOGRAD_4
    assert choose(square(1, 28, 32), "fp32") is Algorithm.IGEMM
    large = square(3, 224, 64)
    assert NEAR < 4 * 224 * 224 * 64
    for shape in (large, square(3, 32, 32, 5), square(5, 32, 32)):
        assert Algorithm.WINOGRAD_4 not in costs(shape, "fp32")
    assert set(costs(square(3, 32, 32), "strict")) == {Algorithm.IGEMM}
