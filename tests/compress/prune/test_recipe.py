"""The recipe: what is asked is what goes, by the importance asked for, and wrong asks are errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import leptonc
from leptonc.compress import CompressError
from leptonc.compress.prune import Group
from leptonc.compress.prune.select import kept

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.left, self.right = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 1)
        self.head = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = y + self.right(self.left(y).relu())
        return self.head(y.mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {n: tuple(p.shape) for n, p in module.named_parameters()}


def test_it_runs_trains_compiles_and_is_captured() -> None:
    small = leptonc.compress(net(), X, leptonc.Prune(0.5))
    shapes = _shapes(small)
    assert shapes["stem.0.weight"] == (8, 3, 3, 3) and shapes["left.weight"] == (16, 8, 3, 3)
    assert shapes["head.0.weight"] == (16, 8)  # the multiple of 8 nearest to 12, halves up
    assert [e.where for e in small.ledger] == ["stem.0", "left", "head.0"]
    assert small.ledger[1].what == "16 of 32 channels removed"
    assert all(e.bytes_after < e.bytes_before for e in small.ledger)
    with torch.no_grad():
        want = small(X)
    torch.testing.assert_close(leptonc.compile(small, X, cache=False)(X), want)
    small(X).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


@pytest.mark.parametrize("index", [0, 1, 2])
def test_any_step_is_undone_alone(index: int) -> None:
    small = leptonc.compress(net(), X, leptonc.Prune(0.5))
    other = small.ledger.undo(index)
    assert [e.where for e in other.ledger] == [e.where for e in small.ledger if e.index != index]
    layer = ("stem.0", "left", "head.0")[index] + ".weight"
    original, before, after = (_shapes(m)[layer][0] for m in (net(), small, other))
    assert after == original > before
    assert other(X).shape == small(X).shape


@given(units=st.integers(1, 600), ratio=st.floats(0.01, 0.99), step=st.sampled_from((1, 2, 8, 16)))
def test_what_stays_is_as_near_to_the_ratio_as_the_rounding_lets(
    units: int, ratio: float, step: int
) -> None:
    stay = kept(units, ratio, step)
    assert 1 <= stay <= units and (stay % step == 0 or stay == units)
    if units > step:
        assert abs(stay - units * (1 - ratio)) <= step / 2 or stay in (step, units)


@pytest.mark.parametrize("scope", ["local", "global"])
def test_the_asked_part_is_reached(scope: str) -> None:
    small = leptonc.compress(net(), X, leptonc.Prune(0.25, scope=scope, round_to=1))
    shapes = _shapes(small)
    left = [shapes[n][0] for n in ("stem.0.weight", "left.weight", "head.0.weight")]
    assert sum(left) == pytest.approx(0.75 * (16 + 32 + 24), abs=3 if scope == "global" else 0)
    assert (left == [12, 24, 18]) == (scope == "local")


def test_the_least_important_go_by_every_measure() -> None:
    model, dead = net(), [3, 5, 7, 11]
    with torch.no_grad():
        for weight in (model.left.weight, model.left.bias):
            weight[dead] *= 1e-4
        model.right.weight[:, dead] *= 1e-4
    chosen: list[Any] = ["magnitude", "l1", "taylor", "activation", _first_eight_least]
    for importance in chosen:
        recipe = leptonc.Prune(0.2, importance=importance, per_unit={"left": 0.125}, round_to=4)
        small = leptonc.compress(model, X, recipe, data=[X])
        gone = list(range(4)) if callable(importance) else dead
        stay = [i for i in range(32) if i not in gone]
        assert torch.equal(_param(small, "left.bias"), model.left.bias[stay]), importance


def _first_eight_least(group: Group, held: Mapping[str, Tensor]) -> Tensor:
    assert group.constants[0][0] in held
    return torch.arange(group.units)


def _param(module: nn.Module, name: str) -> Tensor:
    return dict(module.named_parameters())[name]


def test_a_user_loss_steers_taylor() -> None:
    def first(results: tuple[Tensor, ...]) -> Tensor:
        return results[0][:, 0].sum()

    model = net()
    with torch.no_grad():
        model.head[2].weight[0, :12] = 0  # the first result reads only the last 12 neurons
    recipe = leptonc.Prune(0.5, importance="taylor", loss=first, what="neurons", round_to=4)
    small = leptonc.compress(model, X, recipe, data=[X])
    assert torch.equal(_param(small, "head.2.weight"), model.head[2].weight[:, 12:])


def test_units_of_their_own_ratio_skipped_ones_and_kinds_of_units() -> None:
    recipe = leptonc.Prune(0.5, per_unit={"le*": 0.25}, skip=["stem.*"])
    shapes = _shapes(leptonc.compress(net(), X, recipe))
    assert shapes["left.weight"][0] == 24 and shapes["stem.0.weight"][0] == 16
    neurons = leptonc.compress(net(), X, leptonc.Prune(0.5, what="neurons"))
    assert [e.where for e in neurons.ledger] == ["head.0"]
    assert "neurons" in neurons.ledger[0].what


def test_what_is_left_alone_is_remarked() -> None:
    small = leptonc.compress(net(), X, leptonc.Prune(0.5))
    (remark,) = small.remarks
    assert "head.2.weight" in remark.what and "a result of the network" in remark.reason


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "ratio of 1": ({"ratio": 1.0}, "between 0 and 1"),
    "ratio of 0": ({"ratio": 0.0}, "between 0 and 1"),
    "ratio that is NaN": ({"ratio": float("nan")}, "between 0 and 1"),
    "ratio of a unit": ({"per_unit": {"left": 1.5}}, r"per_unit\['left'\]=1.5"),
    "name": ({"skip": ["stam.0"]}, "did you mean 'stem.0'"),
    "name of a unit": ({"per_unit": {"leftt": 0.5}}, "did you mean 'left'"),
    "scope": ({"scope": "world"}, "one of local, global"),
    "importance": ({"importance": "luck"}, "one of magnitude"),
    "what": ({"what": "layers"}, "one of channels"),
    "rounding": ({"round_to": 0}, "1 or more"),
    "nothing left": ({"skip": ["*"]}, "nothing in .* can be removed"),
    "no heads": ({"what": "heads"}, "nothing in .* can be removed"),
    "too little": ({"ratio": 0.01}, "round_to=8 keeps whole"),
    "data": ({"importance": "taylor"}, "needs calibration data"),
    "two at once": ({"ratio": 0.5, "sparsity": 0.5}, "give one"),
    "scores": ({"importance": lambda group, held: torch.zeros(3)}, "one number a unit"),
    "scores of NaN": ({"importance": lambda group, held: torch.full((group.units,), torch.nan)},
                      "not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_wrong_asks_are_errors(name: str) -> None:
    options, message = BAD[name]
    with pytest.raises(CompressError, match=message):
        leptonc.compress(net(), X, leptonc.Prune(**options))
