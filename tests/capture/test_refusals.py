"""What capture refuses, and that it says where and what to do."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn as nn
from capture.harness import Fn
from torch import Tensor

from leptonc.capture import Dim
from leptonc.capture.frontend import capture
from leptonc.errors import CaptureError

X = torch.randn(3, 4)


class Cache(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(3, 4))


class Adds(Cache):
    def forward(self, x: Tensor) -> Tensor:
        self.cache.add_(x)
        return self.cache * 2


class Assigns(Cache):
    def forward(self, x: Tensor) -> Tensor:
        self.cache = self.cache + x
        return self.cache * 2


class WritesRow(Cache):
    def forward(self, x: Tensor) -> Tensor:
        self.cache[0] = x[0]
        return self.cache * 2


@pytest.mark.parametrize("cls", [Adds, Assigns, WritesRow])
def test_mutated_buffer(cls: type[Cache]) -> None:
    net = cls().eval()
    with pytest.raises(CaptureError, match=r"buffer 'cache'.*(?s:.*)return the new value"):
        capture(net, (X,))
    assert not net.cache.any()


def test_mutated_input() -> None:
    with pytest.raises(CaptureError, match=r"input 'args\[0\]'"):
        capture(Fn(lambda x: x.add_(1)), (X,))


def test_training_mode() -> None:
    with pytest.raises(CaptureError, match=r"model\.eval\(\)"):
        capture(nn.Linear(4, 4), (X,))
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).eval()
    net[1].train()
    with pytest.raises(CaptureError, match=r"1 \(Dropout\).*model\.eval\(\)"):
        capture(net, (X,))
    stats = Fn(lambda x, m: nn.functional.batch_norm(x, m, m, training=True))
    with pytest.raises(CaptureError, match="training"):
        capture(stats, (X, torch.ones(4)))


def test_batch_norm_of_other_channels() -> None:
    few = Fn(lambda x, m: nn.functional.batch_norm(x, m, m.abs()))
    with pytest.raises(CaptureError, match="running_mean should contain 4 elements not 5"):
        capture(few, (X, torch.ones(5)))


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Sizes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0]


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x


class Writes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.add_(1)


@pytest.mark.parametrize("cls", [Branches, Sizes, Wrong, Writes])
def test_names_the_source_line(cls: type[nn.Module], capfd: pytest.CaptureFixture[str]) -> None:
    first = cls.forward.__code__.co_firstlineno
    with pytest.raises(CaptureError) as e:
        capture(cls().eval(), (X,))
    lines = [int(n) for n in re.findall(r"test_refusals\.py:(\d+)", str(e.value))]
    assert lines == [first + 1]
    assert capfd.readouterr().err == ""


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(CaptureError, match="example inputs do not fit"):
        capture(nn.Linear(4, 4).eval(), ())


@pytest.mark.parametrize(
    ("dynamic", "says"),
    [
        ({"y": {0: Dim("n")}}, "the arguments are input"),
        ({"input": {2: Dim("n")}}, "axis 2 of a tensor of 2 axes"),
        ({"input": {1: Dim("n")}}, "declared dynamic is fixed"),
        ("always", "dynamic must be"),
    ],
)
def test_dynamic_that_does_not_fit(dynamic: object, says: str) -> None:
    with pytest.raises(CaptureError, match=says):
        capture(nn.Linear(4, 4).eval(), (X,), dynamic=dynamic)


def test_control_flow_operators() -> None:
    net = Fn(lambda x: torch.cond(x.sum() > 0, lambda t: t + 1, lambda t: t - 1, (x,)))
    with pytest.raises(CaptureError, match=r"control-flow|cannot capture"):
        capture(net, (X,))
