"""Norms and softmax over shapes, layouts and types."""

from __future__ import annotations

import pytest
import torch

from leptonc import meaning
from leptonc.backends.numba_cpu.lower.norm import lower_norm_unit
from leptonc.ir.core import Builder
from leptonc.ir.kinds import norm as n
from leptonc.ir.kinds.binary import Add
from leptonc.ir.types import DType, TensorType
from tests.backends.numba_cpu.harness import Run, check_op
from tests.backends.numba_cpu.harness import make as function_of

IMAGES = [None, (0, 2, 3, 1)]


@pytest.mark.parametrize("make", [n.Softmax, n.LogSoftmax], ids=lambda k: k.NAME)
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_softmax(make, axis: int) -> None:
    x = 5 * torch.randn(2, 19, 7, 40)
    for layout in IMAGES:
        check_op(make(axis), x, layouts=(layout,), result_layouts=(layout,))
        check_op(make(axis), x, layouts=(layout,))


def test_softmax_edges() -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor(
        [[1.0, -inf, 2.0], [-inf, -inf, -inf], [inf, 1.0, 2.0], [nan, 1.0, 2.0], [1e4, -1e4, 0]]
    )
    for make in (n.Softmax, n.LogSoftmax):
        check_op(make(1), x)
        check_op(make(0), x.T.contiguous())
        check_op(make(0), torch.tensor(2.0))
        check_op(make(1), torch.zeros(3, 0))
        check_op(make(1), torch.randn(4, 33).bfloat16(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("shape", [(128, 768), (2, 5, 33), (3, 4, 7, 5), (1, 10000)], ids=str)
@pytest.mark.parametrize("affine", ["none", "weight", "both"])
def test_rows(shape: tuple[int, ...], affine: str) -> None:
    for axes in (1, 2):
        tail = shape[len(shape) - axes :]
        extra = [torch.randn(tail) for _ in range({"none": 0, "weight": 1, "both": 2}[affine])]
        x = 3 * torch.randn(shape) + 2
        check_op(n.LayerNorm(axes, 1e-5, affine), x, *extra, rtol=1e-5, atol=2e-6)
        if affine != "both":
            check_op(n.RmsNorm(axes, 1e-6, affine), x, *extra, rtol=1e-5, atol=2e-6)


def test_dense_rows_stand_along_one_axis() -> None:
    x, w, b = torch.randn(1, 6, 5, 16), torch.randn(16), torch.randn(16)
    (record,) = Run(function_of(n.LayerNorm(1, 1e-5), (x, w, b))).records
    assert record[9:12].tolist() == [1, 30, 30]


def test_rows_of_other_layouts_and_types() -> None:
    x, w, b = torch.randn(2, 6, 5, 16), torch.randn(16), torch.randn(16)
    kind = n.LayerNorm(1, 1e-5)
    check_op(kind, x, w, b, layouts=((0, 2, 3, 1), None, None), rtol=1e-5, atol=2e-6)
    check_op(
        kind,
        x,
        w,
        b,
        layouts=((1, 0, 2, 3), None, None),
        result_layouts=((0, 2, 3, 1),),
        rtol=1e-5,
        atol=2e-6,
    )
    check_op(kind, x.bfloat16(), w.bfloat16(), b.bfloat16(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("groups", [1, 4, 12])
@pytest.mark.parametrize("affine", ["none", "both"])
def test_group_norm(groups: int, affine: str) -> None:
    extra = [torch.randn(12) for _ in range(2)] if affine == "both" else []
    none = [None] * len(extra)
    x = 2 * torch.randn(2, 12, 7, 9) + 5
    for layout in IMAGES:
        options = {"layouts": [layout, *none], "result_layouts": [layout]}
        check_op(n.GroupNorm(groups, 1e-5, affine), x, *extra, rtol=1e-5, atol=1e-5, **options)
    check_op(n.GroupNorm(groups, 1e-5, affine), x[:, :, 0], *extra, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("affine", ["none", "weight", "both"])
def test_batch_norm(affine: str) -> None:
    extra = [torch.randn(12) for _ in range({"none": 0, "weight": 1, "both": 2}[affine])]
    stats = [torch.randn(12), torch.rand(12) + 0.1]
    for layout in IMAGES:
        x = torch.randn(2, 12, 7, 9)
        layouts = [layout] + [None] * (2 + len(extra))
        check_op(
            n.BatchNorm(1e-5, affine),
            x,
            *stats,
            *extra,
            layouts=layouts,
            result_layouts=[layout],
            rtol=1e-5,
            atol=1e-5,
        )
    check_op(n.BatchNorm(1e-5, affine), torch.randn(5, 12), *stats, *extra, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("rms", [True, False])
def test_residual_and_norm_are_one_step(both: bool, rms: bool) -> None:
    b = Builder("norm")
    x, y = (b.param(TensorType(DType.F32, (2, 9, 50))) for _ in range(2))
    w = b.param(TensorType(DType.F32, (50,)))
    s = b(Add(), x, y)
    kind = n.RmsNorm(1, 1e-6) if rms else n.LayerNorm(1, 1e-5, "weight")
    out = b(kind, s, w)
    fn = b.finish(*((s, out) if both else (out,)))
    tensors = torch.randn(2, 9, 50), torch.randn(2, 9, 50), torch.randn(50)
    for nt in (1, 2):
        run = Run(fn, nt, lower_norm_unit)
        assert len(run.steps) == 1
        for g, want in zip(run(*tensors), meaning.run(fn, *tensors), strict=True):
            torch.testing.assert_close(g, want, rtol=1e-5, atol=2e-6)
