"""Residual branches: found, ranked by what their removal does, removed and brought back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc.capture.frontend import capture
from leptonc.compress import CompressError
from leptonc.compress.prune.blocks import branches

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, takes: int, makes: int, scale: float) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(takes, makes, 3, padding=1), nn.Conv2d(makes, makes, 1)
        self.pass_ = nn.Conv2d(takes, makes, 1) if takes != makes else nn.Identity()
        with torch.no_grad():
            self.b.weight.mul_(scale)
            self.b.bias.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.pass_(x) + self.b(self.a(x).relu())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        scales = (1.0, 0.01, 1.0, 0.001, 0.5)
        sizes = (3, 8, 8, 8, 8, 8)
        self.layers = nn.Sequential(*map(Block, sizes, sizes[1:], scales))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def _without(*gone: int) -> Net:
    model = net()
    for i in gone:
        model.layers[i] = nn.Identity()
    return model


def test_branches_of_one_shape_are_found() -> None:
    found = branches(capture(net(), X).function)
    # the first passes through a convolution, which is not what its branch begins with
    assert [b.where for b in found] == [f"layers.{i}" for i in range(1, 5)]
    assert all(len(b.constants) == 4 for b in found)


def test_the_least_felt_go_and_the_result_is_the_network_without_them() -> None:
    small = leptonc.compress(net(), X, leptonc.Prune(0.5, what="blocks"), data=[X])
    assert [e.where for e in small.ledger] == ["layers.1", "layers.3"]
    with torch.no_grad():
        assert torch.equal(small(X), _without(1, 3)(X))
        torch.testing.assert_close(leptonc.compile(small, X, cache=False)(X), small(X))
        assert torch.equal(small.ledger.undo(0)(X), _without(3)(X))
    assert not any(n.startswith(("layers.1", "layers.3")) for n in small.state_dict())


def test_a_branch_inside_a_branch() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.outer, self.inner = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.outer(x)
            return x + (y + self.inner(y))

    found = branches(capture(Nested().eval(), torch.randn(2, 4)).function)
    assert [len(b.constants) for b in found] == [2, 4]


def test_channels_go_after_blocks_and_blocks_after_channels() -> None:
    blocks, channels = leptonc.Prune(0.5, what="blocks"), leptonc.Prune(0.5, round_to=2)
    for order in ((blocks, channels), (channels, blocks)):
        small = leptonc.compress(net(), X, *order, data=[X])
        assert {"layers.1", "layers.3"} <= {
            e.where for e in small.ledger if "branch" in e.what
        }  # fmt: skip
        assert small(X).shape == (4, 8)


def test_wrong_asks_are_errors() -> None:
    recipe = leptonc.Prune(0.5, what="blocks")
    with pytest.raises(CompressError, match="needs calibration data"):
        leptonc.compress(net(), X, recipe)
    with pytest.raises(CompressError, match="no residual branch"):
        leptonc.compress(nn.Linear(8, 8).eval(), X, recipe, data=[X])
    with pytest.raises(CompressError, match=r"did you mean 'layers\.1'"):
        leptonc.compress(net(), X, leptonc.Prune(0.5, what="blocks", skip=["layer.1"]), data=[X])
    with pytest.raises(CompressError, match="nothing to remove"):
        leptonc.compress(net(), X, leptonc.Prune(0.05, what="blocks"), data=[X])
