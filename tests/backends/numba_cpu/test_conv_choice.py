"""Which algorithm runs a convolution."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.lower.conv_choice import Algorithm, ConvShape, choose

pytestmark = pytest.mark.numba

F4, F2, DIRECT = Algorithm.WINOGRAD_4, Algorithm.WINOGRAD_2, Algorithm.IGEMM


def square(channels: int, size: int, out: int) -> ConvShape:
    """Return a 3x3 convolution with stride and padding 1."""
    ones, area = (1, 1), (size, size)
    return ConvShape(1, channels, area, out, (3, 3), ones, ones, ones, 1, area)


@pytest.mark.parametrize("size", [7, 14, 56, 224])
@pytest.mark.parametrize("channels", [64, 512])
def test_strict_never_runs_winograd(size: int, channels: int) -> None:
    shape = square(channels, size, channels)
    assert choose(shape, "strict") is DIRECT
    assert choose(shape, "fp32") in (F2, F4)


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": (2, 2), "out": (14, 14)},
        {"dilation": (2, 2), "padding": (2, 2)},
        {"groups": 2},
        {"kernel": (3, 1), "padding": (1, 0)},
        {"channels": LANES - 1},
        {"after": (3, 1)},
    ],
)
def test_what_winograd_cannot_do_runs_directly(changes: dict) -> None:
    assert choose(square(64, 28, 64), "fp32") in (F2, F4)
    assert choose(replace(square(64, 28, 64), **changes), "fp32") is DIRECT


@pytest.mark.skipif(LANES != 16, reason="measured with 16 lanes")
@pytest.mark.parametrize(
    ("channels", "size", "out", "fastest"),
    [
        (64, 224, 64, F4),
        (64, 56, 64, F4),
        (128, 28, 128, F4),
        (256, 14, 256, F4),
        (512, 14, 512, F4),
        (512, 7, 512, F2),
        (448, 8, 384, F2),
        (192, 7, 384, F2),
        (160, 7, 320, F2),
        (128, 7, 32, F4),
        (48, 7, 128, F4),
        (64, 8, 128, F4),
    ],
)
def test_measured_shapes_run_as_fast_as_they_can(
    channels: int, size: int, out: int, fastest: Algorithm
) -> None:
    assert choose(square(channels, size, out), "fp32") is fastest
