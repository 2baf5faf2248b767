"""Dynamic sizes: names, ranges, and results at sizes other than the example's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from capture.harness import Fn, call, check, same
from torch import Tensor

from leptonc.capture import Dim
from leptonc.capture.frontend import capture
from leptonc.errors import InputError
from leptonc.ir.dims import DimRange


def agree(net: nn.Module, captured: Any, *calls: tuple[Tensor, ...]) -> None:
    for args in calls:
        with torch.no_grad():
            same(call(captured, args), net(*args))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(F.relu(self.conv(x)), 2)
        y = y.flatten(2).transpose(1, 2)
        y = F.scaled_dot_product_attention(y, y, y)
        return self.head(y.reshape(x.shape[0], -1, 4)).softmax(-1)


def test_named_batch() -> None:
    net = Net().eval()
    captured = check(net, (torch.randn(2, 3, 16, 16),), dynamic={"x": {0: Dim("batch", max=64)}})
    assert captured.ranges == (DimRange("batch", 0, 64),)
    agree(net, captured, *((torch.randn(b, 3, 16, 16),) for b in (1, 5, 64)))
    with pytest.raises(InputError):
        call(captured, (torch.randn(65, 3, 16, 16),))


def test_auto_makes_every_size_dynamic_that_can_be() -> None:
    net = Net().eval()
    captured = check(net, (torch.randn(2, 3, 16, 16),), dynamic="auto")
    assert len(captured.ranges) == 3
    agree(net, captured, *((torch.randn(b, 3, h, w),) for b, h, w in ((3, 9, 17), (4, 32, 8))))


def test_derived_and_shared_sizes() -> None:
    n = Dim("n", min=1, max=50)
    net = Fn(lambda x, y: torch.cat((x, y[: x.shape[0]]), 0)[1:] * x.shape[0])
    captured = capture(
        net, (torch.randn(4, 2), torch.randn(8, 2)), dynamic={"args": ({0: n}, {0: 2 * n})}
    )
    agree(net, captured, *((torch.randn(k, 2), torch.randn(2 * k, 2)) for k in (1, 3, 9)))


def test_sizes_and_ranges_in_values() -> None:
    def fn(x: Tensor) -> Any:
        n = x.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool).tril()
        at = torch.arange(n)[None] + x.shape[0]
        return {"y": x.masked_fill(~mask[n - 1], 0) / n, "at": at, "n": n, "half": n // 2}

    captured = check(Fn(fn), (torch.randn(2, 6),), dynamic="auto")
    agree(Fn(fn), captured, (torch.randn(3, 5),), (torch.randn(2, 11),))


def test_negative_and_halved_slices() -> None:
    def fn(x: Tensor) -> Any:
        return x[:, -3:], x[:, : x.shape[1] // 2], x[:, ::2], x[:, 1:-1], x.chunk(2, 0)[0]

    captured = check(Fn(fn), (torch.randn(4, 8),), dynamic="auto")
    agree(Fn(fn), captured, (torch.randn(6, 7),), (torch.randn(4, 12),))


def test_interpolate_to_a_dynamic_size() -> None:
    def fn(x: Tensor, y: Tensor) -> Tensor:
        return F.interpolate(x, y.shape[-2:], mode="bilinear") + F.interpolate(y, scale_factor=1.0)

    args = (torch.randn(1, 2, 4, 4), torch.randn(1, 2, 9, 7))
    captured = check(Fn(fn), args, dynamic="auto")
    agree(Fn(fn), captured, (torch.randn(1, 2, 5, 3), torch.randn(1, 2, 6, 8)))


def test_a_model_that_treats_one_apart_gets_a_range_from_two() -> None:
    branch = Fn(lambda x: x * 2 if x.shape[0] == 1 else x * 3)
    squeeze = Fn(lambda x: x.squeeze() * 2)
    for net in (branch, squeeze):
        captured = capture(
            net, (torch.randn(3, 4),), dynamic={"args": ({0: Dim("n", min=1, max=9)},)}
        )
        assert captured.ranges == (DimRange("n", 2, 9),)
        with pytest.raises(InputError):
            call(captured, (torch.randn(1, 4),))


def test_example_tensors_are_left_unmarked() -> None:
    x = torch.randn(3, 4)
    capture(nn.Linear(4, 4).eval(), (x,), dynamic="auto")
    assert not vars(x)
