"""Strided convolutions of images whose stride is folded into the channels, against float64."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from leptonc.backends.numba_cpu.kernels import fold
from leptonc.backends.numba_cpu.kernels import winograd_points as points
from leptonc.backends.numba_cpu.kernels.base import record
from leptonc.backends.numba_cpu.lower.contract import lower_contract
from leptonc.backends.numba_cpu.lower.conv_choice import Algorithm, folded_form
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.peaks import lower_peaks
from leptonc.ir.core import Function, Kind
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.pointwise import Clamp
from leptonc.ir.kinds.unary import Relu
from tests.backends.numba_cpu.harness import Run, some_cuts
from tests.backends.numba_cpu.test_lines import LAST, POOL, function, values
from tests.backends.numba_cpu.test_winograd_late import Always

pytestmark = pytest.mark.numba


def squares(x: np.ndarray, step: int, pad: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Return ``x: [n, c, h, w]`` as ``[n, step * c * step, *size]``, zeros around it."""
    n, c = x.shape[:2]
    tall, long = (step * k for k in size)
    wide = np.pad(x, ((0, 0), (0, 0), (pad[0], tall), (pad[1], long)))[:, :, :tall, :long]
    split = wide.reshape(n, c, size[0], step, size[1], step)
    return split.transpose(0, 3, 1, 5, 2, 4).reshape(n, -1, *size)


@given(
    shape=st.tuples(*(st.integers(1, most) for most in (2, 5, 9, 21))),
    step=st.integers(2, 5), pad=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    size=st.tuples(st.integers(1, 6), st.integers(1, 12)), last=st.booleans(), nt=st.integers(1, 3),
)  # fmt: skip
def test_squares_become_channels(shape, step, pad, size, last: bool, nt: int) -> None:
    x = values(*shape)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    (n, c, h, w), pitch = shape, fold.pitch(shape[1], step)
    out = np.full((n, *size, pitch), 77, np.float32)
    guarded = np.concatenate([out.reshape(-1), np.full(fold.LANES, 77, np.float32)])
    b, x_c, x_y, x_x = x.stride()
    slots = (
        n * size[0], size[0], size[1], pitch, step, c, x.numpy(), b, x_y, x_x, x_c, h, w, *pad,
        guarded,
    )  # fmt: skip
    fold.fold.run_all(record(*slots), nt, some_cuts(nt, h + w))
    got = guarded[: out.size].reshape(out.shape).transpose(0, 3, 1, 2)
    channels = step * c * step
    assert np.array_equal(got[:, :channels], squares(x.numpy(), step, pad, size))
    assert not got[:, channels:].any() and (guarded[out.size :] == 77).all()


@given(
    taps=st.tuples(st.integers(1, 9), st.integers(1, 9)), step=st.integers(2, 4),
    channels=st.integers(1, 4), pad=st.integers(0, 3), extra=st.integers(0, 7),
)  # fmt: skip
def test_the_folded_convolution_is_the_strided_one(taps, step, channels, pad, extra) -> None:
    x = values(1, channels, *(k + extra for k in taps)).double()
    w = values(3, channels, *taps).double()
    want = F.conv2d(x, w, stride=step, padding=pad)
    folded = torch.from_numpy(fold.fold_weight(w.numpy(), step))
    down, across = (n + k - 1 for n, k in zip(want.shape[2:], folded.shape[2:], strict=True))
    image = torch.from_numpy(squares(x.numpy(), step, (pad, pad), (down, across)))
    torch.testing.assert_close(F.conv2d(image, folded), want)


def by_fold(lower: Any, ctx: Lowering, fn: Function) -> bool | None:
    """Lower a convolution with its stride folded."""
    ctx.answers = Always(Algorithm.FOLDED_4)
    return lower(ctx, fn)


CONV, PEAKS = (functools.partial(by_fold, lower) for lower in (lower_contract, lower_peaks))


@st.composite
def convolutions(draw) -> dict[str, Any]:
    """Draw a strided convolution that a form fits, and the image of one output or more."""
    step = draw(st.integers(2, 4))
    taps = draw(st.integers(2 * step + 1, 4 * step))
    kernel = (draw(st.integers(taps - (taps - 1) % step, taps)), taps)
    pads = tuple(draw(st.integers(0, k - 1)) for k in kernel)
    least = [max(1, k - 2 * p) for k, p in zip(kernel, pads, strict=True)]
    return {
        "size": tuple(draw(st.integers(n, n + 9 * step)) for n in least),
        "conv": Conv((step, step), pads, (1, 1), 1), "kernel": kernel,
        "channels": draw(st.integers(1, 8)), "out": draw(st.integers(4, 70)),
        "nt": draw(st.integers(1, 3)), "order": draw(st.sampled_from([LAST, (0, 1, 2, 3)])),
    }  # fmt: skip


@given(
    case=convolutions(), seed=st.integers(0, 2**32 - 1), spread=st.floats(0, 6),
    mean=st.floats(-3, 3),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_every_output_is_within_its_bound(case, seed: int, spread: float, mean: float) -> None:
    rng, conv, kernel = np.random.default_rng(seed), case["conv"], case["kernel"]
    x = rng.standard_normal((2, case["channels"], *case["size"])) + mean
    x = (x * 10 ** rng.uniform(-spread, 0, case["size"])).astype(np.float32)
    w = rng.standard_normal((case["out"], case["channels"], *kernel)) + mean
    image, weight = torch.from_numpy(x), torch.from_numpy(w.astype(np.float32))
    run = Run(function(image, weight, None, conv, order=case["order"]), case["nt"], CONV)
    assert [step.kernel.name for step in run.steps][:2] == ["fold", "winograd"]
    exact = F.conv2d(image.double(), weight.double(), stride=conv.stride, padding=conv.padding)
    form, down_across = folded_form(kernel, conv.stride), exact.shape[2:]
    assert form is not None
    whole = [-(-n // axis.m) * axis.m for n, axis in zip(down_across, form, strict=True)]
    tall, wide = (n + axis.taps - 1 for n, axis in zip(whole, form, strict=True))
    tiles = squares(x, conv.stride[0], conv.padding, (tall, wide))
    folded = fold.fold_weight(weight.numpy(), conv.stride[0])
    for one, want, y in zip(tiles, exact.numpy(), run(image)[0].numpy(), strict=True):
        most = points.error_bound(one, folded, form)[:, : want.shape[1], : want.shape[2]]
        assert (np.abs(y - want) <= most).all()


@given(case=convolutions(), act=st.sampled_from([None, Relu(), Clamp(-0.5, 0.5)]))
@settings(max_examples=30, deadline=None)
def test_any_threads_and_a_pool_in_registers_give_the_same_bits(case, act: Kind | None) -> None:
    x = values(2, case["channels"], *case["size"])
    w, bias = values(case["out"], case["channels"], *case["kernel"]), values(case["out"])
    ends = [] if act is None else [act]
    plain = function(x, w, bias, case["conv"], *ends, order=case["order"])
    (large,) = Run(plain, 1, CONV)(x)
    assert torch.equal(Run(plain, case["nt"], CONV)(x)[0], large)
    if min(large.shape[2:]) < 2:
        return
    pooled = function(x, w, bias, case["conv"], *ends, POOL, order=case["order"])
    run = Run(pooled, case["nt"], PEAKS)
    names = [step.kernel.name for step in run.steps]
    assert "pool" not in names and "winograd" in names
    assert torch.equal(run(x)[0], F.max_pool2d(large, 2))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_stays_in_tiles_that_read_it(value: float) -> None:
    x, w = values(1, 3, 48, 48), values(16, 3, 7, 7)
    x[0, 1, :, 20:] = value
    run = Run(function(x, w, None, Conv((2, 2), (3, 3), (1, 1), 1), order=LAST), 1, CONV)
    (got,) = run(x)
    assert bool(got[..., :8].isfinite().all()) and not bool(got[..., 9:].isfinite().any())
