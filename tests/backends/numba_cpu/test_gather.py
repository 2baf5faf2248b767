"""Look-ups, ranges, triangles and resampling; indices out of range raise."""

from __future__ import annotations

import pytest
import torch

from leptonc.ir.kinds import data as d
from leptonc.ir.types import DType
from tests.backends.numba_cpu.harness import check_op, run_op


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
@pytest.mark.parametrize("index", [torch.int64, torch.int32], ids=str)
def test_embedding(dtype: torch.dtype, index: torch.dtype) -> None:
    w = (100 * torch.randn(11, 37)).to(dtype)
    check_op(d.Embedding(), w, torch.randint(0, 11, (3, 5)).to(index), rtol=0, atol=0)
    check_op(d.Embedding(), w, torch.zeros((0, 5), dtype=index))
    check_op(d.Embedding(), w, torch.tensor(4, dtype=index), consts=(0,))


def test_out_of_range() -> None:
    w = torch.randn(11, 37)
    for bad in (11, -1):
        with pytest.raises(IndexError, match="out of range"):
            run_op(d.Embedding(), w, torch.tensor([1, bad]), threads=2)
        with pytest.raises(IndexError, match="out of bounds"):
            run_op(d.Gather(0), torch.randn(11), torch.tensor([1, bad]))
    with pytest.raises(IndexError):
        run_op(d.IndexSelect(0, wrap=True), w, torch.tensor([-12]))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_index_select(axis: int) -> None:
    x = torch.randn(5, 6, 7)
    for layout in (None, (0, 2, 1), (2, 1, 0)):
        for index in (
            torch.tensor([4, 0, 0, 3, 2]),
            torch.tensor([[1, 2], [3, 4]]),
            torch.tensor(2),
        ):
            check_op(d.IndexSelect(axis), x, index, layouts=(layout, None), rtol=0, atol=0)
        check_op(
            d.IndexSelect(axis, wrap=True), x, torch.tensor([-1, 0, -5]), layouts=(layout, None)
        )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather(axis: int) -> None:
    x = torch.randn(5, 6, 7)
    index = torch.randint(0, 5, (3, 4, 2))
    for layout in (None, (2, 1, 0)):
        check_op(d.Gather(axis), x, index, layouts=(layout, None), result_layouts=(layout,))
    check_op(d.Gather(axis), x > 0, index)
    check_op(d.Gather(0), torch.tensor(3.0), torch.tensor(0))


IOTAS = [
    d.Iota(7), d.Iota(0), d.Iota(5000, 3, -2), d.Iota(9, 1, 2, DType.I32),
    d.Iota(9, 0.5, 0.1, DType.F32),
    d.Iota(9, 1, 2, DType.F32), d.Iota(9, 0, 1, DType.BF16),
]  # fmt: skip


@pytest.mark.parametrize("kind", IOTAS, ids=str)
def test_iota(kind: d.Iota) -> None:
    check_op(kind, rtol=0, atol=0)


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("diagonal", [-9, -1, 0, 2, 9])
def test_triangle(lower: bool, diagonal: int) -> None:
    for x in (
        torch.randn(5, 7),
        torch.randn(2, 3, 6, 4),
        torch.randn(3, 3) > 0,
        torch.ones(4, 4, dtype=torch.int64),
    ):
        check_op(d.Triangle(lower, diagonal), x, layouts=(tuple(reversed(range(x.dim()))),))


SIZES = [
    ((5, 7), (10, 14)),
    ((5, 7), (3, 20)),
    ((8, 8), (1, 1)),
    ((1, 1), (4, 3)),
    ((6, 6), (6, 6)),
]


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear", "bicubic"])
def test_interpolate(mode: str, corners: bool) -> None:
    if corners and mode.startswith("nearest"):
        return
    for before, after in SIZES:
        x = torch.randn(2, 19, *before)
        for layout in (None, (0, 2, 3, 1)):
            options = {"layouts": [layout], "result_layouts": [layout], "rtol": 1e-4, "atol": 1e-5}
            check_op(d.Interpolate(after, mode, corners), x, **options)
        check_op(d.Interpolate(after, mode, corners), x, **options)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear"])
def test_interpolate_of_other_ranks_and_scales(mode: str) -> None:
    check_op(d.Interpolate((11,), mode), torch.randn(2, 3, 7), rtol=1e-5, atol=1e-5)
    check_op(d.Interpolate((4, 9, 5), mode), torch.randn(2, 3, 3, 4, 5), rtol=1e-5, atol=1e-5)
    check_op(
        d.Interpolate((13, 17), mode, scales=(1.9, 2.5)),
        torch.randn(1, 3, 7, 7),
        rtol=1e-4,
        atol=1e-5,
    )
    check_op(
        d.Interpolate((13, 17), mode), torch.randn(1, 3, 7, 7).bfloat16(), rtol=2e-2, atol=2e-2
    )
