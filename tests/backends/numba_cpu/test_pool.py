"""Pools through their lowering, over windows, layouts and ranks, NaN included."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leptonc.ir.core import Kind
from leptonc.ir.kinds.reduce import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool
from tests.backends.numba_cpu.harness import check_op

pytestmark = pytest.mark.numba

WINDOWS: list[tuple[Kind, tuple[int, ...]]] = [
    (MaxPool((3, 3), (2, 2), (1, 1)), (2, 37, 9, 12)),
    (MaxPool((3, 3), (2, 2), (1, 1), True, (1, 1)), (1, 64, 112, 7)),
    (MaxPool((3, 3), (3, 3), (1, 1), False, (2, 2)), (1, 70, 11, 12)),
    (MaxPool((2, 2), (2, 2), (0, 0), True), (2, 3, 5, 5)),
    (MaxPool((3,), (2,), (1,), True, (2,)), (1, 5, 30)),
    (MaxPool((3, 2, 3), (2, 2, 1), (1, 0, 1), True), (2, 100, 7, 9, 5)),
    (MaxPool((3, 3), (2, 2), (1, 1)), (37, 9, 9)),
    (MaxPool((2, 2), (2, 2), (0, 0)), (2, 3, 4, 8, 8)),
    (AvgPool((3, 2), (2, 2), (1, 1), True, False), (2, 37, 9, 12)),
    (AvgPool((3, 2), (2, 2), (1, 1), True, True), (2, 37, 9, 12)),
    (AvgPool((3, 2), (2, 2), (1, 1), True, True, 5), (2, 130, 9, 12)),
    (AvgPool((4,), (3,), (2,)), (2, 5, 31)),
    (AvgPool((2, 2, 2), (2, 1, 2), (0, 1, 0), True, False), (2, 5, 9, 9, 8)),
    (AdaptiveAvgPool((1, 1)), (2, 130, 7, 7)),
    (AdaptiveAvgPool((3, 5)), (2, 13, 7, 7)),
    (AdaptiveAvgPool((5,)), (3, 70, 13)),
    (AdaptiveAvgPool((2, 3, 7)), (1, 33, 5, 6, 7)),
    (AdaptiveAvgPool((1,)), (3, 4, 7, 9)),
    (AdaptiveAvgPool((1, 1)), (2, 70, 48, 33)),
    (AdaptiveAvgPool((1, 1)), (1, 150, 25, 19)),
    (AdaptiveAvgPool((1, 1)), (2, 32, 67, 33)),
    (AdaptiveAvgPool((1,)), (1, 32, 40, 70)),
    (AdaptiveMaxPool((1, 1)), (1, 70, 48, 33)),
    (AdaptiveMaxPool((3, 9)), (2, 13, 7, 7)),
    (AdaptiveMaxPool((1, 1)), (2, 64, 7, 7)),
]


def last(rank: int, kind: Any) -> tuple[int, ...]:
    """Return the physical order with the channels of this pool innermost."""
    channel = rank - len(getattr(kind, "kernel", None) or kind.output) - 1
    return (*range(channel), *range(channel + 1, rank), channel)


@pytest.mark.parametrize(("kind", "shape"), WINDOWS, ids=lambda v: str(v))
def test_pool(kind: Kind, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, order = torch.randn(*shape), last(len(shape), kind)
    check_op(kind, x)
    check_op(kind, x, layouts=[order], result_layouts=[order], threads=(1, 3))
    check_op(kind, x, layouts=[order], threads=(2,))


@pytest.mark.parametrize("kind", [w[0] for w in WINDOWS[:2]] + [AdaptiveMaxPool((3, 2))])
def test_nan_and_inf_as_torch(kind: Kind) -> None:
    x = torch.randn(2, 70, 9, 12)
    x.view(-1)[::97] = float("nan")
    x.view(-1)[::89] = float("-inf")
    check_op(kind, x, rtol=0, atol=0, layouts=[(0, 2, 3, 1)])


def test_mean_of_a_large_image_is_accurate() -> None:
    x = torch.rand(1, 20, 200, 300)
    check_op(AdaptiveAvgPool((1, 1)), x, rtol=2e-6, atol=0)


def test_empty_batch() -> None:
    check_op(MaxPool((2, 2), (2, 2), (0, 0)), torch.randn(0, 3, 4, 4))
