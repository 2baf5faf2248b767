"""Copies and the kinds that move elements, in all layouts, element sizes and awkward shapes."""

from __future__ import annotations

import itertools

import pytest
import torch

from leptonc.backends.numba_cpu.lower.core import ConstPool, Lowering
from leptonc.backends.numba_cpu.lower.shape import contiguous, copy_view
from leptonc.ir.kinds import shape as s
from tests.backends.numba_cpu.harness import check_op

DTYPES = [torch.float32, torch.int64, torch.bfloat16, torch.bool]
ORDERS = [*itertools.permutations(range(3))]


def some(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    n = 1
    for d in shape:
        n *= d
    x = torch.arange(n).reshape(shape)
    return (x % 3 == 1) if dtype is torch.bool else x.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("orders", itertools.product(ORDERS, ORDERS), ids=str)
def test_relayout_between_all_orders(orders, dtype) -> None:
    for shape in ((5, 37, 18), (2, 3, 4)):
        check_op(
            s.Relayout(orders[1]), some(*shape, dtype=dtype), layouts=(orders[0],), threads=(2,)
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        (64, 3136), (3136, 64), (16, 16), (17, 31), (5, 100), (1, 7), (200, 130), (2, 16), (33, 2),
        (2, 5000), (5000, 2), (3, 16), (17, 3), (3, 4097), (4097, 3), (4, 4), (4, 99), (99, 7),
    ],
)  # fmt: skip
def test_transposes(shape, dtype) -> None:
    x = some(*shape, dtype=dtype)
    check_op(s.Relayout((1, 0)), x, rtol=0, atol=0)
    check_op(s.Transpose((1, 0)), x, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", [2, 3, 4])
def test_shuffles(groups: int, dtype: torch.dtype) -> None:
    x = some(2, groups, 29, 3, 3, dtype=dtype)
    last, shuffled = (0, 3, 4, 1, 2), (0, 3, 4, 2, 1)
    check_op(s.Relayout(shuffled), x, layouts=(last,), rtol=0, atol=0)
    check_op(s.Relayout(last), x, layouts=(shuffled,), rtol=0, atol=0)
    part = x[:, :, :17]
    check_op(s.Relayout(shuffled), part, layouts=(last,), rtol=0, atol=0)


CASES = [
    (s.Reshape((6, 10)), (3, 4, 5)), (s.Reshape(()), (1, 1)), (s.Reshape((0, 4)), (4, 0)),
    (s.Transpose((2, 0, 1)), (3, 4, 5)), (s.Expand((2, 3, 4)), (3, 1)),
    (s.Slice(1, 1, 4, 2), (3, 5, 2)),
    (s.Slice(0, 2, 2), (3, 5)), (s.Flip((0, 2)), (3, 4, 5)), (s.Roll((1, -2), (0, 1)), (3, 5)),
    (s.Roll((7,), (1,)), (3, 5)), (s.Roll((), ()), (3,)),
    (s.Roll((2, 1, 1, 3, 1, 2), (0, 1, 2, 3, 4, 5)), (3, 2, 2, 4, 2, 3)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind,shape", CASES, ids=lambda v: getattr(v, "NAME", str(v)))
def test_movements(kind, shape, dtype) -> None:
    x = some(*shape, dtype=dtype)
    layouts = [None, tuple(reversed(range(len(shape))))]
    for layout in layouts:
        check_op(kind, x, layouts=(layout,), rtol=0, atol=0)


PADS = [
    ((1, 0), (0, 2)), ((0, 3), (2, 1)), ((-1, 1), (1, -2)), ((0, 0), (0, 0)), ((2, 2), (2, 2)),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("pads", PADS, ids=str)
def test_pads(pads, mode) -> None:
    check_op(s.Pad(*pads, mode, 1.5 if mode == "constant" else 0.0), some(5, 6), rtol=0, atol=0)
    x, (low, high) = some(2, 5, 4, 6), pads
    kind = s.Pad((0, 0, *low), (0, 0, *high), mode)
    check_op(kind, x, layouts=((0, 2, 3, 1),), result_layouts=((0, 2, 3, 1),), rtol=0, atol=0)


def test_pad_of_other_types() -> None:
    check_op(s.Pad((1,), (2,), "constant", 7), some(5, dtype=torch.int64))
    check_op(s.Pad((1,), (2,), "constant", True), some(5, dtype=torch.bool))
    check_op(s.Pad((1, -3), (2, 2), "constant", -1.0), some(5, 4))


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_concat(axis: int) -> None:
    xs = [
        torch.randn(*(n if a == axis else d for a, d in enumerate((2, 3, 5, 7))))
        for n in (1, 4, 0, 2)
    ]
    for layout in (None, (0, 2, 3, 1)):
        check_op(s.Concat(axis), *xs, layouts=[layout] * 4, result_layouts=[layout], rtol=0, atol=0)


def test_copies_of_what_is_dense_are_none() -> None:
    ctx = Lowering(ConstPool(), 1)
    from leptonc.ir.types import DType

    x = ctx.temp(DType.F32, (3, 4))
    assert contiguous(ctx, x) is x
    assert not ctx.steps
    assert contiguous(ctx, x.transpose((1, 0))).shape == (4, 3)
    copy_view(ctx, ctx.temp(DType.F32, (0, 3)), ctx.temp(DType.F32, (0, 3)))
    assert len(ctx.steps) == 1
