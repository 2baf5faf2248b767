"""Which channels go together, on networks small enough to know it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from leptonc.capture.frontend import capture
from leptonc.compress.prune import Group, groups_of
from leptonc.compress.prune.groups import analyze


def _groups(net: nn.Module, *x: torch.Tensor, norms: bool = False) -> dict[str, Group]:
    found = groups_of(capture(net.eval(), x if len(x) > 1 else x[0]).function, norms)
    return {g.where: g for g in found}


def _blocks(group: Group) -> dict[tuple[str, int], tuple[tuple[int, ...], ...]]:
    return {(name, axis): blocks for name, axis, blocks in group.constants}


def _each(n: int, width: int = 1, start: int = 0) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(start + i * width + j for j in range(width)) for i in range(n))


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 6, 3, padding=1)
        self.back = nn.Conv2d(6, 4, 1)
        self.fc = nn.Linear(4 * 9, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.stem(x))
        return self.fc((y + self.back(self.inner(y).relu())).flatten(1))


def test_a_residual_ties_its_ends_and_flatten_takes_blocks() -> None:
    found = _groups(_Residual(), torch.randn(1, 3, 3, 3))
    assert set(found) == {"stem", "inner"}
    assert _blocks(found["inner"]) == {
        ("inner.weight", 0): _each(6), ("inner.bias", 0): _each(6), ("back.weight", 1): _each(6),
    }  # fmt: skip
    tied = _blocks(found["stem"])
    assert tied["fc.weight", 1] == _each(4, 9)
    assert {k for k, v in tied.items() if v == _each(4)} == {
        ("stem.weight", 0), ("stem.bias", 0), ("norm.weight", 0), ("norm.bias", 0),
        ("norm.running_mean", 0), ("norm.running_var", 0), ("inner.weight", 1),
        ("back.weight", 0), ("back.bias", 0),
    }  # fmt: skip


class _Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.c = nn.Conv2d(6, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        return self.c(torch.cat([a, self.b(a)], 1)).amax((2, 3))


def test_concat_has_offsets_and_results_stay() -> None:
    found = _groups(_Dense(), torch.randn(1, 3, 3, 3))
    assert set(found) == {"a", "b"}
    assert _blocks(found["a"])["c.weight", 1] == _each(4)
    assert _blocks(found["b"])["c.weight", 1] == _each(2, start=4)


@pytest.mark.parametrize(("groups", "units", "width"), [(8, 8, 1), (4, 4, 2), (2, 2, 4)])
def test_groups_of_a_convolution_go_whole(groups: int, units: int, width: int) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=groups),
                        nn.Conv2d(16, 2, 1))  # fmt: skip
    (found,) = _groups(net, torch.randn(1, 3, 5, 5)).values()
    assert _blocks(found)["0.weight", 0] == _each(units, width)
    assert _blocks(found)["1.weight", 0] == _blocks(found)["2.weight", 1] == _each(units, 2 * width)


class _Attend(nn.Module):
    """4 query heads of 3 over 2 of keys and values, then a gated layer."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 12), nn.Linear(8, 6), nn.Linear(8, 6)
        self.o, self.norm = nn.Linear(12, 8), nn.LayerNorm(8)
        self.both, self.down = nn.Linear(8, 10), nn.Linear(5, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        q, k, v = (f(x).view(b, t, -1, 3).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, 12))
        gate, up = self.both(self.norm(x)).chunk(2, -1)
        return x + self.down(gate.sigmoid() * up)


def test_heads_that_share_keys_go_together() -> None:
    found = _groups(_Attend(), torch.randn(2, 5, 8))
    heads, gated = found["q"], found["both"]
    assert heads.heads and heads.units == 2 and heads.width == 3
    assert _blocks(heads)["q.weight", 0] == _each(2, 6) == _blocks(heads)["o.weight", 1]
    assert _blocks(heads)["k.weight", 0] == _blocks(heads)["v.weight", 0] == _each(2, 3)
    assert not gated.heads
    assert _blocks(gated)["both.weight", 0] == tuple((i, i + 5) for i in range(5))
    assert _blocks(gated)["down.weight", 1] == _each(5)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(7, 4), nn.LayerNorm(4)

    def forward(self, i: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.norm(self.table(i)), self.table.weight)


def test_channels_of_a_norm_are_pruned_only_when_asked_and_tied_weights_once() -> None:
    i = torch.zeros(1, 3, dtype=torch.long)
    assert not _groups(_Tied(), i)
    (found,) = _groups(_Tied(), i, norms=True).values()
    assert {name for name, _, _ in found.constants} == {"table.weight", "norm.weight", "norm.bias"}
    assert found.layers == found.readers == ("table.weight",)


class _Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.linalg.pinv(self.a(x)).mT)


def test_what_has_no_rule_pins_and_says_so() -> None:
    analysis = analyze(capture(_Opaque().eval(), torch.randn(5, 4)).function)
    assert not analysis.groups
    why = {name: reason for _, name, reason in analysis.pinned_layers()}
    assert "no rule for pruning" in why["a.weight"]
    assert why["b.weight"] == "a result of the network"


class _Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        b, c, h, w = y.shape
        y = y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.b(y.narrow(1, 0, 4))


def test_a_channel_shuffle_keeps_pairs() -> None:
    found = groups_of(capture(_Shuffled().eval(), torch.randn(1, 3, 2, 2)).function)
    pairs = {b for g in found for b in _blocks(g).get(("a.weight", 0), ())}
    assert pairs == {(i, i + 4) for i in range(4)}


def test_symbolic_sizes_stay() -> None:
    from leptonc import Dim

    net = _Residual().eval()
    x = torch.randn(2, 3, 3, 3)
    fn = capture(net, x, dynamic={"x": {0: Dim("b", max=8)}}).function
    assert {g.where for g in groups_of(fn)} == {"stem", "inner"}
