"""Concatenations written in place by the units that make their parts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc.backends.numba_cpu.schedule import Step

pytestmark = pytest.mark.numba

COPIES = ("copy_rows", "copy_strided", "copy_tiles")


class Net(nn.Module):
    """Three convolutions and a function that says how they are put together."""

    def __init__(self, wire: Callable[[Net, Tensor], Tensor], channels: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.a = nn.Conv2d(channels, 7, 1)
        self.b = nn.Conv2d(channels, 32, 3, padding=1)
        self.deep = nn.Conv2d(channels + 7, 6, 3, padding=1)
        self.wire = wire

    def forward(self, x: Tensor) -> Tensor:
        return self.wire(self, self.stem(x))


def branches(m: Net, x: Tensor) -> Tensor:
    pooled = torch.max_pool2d(x, 3, 1, 1)
    return torch.cat([m.a(x).relu(), m.b(x), pooled, x.sigmoid() * 2], 1).amax((2, 3))


def dense(m: Net, x: Tensor) -> Tensor:
    y = m.a(x.relu())
    first = torch.cat([x, y], 1)
    z = m.deep(first.relu())
    second = torch.cat([x, y, z], 1)
    return torch.cat([x, y, z, m.b(second[:, :5])], 1).mean((2, 3))


def nested(m: Net, x: Tensor) -> Tensor:
    inner = torch.cat([m.a(x), m.b(x)], 1)
    return torch.cat([inner, nn.functional.avg_pool2d(x, 3, 1, 1)], 1).mean((2, 3))


def twice(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    return torch.cat([y, x, y], 1).mean((2, 3)) + torch.cat([x, y, y], 1).mean((2, 3))


def returned(m: Net, x: Tensor) -> Tensor:
    return torch.cat([m.a(x), m.b(x)], 1)


def along_lines(m: Net, x: Tensor) -> Tensor:
    return torch.cat([m.a(x), m.a(x).tanh(), m.a(x * 2)], 2).mean((2, 3))


WIRES = {
    f.__name__: (f, copies)
    for f, copies in (
        (branches, 0), (dense, 0), (nested, 0), (twice, 4), (returned, None), (along_lines, None),
    )
}  # fmt: skip


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("threads", [1, 2])
def test_same_as_torch_without_copies(name: str, threads: int) -> None:
    torch.manual_seed(0)
    wire, copies = WIRES[name]
    net = Net(wire).eval()
    x = torch.randn(2, 3, 9, 11)
    with torch.no_grad():
        want = net(x)
        made = leptonc.compile(net, (x,), threads=threads)
        for _ in range(2):
            torch.testing.assert_close(made(x), want, rtol=1e-4, atol=1e-5)
    steps = made._program().schedule.steps
    found = sum(isinstance(s, Step) and s.kernel.name.startswith(COPIES) for s in steps)
    assert copies is None or found == copies
