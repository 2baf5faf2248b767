"""Which algorithm runs a convolution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonc.backends.numba_cpu.kernels import winograd_few
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.kernels.winograd_points import Form
from leptonc.backends.numba_cpu.lower import conv_choice
from leptonc.backends.numba_cpu.lower.conv_choice import (
    LATE_COLUMNS,
    LATE_TILES,
    MOST_LATE,
    NEAR,
    Algorithm,
    ConvShape,
    costs,
    forms,
    held_bytes,
    tiles,
)
from tests.backends.numba_cpu.harness import choose

pytestmark = [pytest.mark.numba, pytest.mark.usefixtures("no_tiles")]


@pytest.fixture(autouse=True)
def fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this be a processor like the one that costs were fitted to."""
    monkeypatch.setattr(conv_choice, "adds_beside", lambda: True)


F4, F2, DIRECT = Algorithm.WINOGRAD_4, Algorithm.WINOGRAD_2, Algorithm.IGEMM
F3 = Algorithm.WINOGRAD_3
L4, L2 = Algorithm.LATE_4, Algorithm.LATE_PHASES
FOLDED = Algorithm.FOLDED_4
P2, LINE, LATE_LINE = Algorithm.PHASES_2, Algorithm.LINE_4, Algorithm.LATE_LINE
SIZES, WIDTHS = st.integers(1, 64), st.integers(1, 600)


def square(channels: int, size: int, out: int, stride: int = 1, batch: int = 1) -> ConvShape:
    """Return a 3x3 convolution with padding 1."""
    ones, steps, area = (1, 1), (stride, stride), (-(-size // stride),) * 2
    return ConvShape(batch, channels, (size, size), out, (3, 3), steps, ones, ones, 1, area)


def line(channels: int, size: int, out: int, taps: int, axis: int) -> ConvShape:
    """Return a convolution with ``taps`` along an axis that keeps the size."""
    kernel, pad = [1, 1], [0, 0]
    kernel[axis], pad[axis] = taps, taps // 2
    return replace(square(channels, size, out), kernel=tuple(kernel), padding=tuple(pad))


@pytest.mark.parametrize("size", [7, 14, 56, 224])
@pytest.mark.parametrize("channels", [64, 512])
def test_strict_never_runs_winograd(size: int, channels: int) -> None:
    shape = square(channels, size, channels)
    assert choose(shape, "strict") is DIRECT
    assert choose(shape, "fp32") in (F2, F4, L4)


@given(size=SIZES, channels=WIDTHS, out=WIDTHS, stride=st.integers(1, 3))
def test_candidates_fit_the_stride(size: int, channels: int, out: int, stride: int) -> None:
    shape = square(channels, size, out, stride)
    found = costs(shape, "fp32")
    count = tiles(shape, Form.square(3, 2, 2) if stride == 2 else Form.square(3, 4))
    late = count <= MOST_LATE and channels % LANES == 0
    ways = {1: {F2, F4} | ({L4} if late else set()), 2: {P2} | ({L2} if late else set())}.get(
        stride, set()
    )
    small = min(channels, out) < LANES
    few = channels <= winograd_few.MOST and stride == 1 and LANES <= out <= NEAR / 4 / size**2
    assert set(forms(shape)) == ways
    if L4 in ways and LANES == 16 and count in LATE_TILES and out >= LATE_COLUMNS:
        ways = ways - {F4}
    if Algorithm.DEPTHWISE not in found:
        assert set(found) == {DIRECT} | ({F4} if few else set() if small else ways)
    assert all(cost > 0 for a, cost in found.items() if a is not Algorithm.DEPTHWISE)


@given(
    size=SIZES, channels=st.integers(LANES, 300), out=st.integers(LANES, 300),
    stride=st.sampled_from([1, 2]),
)  # fmt: skip
def test_more_to_do_never_costs_less(size: int, channels: int, out: int, stride: int) -> None:
    small = costs(square(channels, size, out, stride), "fp32")
    for more in (
        square(channels, size, out, stride, batch=3),
        square(channels, size + 16, out, stride),
        square(channels, size, 2 * out, stride),
    ):
        large = costs(more, "fp32")
        gone = {L4, L2} | ({F4} if L4 in large else set())  # what more tiles or columns rule out
        assert all(large[a] >= cost for a, cost in small.items() if a in large or a not in gone)


@given(size=SIZES, channels=st.integers(LANES, 600), out=st.integers(LANES, 600))
def test_larger_tiles_hold_more_bytes(size: int, channels: int, out: int) -> None:
    plain, phased = (square(channels, size, out, stride) for stride in (1, 2))
    order = [held_bytes(plain, a) for a in (DIRECT, F2, F4)]
    assert order == sorted(set(order))
    order = [held_bytes(phased, a) for a in (DIRECT, P2)]
    assert order == sorted(set(order))


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": (2, 1), "out": (14, 28)},
        {"stride": (3, 3), "out": (10, 10)},
        {"dilation": (2, 2), "padding": (2, 2)},
        {"groups": 2},
        {"kernel": (2, 3), "padding": (0, 1), "out": (27, 28)},
        {"kernel": (3, 1), "padding": (1, 1)},
        {"kernel": (3, 1), "padding": (1, 0), "stride": (2, 1), "out": (14, 28)},
        {"channels": LANES - 1},
        {"after": (3, 1)},
    ],
)
def test_what_winograd_cannot_do_runs_directly(changes: dict) -> None:
    assert choose(square(64, 28, 64), "fp32") in (F2, F4)
    assert choose(replace(square(64, 28, 64), **changes), "fp32") is DIRECT


@pytest.mark.parametrize(
    ("channels", "size", "out"), [(48, 35, 64), (64, 56, 64), (16, 14, 32), (128, 7, 128)]
)
def test_five_by_five_taps_run_by_winograd(channels: int, size: int, out: int) -> None:
    shape = replace(square(channels, size, out), kernel=(5, 5), padding=(2, 2))
    assert choose(shape, "fp32") is F3
    assert choose(shape, "strict") is DIRECT
    assert choose(replace(shape, stride=(2, 2)), "fp32") is DIRECT


def test_four_by_four_taps_run_by_winograd() -> None:
    shape = replace(square(64, 28, 64), kernel=(4, 4), out=(27, 27))
    assert choose(shape, "fp32") is F4
    assert choose(shape, "strict") is DIRECT


def image(taps: int, steps: int, **rest: Any) -> ConvShape:
    """Return a strided convolution of an image."""
    size, pad = 225 - taps % 2, taps // 2
    left = (size + 2 * pad - taps) // steps + 1
    shape = ConvShape(
        1, 3, (size, size), 64, (taps, taps), (steps, steps), (pad, pad), (1, 1), 1, (left, left)
    )
    return replace(shape, **rest)


@pytest.mark.parametrize(("taps", "stride"), [(5, 2), (6, 2), (7, 2), (8, 2), (11, 4)])
def test_the_stride_of_a_first_convolution_is_folded(taps: int, stride: int) -> None:
    shape = image(taps, stride)
    assert choose(shape, "fp32") is FOLDED
    assert choose(shape, "strict") is DIRECT
    assert forms(shape)[FOLDED].kernel == (-(-taps // stride),) * 2
    assert held_bytes(shape, FOLDED) > held_bytes(shape, DIRECT)


@pytest.mark.parametrize(
    "shape",
    [
        image(7, 1),
        image(3, 2),
        image(9, 2),
        image(16, 16),
        image(7, 2, channels=9),
        image(7, 2, out_channels=3),
        image(7, 2, dilation=(2, 2)),
        image(7, 2, channels=4, groups=2),
        image(7, 2, stride=(2, 3)),
        image(7, 2, kernel=(7, 3)),
    ],
)
def test_other_first_convolutions_run_directly(shape: ConvShape) -> None:
    assert FOLDED not in costs(shape, "fp32")


@pytest.mark.parametrize("taps", [3, 7])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("channels", "size"), [(64, 56), (128, 17), (192, 17), (384, 8)])
def test_one_line_of_taps_runs_by_winograd(taps: int, axis: int, channels: int, size: int) -> None:
    shape = line(channels, size, channels, taps, axis)
    assert choose(shape, "fp32") in (LINE, LATE_LINE)
    assert choose(shape, "strict") is DIRECT
    assert held_bytes(shape, LINE) == held_bytes(shape, DIRECT) * (taps + 3) // taps


def ranked(*kernel: int, stride: int = 1) -> ConvShape:
    """Return a convolution of any rank that keeps the size with stride 1."""
    ones, size = (1,) * len(kernel), (16,) * len(kernel)
    pad, steps = tuple(taps // 2 for taps in kernel), (stride,) * len(kernel)
    return ConvShape(1, 64, size, 64, kernel, steps, pad, ones, 1, tuple(s // stride for s in size))


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 1, 7), (5,)])
def test_other_ranks_run_directly(kernel: tuple[int, ...]) -> None:
    assert set(costs(ranked(*kernel), "fp32")) == {DIRECT}


@pytest.mark.parametrize("taps", [3, 7])
def test_one_axis_is_a_line_of_an_image(taps: int) -> None:
    one = ranked(taps)
    assert costs(one, "fp32") == costs(replace(ranked(1, taps), size=(1, 16), out=(1, 16)), "fp32")
    assert set(costs(one, "fp32")) == {DIRECT, LINE} | ({LATE_LINE} if taps == 3 else set())
    assert set(costs(ranked(taps, stride=2), "fp32")) == {DIRECT}
    assert set(costs(replace(one, after=(taps,)), "fp32")) == {DIRECT}


@pytest.mark.parametrize("channels", [64, 128, 256])
def test_large_images_run_by_winograd_at_any_width(channels: int) -> None:
    assert choose(square(channels, 56, channels), "fp32") is F4
    assert choose(square(channels, 56, channels, stride=2), "fp32") is P2


@pytest.mark.skipif(LANES != 16, reason="measured with 16 lanes")
def test_weights_of_two_groups_of_rows_are_late_unless_caches_hold_them() -> None:
    far, near = (costs(square(256, 14, 256), "fp32", near) for near in (False, True))
    assert set(near) - set(far) == {F4} and L4 in far
    assert F4 in costs(square(128, 14, 32), "fp32") and F4 in costs(square(256, 12, 256), "fp32")


@pytest.mark.skipif(LANES != 16, reason="measured with 16 lanes")
@pytest.mark.parametrize(
    ("channels", "size", "out", "stride", "fastest"),
    [
        (64, 224, 64, 1, F4),
        (64, 56, 64, 1, F4),
        (128, 28, 128, 1, F4),
        (256, 14, 256, 1, L4),
        (512, 14, 512, 1, L4),
        (512, 7, 512, 1, L4),
        (448, 8, 384, 1, L4),
        (192, 7, 384, 1, L4),
        (160, 7, 320, 1, L4),
        (128, 7, 32, 1, L4),
        (128, 14, 32, 1, L4),
        (64, 56, 128, 2, P2),
        (128, 56, 128, 2, P2),
        (128, 28, 256, 2, P2),
        (256, 28, 256, 2, P2),
        (288, 35, 384, 2, P2),
        (256, 14, 512, 2, DIRECT),
        (512, 14, 512, 2, DIRECT),
    ],
)
def test_measured_shapes_run_as_fast_as_they_can(
    channels: int, size: int, out: int, stride: int, fastest: Algorithm
) -> None:
    """Late weights stand for about as fast, 10 % at most, where they are a quarter of the bytes."""
    assert choose(square(channels, size, out, stride), "fp32") is fastest


@pytest.mark.skipif(LANES != 16, reason="measured with 16 lanes")
def test_weights_that_stay_in_caches_may_be_larger() -> None:
    shape = square(32, 16, 64)
    assert choose(shape, "fp32", near=True) is F4
    assert choose(shape, "fp32", near=False) is L4


def test_where_additions_take_the_place_of_products_late_weights_cost_more(monkeypatch) -> None:
    shapes = [square(256, 14, 256), square(512, 7, 512), square(128, 28, 128)]
    beside = [costs(s, "fp32")[L4] for s in shapes]
    monkeypatch.setattr(conv_choice, "adds_beside", lambda: False)
    for shape, cost in zip(shapes, beside, strict=True):
        found = costs(shape, "fp32")
        assert F4 in found and found[L4] > cost
    assert conv_choice.conv_close() is None


@given(size=SIZES, channels=WIDTHS, out=WIDTHS, stride=st.sampled_from([1, 2]))
def test_near_weights_never_cost_more(size: int, channels: int, out: int, stride: int) -> None:
    shape = square(channels, size, out, stride)
    near, far = costs(shape, "fp32", near=True), costs(shape, "fp32", near=False)
    assert all(near[a] <= far[a] for a in far)
