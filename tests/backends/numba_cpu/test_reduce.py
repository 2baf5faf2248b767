"""Reductions over all axes and layouts, with edges."""

from __future__ import annotations

import itertools

import pytest
import torch

from leptonc.ir.core import Kind
from leptonc.ir.kinds import reduce as r
from tests.backends.numba_cpu.harness import check_op

FLOATS = [r.Sum, r.Mean, r.Prod, r.Amax, r.Amin, r.All, r.Any, r.Var]
AXES = [(0,), (1,), (2,), (3,), (2, 3), (0, 2), (1, 3), (0, 1, 2, 3), (0, 1, 2), ()]
LAYOUTS = [None, (0, 2, 3, 1), (3, 1, 0, 2)]


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("kind", FLOATS, ids=lambda k: k.NAME)
def test_all_axes_and_layouts(kind: type[Kind], axes: tuple[int, ...]) -> None:
    x = torch.randn(2, 37, 5, 18)
    x[x.abs() < 0.05] = 0.0
    x = x.clamp(-1.4, 1.4) if kind is r.Prod else x
    for layout, keepdim in itertools.product(LAYOUTS, (False, True)):
        check_op(kind(axes, keepdim), x, layouts=(layout,), rtol=1e-5, atol=2e-5, threads=(1, 3))


@pytest.mark.parametrize("shape", [(3, 5000), (5000, 3), (1, 200, 56, 64), (130, 130)], ids=str)
@pytest.mark.parametrize("kind", [r.Sum, r.Mean, r.Var], ids=lambda k: k.NAME)
def test_long_sums_are_accurate(kind: type[Kind], shape: tuple[int, ...]) -> None:
    x = torch.rand(shape) + 10
    for axis in range(len(shape)):
        exact = {"sum": torch.sum, "mean": torch.mean, "var": torch.var}[kind.NAME](
            x.double(), (axis,)
        )
        from tests.backends.numba_cpu.harness import run_op

        (got,) = run_op(kind((axis,)), x, threads=2)
        torch.testing.assert_close(got.double(), exact, rtol=2e-6, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("kind", [r.Amax, r.Amin, r.Sum, r.Any, r.All], ids=lambda k: k.NAME)
def test_edges(kind: type[Kind]) -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[1.0, nan, 2.0], [inf, 1.0, -inf], [-inf, -inf, -inf], [0.0, -0.0, 0.0]])
    x = x.repeat(1, 9)
    for axes in ((0,), (1,), (0, 1)):
        check_op(kind(axes), x)
        check_op(kind(axes), x, layouts=((1, 0),))


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.bfloat16]
)
@pytest.mark.parametrize("kind", FLOATS, ids=lambda k: k.NAME)
def test_other_types(kind: type[Kind], dtype: torch.dtype) -> None:
    if kind in (r.Mean, r.Var) and not dtype.is_floating_point:
        return
    if dtype is torch.bool and kind in (r.Sum, r.Prod):
        return
    x = torch.randint(0, 3, (4, 5, 6)).to(dtype)
    for axes in ((0,), (2,), (0, 2), (0, 1, 2)):
        check_op(kind(axes), x, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", [r.Sum, r.Prod, r.Mean, r.Any, r.All, r.Var], ids=lambda k: k.NAME)
def test_nothing(kind: type[Kind]) -> None:
    check_op(kind((1,)), torch.zeros(3, 0))
    check_op(kind((0,)), torch.zeros(0, 3).T.contiguous())


@pytest.mark.parametrize("kind", [r.ArgMax, r.ArgMin], ids=lambda k: k.NAME)
def test_arg(kind: type[Kind]) -> None:
    nan = float("nan")
    x = torch.randint(0, 4, (3, 41, 7)).float()
    y = x.clone()
    y[0, 3, 2] = y[2, 20, 5] = y[2, 22, 5] = nan
    for t in (x, y, x.long(), x.bool(), x.bfloat16(), x.int()):
        for axis, keepdim in itertools.product(range(3), (False, True)):
            check_op(kind(axis, keepdim), t)
    check_op(kind(0), torch.tensor(3.0))


def test_cumsum() -> None:
    x = torch.randn(3, 41, 7)
    for axis in range(3):
        check_op(r.CumSum(axis), x, layouts=((2, 0, 1),))
        check_op(r.CumSum(axis), (10 * x).long())
        check_op(r.CumSum(axis), (10 * x).int())
        check_op(r.CumSum(axis), x.bfloat16(), rtol=2e-2, atol=2e-2)
