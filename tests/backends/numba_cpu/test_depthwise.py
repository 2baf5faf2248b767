"""Depthwise convolution through its lowering, over kernels, strides, dilations, paddings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from leptonc.backends.numba_cpu.kernels.depthwise_tile import COLUMNS
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.ir.kinds.contract import Conv
from tests.backends.numba_cpu.harness import Run, check_op, make

pytestmark = pytest.mark.numba
CASES = [
    # channels, size, kernel, stride, padding, dilation
    (16, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1)),
    (37, (7, 9), (3, 3), (2, 2), (1, 1), (1, 1)),
    (5, (7, 9), (5, 5), (1, 1), (2, 2), (1, 1)),
    (70, (14, 15), (5, 5), (2, 2), (2, 2), (1, 1)),
    (24, (9, 20), (3, 3), (1, 1), (2, 2), (2, 2)),
    (33, (5, 9), (7, 7), (1, 1), (3, 3), (1, 1)),
    (18, (11,), (3,), (1,), (1,), (1,)),
    (21, (40,), (9,), (3,), (0,), (2,)),
    (20, (4, 5, 6), (3, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 1)),
    (16, (2, 2), (5, 5), (1, 1), (2, 2), (1, 1)),
    (8, (30, 31), (4, 2), (3, 3), (1, 0), (1, 2)),
    (130, (6, 6), (1, 1), (1, 1), (0, 0), (1, 1)),
]


@pytest.mark.parametrize(("c", "size", "kernel", "stride", "padding", "dilation"), CASES)
def test_depthwise(
    c: int, size: tuple, kernel: tuple, stride: tuple, padding: tuple, dilation: tuple
) -> None:
    torch.manual_seed(c)
    kind = Conv(stride, padding, dilation, c)
    x, w, b = torch.randn(2, c, *size), torch.randn(c, 1, *kernel), torch.randn(c)
    last = (0, *range(2, 2 + len(size)), 1)
    options = {"layouts": [last, None, None], "result_layouts": [last]}
    check_op(kind, x, w, b, consts=(1, 2), **options)
    check_op(kind, x, w, consts=(1,), layouts=[last, None], result_layouts=[last])


@given(
    c=st.integers(1, 2 * LANES + 3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 3 * COLUMNS)),
    kernel=st.tuples(st.integers(1, 5), st.sampled_from([1, 2, 3, 3, 3, 5, 7])),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 3)),
)
def test_whole_numbers_come_out_exact_on_any_threads(
    c: int, size: tuple, kernel: tuple, stride: tuple, padding: tuple
) -> None:
    assume(all(n + 2 * p >= k for n, p, k in zip(size, padding, kernel, strict=True)))
    generator = torch.Generator().manual_seed(c)
    shapes = ((2, c, *size), (c, 1, *kernel), (c,))
    x, w, b = (torch.randint(-8, 9, s, generator=generator).float() for s in shapes)
    kind = Conv(stride, padding, (1, 1), c)
    wanted = F.conv2d(x, w, b, stride, padding, 1, c)
    last = (0, 2, 3, 1)
    fn = make(kind, [x, w, b], consts=(1, 2), layouts=[last, None, None], result_layouts=[last])
    for threads in (1, 3):
        (out,) = Run(fn, threads)(x)
        assert torch.equal(out, wanted)


@pytest.mark.parametrize("c", [LANES, 3])
def test_windows_in_the_padding_hold_the_bias(c: int) -> None:
    """A window that sees no pixel must not read any, NaN or not."""
    kind = Conv((1, 1), (6, 6), (1, 1), c)
    x, w, b = torch.full((1, c, 2, 2), float("nan")), torch.randn(c, 1, 3, 3), torch.randn(c)
    fn = make(kind, [x, w, b], consts=(1, 2))
    (out,) = Run(fn, 2)(x)
    assert torch.equal(out[0, :, 0, 0], b) and torch.equal(out[0, :, 5, 0], b)
    assert out[0, :, 6, 6].isnan().all()


def test_computed_weights() -> None:
    kind = Conv((1, 1), (1, 1), (1, 1), 6)
    check_op(kind, torch.randn(1, 6, 5, 5), torch.randn(6, 1, 3, 3), rtol=1e-4)
